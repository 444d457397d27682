#include "net.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "../network.h"
#include "transport.h"

namespace vfio::soft::devices {

namespace virtio {

namespace {

constexpr unsigned receiving = 0, sending = 1, queues = 2;
constexpr uint64_t features =
    featureMac | featureMergeable | featureStatus | featureIndirect | featureVersion1 | featureAccessPlatform;
constexpr unsigned burst = 32;        // frames of a queue, before others have their turn at the engine
constexpr size_t inboxMost = 256;     // frames that wait for buffers
constexpr uint64_t frameLeast = 14;   // an Ethernet header
constexpr uint64_t frameMost = 9018;  // a jumbo frame

using Frame = std::vector<uint8_t>;

const Description& net() {
  static const Description description{
      .vendor = 0x1af4,
      .device = 0x1041,
      .subsystemVendor = 0x1af4,
      .subsystem = 0x1100,
      .classCode = 0x020000,
      .revision = 1,
      .bars = {{{.kind = BarKind::memory64, .size = barSize}}},
      .interruptPin = 1,
      .msix = {.vectors = queues + 1, .bar = 0, .table = vectorTable, .pending = pendingTable},
      .express = true,
      .functionReset = true,
      .vendorSpecific = capabilities(queues, sizeof(NetConfig)),
  };
  return description;
}

// The MAC address of a device that was given none: locally administered, with its place on the bus.
std::array<uint8_t, 6> macOf(const std::string& address) {
  std::array<uint8_t, 6> mac{0x52, 0x54, 0x00};
  unsigned domain = 0, bus = 0, slot = 0, function = 0;
  if (std::sscanf(address.c_str(), "%x:%x:%x.%x", &domain, &bus, &slot, &function) == 4) {
    mac[4] = static_cast<uint8_t>(bus);
    mac[5] = static_cast<uint8_t>(slot << 3 | function);
  }
  return mac;
}

}  // namespace

class Net final : public Transport, public Station {
 public:
  explicit Net(const VirtioNetOptions& options) : Transport(features, queues), options_(options) {}
  ~Net() override {
    if (network_) network_->leave(address_);
  }
  Net(const Net&) = delete;
  Net& operator=(const Net&) = delete;

  [[nodiscard]] const Description& description() const override { return net(); }
  void connect(Network& network, const std::string& address) override;
  void receive(std::span<const uint8_t> frame) override;
  [[nodiscard]] std::vector<uint8_t> save() const override;
  [[nodiscard]] bool load(std::span<const uint8_t> state) override;

 private:
  void work() override;
  [[nodiscard]] uint8_t specific(uint64_t offset) const override;
  void drop() override { inbox_.clear(); }

  // Each returns whether more can be done.
  [[nodiscard]] bool send();
  [[nodiscard]] bool deliver();
  [[nodiscard]] static bool fetch(const Memory& driver, const Chain& chain, Frame& into);
  [[nodiscard]] Found gather(const Memory& driver, uint64_t need, std::vector<Chain>& chains);

  const VirtioNetOptions options_;
  std::array<uint8_t, 6> mac_{};
  Network* network_ = nullptr;
  std::string address_;
  std::deque<Frame> inbox_;  // what was received, and has no buffer yet
};

void Net::connect(Network& network, const std::string& address) {
  network_ = &network;
  address_ = address;
  mac_ = options_.mac.value_or(macOf(address));
  network.join(address, *this);
}

uint8_t Net::specific(uint64_t offset) const {
  NetConfig config{{}, linkUp};
  std::ranges::copy(mac_, config.mac);
  return offset < sizeof config ? reinterpret_cast<const uint8_t*>(&config)[offset] : 0;
}

// As a card whose buffers are full, it drops what comes then. It keeps nothing before the driver is ready.
void Net::receive(std::span<const uint8_t> frame) {
  if (!running() || inbox_.size() == inboxMost) return;
  inbox_.emplace_back(frame.begin(), frame.end());
  schedule();
}

void Net::work() {
  const bool more = send();
  if ((deliver() || more) && running()) schedule();
}

// Reads what a chain of the driver sends: header and frame. A frame of no possible size is lost: then `into`
// is empty. Returns false if the chain is wrong, or can't be read.
bool Net::fetch(const Memory& driver, const Chain& chain, Frame& into) {
  const uint64_t size = Chain::size(chain.readable);
  into.clear();
  if (!chain.writable.empty() || size < sizeof(FrameHeader)) return false;
  if (size < sizeof(FrameHeader) + frameLeast || size > sizeof(FrameHeader) + frameMost) return true;
  into.resize(size);
  uint8_t* at = into.data();
  for (const Segment& each : chain.readable) {
    if (each.length != 0 && !driver.read(each.address, at, each.length)) return false;
    at += each.length;
  }
  return true;
}

bool Net::send() {
  Queue& from = queue(sending);
  if (from.enabled == 0) return false;
  const Memory driver = memory();
  uint16_t count = 0;
  Chain chain;
  Frame bytes;
  Found found = Found::nothing;
  while (count < burst && (found = from.find(driver, count, has(featureIndirect), chain)) == Found::chain) {
    if (!fetch(driver, chain, bytes) || !from.use(driver, count, chain, 0)) {
      found = Found::error;
      break;
    }
    ++count;
    if (bytes.empty() || !network_) continue;
    network_->send(options_.peer.empty() ? address_ : options_.peer,
                   std::span<const uint8_t>(bytes).subspan(sizeof(FrameHeader)));
  }
  if (count != 0) {
    if (from.publish(driver, count)) {
      tell(driver, from);
    } else {
      found = Found::error;
    }
  }
  if (found == Found::error) fail(driver);
  return count == burst;
}

// Finds the buffers for a frame: one, or as many as it needs. `nothing`: there is none. With too few,
// `chains` is left empty.
Found Net::gather(const Memory& driver, uint64_t need, std::vector<Chain>& chains) {
  Queue& into = queue(receiving);
  uint64_t room = 0;
  chains.clear();
  while (room < need && (chains.empty() || has(featureMergeable))) {
    Chain chain;
    const Found found = into.find(driver, static_cast<uint16_t>(chains.size()), has(featureIndirect), chain);
    if (found == Found::error || (found == Found::nothing && chains.empty())) return found;
    if (found == Found::nothing) break;
    if (!chain.readable.empty()) return Found::error;
    room += Chain::size(chain.writable);
    chains.push_back(std::move(chain));
  }
  if (room < need) chains.clear();
  return Found::chain;
}

bool Net::deliver() {
  Queue& into = queue(receiving);
  if (into.enabled == 0) return false;
  const Memory driver = memory();
  unsigned count = 0;
  bool used = false;
  bool good = true;
  std::vector<Chain> chains;
  while (good && count < burst && driver.current() && !inbox_.empty()) {
    Frame bytes(sizeof(FrameHeader) + inbox_.front().size());
    std::ranges::copy(inbox_.front(), bytes.begin() + sizeof(FrameHeader));
    const Found found = gather(driver, bytes.size(), chains);
    if (found == Found::nothing) break;
    good = found == Found::chain;
    if (!driver.current()) return false;
    inbox_.pop_front();
    ++count;
    if (!good || chains.empty()) continue;  // a frame that is larger than all buffers is lost
    const FrameHeader header{.buffers = static_cast<uint16_t>(chains.size())};
    std::memcpy(bytes.data(), &header, sizeof header);
    std::span<const uint8_t> left(bytes);
    for (uint16_t ahead = 0; good && ahead < chains.size(); ++ahead) {
      const size_t before = left.size();
      for (const Segment& each : chains[ahead].writable) {
        const size_t length = std::min<uint64_t>(each.length, left.size());
        good = good && (length == 0 || driver.write(each.address, left.data(), length));
        left = left.subspan(length);
      }
      good = good && into.use(driver, ahead, chains[ahead], before - left.size());
    }
    good = good && into.publish(driver, static_cast<uint16_t>(chains.size()));
    used |= good;
  }
  if (used && driver.current()) tell(driver, into);
  if (!good) fail(driver);
  return count == burst;
}

std::vector<uint8_t> Net::save() const {
  StateWriter writer({"virtio-net", 1});
  putState(writer);
  for (const Frame& each : inbox_) {
    writer.put(static_cast<uint32_t>(each.size()));
    writer.putBytes(each);
  }
  return std::move(writer).finish();
}

bool Net::load(std::span<const uint8_t> bytes) {
  StateReader reader({"virtio-net", 1}, bytes);
  State state;
  if (!getState(reader, state)) return false;
  std::deque<Frame> inbox;
  while (!reader.finished()) {
    uint32_t size = 0;
    if (inbox.size() == inboxMost || !reader.get(size) || size < frameLeast || size > frameMost) return false;
    const auto frame = reader.view(size);
    if (frame.empty()) return false;
    inbox.emplace_back(frame.begin(), frame.end());
  }
  inbox_ = std::move(inbox);
  resume(state);
  return true;
}

}  // namespace virtio

std::unique_ptr<Device> makeVirtioNet(const VirtioNetOptions& options) {
  return std::make_unique<virtio::Net>(options);
}

}  // namespace vfio::soft::devices
