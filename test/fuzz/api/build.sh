#!/bin/bash
# Builds the addon with AddressSanitizer and UBSan in a separate folder, build/sanitized, and prints the folder. With this
# path in VFIO_PREBUILD, it is loaded instead of the usual addon, if the sanitizer's library has been loaded before it:
# `build.sh library` prints that.
set -euo pipefail
if [[ ${1:-} == library ]]; then exec clang++ -print-file-name="libclang_rt.asan-$(uname -m).so"; fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
folder=$root/build/sanitized
mkdir -p "$folder"
for each in native binding.gyp package.json node_modules; do ln -sfn "$root/$each" "$folder/$each"; done
# The software host itself comes from the objects of test/soft, which the other checks use too.
soft=build/test-soft/address,undefined/soft.a
{
  make -j2 -C "$root/test/soft" SANITIZE=address,undefined "../../$soft"
  cd "$folder"
  export CC=clang CXX=clang++ LINK=clang++ JOBS=${JOBS:-max}
  npx --no node-gyp -- configure --sanitize=1 --soft="$root/$soft"
  # Of the other target, the software host without a sanitizer, nothing is needed.
  make -s -j2 -C build BUILDTYPE=Release vfio
} >"$folder/build.log" 2>&1 || {
  tail -n 40 "$folder/build.log" >&2
  exit 1
}
echo "$folder"
