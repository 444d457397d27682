#!/bin/bash
# npm run fuzz:syscalls -- [--seconds N] [options of libFuzzer]: builds the fuzzer and runs it on the corpus. It
# writes new sequences to build/, not into the repository, and its findings to build/fuzz-syscalls/found.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
seconds=60
if [[ ${1:-} == --seconds ]]; then
  [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || { echo "Expected a number of seconds but received ${2:-nothing}" >&2; exit 2; }
  seconds=$2
  shift 2
fi
if ! command -v clang++ >/dev/null; then
  echo 'clang++ is missing: apt-get install --no-install-recommends clang libclang-rt-14-dev' >&2
  exit 1
fi
make -s -j2 fuzzer
work=../../../build/fuzz-syscalls
mkdir -p "$work/corpus" "$work/found"
exec "$work/fuzzer" -max_total_time="$seconds" -timeout=30 -max_len=1024 -len_control=10 -print_final_stats=1 \
  -artifact_prefix="$work/found/" "$@" "$work/corpus" corpus
