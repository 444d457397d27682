#!/bin/bash
# Builds the guest's kernel from Debian's linux-source-6.12 and prints the image's path. The build takes about 5 minutes on
# 2 cores, once: the image is kept outside the checkout, under a name that depends on its source and configuration.
#   build-kernel.sh [CACHE_DIR]        default: ${XDG_CACHE_HOME:-~/.cache}/vfio
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_package=linux-source-6.12
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/vfio}

missing=()
for package in "$source_package" flex bison bc libelf-dev libssl-dev xz-utils make gcc; do
  [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == 'install ok installed' ]] || missing+=("$package")
done
version=$(dpkg-query -W -f '${Version}' "$source_package" 2>/dev/null || true)
key=$(cat "$here/kernel.config" <(echo "$version") | sha256sum | cut -c1-16)
image=$cache/bzImage-$key
if [[ -n $version && -f $image ]]; then
  echo "$image"
  exit 0
fi
if ((${#missing[@]})); then
  echo "the guest's kernel cannot be built yet: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "building the guest's kernel ($source_package $version): about 5 minutes, kept as $image" >&2
{
  tar xf "/usr/src/$source_package.tar.xz" -C "$work" --strip-components=1 &&
    cd "$work" &&
    make tinyconfig &&
    scripts/kconfig/merge_config.sh -m .config "$here/kernel.config" &&
    make olddefconfig &&
    make -j"$(nproc)" bzImage
} </dev/null >"$work.log" 2>&1 || {
  tail -20 "$work.log" >&2
  echo "the kernel did not build; the whole log is $work.log" >&2
  exit 1
}
# If an option of the configuration was dropped without a message, a test would fail much later for no visible reason.
dropped=$(grep -E '^CONFIG_[A-Z0-9_]+=y' "$here/kernel.config" | grep -vxFf "$work/.config") || (($? == 1))
if [[ -n $dropped ]]; then
  printf 'the kernel does not have these options of kernel.config:\n%s\n' "$dropped" >&2
  exit 1
fi
rm -f "$work.log"
mv "$work/arch/x86/boot/bzImage" "$image"
echo "$image"
