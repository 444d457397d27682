#include "memory.h"

#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/mempolicy.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "../guard/guard.h"
#include "arguments.h"
#include "environment.h"
#include "hosts.h"

namespace vfio::binding {
namespace {

constexpr napi_type_tag kTag{0x76f1'0a11'3c5d'4b01, 0x9d2e'7c40'51b8'66a1};
constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older headers lack
constexpr size_t kHugePage = size_t{2} << 20;
// V8's own limit is higher and varies; some supported version refuses a larger ArrayBuffer than this.
constexpr size_t kLargestBuffer = size_t{1} << 32;

bool roundUp(uint64_t size, size_t unit, size_t& rounded) {
  return !__builtin_add_overflow(size, unit - 1, &rounded) && (rounded &= ~(unit - 1), rounded != 0);
}

// The size of an open file. Not by lseek(SEEK_END): the caller, and other processes, share the file offset.
uint64_t sizeOf(Napi::Env env, int fd) {
  struct stat file {};
  if (::fstat(fd, &file) < 0) throwErrno(env, errno, "fstat");
  if (S_ISFIFO(file.st_mode) || S_ISSOCK(file.st_mode)) throwErrno(env, ESPIPE, "mmap");
  if (!S_ISBLK(file.st_mode)) return static_cast<uint64_t>(file.st_size);
  uint64_t size = 0;  // for a disk: fstat reports no size for it
  if (::ioctl(fd, BLKGETSIZE64, &size) < 0) throwErrno(env, errno, "ioctl", "BLKGETSIZE64");
  return size;
}

// Copies with a guard: pages of a file that has shrunk no longer exist.
void move(Napi::Env env, uint8_t* into, const uint8_t* from, size_t size) {
  // The guarded copy runs from low to high addresses, so an overlap may need a second buffer.
  std::vector<uint8_t> aside;
  if (into > from && into < from + size) {
    aside.resize(size);
    if (guard::copy(aside.data(), from, size) != 0) throwErrno(env, EFAULT, "copy");
    from = aside.data();
  }
  if (guard::copy(into, from, size) != 0) throwErrno(env, EFAULT, "copy");
}

// Wraps a new mapping in Pages, which unmap it at the end.
std::shared_ptr<Pages> own(uint8_t* start, size_t size) {
  try {
    return std::make_shared<Pages>(start, size, true);
  } catch (...) {
    ::munmap(start, size);
    throw;
  }
}

}  // namespace

uint64_t PagesTable::add(std::shared_ptr<Pages> pages) {
  if (free_.empty()) {
    if (entries_.size() == kPlaces) throw std::bad_alloc();
    if (entries_.size() == entries_.capacity()) entries_.reserve(std::max<size_t>(64, 2 * entries_.size()));
    free_.reserve(entries_.capacity());  // so remove() allocates no memory
    free_.push_back(entries_.size());
    entries_.push_back({});
  }
  const uint64_t number = free_.back();
  free_.pop_back();
  entries_[number % kPlaces] = {number, std::move(pages)};
  return number;
}

void PagesTable::remove(uint64_t number) {
  entries_[number % kPlaces].pages.reset();
  free_.push_back((number + kPlaces) % kNumbers);
}

Pages::~Pages() {
  guard::unwatchRange(watch_);
  if (owned_) unmapMemory(address_, size_);
}

namespace {

// The data that an external ArrayBuffer keeps alive. When an environment ends, Node releases the memory of
// all its buffers. It does so even if the bytes of a buffer belong to another thread by now
// (ArrayBuffer.prototype.transfer, then postMessage). That thread must not touch unmapped memory, nor a new
// mapping at the same place. So the addresses are then never used again.
struct KeptByBuffer {
  std::shared_ptr<const void> owner;
  std::function<void()> retire;
  KeptByBuffer* next = nullptr;

  static void release(napi_env env, void*, void* data) {
    auto* self = static_cast<KeptByBuffer*>(data);
    // If no JavaScript can run any more, the environment is ending.
    napi_value global = nullptr;
    bool ignored = false;
    if (napi_get_global(env, &global) == napi_ok &&
        napi_has_named_property(env, global, "Object", &ignored) == napi_ok) {
      delete self;
      return;
    }
    static std::atomic<KeptByBuffer*> retired = nullptr;  // reachable, so a sanitizer reports no leak
    self->retire();
    self->next = retired.exchange(self);
  }
};

}  // namespace

bool Pages::watch(size_t pageSize) {
  guard::install();
  watch_ = guard::watchRange(reinterpret_cast<uintptr_t>(address_), size_, pageSize);
  return watch_ != nullptr;
}

size_t pageSize() {
  static const auto size = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

Napi::Value externalBuffer(Napi::Env env, uint8_t* address, size_t size, std::shared_ptr<const void> owner,
                           std::function<void()> retire) {
  if (size > kLargestBuffer)
    throwCode(env, "ERR_OUT_OF_RANGE",
              "Expected at most 4 GiB for one ArrayBuffer but received " + std::to_string(size) +
                  " bytes: use a slice, or read() and write()");
  auto* kept = new KeptByBuffer{std::move(owner), std::move(retire)};
  napi_value buffer = nullptr;
  // VFIO_NO_EXTERNAL_BUFFERS lets a program be tested as it will run in Electron.
  const char* forbidden = std::getenv("VFIO_NO_EXTERNAL_BUFFERS");
  const napi_status status =
      forbidden && *forbidden == '1'
          ? napi_no_external_buffers_allowed
          : napi_create_external_arraybuffer(env, address, size, KeptByBuffer::release, kept, &buffer);
  if (status == napi_ok) return {env, buffer};
  delete kept;
  if (status == napi_no_external_buffers_allowed)
    throwCode(env, "EOPNOTSUPP",
              "This runtime allows no ArrayBuffer over memory of its host's (Electron is one such): "
              "use the accessor calls (read, write, read32, ...) instead");
  throw Napi::Error::New(env);
}

Napi::Function Memory::define(Napi::Env env) {
  return DefineClass(env, "Memory",
                     {InstanceAccessor<&Memory::address>("address"), InstanceAccessor<&Memory::size>("size"),
                      InstanceMethod<&Memory::number>("number"), InstanceMethod<&Memory::buffer>("buffer"),
                      InstanceMethod<&Memory::read>("read"), InstanceMethod<&Memory::write>("write"),
                      InstanceMethod<&Memory::dispose>("dispose")});
}

Memory::Memory(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  napi_type_tag_object(info.Env(), info.This(), &kTag);
}

Memory::~Memory() { release(); }

Napi::Object Memory::make(Napi::Env env, std::shared_ptr<Pages> pages) {
  const auto& table = Environment::of(env).pages;
  Napi::Object object = Environment::of(env).memory.New({});
  Memory& memory = *Unwrap(object);
  memory.number_ = table->add(pages);
  memory.table_ = table;
  memory.pages_ = std::move(pages);
  return object;
}

void Memory::release() {
  if (table_) table_->remove(number_);
  table_.reset();
  pages_.reset();
}

Memory* Memory::from(const Napi::Value& value) {
  bool ours = false;
  if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &kTag, &ours) != napi_ok || !ours)
    return nullptr;
  return Unwrap(value.As<Napi::Object>());
}

const std::shared_ptr<Pages>& Memory::pagesOf(Napi::Env env, const PagesTable& table, napi_value number) {
  const auto* const pages = table.find(u64Of(env, number, "memory"));
  if (pages == nullptr) throwDisposed(env, "DmaBuffer");
  return *pages;
}

Napi::Value Memory::allocate(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t wanted = arguments.u64(0, "size");
  const auto shift = static_cast<unsigned>(arguments.unsignedNumber(1, "pageShift", 30));
  const std::optional<uint32_t> node = arguments.optionalU32(2, "numaNode");
  size_t size;
  if (!roundUp(wanted, shift ? size_t{1} << shift : pageSize(), size))
    refuse(info.Env(), "a size from 1 byte to what memory holds", "size", info[0]);

  // Ordinary memory of 2 MiB and more is aligned to 2 MiB, so that transparent huge pages can serve it and
  // the kernel picks an IOVA that keeps them whole.
  const bool align = !shift && size >= kHugePage;
  const size_t reserve = align ? size + kHugePage : size;
  if (reserve < size) throwErrno(info.Env(), ENOMEM, "mmap");
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS |
                    (shift ? MAP_HUGETLB | static_cast<int>(shift << MAP_HUGE_SHIFT) : MAP_NORESERVE);
  void* result = ::mmap(nullptr, reserve, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (result == MAP_FAILED) throwErrno(info.Env(), errno, "mmap");
  auto* start = static_cast<uint8_t*>(result);
  if (align) {
    auto* aligned =
        reinterpret_cast<uint8_t*>((reinterpret_cast<uint64_t>(start) + kHugePage - 1) & ~(kHugePage - 1));
    if (aligned != start) ::munmap(start, static_cast<size_t>(aligned - start));
    const size_t tail = reserve - static_cast<size_t>(aligned - start) - size;
    if (tail) ::munmap(aligned + size, tail);
    start = aligned;
    ::madvise(start, size, MADV_HUGEPAGE);  // a hint: kernels without THP refuse it, and that's fine
  }
  auto pages = own(start, size);
  // A child process must not inherit these pages: after a copy-on-write the device would still use the old
  // page.
  ::madvise(start, size, MADV_DONTFORK);
  if (node) {
    if (*node >= 1024) refuse(info.Env(), "a NUMA node from 0 to 1023", "numaNode", info[2]);
    unsigned long mask[1024 / 64] = {};
    mask[*node / 64] = 1ul << (*node % 64);
    if (::syscall(SYS_mbind, start, size, MPOL_BIND, mask, 1024 + 1, 0) < 0)
      throwErrno(info.Env(), errno, "mbind");
  }
  // A touch of a huge page that cannot be allocated raises SIGBUS, so allocate all of them now. (EINVAL:
  // Linux before 5.14, where the pool's reservation must be enough.)
  if (shift && ::madvise(start, size, kPopulateWrite) < 0 && errno != EINVAL)
    throwErrno(info.Env(), ENOMEM, "madvise");
  return make(info.Env(), std::move(pages));
}

Napi::Value Memory::allocateAt(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t address = arguments.u64(0, "address");
  const uint64_t wanted = arguments.u64(1, "size");
  if (address == 0 || address % pageSize() != 0)
    refuse(info.Env(), "a multiple of the page size, above 0", "address", info[0]);
  size_t size;
  if (!roundUp(wanted, pageSize(), size) || address + size < address)
    refuse(info.Env(), "a size from 1 byte to what memory holds", "size", info[1]);
  auto* const place = reinterpret_cast<uint8_t*>(address);
  void* const result = ::mmap(place, size, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (result == MAP_FAILED) throwErrno(info.Env(), errno, "mmap");
  if (result != place) {  // Linux before 4.17 takes the address as a hint
    ::munmap(result, size);
    throwErrno(info.Env(), EEXIST, "mmap");
  }
  auto pages = own(place, size);
  if (size >= kHugePage && address % kHugePage == 0) ::madvise(place, size, MADV_HUGEPAGE);  // as in allocate
  ::madvise(place, size, MADV_DONTFORK);                                                     // as in allocate
  return make(info.Env(), std::move(pages));
}

Napi::Value Memory::ofDescriptor(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const int fd = arguments.descriptor(0, "fd");
  const uint64_t offset = arguments.u64(1, "offset");
  const uint64_t length = arguments.u64(2, "length");
  // A file of huge pages is mapped in whole huge pages.
  struct statfs system {};
  if (::fstatfs(fd, &system) < 0) throwErrno(info.Env(), errno, "fstatfs");
  const size_t unit = system.f_type == HUGETLBFS_MAGIC ? static_cast<size_t>(system.f_bsize) : pageSize();
  if (offset % unit != 0) refuse(info.Env(), "a multiple of the page size", "offset", info[1]);
  size_t size;
  if (!roundUp(length, unit, size))
    refuse(info.Env(), "a length from 1 byte to the file's size", "length", info[2]);
  // The first touch of a page past the end of the file would raise SIGBUS.
  const uint64_t end = sizeOf(info.Env(), fd);
  if (offset > end || length > end - offset)
    refuse(info.Env(), ("offset and length inside the file's " + std::to_string(end) + " bytes").c_str(),
           "length", info[2]);
  void* result = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (result == MAP_FAILED) throwErrno(info.Env(), errno, "mmap");
  auto pages = own(static_cast<uint8_t*>(result), size);
  if (!pages->watch(unit)) throwErrno(info.Env(), ENOSPC, "mmap");
  return make(info.Env(), std::move(pages));
}

Napi::Value Memory::ofAddress(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  const uint64_t address = arguments.u64(0, "address");
  const uint64_t length = arguments.u64(1, "length");
  if (length == 0 || address + length < address)
    refuse(info.Env(), "a length of at least 1 that does not wrap", "length", info[1]);
  return make(info.Env(), std::make_shared<Pages>(reinterpret_cast<uint8_t*>(address), length, false));
}

// (memory: an ArrayBuffer or a view) => { address, length, buffer } of its bytes in this process; null: it is
// neither, or has no bytes
Napi::Value Memory::addressOf(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Value memory = info[0];
  void* bytes = nullptr;
  size_t length = 0;
  napi_value buffer = memory;
  napi_status status = napi_ok;
  if (memory.IsTypedArray()) {
    status = napi_get_typedarray_info(env, memory, nullptr, nullptr, &bytes, &buffer, nullptr);
    length = memory.As<Napi::TypedArray>().ByteLength();
  } else if (memory.IsDataView()) {
    status = napi_get_dataview_info(env, memory, &length, &bytes, &buffer, nullptr);
  } else if (memory.IsArrayBuffer()) {
    status = napi_get_arraybuffer_info(env, memory, &bytes, &length);
  }
  if (status != napi_ok) throw Napi::Error::New(env);
  if (bytes == nullptr || length == 0) return env.Null();
  Napi::Object found = Napi::Object::New(env);
  found.Set("address", Napi::BigInt::New(env, reinterpret_cast<uint64_t>(bytes)));
  found.Set("length", Napi::Number::New(env, static_cast<double>(length)));
  found.Set("buffer", buffer);
  return found;
}

// Unlike a method, JavaScript can call an accessor on any object, so the class is checked here.
Napi::Value Memory::address(const Napi::CallbackInfo& info) {
  if (from(info.This()) != this) refuse(info.Env(), "a Memory", "this", info.This());
  if (!pages_) throwDisposed(info.Env(), "DmaBuffer");
  return Napi::BigInt::New(info.Env(), reinterpret_cast<uint64_t>(pages_->address()));
}

// () => the number of this memory, for the calls that take such a number
Napi::Value Memory::number(const Napi::CallbackInfo& info) {
  if (!pages_) throwDisposed(info.Env(), "DmaBuffer");
  return Napi::Number::New(info.Env(), static_cast<double>(number_));
}

Napi::Value Memory::size(const Napi::CallbackInfo& info) {
  if (from(info.This()) != this) refuse(info.Env(), "a Memory", "this", info.This());
  if (!pages_) throwDisposed(info.Env(), "DmaBuffer");
  return Napi::Number::New(info.Env(), static_cast<double>(pages_->size()));
}

Napi::Value Memory::buffer(const Napi::CallbackInfo& info) {
  if (!pages_) throwDisposed(info.Env(), "DmaBuffer");
  if (!pages_->owned())
    throwCode(info.Env(), "EOPNOTSUPP", "There is no view of memory that this package does not own");
  uint8_t* address = pages_->address();
  size_t size = pages_->size();
  if (!info[0].IsUndefined()) {
    size = Arguments(info).u64(1, "length");
    address = window(info, 0, size).data();
    // At the end of the environment, `retire` replaces whole pages.
    if (size == 0 || reinterpret_cast<uintptr_t>(address) % pageSize() != 0 || size % pageSize() != 0)
      refuse(info.Env(), "whole pages", "length", info[1]);
  }
  return externalBuffer(info.Env(), address, size, pages_, [address, size] {
    (void)::mmap(address, size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  });
}

std::span<uint8_t> Memory::window(const Napi::CallbackInfo& info, size_t offsetIndex, size_t length) {
  if (!pages_) throwDisposed(info.Env(), "DmaBuffer");
  if (!pages_->owned())
    throwCode(info.Env(), "EOPNOTSUPP", "There is no access to memory that this package does not own");
  const uint64_t offset = Arguments(info).u64(offsetIndex, "offset");
  if (offset > pages_->size() || length > pages_->size() - offset)
    refuse(info.Env(),
           ("an offset that leaves " + std::to_string(length) + " of the buffer's " +
            std::to_string(pages_->size()) + " bytes")
               .c_str(),
           "offset", info[offsetIndex]);
  return {pages_->address() + offset, length};
}

Napi::Value Memory::read(const Napi::CallbackInfo& info) {
  const std::span<uint8_t> into = Arguments(info).bytes(1, "into");
  const std::span<uint8_t> from = window(info, 0, into.size());
  move(info.Env(), into.data(), from.data(), into.size());
  return info.Env().Undefined();
}

Napi::Value Memory::write(const Napi::CallbackInfo& info) {
  const std::span<uint8_t> from = Arguments(info).bytes(1, "from");
  const std::span<uint8_t> into = window(info, 0, from.size());
  move(info.Env(), into.data(), from.data(), from.size());
  return info.Env().Undefined();
}

Napi::Value Memory::dispose(const Napi::CallbackInfo& info) {
  release();
  return info.Env().Undefined();
}

}  // namespace vfio::binding
