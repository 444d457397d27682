"""The job of a driver for the edu device in Python: os, fcntl and mmap, as a user would write it."""
import fcntl
import mmap
import os
import select
import struct
import sys

EDU = "0000:00:10.0"
DEVICES = "/sys/bus/pci/devices"


def claim(what, holds):
    print("ok" if holds else "FAIL", what, flush=True)


def ioctl(fd, request, layout, *values):
    """A call whose struct begins with its size; returns the struct's fields afterwards."""
    data = bytearray(struct.pack(layout, struct.calcsize(layout), *values))
    fcntl.ioctl(fd, request, data)
    return struct.unpack(layout, data)


claim("os.listdir", EDU in os.listdir(DEVICES))
with open(f"{DEVICES}/{EDU}/vendor") as file:
    claim("an attribute", file.read() == "0x1234\n")
claim("os.path.realpath", os.path.realpath(f"{DEVICES}/{EDU}/iommu_group").startswith("/sys/kernel/iommu_groups/"))
with open(f"{DEVICES}/{EDU}/config", "rb") as file:
    claim("config space", len(file.read()) == 256)

with open(f"{DEVICES}/{EDU}/driver_override", "w") as file:
    file.write("vfio-pci")
with open("/sys/bus/pci/drivers_probe", "w") as file:
    file.write(EDU)
node = "/dev/vfio/devices/" + os.listdir(f"{DEVICES}/{EDU}/vfio-dev")[0]
device = os.open(node, os.O_RDWR)
iommu = os.open("/dev/iommu", os.O_RDWR)
ioctl(device, 0x3B76, "IIiI", 0, iommu, 0)
ioas = ioctl(iommu, 0x3B81, "III", 0, 0)[2]
ioctl(device, 0x3B77, "III", 0, ioas)
size, offset = ioctl(device, 0x3B6C, "IIIIQQ", 0, 0, 0, 0, 0)[4:]
config = ioctl(device, 0x3B6C, "IIIIQQ", 0, 7, 0, 0, 0)[5]
command = struct.unpack("<H", os.pread(device, 2, config + 4))[0]
os.pwrite(device, struct.pack("<H", command | 6), config + 4)
registers = memoryview(mmap.mmap(device, size, offset=offset)).cast("I")
claim("a register by a plain load", registers[0] == 0x010000ED)
registers[1] = 5
claim("... and a store", registers[1] == ~5 & 0xFFFFFFFF)

event = os.eventfd(0) if hasattr(os, "eventfd") else None
if event is not None:
    ioctl(device, 0x3B6E, "IIIIIi", 0x24, 1, 0, 1, event)
memory = mmap.mmap(-1, 8192)
memory[:4096] = bytes(i * 3 & 255 for i in range(4096))
view = (__import__("ctypes").c_char * 8192).from_buffer(memory)
address = __import__("ctypes").addressof(view)
ioctl(iommu, 0x3B85, "IIIIQQQ", 7, ioas, 0, address, 8192, 0x100000)
wide = registers.cast("B").cast("Q")


def transfer(source, destination, command):
    wide[16], wide[17], wide[18], wide[19] = source, destination, 4096, command
    while wide[19] & 1:
        pass


transfer(0x100000, 0x40000, 1)
transfer(0x40000, 0x101000, 1 | 2 | 4)
claim("DMA there and back", memory[4096:] == memory[:4096])
if event is not None:
    claim("an MSI", select.select([event], [], [], 5)[0] == [event])
try:
    os.open("/dev/vfio/devices/vfio9", os.O_RDWR)
    claim("a node that is not there", False)
except FileNotFoundError:
    claim("a node that is not there is FileNotFoundError", True)
sys.stdout.flush()
