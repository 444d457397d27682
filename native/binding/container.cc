// The requests of a VFIO container with its type1 IOMMU: a container of its own (/dev/vfio/vfio) takes them,
// and an iommufd.
#include "../uapi/vfio.h"
#include "async.h"
#include "bound.h"
#include "file.h"
#include "memory.h"
#include "replies.h"
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

// What is passed by value goes where a pointer would.
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

// (address, length, access, iova) => iova, as an address space's own call
napi_value map(Napi::Env env, const napi_value* arguments, File::Slot& slot) {
  const uint64_t access = unsignedOf(env, arguments[2], "access", 3);
  auto command = mapCommand(u64Of(env, arguments[0], "address"), u64Of(env, arguments[1], "length"),
                            (access & 1) != 0, (access & 2) != 0, u64Of(env, arguments[3], "iova"));
  slot.ioctl(env, uapi::VFIO_IOMMU_MAP_DMA, "VFIO_IOMMU_MAP_DMA", &command);
  return u64To(env, command.iova);
}

// 0 with 2^64-1 is everything.
uapi::vfio_iommu_type1_dma_unmap unmapCommand(uint64_t iova, uint64_t length) {
  uapi::vfio_iommu_type1_dma_unmap command{};
  command.argsz = sizeof command;
  command.iova = iova;
  command.size = length;
  if (iova == 0 && length == UINT64_MAX) {
    command.flags = uapi::VFIO_DMA_UNMAP_FLAG_ALL;
    command.size = 0;
  }
  return command;
}

// (iova, length) => bytes unmapped, as an address space's own call: 0 with 2^64-1 is everything
napi_value unmap(Napi::Env env, const napi_value* arguments, File::Slot& slot) {
  auto command = unmapCommand(u64Of(env, arguments[0], "iova"), u64Of(env, arguments[1], "length"));
  slot.ioctl(env, uapi::VFIO_IOMMU_UNMAP_DMA, "VFIO_IOMMU_UNMAP_DMA", &command);
  return u64To(env, command.size);
}

}  // namespace

// () => { map, unmap }, as ioasCalls
Napi::Value File::containerCalls(const Napi::CallbackInfo& info) {
  (void)live(info.Env());
  Napi::Object calls = Napi::Object::New(info.Env());
  calls.Set("map", bind<Slot, map>(info.Env(), "map", slot_));
  calls.Set("unmap", bind<Slot, unmap>(info.Env(), "unmap", slot_));
  return calls;
}

// () => the version
Napi::Value File::containerApiVersion(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(),
                           ioctl(info.Env(), uapi::VFIO_GET_API_VERSION, "VFIO_GET_API_VERSION", nullptr));
}

// (extension) => has it
Napi::Value File::containerCheckExtension(const Napi::CallbackInfo& info) {
  const uint32_t extension = oneOf(Arguments(info), 0, "extension", kExtensions);
  return Napi::Boolean::New(info.Env(), ioctl(info.Env(), uapi::VFIO_CHECK_EXTENSION, "VFIO_CHECK_EXTENSION",
                                              byValue(extension)) != 0);
}

// (type)
Napi::Value File::containerSetIommu(const Napi::CallbackInfo& info) {
  const uint32_t type = oneOf(Arguments(info), 0, "type", kIommus);
  ioctl(info.Env(), uapi::VFIO_SET_IOMMU, "VFIO_SET_IOMMU", byValue(type));
  return info.Env().Undefined();
}

// () => { pageSizes, ranges, dmaAvailable, migration }
Napi::Value File::containerInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Reply reply(env, "ioctl", "VFIO_IOMMU_GET_INFO");
  uapi::vfio_iommu_type1_info header{};
  Room room(reply, sizeof header + 512);
  for (;;) {
    header = {};
    room.begin(header);
    ioctl(env, uapi::VFIO_IOMMU_GET_INFO, "VFIO_IOMMU_GET_INFO", room.data());
    room.end(header);
    if (header.argsz <= room.size()) break;
    room.grow(header.argsz);  // the kernel has said how much there is
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

// (memory, offset, length, read, write, iova) => Promise<iova>, off the event loop
Napi::Value File::containerMapAsync(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  (void)live(info.Env());
  const Memory* memory = Memory::from(arguments[0]);
  if (!memory) refuse(info.Env(), "a DmaBuffer or a slice of one", "memory", arguments[0]);
  std::shared_ptr<Pages> pages = memory->pages();
  if (!pages) throwDisposed(info.Env(), "DmaBuffer");
  const uint64_t offset = arguments.u64(1, "offset");
  const uint64_t length = arguments.u64(2, "length");
  if (offset > pages->size() || length > pages->size() - offset)
    refuse(info.Env(), "a length inside the buffer", "length", arguments[2]);
  auto command = std::make_shared<uapi::vfio_iommu_type1_dma_map>(
      mapCommand(reinterpret_cast<uint64_t>(pages->address()) + offset, length, arguments.boolean(3, "read"),
                 arguments.boolean(4, "write"), arguments.u64(5, "iova")));
  return AsyncCall::start(
      info.Env(), {"ioctl", "VFIO_IOMMU_MAP_DMA"},
      [file = open(), command, pages]() -> int64_t {
        return file->backend->ioctl(file->fd, uapi::VFIO_IOMMU_MAP_DMA,
                                    reinterpret_cast<uintptr_t>(command.get()));
      },
      [command](Napi::Env env, int64_t) { return bigint(env, command->iova); });
}

// (on)
Napi::Value File::containerDirtyTracking(const Napi::CallbackInfo& info) {
  uapi::vfio_iommu_type1_dirty_bitmap command{};
  command.argsz = sizeof command;
  command.flags = Arguments(info).boolean(0, "on") ? uapi::VFIO_IOMMU_DIRTY_PAGES_FLAG_START
                                                   : uapi::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP;
  ioctl(info.Env(), uapi::VFIO_IOMMU_DIRTY_PAGES, "VFIO_IOMMU_DIRTY_PAGES", &command);
  return info.Env().Undefined();
}

// (iova, length, pageSize) => Uint8Array
Napi::Value File::containerDirtyBitmap(const Napi::CallbackInfo& info) {
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
  ioctl(info.Env(), uapi::VFIO_IOMMU_DIRTY_PAGES, "VFIO_IOMMU_DIRTY_PAGES", &command);
  return bitmap.toJs(info.Env());
}

// (iova, length, pageSize) => { bytes, bitmap: Uint8Array }: unmaps, and tells what was written until then
Napi::Value File::containerUnmapDirty(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  struct {
    uapi::vfio_iommu_type1_dma_unmap unmap;
    uapi::vfio_bitmap bitmap;
  } command{};
  command.unmap.argsz = sizeof command;
  command.unmap.flags = uapi::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
  command.unmap.iova = arguments.u64(0, "iova");
  command.unmap.size = arguments.u64(1, "length");
  command.bitmap.pgsize = arguments.u64(2, "pageSize");
  Bitmap bitmap(arguments, command.unmap.size, 2, command.bitmap.pgsize);
  command.bitmap.size = bitmap.size();
  command.bitmap.data = reinterpret_cast<uint64_t>(bitmap.words());
  ioctl(info.Env(), uapi::VFIO_IOMMU_UNMAP_DMA, "VFIO_IOMMU_UNMAP_DMA", &command);
  Napi::Object answer = Napi::Object::New(info.Env());
  answer.Set("bytes", bigint(info.Env(), command.unmap.size));
  answer.Set("bitmap", bitmap.toJs(info.Env()));
  return answer;
}

// (iova, length) => bytes whose user addresses are invalid now: 0 with 2^64-1 is everything
Napi::Value File::containerInvalidateVaddr(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  auto command = unmapCommand(arguments.u64(0, "iova"), arguments.u64(1, "length"));
  command.flags |= uapi::VFIO_DMA_UNMAP_FLAG_VADDR;
  ioctl(info.Env(), uapi::VFIO_IOMMU_UNMAP_DMA, "VFIO_IOMMU_UNMAP_DMA", &command);
  return bigint(info.Env(), command.size);
}

// (address, length, iova): where the memory of an invalidated mapping is now
Napi::Value File::containerUpdateVaddr(const Napi::CallbackInfo& info) {
  const Arguments arguments(info);
  auto command = mapCommand(arguments.u64(0, "address"), arguments.u64(1, "length"), false, false,
                            arguments.u64(2, "iova"));
  command.flags = uapi::VFIO_DMA_MAP_FLAG_VADDR;
  ioctl(info.Env(), uapi::VFIO_IOMMU_MAP_DMA, "VFIO_IOMMU_MAP_DMA", &command);
  return info.Env().Undefined();
}

}  // namespace vfio::binding
