// The requests of a VFIO container with its type1 IOMMU. A real container (/dev/vfio/vfio) accepts them, and
// so does an iommufd.
#include <cerrno>
#include <cstring>
#include <shared_mutex>
#include <vector>

#include "../ledger/requests.h"
#include "../uapi/vfio.h"
#include "async.h"
#include "bound.h"
#include "file.h"
#include "replies.h"
#include "space.h"
#include "values.h"

namespace vfio::binding {
namespace {

constexpr std::pair<const char*, uint32_t> kExtensions[] = {{"type1", uapi::VFIO_TYPE1_IOMMU},
                                                            {"spapr-tce", uapi::VFIO_SPAPR_TCE_IOMMU},
                                                            {"type1v2", uapi::VFIO_TYPE1v2_IOMMU},
                                                            {"dma-cc", uapi::VFIO_DMA_CC_IOMMU},
                                                            {"eeh", uapi::VFIO_EEH},
                                                            {"type1-nesting", uapi::VFIO_TYPE1_NESTING_IOMMU},
                                                            {"spapr-tce-v2", uapi::VFIO_SPAPR_TCE_v2_IOMMU},
                                                            {"noiommu", uapi::VFIO_NOIOMMU_IOMMU},
                                                            {"unmap-all", uapi::VFIO_UNMAP_ALL},
                                                            {"update-vaddr", uapi::VFIO_UPDATE_VADDR}};
constexpr std::pair<const char*, uint32_t> kIommus[] = {{"type1", uapi::VFIO_TYPE1_IOMMU},
                                                        {"type1v2", uapi::VFIO_TYPE1v2_IOMMU},
                                                        {"noiommu", uapi::VFIO_NOIOMMU_IOMMU}};

// Some requests take a value where others take a pointer.
void* byValue(uint32_t value) { return reinterpret_cast<void*>(uintptr_t{value}); }

uapi::vfio_iommu_type1_dma_map mapCommand(uint64_t address, uint64_t length, bool read, bool write,
                                          uint64_t iova) {
  uapi::vfio_iommu_type1_dma_map command{};
  command.argsz = sizeof command;
  command.flags = (read ? uapi::VFIO_DMA_MAP_FLAG_READ : 0) | (write ? uapi::VFIO_DMA_MAP_FLAG_WRITE : 0);
  command.vaddr = address;
  command.iova = iova;
  command.size = length;
  return command;
}

// The address space that a container's requests work on: the container's own, or the compatibility IOAS of an
// iommufd. While a Target exists, the iommufd keeps this IOAS as its compatibility IOAS.
struct Target {
  std::shared_lock<std::shared_mutex> held;
  std::shared_ptr<ledger::Object> object;  // null: the container's own address space
  std::shared_ptr<ledger::Space> space;
  ledger::Manner manner = ledger::Manner::wholeRange;
};

// 0 or -errno. -ENODEV: the iommufd has no compatibility IOAS.
int find(const OpenFile& file, bool own, Target& target) {
  if (own) {
    target.space = file.kernel->own();
    target.manner = file.kernel->manner;
    return 0;
  }
  target.held = file.kernel->holdCompat();
  uint32_t id = 0;
  if (const int failed = ledger::compatIoas(file, id); failed < 0) return failed;
  target.object = file.kernel->space(id);
  target.space = target.object->space;
  return 0;
}

using Wanted = ledger::Space::Wanted;

int askToMap(const OpenFile& file, const MapArguments& given, const Wanted& wanted) {
  auto command = mapCommand(given.address, wanted.length, (given.access & 1) != 0, (given.access & 2) != 0,
                            wanted.iova.value_or(0));
  return file.ioctl(uapi::VFIO_IOMMU_MAP_DMA, &command);
}

// The data that the hot calls of a container work on, and the IOAS of an iommufd that the last call used.
struct Calls {
  std::shared_ptr<File::Slot> slot;
  std::shared_ptr<PagesTable> memory;
  uint64_t* place;
  bool own;
  uint32_t last = 0;
};

// Arguments as in MapArguments, with an iova; it is in Environment::place afterwards
napi_value map(Napi::Env env, const napi_value* arguments, Calls& calls) {
  MapArguments given(env, *calls.memory, arguments);
  const OpenFile& file = calls.slot->live(env, "Container");
  Target target;
  int result = find(file, calls.own, target);
  if (result >= 0)
    result = target.space->map(given.wanted, [&](Wanted& wanted) { return askToMap(file, given, wanted); });
  if (result < 0) throwErrno(env, result, "ioctl", "VFIO_IOMMU_MAP_DMA");
  if (target.object) calls.last = target.object->id;
  *calls.place = *given.wanted.iova;
  return nullptr;
}

// (iova, length) => bytes unmapped; undefined: exactly `length`. iova 0 with length 2^64-1 means everything.
napi_value unmap(Napi::Env env, const napi_value* arguments, Calls& calls) {
  const uint64_t iova = bigU64Of(env, arguments[0], "iova");
  const uint64_t length = bigU64Of(env, arguments[1], "length");
  const OpenFile& file = calls.slot->live(env, "Container");
  uint64_t bytes = 0;
  Target target;
  int result = find(file, calls.own, target);
  if (result >= 0)
    result = target.space->unmap(iova, length, target.manner, bytes,
                                 [&](uint64_t start, uint64_t size, uint64_t& unmapped) {
                                   return ledger::unmapContainer(file, start, size, unmapped);
                                 });
  if (result < 0) throwErrno(env, result, "ioctl", "VFIO_IOMMU_UNMAP_DMA");
  return u64UnlessAsked(env, bytes, length);
}

// () => the id of the IOAS that the last map worked on
napi_value which(Napi::Env env, const napi_value*, Calls& calls) { return number(env, calls.last); }

// (own) => { map, unmap, which }. `own`: the file is a real container, not an iommufd.
Napi::Value containerCalls(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  (void)self.live(env);
  const Environment& environment = Environment::of(env);
  auto target = std::make_shared<Calls>(
      Calls{self.slot(), environment.pages, environment.place, Arguments(info).boolean(0, "own")});
  Napi::Object calls = Napi::Object::New(env);
  calls.Set("map", bind<Calls, map>(env, "map", target));
  calls.Set("unmap", bind<Calls, unmap>(env, "unmap", target));
  calls.Set("which", bind<Calls, which>(env, "which", target));
  return calls;
}

// () => Space: the container's own address space
Napi::Value containerSpace(const Napi::CallbackInfo& info, File& self) {
  (void)self.live(info.Env());
  return Space::make(info.Env(), std::make_shared<ledger::SpaceHandle>(self.open()));
}

// () => has the container lost its IOMMU, and with it all mappings?
Napi::Value containerLost(const Napi::CallbackInfo& info, File& self) {
  OpenFile& file = self.live(info.Env());
  const int result =
      file.kernel->own()->end(false, [&] { return ledger::containerIommu(file) == -EINVAL ? 0 : -EBUSY; });
  if (result == 0) file.kernel->manner = ledger::Manner::unknown;
  return Napi::Boolean::New(info.Env(), result == 0);
}

// () => the version
Napi::Value containerApiVersion(const Napi::CallbackInfo& info, File& self) {
  return Napi::Number::New(
      info.Env(), self.ioctl(info.Env(), uapi::VFIO_GET_API_VERSION, "VFIO_GET_API_VERSION", nullptr));
}

// (extension) => does the container support it?
Napi::Value containerCheckExtension(const Napi::CallbackInfo& info, File& self) {
  const uint32_t extension = oneOf(Arguments(info), 0, "extension", kExtensions);
  return Napi::Boolean::New(info.Env(), self.ioctl(info.Env(), uapi::VFIO_CHECK_EXTENSION,
                                                   "VFIO_CHECK_EXTENSION", byValue(extension)) != 0);
}

// (type)
Napi::Value containerSetIommu(const Napi::CallbackInfo& info, File& self) {
  const uint32_t type = oneOf(Arguments(info), 0, "type", kIommus);
  self.ioctl(info.Env(), uapi::VFIO_SET_IOMMU, "VFIO_SET_IOMMU", byValue(type));
  self.live(info.Env()).kernel->manner =
      type == uapi::VFIO_TYPE1_IOMMU ? ledger::Manner::firstVersion : ledger::Manner::wholeRange;
  return info.Env().Undefined();
}

// () => { pageSizes, ranges, dmaAvailable, migration }
Napi::Value containerInfo(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Reply reply(env, "ioctl", "VFIO_IOMMU_GET_INFO");
  uapi::vfio_iommu_type1_info header{};
  Room room(reply, sizeof header + 512);
  for (;;) {
    header = {};
    room.begin(header);
    self.ioctl(env, uapi::VFIO_IOMMU_GET_INFO, "VFIO_IOMMU_GET_INFO", room.data());
    room.end(header);
    if (header.argsz <= room.size()) break;
    room.grow(header.argsz);  // the kernel has reported the size that it needs
  }
  if (header.iova_pgsizes == 0) reply.refuse("it has no page sizes");
  Napi::Array ranges = Napi::Array::New(env);
  Napi::Value available = env.Null();
  Napi::Value migration = env.Null();
  const uint32_t first = (header.flags & uapi::VFIO_IOMMU_INFO_CAPS) != 0 ? header.cap_offset : 0;
  for (const auto& [id, bytes] : capabilitiesOf(reply, room.bytes(), first, sizeof header)) {
    if (id == uapi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) {
      using List = uapi::vfio_iommu_type1_info_cap_iova_range;
      const auto list = structAt<List>(reply, bytes, "its list of ranges");
      for (const auto& one :
           entriesOf<uapi::vfio_iova_range>(reply, bytes, sizeof list, list.nr_iovas, "ranges")) {
        reply.range(one.start, one.end);
        Napi::Object range = Napi::Object::New(env);
        range.Set("start", bigint(env, one.start));
        range.Set("last", bigint(env, one.end));
        ranges.Set(ranges.Length(), range);
      }
    } else if (id == uapi::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION) {
      const auto dirty =
          structAt<uapi::vfio_iommu_type1_info_cap_migration>(reply, bytes, "what it says of dirty pages");
      Napi::Object answer = Napi::Object::New(env);
      answer.Set("pageSizes", bigint(env, dirty.pgsize_bitmap));
      answer.Set("maxDirtyBitmapSize", bigint(env, dirty.max_dirty_bitmap_size));
      migration = answer;
    } else if (id == uapi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) {
      const auto dma =
          structAt<uapi::vfio_iommu_type1_info_dma_avail>(reply, bytes, "what it says of free mappings");
      available = number(env, dma.avail);
    }
  }
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("pageSizes", bigint(env, header.iova_pgsizes));
  answer.Set("ranges", ranges);
  answer.Set("dmaAvailable", available);
  answer.Set("migration", migration);
  return answer;
}

// (own, then the arguments of map) => Promise<{ iova, ioas }>, off the event loop. `ioas`: the IOAS of an
// iommufd that the mapping is in. Fails with ECANCELED if the file was disposed meanwhile; then nothing is
// mapped.
Napi::Value containerMapAsync(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  (void)self.live(env);
  struct Call {
    bool own;
    MapArguments given;
    uint32_t ioas = 0;
  };
  const napi_value arguments[] = {info[1], info[2], info[3], info[4], info[5], info[6]};
  auto call = std::make_shared<Call>(
      Call{Arguments(info).boolean(0, "own"), MapArguments(env, *Environment::of(env).pages, arguments)});
  return AsyncCall::start(
      env, {"ioctl", "VFIO_IOMMU_MAP_DMA"},
      [slot = self.slot(), file = self.open(), call]() -> int64_t {
        if (slot->disposed) return -ECANCELED;
        Target target;
        if (const int failed = find(*file, call->own, target); failed < 0) return failed;
        if (target.object) call->ioas = target.object->id;
        Wanted& wanted = call->given.wanted;
        const int result =
            target.space->map(wanted, [&](Wanted& asked) { return askToMap(*file, call->given, asked); });
        if (result < 0 || !slot->disposed) return result;
        // Nobody receives the result any more, so the mapping is undone.
        uint64_t bytes = 0;
        const int undone = target.space->unmapMapping(
            wanted.mapping, *wanted.iova, wanted.length, bytes,
            [&](uint64_t start, uint64_t size, uint64_t& unmapped) {
              return target.object ? ledger::unmapIoas(*file, target.object->id, start, size, unmapped)
                                   : ledger::unmapContainer(*file, start, size, unmapped);
            });
        return undone < 0 ? undone : -ECANCELED;
      },
      [call](Napi::Env env, int64_t) -> Napi::Value {
        Napi::Object made = Napi::Object::New(env);
        made.Set("iova", Napi::Value(env, u64To(env, *call->given.wanted.iova)));
        made.Set("ioas", number(env, call->ioas));
        return made;
      });
}

// (on)
Napi::Value containerDirtyTracking(const Napi::CallbackInfo& info, File& self) {
  uapi::vfio_iommu_type1_dirty_bitmap command{};
  command.argsz = sizeof command;
  command.flags = Arguments(info).boolean(0, "on") ? uapi::VFIO_IOMMU_DIRTY_PAGES_FLAG_START
                                                   : uapi::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
  self.ioctl(info.Env(), uapi::VFIO_IOMMU_DIRTY_PAGES, "VFIO_IOMMU_DIRTY_PAGES", &command);
  return info.Env().Undefined();
}

// (iova, length, pageSize) => Uint8Array
Napi::Value containerDirtyBitmap(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  struct {
    uapi::vfio_iommu_type1_dirty_bitmap header;
    uapi::vfio_iommu_type1_dirty_bitmap_get get;
  } command{};
  command.header.argsz = sizeof command;
  command.header.flags = uapi::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
  command.get.iova = arguments.u64(0, "iova");
  command.get.size = arguments.u64(1, "length");
  command.get.bitmap.pgsize = arguments.u64(2, "pageSize");
  Bitmap bitmap(arguments, command.get.size, 2, command.get.bitmap.pgsize);
  command.get.bitmap.size = bitmap.size();
  command.get.bitmap.data = reinterpret_cast<uint64_t>(bitmap.words());
  self.ioctl(info.Env(), uapi::VFIO_IOMMU_DIRTY_PAGES, "VFIO_IOMMU_DIRTY_PAGES", &command);
  return bitmap.toJs(info.Env());
}

// (own, iova, length, pageSize) => { bytes, bitmap: Uint8Array }: unmaps, and reports the pages written until
// then
Napi::Value containerUnmapDirty(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const uint64_t iova = arguments.u64(1, "iova");
  const uint64_t length = arguments.u64(2, "length");
  const uint64_t pageSize = arguments.u64(3, "pageSize");
  Bitmap bitmap(arguments, length, 3, pageSize);
  OpenFile& file = self.live(env);
  Target target;
  uint64_t bytes = 0;
  int result = find(file, arguments.boolean(0, "own"), target);
  if (result >= 0)
    result = target.space->unmap(iova, length, target.manner, bytes,
                                 [&](uint64_t start, uint64_t size, uint64_t& unmapped) -> int {
                                   // A second request for one piece after a failure does not ask for dirty
                                   // bits.
                                   if (start != iova || size != length)
                                     return ledger::unmapContainer(file, start, size, unmapped);
                                   struct {
                                     uapi::vfio_iommu_type1_dma_unmap unmap;
                                     uapi::vfio_bitmap bitmap;
                                   } command{};
                                   command.unmap.argsz = sizeof command;
                                   command.unmap.flags = uapi::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
                                   command.unmap.iova = start;
                                   command.unmap.size = size;
                                   command.bitmap.pgsize = pageSize;
                                   command.bitmap.size = bitmap.size();
                                   command.bitmap.data = reinterpret_cast<uint64_t>(bitmap.words());
                                   const int asked = file.ioctl(uapi::VFIO_IOMMU_UNMAP_DMA, &command);
                                   unmapped = asked < 0 ? 0 : command.unmap.size;
                                   return asked;
                                 });
  if (result < 0) throwErrno(env, result, "ioctl", "VFIO_IOMMU_UNMAP_DMA");
  Napi::Object answer = Napi::Object::New(env);
  answer.Set("bytes", bigint(env, bytes));
  answer.Set("bitmap", bitmap.toJs(env));
  return answer;
}

// (iova, length) => bytes whose user addresses are invalid now. iova 0 with length 2^64-1 means everything.
// Nothing is unmapped.
Napi::Value containerInvalidateVaddr(const Napi::CallbackInfo& info, File& self) {
  const Arguments arguments(info);
  uapi::vfio_iommu_type1_dma_unmap command{};
  command.argsz = sizeof command;
  command.flags = uapi::VFIO_DMA_UNMAP_FLAG_VADDR;
  command.iova = arguments.u64(0, "iova");
  command.size = arguments.u64(1, "length");
  if (command.iova == 0 && command.size == UINT64_MAX) {
    command.flags |= uapi::VFIO_DMA_UNMAP_FLAG_ALL;
    command.size = 0;
  }
  self.ioctl(info.Env(), uapi::VFIO_IOMMU_UNMAP_DMA, "VFIO_IOMMU_UNMAP_DMA", &command);
  return bigint(info.Env(), command.size);
}

// (own, memory, offset, size, iova, mapping, length): gives an invalidated mapping its new memory. `length`
// is the length of the mapping. Fails with ENOENT if it is not mapped.
Napi::Value containerUpdateVaddr(const Napi::CallbackInfo& info, File& self) {
  const Napi::Env env = info.Env();
  const Arguments arguments(info);
  const std::shared_ptr<Pages> pages = Memory::pagesOf(env, *Environment::of(env).pages, info[1]);
  const uint64_t offset = arguments.u64(2, "offset");
  const uint64_t size = arguments.u64(3, "size");
  if (offset > pages->size() || size > pages->size() - offset)
    refuse(env, "a size inside the buffer", "size", info[3]);
  auto command = mapCommand(reinterpret_cast<uint64_t>(pages->address()) + offset, size, false, false,
                            arguments.u64(4, "iova"));
  command.flags = uapi::VFIO_DMA_MAP_FLAG_VADDR;
  OpenFile& file = self.live(env);
  Target target;
  int result = find(file, arguments.boolean(0, "own"), target);
  if (result >= 0)
    result = target.space->move(arguments.u64(5, "mapping"), command.iova, arguments.u64(6, "length"), pages,
                                [&] { return file.ioctl(uapi::VFIO_IOMMU_MAP_DMA, &command); });
  if (result < 0) throwErrno(env, result, "ioctl", "VFIO_IOMMU_MAP_DMA");
  return env.Undefined();
}

}  // namespace

std::vector<File::Call> containerTable() {
  return {File::call<containerCalls>("containerCalls"),
          File::call<containerSpace>("containerSpace"),
          File::call<containerLost>("containerLost"),
          File::call<containerApiVersion>("containerApiVersion"),
          File::call<containerCheckExtension>("containerCheckExtension"),
          File::call<containerSetIommu>("containerSetIommu"),
          File::call<containerInfo>("containerInfo"),
          File::call<containerMapAsync>("containerMapAsync"),
          File::call<containerDirtyTracking>("containerDirtyTracking"),
          File::call<containerDirtyBitmap>("containerDirtyBitmap"),
          File::call<containerUnmapDirty>("containerUnmapDirty"),
          File::call<containerInvalidateVaddr>("containerInvalidateVaddr"),
          File::call<containerUpdateVaddr>("containerUpdateVaddr")};
}

}  // namespace vfio::binding
