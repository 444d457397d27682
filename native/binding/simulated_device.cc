#include "simulated_device.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "arguments.h"
#include "environment.h"
#include "memory.h"
#include "simulated_link.h"

namespace vfio::binding {

using Operation = SimulatedLink::Operation;

namespace {

class Model final : public devices::Device {
 public:
  Model(devices::Description description, std::shared_ptr<SimulatedLink> link)
      : description_(description), link_(std::move(link)) {}
  ~Model() override { link_->unplugged(); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] const devices::Description& description() const override { return description_; }
  void plug(devices::Port& port) override { link_->plugged(port.shared_from_this()); }
  [[nodiscard]] bool remote() const override { return true; }
  [[nodiscard]] uint64_t read(unsigned bar, uint64_t offset, unsigned width) override {
    return link_->ask(Operation::read, bar, offset, width, 0);
  }
  void write(unsigned bar, uint64_t offset, unsigned width, uint64_t value) override {
    (void)link_->ask(Operation::write, bar, offset, width, value);
  }
  void reset() override { resetBy(devices::ResetKind::function); }
  void resetBy(devices::ResetKind kind) override {
    (void)link_->ask(Operation::reset, 0, 0, 0, static_cast<uint64_t>(kind));
  }

 private:
  const devices::Description description_;
  const std::shared_ptr<SimulatedLink> link_;
};

std::optional<uint32_t> pasidOf(const Arguments& arguments, size_t index) {
  return arguments.optionalU32(index, "pasid");
}

// (..., pasid?, execute?, privileged?)
devices::Requester requesterOf(const Arguments& arguments, size_t index) {
  return {pasidOf(arguments, index), arguments.boolean(index + 1, "execute"),
          arguments.boolean(index + 2, "privileged")};
}

// A transfer of a device that waits for missing pages. Whoever drops it (a reset, the end of the device) has
// the model told that it failed.
struct Transfer {
  Transfer(std::shared_ptr<SimulatedLink> itsLink, uint64_t itsId, std::vector<uint8_t> itsBytes)
      : link(std::move(itsLink)), id(itsId), bytes(std::move(itsBytes)) {}
  ~Transfer() {
    if (!told) link->tell(Operation::moved, id);
  }
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  const std::shared_ptr<SimulatedLink> link;
  const uint64_t id;
  std::vector<uint8_t> bytes;
  bool told = false;
};

devices::Port::Done doneOf(const std::shared_ptr<Transfer>& transfer) {
  return [transfer](bool whole) {
    transfer->told = true;
    transfer->link->deliver(Operation::moved, transfer->id, whole, std::move(transfer->bytes));
  };
}

}  // namespace

Napi::Function SimulatedPort::define(Napi::Env env) {
  return DefineClass(
      env, "SimulatedPort",
      {InstanceMethod<&SimulatedPort::dmaRead>("dmaRead"),
       InstanceMethod<&SimulatedPort::dmaWrite>("dmaWrite"), InstanceMethod<&SimulatedPort::peek>("peek"),
       InstanceMethod<&SimulatedPort::message>("message"), InstanceMethod<&SimulatedPort::line>("line"),
       InstanceMethod<&SimulatedPort::end>("end"),
       InstanceMethod<&SimulatedPort::messagesEnabled>("messagesEnabled"),
       InstanceMethod<&SimulatedPort::memory>("memory"), InstanceMethod<&SimulatedPort::post>("post"),
       InstanceMethod<&SimulatedPort::startRead>("startRead"),
       InstanceMethod<&SimulatedPort::startWrite>("startWrite"), InstanceMethod<&SimulatedPort::hold>("hold"),
       InstanceMethod<&SimulatedPort::release>("release"), InstanceMethod<&SimulatedPort::vanish>("vanish")});
}

SimulatedPort::SimulatedPort(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

SimulatedPort::~SimulatedPort() = default;

std::pair<Napi::Object, devices::Maker> SimulatedPort::make(Napi::Env env, const Napi::Object& handlers,
                                                            std::weak_ptr<Backend> host) {
  auto link = std::make_shared<SimulatedLink>(env, handlers, std::move(host));
  Napi::Object port = Environment::of(env).simulatedPort.New({});
  Unwrap(port)->link_ = link;
  return {port, [link](const devices::Description& description) {
            auto model = std::make_unique<Model>(description, link);
            SimulatedLink::open(link);
            return model;
          }};
}

// An access that reaches registers of a neighbour may call another model, which can detach the array. So such
// an access uses a copy of the bytes; any other one uses the array itself.
Napi::Value SimulatedPort::dmaRead(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t iova = arguments.u64(0, "iova");
  const auto into = arguments.bytes(1, "into");
  const auto pasid = pasidOf(arguments, 2);
  std::optional<bool> moved = false;
  const bool plugged = link_ && link_->withPort([&](devices::Port& port) {
    moved = port.dmaReadAlone(iova, into.data(), into.size(), pasid);
    return true;
  });
  if (!plugged || moved) return Napi::Boolean::New(info.Env(), *moved);
  std::vector<uint8_t> bytes(into.size());
  const bool whole = link_->withPort(
      [&](devices::Port& port) { return port.dmaRead(iova, bytes.data(), bytes.size(), pasid); });
  const auto left = arguments.bytes(1, "into");
  std::copy_n(bytes.begin(), std::min(bytes.size(), left.size()), left.begin());
  return Napi::Boolean::New(info.Env(), whole);
}

Napi::Value SimulatedPort::dmaWrite(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t iova = arguments.u64(0, "iova");
  const auto from = arguments.bytes(1, "from");
  const auto pasid = pasidOf(arguments, 2);
  std::optional<bool> moved = false;
  const bool plugged = link_ && link_->withPort([&](devices::Port& port) {
    moved = port.dmaWriteAlone(iova, from.data(), from.size(), pasid);
    return true;
  });
  if (!plugged || moved) return Napi::Boolean::New(info.Env(), *moved);
  const std::vector<uint8_t> bytes(from.begin(), from.end());
  const bool whole = link_->withPort(
      [&](devices::Port& port) { return port.dmaWrite(iova, bytes.data(), bytes.size(), pasid); });
  return Napi::Boolean::New(info.Env(), whole);
}

Napi::Value SimulatedPort::peek(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t iova = arguments.u64(0, "iova");
  const auto into = arguments.bytes(1, "into");
  const auto pasid = pasidOf(arguments, 2);
  const bool whole = link_ && link_->withPort([&](devices::Port& port) {
    return port.peek(iova, into.data(), into.size(), pasid);
  });
  return Napi::Boolean::New(info.Env(), whole);
}

Napi::Value SimulatedPort::message(const Napi::CallbackInfo& info) {
  const uint32_t vector = Arguments(info).u32(0, "vector");
  const bool done = link_ && link_->withPort([&](devices::Port& port) {
    const bool enabled = port.messagesEnabled();
    port.sendMessage(vector);  // also if nobody hears of it: a sanitizer wants to know
    return enabled;
  });
  return Napi::Boolean::New(info.Env(), done);
}

Napi::Value SimulatedPort::line(const Napi::CallbackInfo& info) {
  const bool asserted = Arguments(info).boolean(0, "asserted");
  const bool done = link_ && link_->withPort([&](devices::Port& port) {
    port.setLine(asserted);
    return true;
  });
  return Napi::Boolean::New(info.Env(), done);
}

Napi::Value SimulatedPort::end(const Napi::CallbackInfo& info) {
  if (link_) link_->end();
  return info.Env().Undefined();
}

Napi::Value SimulatedPort::messagesEnabled(const Napi::CallbackInfo& info) {
  const bool enabled = link_ && link_->withPort([](devices::Port& port) { return port.messagesEnabled(); });
  return Napi::Boolean::New(info.Env(), enabled);
}

Napi::Value SimulatedPort::memory(const Napi::CallbackInfo& info) {
  const uint32_t bar = Arguments(info).u32(0, "bar");
  std::shared_ptr<devices::BarMemory> memory;
  const bool found = link_ && link_->withPort([&](devices::Port& port) {
    memory = port.sharedMemory(bar);
    return memory != nullptr;
  });
  if (!found) return info.Env().Undefined();
  return externalBuffer(info.Env(), memory->bytes, memory->size, memory, [] {});
}

Napi::Value SimulatedPort::post(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t id = arguments.u64(0, "id");
  const auto delay = std::chrono::microseconds(arguments.u64(1, "delay"));
  const bool posted = link_ && link_->withPort([&](devices::Port& port) {
    return port.post(delay, [link = link_, id] { link->deliver(Operation::run, id, true, {}); });
  });
  return Napi::Boolean::New(info.Env(), posted);
}

Napi::Value SimulatedPort::startRead(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t id = arguments.u64(0, "id");
  const uint64_t iova = arguments.u64(1, "iova");
  std::vector<uint8_t> bytes(arguments.u64(2, "length"));
  const devices::Requester by = requesterOf(arguments, 3);
  const bool started = link_ && link_->withPort([&](devices::Port& port) {
    const auto transfer = std::make_shared<Transfer>(link_, id, std::move(bytes));
    port.startRead(iova, transfer->bytes.data(), transfer->bytes.size(), by, doneOf(transfer));
    return true;
  });
  return Napi::Boolean::New(info.Env(), started);
}

Napi::Value SimulatedPort::startWrite(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t id = arguments.u64(0, "id");
  const uint64_t iova = arguments.u64(1, "iova");
  const auto given = arguments.bytes(2, "from");
  const devices::Requester by = requesterOf(arguments, 3);
  const bool started = link_ && link_->withPort([&](devices::Port& port) {
    const auto transfer =
        std::make_shared<Transfer>(link_, id, std::vector<uint8_t>(given.begin(), given.end()));
    port.startWrite(iova, transfer->bytes.data(), transfer->bytes.size(), by, doneOf(transfer));
    return true;
  });
  return Napi::Boolean::New(info.Env(), started);
}

Napi::Value SimulatedPort::hold(const Napi::CallbackInfo& info) {
  if (link_) link_->hold();
  return info.Env().Undefined();
}

Napi::Value SimulatedPort::release(const Napi::CallbackInfo& info) {
  if (link_) link_->release();
  return info.Env().Undefined();
}

Napi::Value SimulatedPort::vanish(const Napi::CallbackInfo& info) {
  const bool gone = link_ && link_->withPort([](devices::Port& port) {
    port.vanish();
    return true;
  });
  if (gone) link_->unplugged();
  return Napi::Boolean::New(info.Env(), gone);
}

}  // namespace vfio::binding
