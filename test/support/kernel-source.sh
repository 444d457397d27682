#!/bin/bash
# Unpacks what the tests read of the kernel's source, out of Debian's linux-source-6.12, the same that the guest's kernel
# is built from; prints the folder, with the files at their paths in the source. That takes ten seconds or so, since most
# of the archive has to be read. It is done once for each version of the package, and kept outside the checkout.
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
  # File by file, so that each is there whole or not at all, for who comes at the same time too. The folder as a whole
  # can't be renamed in the guest: its overlay refuses that with EXDEV.
  for member in "${members[@]}"; do
    mkdir -p "$(dirname "$folder/$member")"
    mv -f "$fresh/$member" "$folder/$member"
  done
fi
echo "$folder"
