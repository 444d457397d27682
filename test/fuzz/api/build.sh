#!/bin/bash
# Builds the addon with AddressSanitizer and UBSan in a separate folder, build/sanitized, and prints the folder. With this
# path in VFIO_PREBUILD, it is loaded instead of the usual addon.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
folder=$root/build/sanitized
mkdir -p "$folder"
for each in native binding.gyp package.json node_modules; do ln -sfn "$root/$each" "$folder/$each"; done
cd "$folder"
JOBS=${JOBS:-max} npx --no node-gyp configure build --sanitize=1 >build.log 2>&1 || {
  tail -n 40 build.log >&2
  exit 1
}
echo "$folder"
