#include "drivers.h"

namespace vfio::soft::machine::sysfs {

void DriverFiles::addBus() {
  tree_.attribute(busPath + "/drivers_probe",
                  {nullptr, store([this](std::string_view text) { return core_.probe(text); })});
  tree_.attribute(busPath + "/drivers_autoprobe", {[this](std::string& text) {
                                                     text = core_.autoprobe ? "1\n" : "0\n";
                                                     return 0;
                                                   },
                                                   store([this](std::string_view text) {
                                                     core_.autoprobe = text.front() != '0';
                                                     return 0;
                                                   })});
}

void DriverFiles::addDriver(Driver& driver) {
  const std::string path = busPath + "/drivers/" + driver.name;
  const auto add = [&](const char* name, int (DriverCore::*action)(Driver&, std::string_view)) {
    tree_.attribute(path + "/" + name, {nullptr, store([this, &driver, action](std::string_view text) {
                                          return (core_.*action)(driver, text);
                                        })});
  };
  add("bind", &DriverCore::bind);
  add("unbind", &DriverCore::unbind);
  add("new_id", &DriverCore::newId);
  add("remove_id", &DriverCore::removeId);
}

void DriverFiles::driverChanged(pci::Function& function, Driver& driver, bool bound) {
  const std::string path = busPath + "/drivers/" + driver.name;
  if (bound) {
    tree_.link(function.path + "/driver", path);
    tree_.link(path + "/" + function.bdf, function.path);
  } else {
    tree_.remove(function.path + "/driver");
    tree_.remove(path + "/" + function.bdf);
  }
  if (driver.dma) system_.showUse(function, bound);
}

}  // namespace vfio::soft::machine::sysfs
