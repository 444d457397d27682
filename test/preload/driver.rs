//! A driver's beginning in Rust, with the standard library and the C library's ioctl.
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;

extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
    fn mmap(hint: *mut u8, length: usize, protection: i32, flags: i32, fd: i32, offset: i64) -> *mut u8;
}

fn claim(what: &str, holds: bool) {
    println!("{} {}", if holds { "ok" } else { "FAIL" }, what);
}

fn open(path: &str) -> fs::File {
    fs::OpenOptions::new().read(true).write(true).open(path).expect(path)
}

fn main() {
    let device = "/sys/bus/pci/devices/0000:00:10.0";
    claim("read_dir", fs::read_dir("/sys/bus/pci/devices").unwrap().count() == 8);
    claim("read_to_string", fs::read_to_string(format!("{device}/vendor")).unwrap() == "0x1234\n");
    claim("read_link", fs::read_link(format!("{device}/iommu_group")).unwrap().ends_with("2"));
    fs::write(format!("{device}/driver_override"), "vfio-pci").unwrap();
    let mut probe = fs::OpenOptions::new().write(true).open("/sys/bus/pci/drivers_probe").unwrap();
    probe.write_all(b"0000:00:10.0").unwrap();
    let file = open("/dev/vfio/devices/vfio0");
    let iommu = open("/dev/iommu");
    let mut bind: [i32; 4] = [16, 0, iommu.as_raw_fd(), 0];
    claim("bind", unsafe { ioctl(file.as_raw_fd(), 0x3b76, bind.as_mut_ptr()) } == 0 && bind[3] != 0);
    let mut region: [u32; 8] = [32, 0, 0, 0, 0, 0, 0, 0];
    claim("region info", unsafe { ioctl(file.as_raw_fd(), 0x3b6c, region.as_mut_ptr()) } == 0 && region[4] == 1 << 20);
    let registers = unsafe { mmap(std::ptr::null_mut(), 1 << 20, 3, 1, file.as_raw_fd(), 0) } as *mut u32;
    claim("a register", unsafe { registers.read_volatile() } == 0x010000ed);
}
