// C++: file streams and std::filesystem, which call other functions of the C library than C programs do.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <string>

namespace fs = std::filesystem;

static void claim(const char* what, bool holds) {
  std::cout << (holds ? "ok " : "FAIL ") << what << std::endl;
}

int main() {
  const fs::path device = "/sys/bus/pci/devices/0000:00:10.0";
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator("/sys/bus/pci/devices"))
    names.insert(entry.path().filename());
  claim("directory_iterator", names.size() == 8 && names.contains("0000:03:02.0"));
  std::string text;
  std::ifstream(device / "vendor") >> text;
  claim("ifstream", text == "0x1234");
  claim("canonical", fs::canonical(device) == "/sys/devices/pci0000:00/0000:00:10.0");
  claim("read_symlink", fs::read_symlink(device / "iommu_group").filename() == "2");
  {
    std::ofstream out(device / "driver_override");
    out << "vfio-pci" << std::flush;
    claim("ofstream", out.good());
  }
  {
    std::ofstream out("/sys/bus/pci/drivers_probe");
    out << "0000:00:10.0" << std::flush;
    claim("... of the bus", out.good());
  }
  claim("what follows from it",
        fs::exists(device / "vfio-dev/vfio0") && fs::is_character_file("/dev/vfio/devices/vfio0"));
  std::ofstream out("/sys/bus/pci/drivers/vfio-pci/bind");
  out << "0000:00:10.0" << std::flush;
  claim("an error of the host is one of the stream", !out.good());
}
