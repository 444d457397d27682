// The network of a machine: which devices are on it, and how a frame gets from one to another.
//
// Life: the machine has one, which outlives its devices. A station leaves the network before it is destroyed.
// The caller holds the host's lock.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace vfio::soft::devices {

class Network;

// What a device is, besides, that sends and receives frames.
class Station {
 public:
  // Called once, after the device was plugged in. `address` is its place on the PCI bus: "0000:00:10.0".
  virtual void connect(Network& network, const std::string& address) = 0;
  // Keeps a copy of the frame, or drops it. It answers at once, and does the rest of its work on the engine.
  virtual void receive(std::span<const uint8_t> frame) = 0;

 protected:
  ~Station() = default;
};

class Network {
 public:
  void join(const std::string& address, Station& station) { stations_.insert_or_assign(address, &station); }
  void leave(const std::string& address) { stations_.erase(address); }
  // Sends to the station at this address. Without one, the frame is lost.
  void send(const std::string& address, std::span<const uint8_t> frame) const {
    const auto found = stations_.find(address);
    if (found != stations_.end()) found->second->receive(frame);
  }

 private:
  std::map<std::string, Station*> stations_;
};

}  // namespace vfio::soft::devices
