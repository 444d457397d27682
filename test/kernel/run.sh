#!/bin/bash
# Runs the test suite against a real kernel: boots the guest and runs vitest in it on the kernel backend. Arguments go to
# vitest. The report (VFIO_TEST_REPORT, default test-report/kernel.json) and the guest's kernel log end up beside it.
#   npm run test:kernel [-- test/some.test.ts -t 'a name']          variables: see run-guest.sh
#   (TIMEOUT=2300 is the default here)
set -euo pipefail
started=$SECONDS
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
report=$(realpath -m "${VFIO_TEST_REPORT:-test-report/kernel.json}")
mkdir -p "$(dirname "$report")"
rm -f "$report"

# Devices that the guest has in addition to its usual ones, only for the test suite: in other runs they would change the
# addresses of registers, which those runs compare:
#   NVMe controller  0000:04:00.0   up to 4 virtual functions, no disk
#   network card     0000:00:16.0   with the kernel's driver (virtio), as both disks are; alone in its group
#   disk             0000:00:17.0   16 MiB, empty; alone
#   edu, disk        0000:06:01.0 and 0000:06:02.0, behind one bridge (0000:05:00.0), so in one group with it
QEMU_EXTRA+=" -device pcie-root-port,id=rp3,chassis=3,slot=3,addr=15.0 -device nvme-subsys,id=subsystem"
QEMU_EXTRA+=" -device nvme,serial=sriov,subsys=subsystem,bus=rp3,sriov_max_vfs=4,sriov_vq_flexible=8,sriov_vi_flexible=4"
disks=$(mktemp -d)
trap 'rm -rf "$disks"' EXIT
truncate -s 16M "$disks/alone" "$disks/neighbour"
QEMU_EXTRA+=" -netdev user,id=net,restrict=on,ipv6=off -device virtio-net-pci,netdev=net,romfile=,addr=16.0"
for disk in alone neighbour; do
  QEMU_EXTRA+=" -drive id=$disk,if=none,file=$disks/$disk,format=raw,cache=unsafe"
done
QEMU_EXTRA+=" -device virtio-blk-pci,drive=alone,addr=17.0"
QEMU_EXTRA+=" -device pcie-root-port,id=rp4,chassis=4,slot=4,addr=18.0 -device pcie-pci-bridge,id=conventional,bus=rp4"
QEMU_EXTRA+=" -device edu,bus=conventional,addr=1.0 -device virtio-blk-pci,drive=neighbour,bus=conventional,addr=2.0"
export QEMU_EXTRA
VFIO_GUEST_IMAGE=${VFIO_GUEST_IMAGE:-$("$here/build-kernel.sh")}
# Unpacks here and not in the guest, which takes ten times as long and does not keep the files. Without them two tests are
# skipped, with the reason.
"$here/../support/kernel-source.sh" >/dev/null || echo "the guest has no unpacked kernel source" >&2
built=$SECONDS
# The whole suite takes a quarter of an hour or more.
export TIMEOUT=${TIMEOUT:-2300}
export VFIO_GUEST_IMAGE VFIO_TEST_BACKEND=kernel VFIO_TEST_REPORT=$report
export CI=true # no progress display that redraws the screen
SHARE=$(dirname "$report")
export SHARE
code=0
"$here/run-guest.sh" -- node node_modules/vitest/vitest.mjs run "$@" || code=$?

# If the kernel logs a warning, there is a bug in this package or in the kernel: the run has failed, even if every test passed.
complaints=$(grep -aE 'WARNING:|BUG:|Oops|refcount_t:' "$SHARE/console.log" | tr -d '\r') || (($? == 1))
if [[ -n $complaints ]]; then
  printf 'the guest kernel complained (%s):\n%s\n' "$SHARE/console.log" "$(head -20 <<<"$complaints")"
  if ((code == 0)); then code=1; fi
fi
echo "kernel: $((built - started)) s to find or build, $((SECONDS - built)) s in the guest"
if ((code == 0)) && [[ ! -s $report ]]; then
  echo "the run left no report" >&2
  code=1
fi
exit "$code"
