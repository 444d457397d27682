#include "catalogue.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <system_error>

#include "../devices/bridge.h"
#include "../devices/edu.h"
#include "../devices/ivshmem.h"
#include "../devices/nvme/nvme.h"
#include "../devices/virtio/net.h"

namespace vfio::soft::topology {

namespace {

// Reads the parts of a BAR that are memory.
void readAreas(const Reader& reader, devices::Bar& bar) {
  constexpr uint64_t pageSize = 4096;
  const auto* list = reader.list("areas", bar.areas.size());
  uint64_t end = 0;
  for (size_t i = 0; list && i < list->size(); ++i) {
    const Reader each((*list)[i], element(reader, "areas", i), "an area { offset, size }");
    each.only({"offset", "size"});
    const devices::Area area{each.required("offset", bar.size), each.required("size", bar.size)};
    if (area.offset % pageSize != 0 || area.offset < end)
      each.refuse("offset", "a multiple of 4096 behind the area before");
    if (area.size % pageSize != 0 || area.size == 0 || area.size > bar.size - area.offset)
      each.refuse("size", "whole pages of 4096 bytes inside the BAR");
    end = area.offset + area.size;
    bar.areas[i] = area;
  }
  if (bar.sparse() && bar.backed) reader.refuse("areas", "nothing of a BAR that is all memory");
}

// Reads the BARs of a passive device. The entry after a 64-bit BAR is its upper half, and must be null.
void readBars(const Reader& reader, devices::Description& description) {
  const auto* list = reader.list("bars", description.bars.size());
  for (size_t i = 0; list && i < list->size(); ++i) {
    const Value& item = (*list)[i];
    const bool upper = i > 0 && description.bars[i - 1].kind == devices::BarKind::memory64;
    if (upper && item.kind != Value::Kind::null)
      fail(item.line, "null (the upper half of the BAR before)", element(reader, "bars", i), item.shown());
    if (item.kind == Value::Kind::null) continue;
    const Reader each(item, element(reader, "bars", i), "a BAR { kind, size } or null");
    each.only({"kind", "size", "prefetchable", "memory", "areas", "mappable"});
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
    bar.mappable = each.boolean("mappable").value_or(true);
    readAreas(each, bar);
    if (io && bar.backed) each.refuse("memory", "false for ports");
    if (io && bar.sparse()) each.refuse("areas", "nothing for ports");
    const bool large = bar.size > uint64_t{1} << 30;
    if (bar.backed && large) each.refuse("memory", "false above 1 GiB");
    if (bar.sparse() && large) each.refuse("areas", "nothing above 1 GiB");
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
    // The capability has 32 bits for the offsets of the tables.
    const uint64_t end = std::min(bar.size, uint64_t{1} << 32);
    if (end < need) continue;
    const uint64_t table = (end - need) & ~uint64_t{15};
    if (std::ranges::any_of(bar.areas, [table, end](const devices::Area& area) {
          return area.size != 0 && area.offset < end && area.offset + area.size > table;
        }))
      continue;
    description.msix = {static_cast<unsigned>(*vectors), static_cast<unsigned>(i),
                        static_cast<uint32_t>(table), static_cast<uint32_t>(end - pending)};
    return;
  }
  reader.refuse("msix", "a memory BAR of at least " + std::to_string(std::bit_ceil(need)) + " bytes");
}

void readMessages(const Reader& reader, devices::Description& description) {
  description.msiVectors = static_cast<unsigned>(reader.integer("msi", 0, 32).value_or(0));
  if (description.msiVectors != 0 && !std::has_single_bit(description.msiVectors))
    reader.refuse("msi", "0 or a power of two up to 32");
}

// Reads the vendor-specific capabilities: lists of bytes.
void readVendorSpecific(const Reader& reader, devices::Description& description) {
  auto& into = description.vendorSpecific;
  const auto* list = reader.list("vendorSpecific", devices::VendorCapabilities::kMost);
  size_t used = 0;
  for (size_t i = 0; list && i < list->size(); ++i) {
    const Value& item = (*list)[i];
    const std::string name = element(reader, "vendorSpecific", i);
    const size_t left = into.bytes.size() - used;
    if (item.kind != Value::Kind::list || item.items.empty() || item.items.size() > left)
      fail(item.line, "a list of 1 to " + std::to_string(left) + " bytes", name, item.shown());
    for (const Value& byte : item.items) {
      const auto value = toInteger(byte);
      if (!value || *value > 0xff) fail(byte.line, "a byte", name, byte.shown());
      into.bytes[used++] = static_cast<uint8_t>(*value);
    }
    into.lengths[i] = static_cast<uint8_t>(item.items.size());
  }
  // From 0x40 to 0x100, behind the other capabilities (pci/config.cc).
  const unsigned others = (description.msix.vectors != 0 ? 0x10 : 0) +
                          (description.msiVectors != 0 ? 0x20 : 0) + (description.express ? 60 : 0) +
                          (description.power ? 8 : 0);
  if (others + into.size() > 0xc0)
    reader.refuse("vendorSpecific", "capabilities of at most " + std::to_string(0xc0 - others) + " bytes");
}

devices::Description readPassive(const Reader& reader) {
  devices::Description description{};
  description.vendor = static_cast<uint16_t>(reader.required("vendor", 0xffff));
  if (description.vendor == 0xffff)
    reader.refuse("vendor", "a number below 0xffff (which means that there is no device)");
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
  // A device on a conventional bus has 256 bytes of config space only. Its bus is not known here yet.
  description.express = reader.boolean("express").value_or(true);
  description.functionReset = reader.boolean("functionReset").value_or(false);
  if (description.functionReset && !description.express)
    reader.refuse("functionReset", "false without express");
  description.power = reader.boolean("power").value_or(false);
  readBars(reader, description);
  readMsix(reader, description);
  readVendorSpecific(reader, description);
  return description;
}

SriovSpec readSriov(const Reader& reader, const devices::Description& physical) {
  reader.only({"totalVfs", "offset", "stride", "device", "bars", "msi", "msix"});
  constexpr uint64_t most = 255;  // all virtual functions are on one bus
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
      .functionReset = true};  // SR-IOV requires it of every virtual function
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

// The fields of a device that is described as a passive one.
constexpr std::array<std::string_view, 15> passiveFields = {
    "vendor", "device", "classCode", "subsystemVendor", "subsystemDevice", "revision",       "bars", "pin",
    "msi",    "msix",   "express",   "functionReset",   "power",           "vendorSpecific", "sriov"};

void makeDescribed(const Reader& reader, DeviceSpec& device, const devices::Maker& make) {
  device.model = make(readPassive(reader));
  const auto* sriov = reader.find("sriov");
  if (!sriov) return;
  if (!device.description().express) reader.refuse("sriov", "nothing for a device without express");
  device.sriov =
      readSriov(Reader(*sriov, reader.path("sriov"), "virtual functions { totalVfs }"), device.description());
}

void makeNvme(const Reader& reader, DeviceSpec& device) {
  devices::NvmeOptions options;
  const auto blockSize = reader.integer("blockSize", 512, 4096).value_or(options.blockSize);
  if (blockSize != 512 && blockSize != 4096) reader.refuse("blockSize", "512 or 4096");
  options.blockSize = static_cast<uint32_t>(blockSize);
  options.size = reader.integer("size", blockSize, uint64_t{1} << 46);
  if (options.size.value_or(0) % blockSize != 0)
    reader.refuse("size", "a multiple of the block size, " + std::to_string(blockSize));
  const auto stride = reader.integer("doorbellStride", 4, 64).value_or(options.doorbellStride);
  if (!std::has_single_bit(stride)) reader.refuse("doorbellStride", "a power of two from 4 to 64");
  options.doorbellStride = static_cast<uint32_t>(stride);
  options.file = reader.text("file").value_or("");
  try {
    device.model = devices::makeNvme(options);
  } catch (const std::system_error& error) {
    if (options.file.empty()) throw;
    reader.refuse("file", "a file that holds a block and can be written (" + error.code().message() + ")");
  }
}

// "52:54:00:12:34:56". The lowest bit of the first byte is set in addresses of groups only.
std::optional<std::array<uint8_t, 6>> parseMac(const std::string& text) {
  constexpr size_t perByte = 3;
  std::array<uint8_t, 6> mac{};
  if (text.size() != mac.size() * perByte - 1) return std::nullopt;
  for (size_t i = 0; i < mac.size(); ++i) {
    const char* at = text.data() + i * perByte;
    if (std::from_chars(at, at + 2, mac[i], 16).ptr != at + 2) return std::nullopt;
    if (i + 1 < mac.size() && at[2] != ':') return std::nullopt;
  }
  return (mac[0] & 1) == 0 ? std::optional(mac) : std::nullopt;
}

void makeVirtioNet(const Reader& reader, DeviceSpec& device) {
  devices::VirtioNetOptions options;
  if (const auto text = reader.text("mac")) {
    options.mac = parseMac(*text);
    if (!options.mac) reader.refuse("mac", "a MAC address of one station such as \"52:54:00:12:34:56\"");
  }
  if (const auto peer = reader.address("peer")) options.peer = peer->text();
  device.model = devices::makeVirtioNet(options);
}

// The model of a bridge or a port: it has only a config space, and this kind decides its place on the buses.
Model port(PortKind kind, const devices::Description& description) {
  return {[kind, &description](const Reader&, DeviceSpec& device) {
    device.kind = kind;
    device.model = devices::makePassive(description);
  }};
}

Catalogue makeBuiltin() {
  Catalogue catalogue;
  catalogue.add("edu", {[](const Reader&, DeviceSpec& device) { device.model = devices::makeEdu(); }});
  catalogue.add("ivshmem",
                {[](const Reader&, DeviceSpec& device) { device.model = devices::makeSharedMemory(); }});
  catalogue.add("nvme", {makeNvme, {"size", "file", "blockSize", "doorbellStride"}});
  catalogue.add("virtio-net", {makeVirtioNet, {"mac", "peer"}});
  catalogue.add("root-port", port(PortKind::rootPort, devices::rootPort));
  catalogue.add("upstream-port", port(PortKind::upstreamPort, devices::upstreamPort));
  catalogue.add("downstream-port", port(PortKind::downstreamPort, devices::downstreamPort));
  catalogue.add("bridge", port(PortKind::conventionalBridge, devices::conventionalBridge));
  catalogue.add("host-bridge", port(PortKind::endpoint, devices::hostBridge));
  catalogue.add("passive", simulatedModel(devices::makePassive));
  return catalogue;
}

}  // namespace

Model simulatedModel(devices::Maker make) {
  return {[make = std::move(make)](const Reader& reader, DeviceSpec& device) {
            makeDescribed(reader, device, make);
          },
          {passiveFields.begin(), passiveFields.end()}};
}

void Catalogue::add(std::string name, Model model) {
  const auto same = std::ranges::find(models_, name, &std::pair<std::string, Model>::first);
  if (same != models_.end()) {
    same->second = std::move(model);
  } else {
    models_.emplace_back(std::move(name), std::move(model));
  }
}

const Model* Catalogue::find(std::string_view name) const {
  for (const auto& [known, model] : models_) {
    if (known == name) return &model;
  }
  return nullptr;
}

std::vector<std::string_view> Catalogue::names() const {
  std::vector<std::string_view> names;
  for (const auto& [name, model] : models_) names.emplace_back(name);
  return names;
}

const Catalogue& builtinModels() {
  static const Catalogue catalogue = makeBuiltin();
  return catalogue;
}

}  // namespace vfio::soft::topology
