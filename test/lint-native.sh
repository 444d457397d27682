#!/bin/sh
# Checks (or, with -i, applies) the C++ format. Needs Debian's clang-format.
command -v clang-format >/dev/null || { echo "clang-format is missing: apt-get install clang-format" >&2; exit 1; }
files=$(find native test bench -name '*.cc' -o -name '*.h')
if [ "$1" = -i ]; then clang-format -i $files; else clang-format --dry-run --Werror $files; fi
