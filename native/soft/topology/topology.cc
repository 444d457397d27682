// One function per object of the schema; Reader says where in the text a wrong value is.
#include "topology.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <initializer_list>
#include <stdexcept>

#include "../core/shown.h"
#include "../devices/bridge.h"
#include "../devices/edu.h"
#include "../devices/ivshmem.h"
#include "json.h"

namespace vfio::soft::topology {

namespace {

using json::Value;

[[noreturn]] void fail(unsigned line, std::string_view expected, std::string_view where,
                       const std::string& received) {
  throw std::invalid_argument("line " + std::to_string(line) + ": Expected " + std::string(expected) +
                              " for " + std::string(where) + " but received " + shown(received));
}

std::optional<uint64_t> toInteger(const Value& value) {
  if (value.kind != Value::Kind::number && value.kind != Value::Kind::string) return std::nullopt;
  std::string_view text = value.text;
  int base = 10;
  if (value.kind == Value::Kind::string && text.starts_with("0x")) {
    text.remove_prefix(2);
    base = 16;
  }
  uint64_t result = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result, base);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return result;
}

std::string hex(uint64_t value) {
  std::array<char, 16> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, 16).ptr;
  return "0x" + std::string(text.data(), end);
}

// An object of the schema: its fields are asked for by name.
class Reader {
 public:
  Reader(const Value& value, std::string name, std::string_view what)
      : value_(value), name_(std::move(name)) {
    if (value.kind != Value::Kind::object) fail(value.line, what, name_, value.shown());
  }

  // No other fields than these, and `more`: what else there is is a mistake. Said before anything is read, so
  // that a name with a slip in it is not reported as one that is missing.
  void only(std::initializer_list<std::string_view> names,
            std::initializer_list<std::string_view> more = {}) const {
    std::vector<std::string_view> all(names);
    all.insert(all.end(), more);
    for (const auto& [name, value] : value_.members) {
      if (std::find(all.begin(), all.end(), name) != all.end()) continue;
      std::string known;
      for (const auto& each : all) known += (known.empty() ? "" : ", ") + std::string(each);
      fail(value.line, "one of the fields " + known, name_, "\"" + name + "\"");
    }
  }

  [[nodiscard]] const Value* find(std::string_view field) const { return value_.find(field); }
  [[nodiscard]] std::string path(std::string_view field) const {
    return (name_.empty() ? "" : name_ + ".") + std::string(field);
  }
  [[noreturn]] void refuse(std::string_view field, std::string_view expected) const {
    const auto* value = find(field);
    fail(value ? value->line : value_.line, expected, path(field), value ? value->shown() : "nothing");
  }

  [[nodiscard]] std::optional<uint64_t> integer(std::string_view field, uint64_t least, uint64_t most) const {
    const auto* value = find(field);
    if (!value) return std::nullopt;
    const auto result = toInteger(*value);
    if (!result || *result < least || *result > most) {
      const bool small = most <= 10'000;
      const auto shown = [small](uint64_t limit) { return small ? std::to_string(limit) : hex(limit); };
      refuse(field, "a whole number between " + shown(least) + " and " + shown(most));
    }
    return result;
  }
  [[nodiscard]] uint64_t required(std::string_view field, uint64_t most) const {
    if (!find(field)) refuse(field, "a whole number between 0x0 and " + hex(most));
    return *integer(field, 0, most);
  }
  [[nodiscard]] std::optional<bool> boolean(std::string_view field) const {
    const auto* value = find(field);
    if (!value) return std::nullopt;
    if (value->kind != Value::Kind::boolean) refuse(field, "true or false");
    return value->boolean;
  }
  [[nodiscard]] std::optional<std::string> oneOf(std::string_view field,
                                                 std::initializer_list<std::string_view> names) const {
    const auto* value = find(field);
    if (!value) return std::nullopt;
    if (value->kind != Value::Kind::string ||
        std::find(names.begin(), names.end(), value->text) == names.end()) {
      refuse(field, alternatives(names));
    }
    return value->text;
  }
  [[nodiscard]] std::optional<std::string> text(std::string_view field) const {
    const auto* value = find(field);
    if (!value) return std::nullopt;
    if (value->kind != Value::Kind::string || value->text.find_first_of("\n", 0) != std::string::npos)
      refuse(field, "a line of text");
    return value->text;
  }
  [[nodiscard]] static std::string alternatives(std::initializer_list<std::string_view> names) {
    std::string known = "one of";
    for (const auto& each : names) known += (known == "one of" ? " \"" : ", \"") + std::string(each) + "\"";
    return known;
  }
  [[nodiscard]] std::optional<Address> address(std::string_view field) const {
    const auto* value = find(field);
    if (!value) return std::nullopt;
    const auto result = Address::parse(value->kind == Value::Kind::string ? value->text : "");
    if (!result) refuse(field, "a PCI address such as \"0000:00:10.0\" (domain 0000)");
    return result;
  }
  [[nodiscard]] const std::vector<Value>* list(std::string_view field, size_t most) const {
    const auto* value = find(field);
    if (!value) return nullptr;
    if (value->kind != Value::Kind::list || value->items.size() > most)
      refuse(field, "a list of at most " + std::to_string(most));
    return &value->items;
  }

 private:
  const Value& value_;
  const std::string name_;
};

std::string element(const Reader& reader, std::string_view field, size_t index) {
  return reader.path(field) + "[" + std::to_string(index) + "]";
}

// ---------------------------------------------------------------- system

// Is this word on the kernel's command line? The last of several settings of a name counts.
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
  // Devices have files of their own for the sake of iommufd.
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

UnitSpec readUnit(const Reader& reader) {
  reader.only({"kind", "apertures", "reserved", "pageSizes", "pasidBits", "pageRequests", "nesting",
               "dirtyTracking", "enforcesCoherency", "isolatesInterrupts", "commandQueues"});
  const auto kinds = {std::string_view("vtd"), std::string_view("smmuv3"), std::string_view("amd"),
                      std::string_view("ppc"), std::string_view("virtio"), std::string_view("custom")};
  UnitSpec unit;
  if (!reader.find("kind")) reader.refuse("kind", Reader::alternatives(kinds));
  unit.kind = *reader.oneOf("kind", kinds);
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
      constexpr uint64_t smallest = 256;  // a table's entry keeps its bits below the address
      if (!size || !std::has_single_bit(*size) || *size < smallest)
        fail(item.line, "a power of two from 256", reader.path("pageSizes"), item.shown());
      sizes |= *size;
    }
    if (sizes == 0) reader.refuse("pageSizes", "at least one page size");
    unit.pageSizes = sizes;
  }
  if (const auto bits = reader.integer("pasidBits", 0, 20)) unit.pasidBits = static_cast<unsigned>(*bits);
  if (const auto* value = reader.find("pageRequests")) {
    if (value->kind == Value::Kind::boolean && !value->boolean) {
      unit.pageRequests = "";
    } else if (value->kind == Value::Kind::string && (value->text == "pri" || value->text == "stall")) {
      unit.pageRequests = value->text;
    } else {
      reader.refuse("pageRequests", R"("pri", "stall" or false)");
    }
  }
  if (const auto* list = reader.list("nesting", 8)) {
    auto& formats = unit.nesting.emplace();
    for (const auto& item : *list) {
      if (item.kind != Value::Kind::string ||
          (item.text != "vtd-s1" && item.text != "arm-smmuv3" && item.text != "amd-guest")) {
        fail(item.line, R"(one of "vtd-s1", "arm-smmuv3", "amd-guest")", reader.path("nesting"),
             item.shown());
      }
      formats.push_back(item.text);
    }
  }
  unit.dirtyTracking = reader.boolean("dirtyTracking");
  unit.commandQueues = reader.boolean("commandQueues");
  if (unit.commandQueues.value_or(false) && unit.kind != "smmuv3") {
    reader.refuse("commandQueues", "false for a unit that is not of kind smmuv3");
  }
  unit.enforcesCoherency = reader.boolean("enforcesCoherency");
  unit.isolatesInterrupts = reader.boolean("isolatesInterrupts");
  return unit;
}

// ---------------------------------------------------------------- devices

// BARs of a passive device. The upper half of a 64-bit one is a place that must stay empty.
void readBars(const Reader& reader, devices::Description& description) {
  const auto* list = reader.list("bars", description.bars.size());
  for (size_t i = 0; list && i < list->size(); ++i) {
    const Value& item = (*list)[i];
    const bool upper = i > 0 && description.bars[i - 1].kind == devices::BarKind::memory64;
    if (upper && item.kind != Value::Kind::null)
      fail(item.line, "null (the upper half of the BAR before)", element(reader, "bars", i), item.shown());
    if (item.kind == Value::Kind::null) continue;
    const Reader each(item, element(reader, "bars", i), "a BAR { kind, size } or null");
    each.only({"kind", "size", "prefetchable", "memory"});
    const auto kinds = {std::string_view("memory32"), std::string_view("memory64"), std::string_view("io")};
    if (!each.find("kind")) each.refuse("kind", Reader::alternatives(kinds));
    const auto kind = *each.oneOf("kind", kinds);
    auto& bar = description.bars[i];
    bar.kind = kind == "io"         ? devices::BarKind::io
               : kind == "memory32" ? devices::BarKind::memory32
                                    : devices::BarKind::memory64;
    const bool io = bar.kind == devices::BarKind::io;
    const bool wide = bar.kind == devices::BarKind::memory64;
    if (wide && i + 1 == description.bars.size()) each.refuse("kind", "\"memory32\" in the last place");
    const uint64_t most = io ? 256 : wide ? uint64_t{1} << 40 : uint64_t{1} << 30;
    bar.size = each.required("size", most);
    if (!std::has_single_bit(bar.size) || bar.size < (io ? 4 : 16)) each.refuse("size", "a power of two");
    bar.prefetchable = each.boolean("prefetchable").value_or(false);
    bar.backed = each.boolean("memory").value_or(false);
    if (io && bar.prefetchable) each.refuse("prefetchable", "false for ports");
    if (io && bar.backed) each.refuse("memory", "false for ports");
    if (bar.backed && bar.size > uint64_t{1} << 30) each.refuse("memory", "false above 1 GiB");
  }
}

void readMsix(const Reader& reader, devices::Description& description) {
  const auto vectors = reader.integer("msix", 0, 2048);
  if (!vectors || *vectors == 0) return;
  const uint64_t pending = (*vectors + 63) / 64 * 8;
  const uint64_t need = *vectors * 16 + pending;
  for (size_t i = description.bars.size(); i-- > 0;) {
    const auto& bar = description.bars[i];
    if (bar.kind == devices::BarKind::none || bar.kind == devices::BarKind::io || bar.backed) continue;
    // Offsets have 32 bits.
    const uint64_t end = std::min(bar.size, uint64_t{1} << 32);
    if (end < need) continue;
    description.msix = {static_cast<unsigned>(*vectors), static_cast<unsigned>(i),
                        static_cast<uint32_t>((end - need) & ~uint64_t{15}),
                        static_cast<uint32_t>(end - pending)};
    return;
  }
  reader.refuse("msix", "a memory BAR of at least " + std::to_string(std::bit_ceil(need)) + " bytes");
}

void readMessages(const Reader& reader, devices::Description& description) {
  description.msiVectors = static_cast<unsigned>(reader.integer("msi", 0, 32).value_or(0));
  if (description.msiVectors != 0 && !std::has_single_bit(description.msiVectors))
    reader.refuse("msi", "0 or a power of two up to 32");
}

devices::Description readPassive(const Reader& reader) {
  devices::Description description{};
  description.vendor = static_cast<uint16_t>(reader.required("vendor", 0xffff));
  if (description.vendor == 0xffff) reader.refuse("vendor", "a number below 0xffff (nobody is there)");
  description.device = static_cast<uint16_t>(reader.required("device", 0xffff));
  description.classCode = static_cast<uint32_t>(reader.required("classCode", 0xffffff));
  if (description.classCode >> 8 == 0x0604) reader.refuse("classCode", "no bridge: use a model of one");
  const auto small = [&reader](std::string_view field, uint64_t most) {
    return static_cast<uint16_t>(reader.integer(field, 0, most).value_or(0));
  };
  description.subsystemVendor = small("subsystemVendor", 0xffff);
  description.subsystem = small("subsystemDevice", 0xffff);
  description.revision = static_cast<uint8_t>(small("revision", 0xff));
  description.interruptPin = reader.boolean("pin").value_or(false) ? 1 : 0;
  readMessages(reader, description);
  // A conventional bus has no configuration space beyond 256 bytes; which bus it is on is known later.
  description.express = reader.boolean("express").value_or(true);
  description.functionReset = reader.boolean("functionReset").value_or(false);
  if (description.functionReset && !description.express)
    reader.refuse("functionReset", "false without express");
  readBars(reader, description);
  readMsix(reader, description);
  return description;
}

SriovSpec readSriov(const Reader& reader, const devices::Description& physical) {
  reader.only({"totalVfs", "offset", "stride", "device", "bars", "msi", "msix"});
  constexpr uint64_t most = 255;  // they are on one bus
  SriovSpec sriov;
  if (!reader.find("totalVfs")) reader.refuse("totalVfs", "a whole number between 1 and 255");
  sriov.totalVfs = static_cast<unsigned>(*reader.integer("totalVfs", 1, most));
  sriov.offset = static_cast<unsigned>(reader.integer("offset", 1, most).value_or(1));
  sriov.stride = static_cast<unsigned>(reader.integer("stride", 1, most).value_or(1));
  auto& description = sriov.description;
  description = {
      .vendor = physical.vendor,
      .device = static_cast<uint16_t>(reader.integer("device", 0, 0xffff).value_or(physical.device)),
      .subsystemVendor = physical.subsystemVendor,
      .subsystem = physical.subsystem,
      .classCode = physical.classCode,
      .revision = physical.revision,
      .express = true,
      .functionReset = true};  // which all of them have to have
  readMessages(reader, description);
  readBars(reader, description);
  constexpr uint64_t pageSize = 4096;
  for (unsigned i = 0; i < description.bars.size(); ++i) {
    const auto& bar = description.bars[i];
    if (bar.kind == devices::BarKind::io || (bar.kind != devices::BarKind::none && bar.size < pageSize))
      reader.refuse("bars", "BARs of memory of at least 4096 bytes");
  }
  readMsix(reader, description);
  return sriov;
}

// A name that is one part of a path.
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

DeviceSpec readDevice(const Reader& reader, const Value& value, std::string name, size_t iommus) {
  const auto models = {
      std::string_view("edu"),           std::string_view("ivshmem"),         std::string_view("root-port"),
      std::string_view("upstream-port"), std::string_view("downstream-port"), std::string_view("bridge"),
      std::string_view("host-bridge"),   std::string_view("passive")};
  DeviceSpec device;
  device.line = value.line;
  device.name = std::move(name);
  if (!reader.find("model")) reader.refuse("model", Reader::alternatives(models));
  const auto model = *reader.oneOf("model", models);
  // Of every device, whatever it is.
  const std::initializer_list<std::string_view> fields = {
      "model", "bdf", "behind",    "slot", "function", "iommu",   "driver", "pasidBits",    "pageRequests",
      "group", "irq", "addresses", "acs",  "disk",     "network", "mdevs",  "mdevsIsolated"};
  if (model == "passive") {
    reader.only(fields, {"vendor", "device", "classCode", "subsystemVendor", "subsystemDevice", "revision",
                         "bars", "pin", "msi", "msix", "express", "functionReset", "sriov"});
    device.model = devices::makePassive(readPassive(reader));
    if (const auto* sriov = reader.find("sriov")) {
      if (!device.description().express) reader.refuse("sriov", "nothing for a device without express");
      device.sriov = readSriov(Reader(*sriov, reader.path("sriov"), "virtual functions { totalVfs }"),
                               device.description());
    }
  } else {
    reader.only(fields);
    if (model == "edu") device.model = devices::makeEdu();
    if (model == "ivshmem") device.model = devices::makeSharedMemory();
    if (model == "host-bridge") device.model = devices::makePassive(devices::hostBridge);
    if (model == "root-port") {
      device.kind = PortKind::rootPort;
      device.model = devices::makePassive(devices::rootPort);
    }
    if (model == "upstream-port") {
      device.kind = PortKind::upstreamPort;
      device.model = devices::makePassive(devices::upstreamPort);
    }
    if (model == "downstream-port") {
      device.kind = PortKind::downstreamPort;
      device.model = devices::makePassive(devices::downstreamPort);
    }
    if (model == "bridge") {
      device.kind = PortKind::conventionalBridge;
      device.model = devices::makePassive(devices::conventionalBridge);
    }
  }
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
  const bool hasAcs = device.description().express && device.kind != PortKind::conventionalBridge;
  if (device.acs.value_or(false) && !hasAcs) reader.refuse("acs", "false for a conventional device");
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
  // Whatever was not read as meant comes out as another text.
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

DeviceSpec readDevice(std::string_view text, size_t iommus) {
  const Value value = json::parse(text);
  return readDevice(Reader(value, "device", "a device { model, bdf }"), value, "device", iommus);
}

Topology readTopology(std::string_view text) {
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
    topology.iommus.push_back({.kind = "vtd"});
  }
  if (const auto* list = reader.list("devices", mostDevices)) {
    for (size_t i = 0; i < list->size(); ++i) {
      const std::string name = "devices[" + std::to_string(i) + "]";
      const Value& item = (*list)[i];
      topology.devices.push_back(
          readDevice(Reader(item, name, "a device { model, bdf }"), item, name, topology.iommus.size()));
    }
  } else {
    reader.refuse("devices", "a list of devices");
  }
  if (!topology.system.translates)
    for (auto& device : topology.devices) device.translated = false;
  return topology;
}

}  // namespace vfio::soft::topology
