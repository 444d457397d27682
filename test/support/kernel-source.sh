#!/bin/bash
# Unpacks the files of the kernel's source that the tests read from Debian's linux-source-6.12. The guest's kernel is built
# from the same archive. Prints the folder, which contains the files at their paths in the source. This takes about ten
# seconds, since most of the archive must be read. It is done once for each version of Debian's package; the folder is kept
# outside the checkout.
set -euo pipefail
archive=/usr/src/linux-source-6.12.tar.xz
members=(
  drivers/iommu/iommufd/iommufd_test.h
  include/uapi/linux/{iommufd,vfio,vfio_zdev}.h
  tools/testing/selftests/{kselftest,kselftest_harness}.h
  tools/testing/selftests/iommu/{iommufd.c,iommufd_utils.h}
)
if [[ ! -f $archive ]]; then
  echo "$archive is missing: apt-get install linux-source-6.12" >&2
  exit 1
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vfio
folder=$cache/source-$(stat -c %s-%Y "$archive")

complete() {
  local member
  for member in "${members[@]}"; do
    [[ -f $folder/$member ]] || return 1
  done
}

if ! complete; then
  mkdir -p "$cache"
  fresh=$(mktemp -d "$cache/unpacking.XXXXXX")
  trap 'rm -rf "$fresh"' EXIT
  tar -I 'xz -T0' -xf "$archive" -C "$fresh" --strip-components=1 --occurrence=1 "${members[@]/#/linux-source-6.12/}"
  # Moves file by file, so that another run at the same time finds each file complete or not at all. The whole folder
  # can't be renamed in the guest: its overlay refuses that with EXDEV.
  for member in "${members[@]}"; do
    mkdir -p "$(dirname "$folder/$member")"
    mv -f "$fresh/$member" "$folder/$member"
  done
fi
echo "$folder"
