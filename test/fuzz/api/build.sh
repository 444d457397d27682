#!/bin/bash
# The addon under AddressSanitizer and UBSan, in a folder of its own: build/sanitized, which VFIO_PREBUILD names to
# load it instead of the usual one. Prints the folder.
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
