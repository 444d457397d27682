#include "faulty_host.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "../base/lack.h"
#include "request_name.h"

namespace vfio::inject {

struct FaultyHost::Rule {
  Rule(CallFault given, uint64_t seed) : fault(std::move(given)), trigger(fault.when, seed) {}
  [[nodiscard]] bool matches(const char* call, const char* request, bool cleansUp) const {
    if (fault.call.empty()) return !cleansUp;
    return fault.call == call || (request != nullptr && fault.call == request);
  }
  const CallFault fault;
  Trigger trigger;
};

namespace {

// As errors name them. A directory is read by getdents64, a descriptor is duplicated by fcntl.
constexpr std::array<std::string_view, 13> kCalls{"open",  "fcntl",  "ioctl",  "read",     "write",
                                                  "pread", "pwrite", "mmap",   "readlink", "getdents64",
                                                  "stat",  "chown",  "eventfd"};

}  // namespace

FaultyHost::FaultyHost(std::unique_ptr<Backend> host, uint64_t seed)
    : host_(std::move(host)), controls_(*host_->controls()), seed_(seed) {}

FaultyHost::~FaultyHost() = default;

std::shared_ptr<void> FaultyHost::injectCallFault(CallFault fault) {
  const std::string& name = fault.call;
  if (!name.empty() && std::ranges::find(kCalls, name) == kCalls.end() && !isRequest(name)) {
    std::string expected;
    for (const std::string_view each : kCalls) expected.append("'").append(each).append("', ");
    throw std::invalid_argument(
        "Expected " + expected +
        "or the name of a request such as 'IOMMU_IOAS_MAP' for request but received '" + name + "'");
  }
  const std::lock_guard hold(lock_);
  auto rule = std::make_shared<Rule>(std::move(fault), seed_ + injected_);
  rules_.push_back(rule);
  ++injected_;
  some_ = true;
  return rule;
}

int FaultyHost::failed(const char* call, const char* request, bool cleansUp) try {
  std::vector<std::shared_ptr<Rule>> struck;
  {
    const std::lock_guard hold(lock_);
    std::erase_if(rules_, [](const auto& rule) { return rule.expired(); });
    some_ = !rules_.empty();
    for (const auto& weak : rules_) {
      auto rule = weak.lock();
      if (rule && rule->matches(call, request, cleansUp) && rule->trigger.strikes())
        struck.push_back(std::move(rule));
    }
  }
  int error = 0;
  for (const auto& rule : struck) {
    if (rule->fault.struck) rule->fault.struck(request != nullptr ? request : call);
    if (error == 0) error = -rule->fault.error;
  }
  return error;
} catch (...) {
  return lack();
}

int FaultyHost::open(const char* path, int flags) {
  if (some_)
    if (const int error = failed("open")) return error;
  return host_->open(path, flags);
}

int FaultyHost::dup(int fd) {
  if (some_)
    if (const int error = failed("fcntl")) return error;
  return host_->dup(fd);
}

int FaultyHost::ioctl(int fd, unsigned long request, uintptr_t argument) {
  if (some_) {
    const FileKind kind = host_->kindOf(fd);
    const auto number = static_cast<uint32_t>(request);
    if (const int error = failed("ioctl", requestName(kind, number), cleansUp(kind, number))) return error;
  }
  return host_->ioctl(fd, request, argument);
}

int64_t FaultyHost::read(int fd, void* buffer, size_t size) {
  if (some_)
    if (const int error = failed("read")) return error;
  return host_->read(fd, buffer, size);
}

int64_t FaultyHost::write(int fd, const void* buffer, size_t size) {
  if (some_)
    if (const int error = failed("write")) return error;
  return host_->write(fd, buffer, size);
}

int64_t FaultyHost::pread(int fd, void* buffer, size_t size, uint64_t offset) {
  if (some_)
    if (const int error = failed("pread")) return error;
  return host_->pread(fd, buffer, size, offset);
}

int64_t FaultyHost::pwrite(int fd, const void* buffer, size_t size, uint64_t offset) {
  if (some_)
    if (const int error = failed("pwrite")) return error;
  return host_->pwrite(fd, buffer, size, offset);
}

int FaultyHost::eventfd() {
  if (some_)
    if (const int error = failed("eventfd")) return error;
  return host_->eventfd();
}

int64_t FaultyHost::mmap(void* hint, size_t length, int protection, int flags, int fd, uint64_t offset) {
  if (some_)
    if (const int error = failed("mmap")) return error;
  return host_->mmap(hint, length, protection, flags, fd, offset);
}

int64_t FaultyHost::readlink(const char* path, char* buffer, size_t size) {
  if (some_)
    if (const int error = failed("readlink")) return error;
  return host_->readlink(path, buffer, size);
}

int FaultyHost::list(const char* path, std::vector<std::string>& names) {
  if (some_)
    if (const int error = failed("getdents64")) return error;
  return host_->list(path, names);
}

int64_t FaultyHost::readText(const char* path, std::string& text) {
  if (some_)
    if (const int error = failed("read")) return error;
  return host_->readText(path, text);
}

int FaultyHost::ownership(const char* path, Ownership& out) {
  if (some_)
    if (const int error = failed("stat")) return error;
  return host_->ownership(path, out);
}

int FaultyHost::own(const char* path, uint32_t uid, uint32_t mode) {
  if (some_)
    if (const int error = failed("chown")) return error;
  return host_->own(path, uid, mode);
}

}  // namespace vfio::inject
