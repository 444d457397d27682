#!/bin/sh
# npm run test:sanitized [-- FILE ...]: tests of device models in JavaScript, which misbehave on purpose (they throw, dispose
# what the call that asked them needs, loop for ever, are collected), on an addon that is compiled with AddressSanitizer and
# UBSan. An error of memory ends the process of the tests, and so fails them. Default: test/simulation.test.ts.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- test/simulation.test.ts
VFIO_PREBUILD=$(test/fuzz/api/build.sh)
export VFIO_PREBUILD
# Leaks are not reported, since Node has some.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=32
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
LD_PRELOAD=$(test/fuzz/api/build.sh library) exec node_modules/.bin/vitest run "$@"
