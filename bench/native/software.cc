// The cost of the software host's own work: map and unmap among many mappings, translation, DMA. Here both
// sides are C++: the baseline is the same calls with few mappings, or memcpy.
#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>

#include "../../native/soft/host/host.h"
#include "../../native/soft/iommu/domain.h"
#include "../../native/soft/iommu/endpoint.h"
#include "../../native/soft/iommu/models/catalogue.h"
#include "../../native/soft/iommufd/iommufd.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/uapi/iommufd.h"
#include "bench.h"

namespace vfio::bench {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kIova = uint64_t{1} << 32;

double since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count();
}

// The resident memory of the process, in bytes.
uint64_t residentMemory() {
  unsigned long long total = 0;
  unsigned long long resident = 0;
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  if (std::fscanf(file, "%llu %llu", &total, &resident) != 2) resident = 0;
  std::fclose(file);
  return resident * kPage;
}

// A VT-d unit, like the one of the default machine.
soft::iommu::Unit makeUnit() {
  return soft::iommu::makeUnit(
      {.model = &soft::iommu::models::vtd(), .reserved = std::vector<soft::iommu::ReservedRegion>{}});
}

// A host with an IOAS that a device is attached to. The IOAS has `count` mappings of `size` bytes, and no two
// of them map adjacent memory.
class Space {
 public:
  Space(Napi::Env env, uint64_t count, uint64_t size)
      : host_(std::make_shared<soft::mm::Memory>()),
        unit_(makeUnit()),
        nic_(host_, "0000:01:00.0", 0x100, unit_, group_),
        count_(count),
        size_(size),
        length_(count * 2 * size) {
    memory_ = static_cast<char*>(
        mmap(nullptr, length_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory_ == MAP_FAILED) throw Napi::Error::New(env, "no memory");
    std::memset(memory_, 1, length_);
    fd_ = static_cast<int>(checked(env, host_.open("/dev/iommu", O_RDWR | O_CLOEXEC), "/dev/iommu"));
    uapi::iommu_ioas_alloc alloc = {sizeof(alloc), 0, 0};
    checked(env, call(uapi::IOMMU_IOAS_ALLOC, alloc), "IOAS_ALLOC");
    ioas_ = alloc.out_ioas_id;
    uint32_t table = ioas_;
    checked(env, soft::iommufd::bind(host_.file(fd_), nic_, device_), "bind");
    checked(env, device_->attach(table), "attach");
    malloc_trim(0);  // memory that was freed before would be reused, and the growth not measured
    const uint64_t before = residentMemory();
    for (uint64_t at = 0; at < count_; ++at) checked(env, map(at, user(at)), "IOAS_MAP");
    bytes_ = static_cast<double>(residentMemory() - before) / static_cast<double>(count_);
  }
  ~Space() {
    device_.reset();
    host_.close(fd_);
    munmap(memory_, length_);
  }
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

  [[nodiscard]] double bytesEach() const { return bytes_; }

  // Nanoseconds to unmap one mapping and map it again, at random places. It maps its own memory again, or a
  // random page of another space's.
  double exchange(Napi::Env env, uint32_t times, const Space* memory) {
    int64_t failed = 0;
    const auto start = std::chrono::steady_clock::now();
    for (uint32_t round = 0; round < times; ++round) {
      const uint64_t at = random_() % count_;
      uapi::iommu_ioas_unmap unmap = {sizeof(unmap), ioas_, kIova + at * size_, size_};
      failed |= call(uapi::IOMMU_IOAS_UNMAP, unmap);
      failed |= map(at, memory == nullptr ? user(at) : memory->user(random_() % memory->count_));
    }
    const double took = since(start) / times;
    checked(env, failed, "map and unmap");
    return took;
  }

  // Nanoseconds to translate an address, at random places.
  double translate(Napi::Env env, uint32_t times) {
    const auto domain = std::static_pointer_cast<soft::iommu::Domain>(nic_.translation());
    uint64_t missed = 0;
    const auto start = std::chrono::steady_clock::now();
    for (uint32_t round = 0; round < times; ++round) {
      const uint64_t at = random_() % count_;
      const auto run = domain->translate(kIova + at * size_, 8);
      missed += !run || run->user != user(at) ? 1 : 0;
    }
    const double took = since(start) / times;
    checked(env, missed == 0 ? 0 : -EFAULT, "translate");
    return took;
  }

  // Nanoseconds to write to all mappings by DMA, or to the same memory by memcpy.
  double write(Napi::Env env, const char* from) {
    const auto start = std::chrono::steady_clock::now();
    const bool done = nic_.dma.write(kIova, from, count_ * size_);
    const double took = since(start);
    checked(env, done ? 0 : -EFAULT, "DMA");
    return took;
  }
  double copy(const char* from) {
    const auto start = std::chrono::steady_clock::now();
    for (uint64_t at = 0; at < count_; ++at) {
      std::memcpy(reinterpret_cast<char*>(user(at)), from + at * size_, size_);
    }
    return since(start);
  }

 private:
  // The memory of the n-th mapping. It is computed and not looked up, so that it costs the same for any
  // number of mappings.
  [[nodiscard]] uint64_t user(uint64_t at) const {
    return reinterpret_cast<uint64_t>(memory_) + at * 7919 % count_ * 2 * size_;
  }
  int64_t map(uint64_t at, uint64_t from) {
    constexpr uint32_t kFlags =
        uapi::IOMMU_IOAS_MAP_READABLE | uapi::IOMMU_IOAS_MAP_WRITEABLE | uapi::IOMMU_IOAS_MAP_FIXED_IOVA;
    uapi::iommu_ioas_map map = {sizeof(map), kFlags, ioas_, 0, from, size_, kIova + at * size_};
    return call(uapi::IOMMU_IOAS_MAP, map);
  }
  template <class Struct>
  int64_t call(uint32_t request, Struct& arguments) {
    return host_.ioctl(fd_, request, reinterpret_cast<uintptr_t>(&arguments));
  }

  soft::Host host_;
  soft::iommu::Unit unit_;
  soft::iommu::Group group_ = {.id = 1000, .members = {}};
  soft::iommu::Endpoint nic_;
  std::unique_ptr<soft::iommufd::BoundDevice> device_;
  const uint64_t count_;
  const uint64_t size_;
  const uint64_t length_;
  char* memory_ = nullptr;
  int fd_ = -1;
  uint32_t ioas_ = 0;
  double bytes_ = 0;
  std::mt19937_64 random_{3};
};

class SpaceObject final : public Napi::ObjectWrap<SpaceObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "Space",
        {InstanceMethod<&SpaceObject::exchange>("exchange"),
         InstanceMethod<&SpaceObject::translate>("translate"), InstanceMethod<&SpaceObject::write>("write"),
         InstanceMethod<&SpaceObject::copy>("copy"), InstanceMethod<&SpaceObject::bytesEach>("bytesEach"),
         InstanceMethod<&SpaceObject::dispose>("dispose")});
  }
  // (count, size)
  explicit SpaceObject(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<SpaceObject>(info),
        space_(std::make_unique<Space>(info.Env(), info[0].As<Napi::Number>().Uint32Value(),
                                       info[1].As<Napi::Number>().Uint32Value())) {}

 private:
  static const char* bytes(const Napi::CallbackInfo& info) {
    return reinterpret_cast<const char*>(info[0].As<Napi::Uint8Array>().Data());
  }
  Napi::Value exchange(const Napi::CallbackInfo& info) {
    const Space* const memory =
        info.Length() > 1 ? Unwrap(info[1].As<Napi::Object>())->space_.get() : nullptr;
    const uint32_t times = info[0].As<Napi::Number>().Uint32Value();
    return Napi::Number::New(info.Env(), space_->exchange(info.Env(), times, memory));
  }
  Napi::Value translate(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(),
                             space_->translate(info.Env(), info[0].As<Napi::Number>().Uint32Value()));
  }
  Napi::Value write(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), space_->write(info.Env(), bytes(info)));
  }
  Napi::Value copy(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), space_->copy(bytes(info)));
  }
  Napi::Value bytesEach(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), space_->bytesEach());
  }
  Napi::Value dispose(const Napi::CallbackInfo& info) {
    space_.reset();
    return info.Env().Undefined();
  }

  std::unique_ptr<Space> space_;
};

}  // namespace

void addSoftware(Napi::Env env, Napi::Object exports) { exports.Set("Space", SpaceObject::define(env)); }

}  // namespace vfio::bench
