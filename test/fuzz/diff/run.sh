#!/bin/bash
# Differential fuzzing: random sequences of system calls on the kernel, in guests, and on the software host, with every
# answer and every byte compared. See docs/fuzzing.md.
#   npm run fuzz:diff -- [--seconds N] [--seed S] [--keep FOLDER] [--replay FILE]
#   GUESTS='mock vfio'     the guests. mock: /dev/iommu with the kernel's mock devices; vfio: edu devices behind a VT-d;
#                          iommufd: /dev/iommu without devices
# VFIO_TEST_REPORT names a file for the report, as for the tests.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../../.." && pwd)
make -s -j2 -C "$root/test/soft" diff
VFIO_GUEST_IMAGE=${VFIO_GUEST_IMAGE:-$("$root/test/kernel/build-kernel.sh")}
export VFIO_GUEST_IMAGE

work=$(mktemp -d)
program=$work/diff_fuzz # a copy, so that the program can be built again while this runs
cp "$root/build/test-soft/plain/diff_fuzz" "$program"
guests=()
folders=()
for kind in ${GUESTS:-mock vfio}; do
  mkdir "$work/$kind"
  folders+=("$kind=$work/$kind")
  iommu=none
  if [[ $kind == vfio ]]; then iommu=intel; fi
  {
    # On a busy machine a guest may fail to start: its kernel finds that its timer does not tick.
    for attempt in 1 2 3; do
      SHARE=$work/$kind IOMMU=$iommu SMP=1 TIMEOUT=86400 \
        "$root/test/kernel/run-guest.sh" -- "$program" serve "$work/$kind" >"$work/$kind/output" 2>&1 || true
      if [[ -e $work/$kind/ready ]]; then break; fi
      echo "the $kind guest did not come up (attempt $attempt)"
    done
    touch "$work/$kind/gone"
  } &
  guests+=($!)
done
finish() {
  for kind in ${GUESTS:-mock vfio}; do touch "$work/$kind/quit"; done
  wait "${guests[@]}" || true
  # If the kernel logs a warning, there is a bug in it, or in our model of it.
  for kind in ${GUESTS:-mock vfio}; do
    complaints=$(grep -aE 'WARNING:|BUG:|Oops|refcount_t:' "$work/$kind/console.log" 2>/dev/null | tr -d '\r' | sort | uniq -c || true)
    if [[ -n $complaints ]]; then printf 'the kernel of the %s guest complained:\n%s\n' "$kind" "$(head -5 <<<"$complaints")"; fi
  done
  rm -rf "$work"
}
trap finish EXIT
"$program" fuzz "$@" "${folders[@]}"
