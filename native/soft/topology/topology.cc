// One function for each object of the schema. Reader says where in the text a wrong value is.
#include "topology.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <initializer_list>
#include <string>

#include "../iommu/models/catalogue.h"
#include "catalogue.h"
#include "json.h"
#include "reader.h"

namespace vfio::soft::topology {

namespace {

// ---------------------------------------------------------------- system

// Whether the command line has a word of `off`, and no word of `on` after it: the last setting counts.
[[nodiscard]] bool says(std::string_view line, std::initializer_list<std::string_view> off,
                        std::initializer_list<std::string_view> on) {
  bool result = false;
  for (size_t at = 0; at < line.size();) {
    const size_t end = std::min(line.find(' ', at), line.size());
    const auto word = line.substr(at, end - at);
    if (std::find(off.begin(), off.end(), word) != off.end()) result = true;
    if (std::find(on.begin(), on.end(), word) != on.end()) result = false;
    at = end + 1;
  }
  return result;
}

SystemSpec readSystem(const Reader& reader) {
  reader.only({"commandLine", "user", "without"});
  SystemSpec system;
  system.commandLine = reader.text("commandLine").value_or("");
  system.translates = !says(system.commandLine, {"intel_iommu=off", "amd_iommu=off", "iommu=off"},
                            {"intel_iommu=on", "amd_iommu=on"});
  system.remapsInterrupts = !says(system.commandLine, {"intremap=off", "nointremap"}, {"intremap=on"});
  if (const auto user = reader.integer("user", 0, UINT32_MAX - 1)) system.user = static_cast<uint32_t>(*user);
  constexpr size_t mostMissing = 3;
  if (const auto* list = reader.list("without", mostMissing)) {
    for (size_t i = 0; i < list->size(); ++i) {
      const auto& name = (*list)[i];
      bool* const which = name.text == "iommufd"        ? &system.iommufd
                          : name.text == "vfio-pci"     ? &system.vfioPci
                          : name.text == "device-nodes" ? &system.deviceNodes
                                                        : nullptr;
      if (name.kind != Value::Kind::string || !which)
        fail(name.line, "\"iommufd\", \"vfio-pci\" or \"device-nodes\"", element(reader, "without", i),
             name.shown());
      *which = false;
    }
  }
  // A kernel without iommufd gives devices no character devices of their own.
  system.deviceNodes = system.deviceNodes && system.iommufd;
  return system;
}

// ---------------------------------------------------------------- iommus

constexpr size_t mostRanges = 64;

iommu::Range readRange(const Reader& reader) {
  const iommu::Range range{reader.required("start", UINT64_MAX), reader.required("last", UINT64_MAX)};
  if (range.last < range.start) reader.refuse("last", "an address that is not below start");
  return range;
}

// Of the models that can have command queues.
std::string kindsWithCommandQueues() {
  std::string kinds;
  for (const iommu::Model* model : iommu::models::all()) {
    if (model->canHaveCommandQueues()) kinds += (kinds.empty() ? "" : " or ") + std::string(model->name);
  }
  return kinds;
}

iommu::PageRequestKind readPageRequests(const Reader& reader, const Value& value) {
  if (value.kind == Value::Kind::boolean && !value.boolean) return iommu::PageRequestKind::none;
  if (value.kind == Value::Kind::string && value.text == "pri") return iommu::PageRequestKind::pri;
  if (value.kind == Value::Kind::string && value.text == "stall") return iommu::PageRequestKind::stall;
  reader.refuse("pageRequests", R"("pri", "stall" or false)");
}

iommu::UnitDescription readUnit(const Reader& reader) {
  reader.only({"kind", "apertures", "reserved", "pageSizes", "pasidBits", "pageRequests", "nesting",
               "dirtyTracking", "enforcesCoherency", "isolatesInterrupts", "commandQueues"});
  const auto kinds = iommu::models::names();
  if (!reader.find("kind")) reader.refuse("kind", Reader::alternatives(kinds));
  iommu::UnitDescription unit = {.model = iommu::models::find(*reader.oneOf("kind", kinds))};
  if (const auto* list = reader.list("apertures", mostRanges)) {
    if (list->empty()) reader.refuse("apertures", "at least one range");
    auto& ranges = unit.apertures.emplace();
    for (size_t i = 0; i < list->size(); ++i) {
      const Reader each((*list)[i], element(reader, "apertures", i), "a range { start, last }");
      each.only({"start", "last"});
      ranges.push_back(readRange(each));
      if (i > 0 && ranges[i].start <= ranges[i - 1].last)
        each.refuse("start", "an address after the range before");
    }
  }
  if (const auto* list = reader.list("reserved", mostRanges)) {
    auto& regions = unit.reserved.emplace();
    for (size_t i = 0; i < list->size(); ++i) {
      const Reader each((*list)[i], element(reader, "reserved", i), "a region { start, last, type }");
      each.only({"start", "last", "type"});
      constexpr std::array<std::pair<std::string_view, iommu::ReservedKind>, 5> types{
          {{"direct", iommu::ReservedKind::direct},
           {"direct-relaxable", iommu::ReservedKind::directRelaxable},
           {"reserved", iommu::ReservedKind::reserved},
           {"msi", iommu::ReservedKind::msi},
           {"software-msi", iommu::ReservedKind::softwareMsi}}};
      const auto names = {types[0].first, types[1].first, types[2].first, types[3].first, types[4].first};
      if (!each.find("type")) each.refuse("type", Reader::alternatives(names));
      const auto type = *each.oneOf("type", names);
      const auto* const found = std::find_if(types.begin(), types.end(),
                                             [&type](const auto& known) { return known.first == type; });
      regions.push_back({readRange(each), found->second});
    }
  }
  if (const auto* list = reader.list("pageSizes", 64)) {
    uint64_t sizes = 0;
    for (const auto& item : *list) {
      const auto size = toInteger(item);
      constexpr uint64_t smallest = 256;  // an entry of a page table has its flags below the address
      if (!size || !std::has_single_bit(*size) || *size < smallest)
        fail(item.line, "a power of two from 256", reader.path("pageSizes"), item.shown());
      sizes |= *size;
    }
    if (sizes == 0) reader.refuse("pageSizes", "at least one page size");
    unit.pageSizes = sizes;
  }
  if (const auto bits = reader.integer("pasidBits", 0, 20)) unit.pasidBits = static_cast<unsigned>(*bits);
  if (const auto* value = reader.find("pageRequests")) unit.pageRequests = readPageRequests(reader, *value);
  if (const auto* list = reader.list("nesting", 8)) {
    auto& formats = unit.nesting.emplace();
    for (const auto& item : *list) {
      const auto* const format =
          item.kind == Value::Kind::string ? iommu::models::findFormat(item.text) : nullptr;
      if (format == nullptr) {
        fail(item.line, Reader::alternatives(iommu::models::formatNames()), reader.path("nesting"),
             item.shown());
      }
      formats.push_back(format);
    }
  }
  unit.dirtyTracking = reader.boolean("dirtyTracking");
  unit.commandQueues = reader.boolean("commandQueues").value_or(false);
  if (unit.commandQueues && !unit.model->canHaveCommandQueues()) {
    reader.refuse("commandQueues", "false for a unit that is not of kind " + kindsWithCommandQueues());
  }
  unit.enforcesCoherency = reader.boolean("enforcesCoherency");
  unit.isolatesInterrupts = reader.boolean("isolatesInterrupts");
  return unit;
}

// ---------------------------------------------------------------- devices

// Whether a text can be a name in a path: one part, and not too long.
[[nodiscard]] bool isName(const std::string& text) {
  return !text.empty() && text.size() < 64 && text.find_first_of("/ \t\n") == std::string::npos &&
         text.find('\0') == std::string::npos && text != "." && text != "..";
}

void readUse(const Reader& reader, UseSpec& use) {
  if (const auto* disk = reader.find("disk")) {
    const Reader inner(*disk, reader.path("disk"), "a disk { name, mountedOn }");
    inner.only({"name", "mountedOn"});
    use.disk = inner.text("name").value_or("");
    if (!isName(use.disk)) inner.refuse("name", "the name of a disk");
    use.mountedOn = inner.text("mountedOn").value_or("");
    if (inner.find("mountedOn") && !use.mountedOn.starts_with('/')) inner.refuse("mountedOn", "a path");
  }
  if (const auto* network = reader.find("network")) {
    const Reader inner(*network, reader.path("network"), "a network interface { name, up, route }");
    inner.only({"name", "up", "route"});
    use.interface = inner.text("name").value_or("");
    if (!isName(use.interface)) inner.refuse("name", "the name of an interface");
    use.up = inner.boolean("up").value_or(false);
    use.routed = inner.boolean("route").value_or(false);
    if (use.routed && !use.up) inner.refuse("route", "false of an interface that is down");
  }
}

void readMdevs(const Reader& reader, DeviceSpec& device) {
  constexpr size_t most = 64;
  const auto isUuid = [](const std::string& text) {
    constexpr std::string_view form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    return std::ranges::equal(text, form, [](char letter, char wanted) {
      return wanted == '-' ? letter == '-'
                           : std::string_view("0123456789abcdef").find(letter) != std::string_view::npos;
    });
  };
  if (const auto* list = reader.list("mdevs", most)) {
    if (device.kind != PortKind::endpoint) reader.refuse("mdevs", "nothing (a bridge is not shared)");
    for (size_t i = 0; i < list->size(); ++i) {
      const Value& item = (*list)[i];
      if (item.kind != Value::Kind::string || !isUuid(item.text))
        fail(item.line, "a UUID in small letters", element(reader, "mdevs", i), item.shown());
      device.mdevs.push_back(item.text);
    }
  }
  device.mdevsIsolated = reader.boolean("mdevsIsolated").value_or(true);
}

DeviceSpec readDevice(const Reader& reader, const Value& value, std::string name, size_t iommus,
                      const Catalogue& models) {
  DeviceSpec device;
  device.line = value.line;
  device.name = std::move(name);
  if (!reader.find("model")) reader.refuse("model", Reader::alternatives(models.names()));
  const Model& found = *models.find(*reader.oneOf("model", models.names()));
  // The fields of every device, whatever its model.
  const std::vector<std::string_view> fields = {
      "model", "bdf", "behind",    "slot", "function", "iommu",   "driver", "pasidBits",    "pageRequests",
      "group", "irq", "addresses", "acs",  "disk",     "network", "mdevs",  "mdevsIsolated"};
  reader.only(fields, found.fields);
  found.make(reader, device);
  device.bdf = reader.address("bdf");
  device.behind = reader.address("behind");
  const auto slot = reader.integer("slot", 0, 31);
  if (slot && !device.behind) reader.refuse("slot", "a device behind a bridge (the field \"behind\")");
  if (slot && device.bdf) reader.refuse("slot", "either bdf or slot");
  if (!slot && !device.bdf)
    reader.refuse("bdf", "a PCI address such as \"0000:00:10.0\", or behind and slot");
  device.slot = static_cast<uint8_t>(slot.value_or(0));
  const auto function = reader.integer("function", 0, 7);
  if (function && !slot) reader.refuse("function", "a device that is placed by slot");
  device.function = static_cast<uint8_t>(function.value_or(0));
  device.acs = reader.boolean("acs");
  const auto* which = reader.find("iommu");
  device.translated = which ? which->kind != Value::Kind::null : iommus != 0;
  if (which && device.translated) {
    device.iommu = toInteger(*which);
    if (!device.iommu || *device.iommu >= iommus)
      reader.refuse("iommu", "the index of one of " + std::to_string(iommus) + " iommus, or null");
  }
  if (const auto* driver = reader.find("driver")) {
    device.driver.emplace();
    if (driver->kind == Value::Kind::string && isName(driver->text)) {
      device.driver->emplace(driver->text);
    } else if (driver->kind != Value::Kind::null) {
      reader.refuse("driver", "the name of a driver, or null");
    }
  }
  readUse(reader, device.use);
  readMdevs(reader, device);
  device.pasidBits = static_cast<unsigned>(reader.integer("pasidBits", 0, 20).value_or(0));
  device.pageRequests = reader.boolean("pageRequests").value_or(false);
  if (const auto group = reader.integer("group", 0, 9999)) device.group = static_cast<int>(*group);
  if (const auto irq = reader.integer("irq", 0, 255)) device.irq = static_cast<uint8_t>(*irq);
  if (const auto* list = reader.list("addresses", device.addresses.size())) {
    for (size_t i = 0; i < list->size(); ++i) {
      const Value& item = (*list)[i];
      if (item.kind == Value::Kind::null) continue;
      device.addresses[i] = toInteger(item);
      if (!device.addresses[i] || *device.addresses[i] == 0)
        fail(item.line, "an address or null", element(reader, "addresses", i), item.shown());
    }
  }
  return device;
}

}  // namespace

std::string Address::text() const {
  constexpr const char* digits = "0123456789abcdef";
  const unsigned slot = devfn >> 3;
  return std::string("0000:") + digits[bus >> 4] + digits[bus & 15] + ':' + digits[slot >> 4] +
         digits[slot & 15] + '.' + digits[devfn & 7];
}

std::optional<Address> Address::parse(std::string_view text) {
  constexpr size_t busAt = 5, slotAt = 8, functionAt = 11, size = 12;
  unsigned bus = 0, slot = 0, function = 0;
  if (text.size() != size) return std::nullopt;
  std::from_chars(text.data() + busAt, text.data() + busAt + 2, bus, 16);
  std::from_chars(text.data() + slotAt, text.data() + slotAt + 2, slot, 16);
  std::from_chars(text.data() + functionAt, text.data() + size, function, 16);
  const Address address{static_cast<uint8_t>(bus), static_cast<uint8_t>(slot << 3 | (function & 7))};
  // If the text is not exactly an address, the address that was read has another text.
  if (address.text() != text) return std::nullopt;
  return address;
}

Isolation DeviceSpec::isolation() const {
  // Ports have ACS unless the topology says otherwise.
  const bool port = kind == PortKind::rootPort || kind == PortKind::downstreamPort;
  return {.bus = address.bus,
          .devfn = address.devfn,
          .kind = kind,
          .express = description().express,
          .multifunction = multifunction,
          .acs = acs.value_or(port)};
}

void DeviceSpec::refuse(std::string_view field, std::string_view expected,
                        const std::string& received) const {
  fail(line, expected, name + "." + std::string(field), received);
}

DeviceSpec readDevice(std::string_view text, size_t iommus, const Catalogue& models) {
  const Value value = json::parse(text);
  return readDevice(Reader(value, "device", "a device { model, bdf }"), value, "device", iommus, models);
}

Topology readTopology(std::string_view text, const Catalogue& models) {
  constexpr size_t mostUnits = 64;
  constexpr size_t mostDevices = 4096;
  const Value value = json::parse(text);
  const Reader reader(value, "topology", "an object { iommus, devices, system }");
  reader.only({"iommus", "devices", "system"});
  Topology topology;
  if (const auto* system = reader.find("system"))
    topology.system = readSystem(Reader(*system, "system", "an object { commandLine, user, without }"));
  if (const auto* list = reader.list("iommus", mostUnits)) {
    for (size_t i = 0; i < list->size(); ++i) {
      topology.iommus.push_back(
          readUnit(Reader((*list)[i], "iommus[" + std::to_string(i) + "]", "an IOMMU { kind }")));
    }
  } else {
    topology.iommus.push_back({.model = &iommu::models::vtd()});
  }
  if (const auto* list = reader.list("devices", mostDevices)) {
    for (size_t i = 0; i < list->size(); ++i) {
      const std::string name = "devices[" + std::to_string(i) + "]";
      const Value& item = (*list)[i];
      topology.devices.push_back(readDevice(Reader(item, name, "a device { model, bdf }"), item, name,
                                            topology.iommus.size(), models));
    }
  } else {
    reader.refuse("devices", "a list of devices");
  }
  if (!topology.system.translates)
    for (auto& device : topology.devices) device.translated = false;
  return topology;
}

}  // namespace vfio::soft::topology
