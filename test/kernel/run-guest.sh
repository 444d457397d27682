#!/bin/bash
# Boots the guest: Linux 6.12 with VFIO and iommufd, under QEMU's software CPU, with an emulated IOMMU and emulated PCI
# devices. The guest has this machine's root file system (read-only; writes are kept in its memory). It runs COMMAND as root
# in the current directory. This script exits with COMMAND's status (125: the guest stopped, 124: out of time).
#
#   run-guest.sh [--] COMMAND [ARG ...]
#
#   IOMMU=intel|amd|virtio|none   which IOMMU the guest has (default intel)
#   MEM=4G SMP=2 TIMEOUT=900      its size; seconds until it is killed
#   SHARE=DIR                     an existing folder that the guest can write to, at the same path (default: a temporary
#                                 one). It also gets the guest's kernel log, console.log, and what QEMU traces, qemu.log.
#                                 In the guest: $VFIO_GUEST_SHARE
#   QEMU_EXTRA='ARG ...'          more arguments for QEMU, split at spaces
#   VFIO_GUEST_IMAGE=FILE         a bzImage to boot instead of build-kernel.sh's
#
# COMMAND inherits PATH, HOME, XDG_CACHE_HOME, CI, NODE_* and VFIO_*. In the guest, /dev/ttyS2 ($VFIO_GUEST_MONITOR) is
# QEMU's own monitor, so that a test can have QEMU log every bus access, plug a device in or inject an error.
#
# Files that COMMAND writes are lost when the guest ends. It can't rename a folder that it made next to folders of this
# machine (EXDEV).
#
# Devices: edu          0000:00:10.0                    alone in its group
#          pci-testdev  0000:00:13.0                    alone; BAR0 is registers, BAR1 I/O ports
#          ivshmem      0000:00:14.0                    alone; BAR2 is 1 MiB of plain memory
#          NVMe         0000:01:00.0                    alone; 1 GiB
#          edu          0000:03:01.0 and 0000:03:02.0   behind one bridge (0000:02:00.0), so in one group with it;
#                                                       with IOMMU=virtio they are in none
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1:-} == -- ]]; then shift; fi
if (($# == 0)); then
  sed -n '2,/^set /{s/^# \{0,1\}//;/^set /d;p}' "${BASH_SOURCE[0]}" >&2
  exit 2
fi

missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
command -v cpio >/dev/null || missing+=(cpio)
# Debian's plain `busybox` package is linked dynamically and would not start in the initrd.
busybox=$(command -v busybox || true)
if [[ -z $busybox ]] || LC_ALL=C ldd "$busybox" >/dev/null 2>&1; then missing+=(busybox-static); fi
if ((${#missing[@]})); then
  echo "the guest cannot start yet: apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
image=${VFIO_GUEST_IMAGE:-$("$here/build-kernel.sh")}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
share=$(readlink -e "${SHARE:-$work}")
rm -f "$share/status"

iommu=()
# no_timer_check: on a busy machine QEMU's timer may tick too slowly for the kernel's check of it, which would then panic.
append='console=ttyS0 loglevel=5 no_timer_check panic=-1 iommu=pt hugepagesz=2M hugepages=64 hugepagesz=1G hugepages=1'
case ${IOMMU:-intel} in
  intel)
    iommu=(-device 'intel-iommu,intremap=on,caching-mode=on,aw-bits=48,device-iotlb=on')
    append+=' intel_iommu=on'
    ;;
  amd)
    iommu=(-device 'amd-iommu,intremap=on')
    append+=' amd_iommu=on'
    ;;
  virtio) iommu=(-device 'virtio-iommu-pci,addr=2.0') ;;
  none) ;;
  *)
    echo "IOMMU is '$IOMMU': expected intel, amd, virtio or none" >&2
    exit 2
    ;;
esac

# The command is passed as a script in a folder that the guest can read, so nothing must be quoted on a kernel command line.
{
  for name in PATH HOME XDG_CACHE_HOME CI NO_COLOR FORCE_COLOR "${!NODE_@}" "${!VFIO_@}"; do
    if [[ -v $name ]]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
  done
  printf 'export VFIO_GUEST=%q VFIO_GUEST_SHARE=%q VFIO_GUEST_MONITOR=/dev/ttyS2\n' "${IOMMU:-intel}" "$share"
  printf ': >%q\n' "$share/begun"
  printf 'cd %q\n' "$PWD"
  printf '{'
  printf ' %q' "$@"
  printf '; } </dev/null 2>&1 | cat >/dev/ttyS1\n'
  printf 'echo "${PIPESTATUS[0]}" >%q\n' "$share/status"
} >"$work/command"

mkdir -p "$work/root"/{bin,proc,sys,dev,lower,upper,new}
cp "$busybox" "$work/root/bin/busybox"
cat >"$work/root/init" <<INIT
#!/bin/busybox sh
b=/bin/busybox
\$b mount -t proc proc /proc
\$b mount -t sysfs sys /sys
\$b mount -t devtmpfs dev /dev
\$b mount -t debugfs debugfs /sys/kernel/debug
options=trans=virtio,version=9p2000.L,msize=1048576
\$b mount -t 9p -o ro,cache=loose,\$options host /lower
\$b mount -t tmpfs tmpfs /upper
\$b mkdir -p /upper/u /upper/w
\$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/u,workdir=/upper/w overlay /new
for m in proc sys dev; do \$b mount --move /\$m /new/\$m; done
\$b mkdir -p /new/dev/shm /new/dev/hugepages /new/run
\$b mount -t tmpfs tmpfs /new/dev/shm
\$b mount -t hugetlbfs hugetlbfs /new/dev/hugepages
\$b mount -t tmpfs tmpfs /new/run
\$b mount -t 9p -o cache=none,\$options share '/new$share'
for t in 1 2; do \$b stty raw -echo </new/dev/ttyS\$t; done
\$b chroot /new /bin/bash '$work/command' >/new/dev/ttyS1 2>&1 </new/dev/null
\$b reboot -f
INIT
chmod +x "$work/root/init"
(cd "$work/root" && find . | cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initrd.gz"
truncate -s 1G "$work/nvme.img"

machine=(
  -nodefaults -no-user-config -display none -no-reboot
  -machine 'q35,kernel-irqchip=split' -accel tcg -cpu max -smp "${SMP:-2}" -m "${MEM:-4G}"
  "${iommu[@]}"
  -kernel "$image" -initrd "$work/initrd.gz" -append "$append"
  -D "$share/qemu.log" -serial "file:$share/console.log"
  -chardev 'stdio,id=output,signal=off' -serial chardev:output
  # a socket connects the monitor with the guest's third serial port
  -chardev "socket,id=monitor,path=$work/monitor,server=on,wait=off" -mon chardev=monitor,mode=control
  -chardev "socket,id=guest,path=$work/monitor" -device 'isa-serial,chardev=guest,index=2,iobase=0x3e8,irq=5'
  -fsdev 'local,id=host,path=/,security_model=none,readonly=on,multidevs=remap'
  -device 'virtio-9p-pci,fsdev=host,mount_tag=host,addr=4.0'
  -fsdev "local,id=share,path=$share,security_model=none"
  -device 'virtio-9p-pci,fsdev=share,mount_tag=share,addr=5.0'
  -device 'edu,addr=10.0'
  -device 'pci-testdev,addr=13.0'
  -object "memory-backend-file,id=memory,share=on,size=1M,mem-path=$work/memory" -device 'ivshmem-plain,memdev=memory,addr=14.0'
  -device 'pcie-root-port,id=rp1,chassis=1,slot=1,addr=11.0'
  -drive "id=nvme,if=none,file=$work/nvme.img,format=raw,cache=unsafe" -device 'nvme,serial=vfio,drive=nvme,bus=rp1'
  -device 'pcie-root-port,id=rp2,chassis=2,slot=2,addr=12.0'
  -device 'pcie-pci-bridge,id=pb,bus=rp2' -device 'edu,bus=pb,addr=1.0' -device 'edu,bus=pb,addr=2.0'
)
read -ra extra <<<"${QEMU_EXTRA:-}"

# A guest's kernel sometimes stops while it boots ("Oops: int3"), before any code of this package runs; possibly the emulated
# processor runs code that the kernel is just patching. Such a guest is started once more, and the first log is kept.
for attempt in 1 2; do
  code=0
  rm -f "$share/begun" "$share/status"
  timeout --foreground -k 5 "${TIMEOUT:-900}" qemu-system-x86_64 "${machine[@]}" "${extra[@]}" </dev/null || code=$?
  if ((attempt == 2 || code == 124)) || [[ -e $share/begun || -s $share/status ]]; then break; fi
  mv "$share/console.log" "$share/console-first.log" 2>/dev/null || : >"$share/console-first.log"
  echo "the guest's kernel stopped before it ran the command ($share/console-first.log); it is started once more:" >&2
  grep -aE -m3 'Oops|BUG|panic' "$share/console-first.log" | tr -d '\r' >&2 || echo "(its log shows no reason)" >&2
done
if [[ -s $share/status ]]; then
  exit "$(<"$share/status")"
fi
echo "the guest did not finish (QEMU: $code); the end of its kernel log:" >&2
tail -30 "$share/console.log" | tr -d '\r' >&2
if ((code == 124)); then exit 124; fi
exit 125
