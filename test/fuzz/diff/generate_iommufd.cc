// Sequences on /dev/iommu: address spaces, page tables, the kernel's mock devices and accesses, fault queues,
// and the calls of VFIO's type1.
#include "generate_iommufd.h"

#include <algorithm>
#include <functional>

namespace vfio::fuzz {
namespace {

constexpr uint64_t kPage = Arena::kPage;
constexpr uint64_t kMockPage = kPage / 2;
constexpr uint64_t kMockStart = uint64_t{1} << 24;  // the first IOVA of a mock domain
constexpr uint64_t kMockLast = (uint64_t{1} << 31) - 1;

enum TestOp : uint32_t {
  addReserved = 1,
  mockDomain,
  checkMap,
  checkRefs,
  createAccess,
  destroyAccessPages,
  accessPages,
  accessRw,
  setMemoryLimit,
  mockDomainReplace,
  accessReplaceIoas,
  mockDomainFlags,
  dirty,
  checkIotlb,
  triggerFault,
};

}  // namespace

IommufdGenerator::IommufdGenerator(Builder& builder, bool mocks) : b_(builder), mocks_(mocks) {}

Context& IommufdGenerator::openContext() {
  Context& context = contexts_.emplace_back();
  context.fd = b_.open("/dev/iommu");
  return context;
}

Context& IommufdGenerator::context() {
  if (contexts_.empty()) return openContext();
  return contexts_.size() == 1 || random().percent(80) ? contexts_.front() : random().of(contexts_);
}

Value IommufdGenerator::anyId(Context& context) {
  if (random().percent(30)) return number(random().below(12));
  if (random().percent(20)) return number(b_.odd());
  std::vector<std::string> all;
  for (const Space& each : context.spaces) all.push_back(each.id);
  for (const Table& each : context.tables) all.push_back(each.id);
  for (const Mock& each : context.mocks) all.insert(all.end(), {each.device, each.object, each.table});
  for (const FaultQueue& each : context.queues) all.push_back(each.id);
  return all.empty() ? number(1) : variable(random().of(all));
}

template <class List>
Value IommufdGenerator::idOf(Context& context, List& list, std::string List::value_type::*field) {
  if (list.empty() || random().percent(4)) return anyId(context);
  return variable(random().of(list).*field);
}

Value IommufdGenerator::spaceId(Context& context) {
  if (context.spaces.empty() && random().percent(90)) allocSpace(context);
  return idOf(context, context.spaces, &Space::id);
}

uint64_t IommufdGenerator::granule() {
  if (random().percent(85)) return kPage;
  return random().percent(60) ? kMockPage : 1;
}

uint64_t IommufdGenerator::somewhere() {
  const uint64_t base = mocks_ && !random().percent(10) ? kMockStart : 0;
  if (random().percent(3)) return kMockLast + 1 - kPage * random().below(4);
  if (random().percent(2)) return b_.odd();
  return base + random().below(48) * kPage + (random().percent(8) ? random().below(kPage) : 0);
}

Value IommufdGenerator::knownIova(Context& context) {
  if (context.areas.empty() || random().percent(10)) return number(somewhere());
  Value iova = random().of(context.areas).iova;
  if (random().percent(25)) iova.number += kPage * random().below(3);
  if (random().percent(5)) iova.number += random().below(kPage);
  return iova;
}

uint64_t IommufdGenerator::someLength() {
  if (random().percent(3)) return b_.odd();
  if (random().percent(6)) return random().below(3 * kPage);
  return kPage * (1 + random().below(random().percent(80) ? 4 : 24));
}

void IommufdGenerator::allocSpace(Context& context) {
  const std::string id = b_.fresh('i');
  b_.ioctl(context.fd, 0x3b81, {u32(0xc), u32(0), u32(0)}, {{id, 8, 4}});
  context.spaces.push_back({id});
}

void IommufdGenerator::map(Context& context) {
  static constexpr uint32_t access[] = {6, 6, 6, 6, 6, 6, 4, 4, 2};
  Builder::Span span = b_.userMemory(granule());
  uint32_t flags = random().of(access);
  const Value space = spaceId(context);
  if (random().percent(2)) flags = 0;
  if (random().percent(2)) span.address = number(b_.odd());
  if (random().percent(2)) span.length = b_.odd();
  if (random().percent(60)) flags |= 1;
  const std::string iova = b_.fresh('v');
  const uint64_t wanted = somewhere();
  b_.ioctl(context.fd, 0x3b85,
           {u32(0x28), u32(flags), u32(space), u32(0), u64(span.address), u64(span.length), u64(wanted)},
           {{iova, 32, 8}});
  context.areas.push_back({variable(iova), span.length, span.address, space});
}

void IommufdGenerator::copy(Context& context) {
  static constexpr uint32_t access[] = {6, 6, 4, 4, 2};
  uint32_t flags = random().of(access);
  if (random().percent(50)) flags |= 1;
  const std::string iova = b_.fresh('v');
  const Value to = spaceId(context);
  Value from = spaceId(context);
  Value source = knownIova(context);
  uint64_t length = someLength();
  if (!context.areas.empty() && random().percent(75)) {
    const Area& area = random().of(context.areas);
    from = area.space;
    source = area.iova;
    length = area.length;
    if (length > kPage && random().percent(30)) length -= kPage;
    if (length > kPage && random().percent(30)) {
      source.number += kPage;
      length -= kPage;
    }
    if (random().percent(20)) length += kPage;
  }
  b_.ioctl(context.fd, 0x3b83,
           {u32(0x28), u32(flags), u32(to), u32(from), u64(length), u64(somewhere()), u64(source)},
           {{iova, 24, 8}});
  context.areas.push_back({variable(iova), length, memory(0), to});
}

void IommufdGenerator::unmap(Context& context) {
  Value space = spaceId(context);
  Value iova = knownIova(context);
  uint64_t length = someLength();
  if (random().percent(8)) {
    iova = number(0);
    length = UINT64_MAX;
  } else if (!context.areas.empty() && random().percent(80)) {
    const size_t index = random().below(context.areas.size());
    const Area area = context.areas[index];
    space = area.space;
    iova = area.iova;
    length = area.length;
    if (random().percent(10)) length += kPage * random().below(8);
    if (random().percent(80)) context.areas.erase(context.areas.begin() + static_cast<long>(index));
  }
  b_.ioctl(context.fd, 0x3b86, {u32(0x18), u32(space), u64(iova), u64(length)});
}

void IommufdGenerator::ranges(Context& context) {
  const uint64_t slots = random().percent(80) ? 8 : random().below(4);
  const Value data = random().percent(92) ? memory(Builder::kData) : b_.userMemory(8).address;
  b_.ioctl(context.fd, 0x3b84, {u32(0x20), u32(spaceId(context)), u32(slots), u32(0), u64(data), u64(0)});
}

void IommufdGenerator::allow(Context& context) {
  const uint64_t count = random().below(4);
  std::vector<Token> list;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t start = random().percent(5) ? b_.odd() : somewhere();
    list.push_back(u64(start));
    list.push_back(
        u64(random().percent(5) ? b_.odd() : start + kPage * random().below(64) - random().below(2)));
  }
  if (count != 0) b_.store(Builder::kData, list);
  const Value data = random().percent(92) ? memory(Builder::kData) : b_.userMemory(8).address;
  b_.ioctl(context.fd, 0x3b82, {u32(0x18), u32(spaceId(context)), u32(count), u32(0), u64(data)});
}

void IommufdGenerator::option(Context& context) {
  const bool set = random().percent(60);
  const uint64_t value = random().percent(90) ? random().below(2) : b_.odd();
  if (random().percent(70)) {
    b_.ioctl(context.fd, 0x3b87,
             {u32(0x18), u32(1), u16(set ? 0 : 1), u16(0), u32(spaceId(context)), u64(value)});
  } else {
    const uint64_t object = random().percent(90) ? 0 : 1;
    b_.ioctl(context.fd, 0x3b87, {u32(0x18), u32(0), u16(set ? 0 : 1), u16(0), u32(object), u64(value)});
  }
}

void IommufdGenerator::destroy(Context& context) {
  Value id = anyId(context);
  // Objects that the sequence has made can be destroyed.
  if (!context.tables.empty() && random().percent(30)) id = variable(random().of(context.tables).id);
  if (!context.mocks.empty() && random().percent(25)) id = variable(random().of(context.mocks).object);
  if (!context.queues.empty() && random().percent(10)) id = variable(random().of(context.queues).id);
  if (!context.spaces.empty() && random().percent(15)) id = variable(random().of(context.spaces).id);
  b_.ioctl(context.fd, 0x3b80, {u32(8), u32(id)});
  // Mostly the sequence does not use the object again. Sometimes it does, since the call fails if it is in
  // use.
  if (random().percent(25)) return;
  std::erase_if(context.spaces, [&id](const Space& each) { return each.id == id.variable; });
  std::erase_if(context.areas, [&id](const Area& each) { return each.space == id; });
  std::erase_if(context.tables, [&id](const Table& each) { return each.id == id.variable; });
  std::erase_if(context.mocks, [&id](const Mock& each) { return each.object == id.variable; });
}

void IommufdGenerator::compat(Context& context) {
  const std::string& fd = context.fd;
  if (!context.compat && random().percent(70)) {
    context.compat = true;
    b_.ioctl(fd, 0x3b88, {u32(0xc), u32(spaceId(context)), u16(1), u16(0)});
  }
  switch (random().below(9)) {
    case 0: {
      const uint64_t op = random().percent(90) ? random().below(3) : random().below(5);
      b_.ioctl(fd, 0x3b88, {u32(0xc), u32(spaceId(context)), u16(op), u16(0)});
      break;
    }
    case 1:
      b_.ioctlValue(fd, 0x3b65, random().percent(90) ? random().below(12) : b_.odd());
      break;
    case 2:
      b_.ioctlValue(fd, 0x3b66, random().percent(80) ? 1 + 2 * random().below(2) : random().below(10));
      break;
    case 3: {
      const uint64_t size = random().percent(50) ? 24 + 8 * random().below(20) : random().below(200);
      b_.ioctl(fd, 0x3b70, {u32(size), u32(0), u64(0), u32(0), u32(0)});
      break;
    }
    case 4:
      b_.ioctlValue(fd, 0x3b60 + random().below(0x20), random().below(3) == 0 ? b_.odd() : 0);
      break;
    case 5:
    case 6: {
      const Builder::Span span = b_.userMemory(granule());
      const uint64_t iova = somewhere();
      const uint64_t flags = random().percent(90) ? 1 + random().below(3) : random().below(16);
      b_.ioctl(fd, 0x3b71, {u32(0x20), u32(flags), u64(span.address), u64(iova), u64(span.length)});
      context.areas.push_back({number(iova), span.length, span.address, spaceId(context)});
      break;
    }
    default: {
      Value iova = knownIova(context);
      uint64_t length = someLength();
      uint64_t flags = 0;
      if (!context.areas.empty() && random().percent(60)) {
        const Area& area = random().of(context.areas);
        iova = area.iova;
        length = area.length;
        if (random().percent(30)) length += kPage * random().below(4) - kPage;
        if (random().percent(30)) iova.number += kPage * random().below(2);
      }
      if (random().percent(15)) flags = random().percent(70) ? 2 : random().below(8);
      if (flags == 2 && random().percent(70)) {
        iova = number(0);
        length = 0;
      }
      b_.ioctl(fd, 0x3b72, {u32(0x18), u32(flags), u64(iova), u64(length)});
    }
  }
}

void IommufdGenerator::file(Context& context) {
  switch (random().below(6)) {
    case 0:
      b_.transfer(Op::read, context.fd, memory(0x100), random().below(64));
      break;
    case 1:
      b_.transfer(Op::write, context.fd, memory(0x100), random().below(64));
      break;
    case 2:
      b_.transfer(Op::pread, context.fd, memory(0x100), random().below(64), b_.odd());
      break;
    case 3:
      b_.simple(Op::poll, context.fd);
      break;
    case 4:
      b_.add({.op = Op::mmap,
              .result = b_.fresh('a'),
              .operands = {variable(context.fd), number(kPage * random().below(3)), number(random().below(4)),
                           number(random().below(4)), number(kPage * random().below(2))}});
      break;
    default:
      if (random().percent(40)) {
        const std::string copy = b_.fresh('f');
        b_.add({.op = Op::dup, .result = copy, .operands = {variable(context.fd)}});
        if (random().percent(50)) b_.simple(Op::close, context.fd);
        context.fd = copy;
      } else if (random().percent(20)) {
        b_.simple(Op::close, context.fd);
      }
  }
}

// ---- page tables, devices, accesses

std::vector<Token> IommufdGenerator::testCommand(uint32_t op, Token id, std::vector<Token> body) {
  std::vector<Token> out = {u32(0x48), u32(op), std::move(id), u32(0)};
  size_t size = 0;
  for (Token& each : body) {
    size += each.width;
    out.push_back(std::move(each));
  }
  for (; size + 8 <= 48; size += 8) out.push_back(u64(0));
  if (size < 48) out.push_back(u32(0));
  out.push_back(u64(0));
  return out;
}

std::pair<Value, Value> IommufdGenerator::tableAndSpace(Context& context) {
  std::vector<std::pair<Value, Value>> all;
  for (const Table& each : context.tables) all.emplace_back(variable(each.id), each.space);
  for (const Mock& each : context.mocks) all.emplace_back(variable(each.table), each.space);
  if (all.empty() || random().percent(4)) return {anyId(context), {}};
  return random().of(all);
}

// Mostly a mapping of this address space, sometimes any mapping. Null: there is none.
const Area* IommufdGenerator::areaIn(Context& context, const Value& space) {
  std::vector<const Area*> all;
  for (const Area& each : context.areas) {
    if (each.space == space) all.push_back(&each);
  }
  if (!all.empty() && random().percent(95)) return random().of(all);
  return context.areas.empty() ? nullptr : &random().of(context.areas);
}

// The address space with this id, or that of the page table with this id.
Value IommufdGenerator::spaceOf(const Context& context, const Value& id) {
  for (const Table& each : context.tables) {
    if (each.id == id.variable) return each.space;
  }
  for (const Mock& each : context.mocks) {
    if (each.table == id.variable) return each.space;
  }
  return id;
}

Value IommufdGenerator::attachTarget(Context& context) {
  return !context.tables.empty() && random().percent(45) ? tableId(context) : spaceId(context);
}

void IommufdGenerator::addMock(Context& context) {
  const bool plain = random().percent(60);
  const Value target = attachTarget(context);
  Mock mock{b_.fresh('i'), b_.fresh('i'), b_.fresh('i'), spaceOf(context, target)};
  const uint64_t flags = plain ? 0 : random().percent(95) ? random().below(4) : b_.odd();
  b_.ioctl(
      context.fd, 0x3ba0,
      testCommand(plain ? mockDomain : mockDomainFlags, u32(target), {u32(0), u32(0), u32(0), u32(flags)}),
      {{mock.object, 16, 4}, {mock.table, 20, 4}, {mock.device, 24, 4}});
  context.mocks.push_back(mock);
}

Value IommufdGenerator::deviceId(Context& context) {
  if (context.mocks.empty() && random().percent(90)) addMock(context);
  return idOf(context, context.mocks, &Mock::device);
}

void IommufdGenerator::allocTable(Context& context) {
  Table table{b_.fresh('i'), random().percent(35) && !context.tables.empty(), {}};
  uint64_t flags = 0;
  Value parent = spaceId(context);
  uint64_t type = 0;
  uint64_t size = 0;
  Value fault = number(0);
  if (random().percent(45)) flags |= 1;
  if (random().percent(35)) flags |= 2;
  if (table.nested) {
    flags = 0;
    parent = tableId(context);
    type = random().percent(92) ? 0xdead : random().below(4);
    size = random().percent(85) ? 4 : random().below(16);
    b_.store(Builder::kData, {u32(random().percent(80) ? 0xbadbeef : 7), u64(random().percent(10) ? 1 : 0)});
    if (!context.queues.empty() && random().percent(60)) {
      flags |= 4;
      fault = idOf(context, context.queues, &FaultQueue::id);
    }
  } else if (random().percent(4)) {
    flags |= 4;
    fault = context.queues.empty() ? number(1) : variable(context.queues[0].id);
  }
  if (random().percent(4)) flags = random().below(32);
  b_.ioctl(context.fd, 0x3b89,
           {u32(0x30), u32(flags), u32(deviceId(context)), u32(parent), u32(0), u32(0), u32(type), u32(size),
            u64(size != 0 || random().percent(50) ? memory(Builder::kData) : number(0)), u32(fault), u32(0)},
           {{table.id, 16, 4}});
  table.space = spaceOf(context, parent);
  table.dirty = (flags & 2) != 0;
  context.tables.push_back(table);
}

void IommufdGenerator::replace(Context& context) {
  b_.ioctl(context.fd, 0x3ba0,
           testCommand(mockDomainReplace, u32(idOf(context, context.mocks, &Mock::object)),
                       {u32(attachTarget(context))}));
}

void IommufdGenerator::hwInfo(Context& context) {
  const uint64_t size = random().percent(50) ? 8 : random().below(32);
  const Value data = random().percent(85) ? memory(Builder::kData) : b_.userMemory(4).address;
  b_.ioctl(context.fd, 0x3b8a,
           {u32(0x28), u32(0), u32(deviceId(context)), u32(size), u64(size != 0 ? data : number(0)), u32(0),
            u8(0), u8(0), u8(0), u8(0), u64(0)});
}

void IommufdGenerator::check(Context& context) {
  if (random().percent(20)) {
    const Builder::Span span = b_.userMemory(kPage);
    b_.ioctl(context.fd, 0x3ba0,
             testCommand(checkRefs, u32(0), {u64(span.length), u64(span.address), u32(random().below(4))}));
    return;
  }
  Value iova = knownIova(context);
  Value user = b_.userMemory(kMockPage).address;
  uint64_t length = someLength();
  const auto [table, space] = tableAndSpace(context);
  const Area* area = areaIn(context, space);
  if (area != nullptr && random().percent(90)) {
    iova = area->iova;
    user = area->user;
    length = area->length;
    if (random().percent(20)) {
      iova.number += kMockPage;
      user.number += kMockPage;
      length -= kMockPage;
    }
  }
  if (length > (16 << 20)) length = kPage;
  b_.ioctl(context.fd, 0x3ba0, testCommand(checkMap, u32(table), {u64(iova), u64(length), u64(user)}));
}

void IommufdGenerator::reserve(Context& context) {
  b_.ioctl(context.fd, 0x3ba0,
           testCommand(
               addReserved, u32(spaceId(context)),
               {u64(somewhere()), u64(random().percent(90) ? kPage * (1 + random().below(3)) : b_.odd())}));
}

void IommufdGenerator::dirtyTracking(Context& context) {
  auto [table, space] = tableAndSpace(context);
  for (const Table& each : context.tables) {
    if (each.dirty && random().percent(50)) {
      table = variable(each.id);
      space = each.space;
    }
  }
  Value iova = knownIova(context);
  const uint64_t pageSize = random().percent(80) ? kMockPage : random().percent(70) ? kPage : b_.odd();
  uint64_t length = kPage * (1 + random().below(8));
  const uint64_t kind = random().below(6);
  if (kind < 2) {
    const uint64_t flags = random().percent(95) ? (random().percent(75) ? 1 : 0) : b_.odd();
    b_.ioctl(context.fd, 0x3b8b, {u32(0x10), u32(flags), u32(table), u32(0)});
    return;
  }
  const Area* area = areaIn(context, space);
  if (area != nullptr && random().percent(85)) {
    iova = area->iova;
    length = std::min<uint64_t>(area->length, 1 << 20);
  }
  if (kind < 4) {
    b_.store(Builder::kData, {u64(random().next()), u64(random().next()), u64(random().next())});
    // With another page size than its own, the mock device takes iova / size as a page number of its table.
    b_.ioctl(
        context.fd, 0x3ba0,
        testCommand(dirty, u32(table),
                    {u32(0), u32(0), u64(iova), u64(length), u64(random().percent(95) ? kMockPage : pageSize),
                     u64(memory(Builder::kData)), u64(0)}));
    return;
  }
  if (random().percent(85)) b_.store(Builder::kData + 0x200, {u64(0), u64(0), u64(0), u64(0)});
  const Value data = random().percent(92) ? memory(Builder::kData + 0x200) : b_.userMemory(8).address;
  b_.ioctl(context.fd, 0x3b8c,
           {u32(0x30), u32(table), u32(random().percent(90) ? random().below(2) : b_.odd()), u32(0),
            u64(iova), u64(length), u64(pageSize), u64(data)});
}

Value IommufdGenerator::nestedId(Context& context) {
  std::vector<std::string> all;
  for (const Table& each : context.tables) {
    if (each.nested) all.push_back(each.id);
  }
  return all.empty() || random().percent(8) ? tableId(context) : variable(random().of(all));
}

void IommufdGenerator::invalidate(Context& context) {
  const uint64_t count = random().percent(90) ? random().below(4) : b_.odd();
  std::vector<Token> entries;
  for (uint64_t i = 0; i < std::min<uint64_t>(count, 4); ++i) {
    entries.push_back(u32(random().percent(80) ? random().below(2) : random().below(4)));
    entries.push_back(u32(random().percent(90) ? random().below(4) : random().below(8)));
  }
  if (!entries.empty()) b_.store(Builder::kData, entries);
  b_.ioctl(context.fd, 0x3b8d,
           {u32(0x20), u32(nestedId(context)), u64(random().percent(95) ? memory(Builder::kData) : number(0)),
            u32(random().percent(92) ? 0xdeadbeef : 0xdadbeef),
            u32(random().percent(90) ? 8 : random().below(24)), u32(count), u32(0)});
}

void IommufdGenerator::iotlb(Context& context) {
  b_.ioctl(context.fd, 0x3ba0,
           testCommand(checkIotlb, u32(nestedId(context)),
                       {u32(random().below(5)), u32(random().percent(60) ? 0xbadbeef : 0)}));
}

void IommufdGenerator::addAccess(Context& context) {
  const Value space = spaceId(context);
  Access access{b_.fresh('f'), random().percent(65), space, {}};
  const uint64_t flags = random().percent(97) ? (access.pins ? 1 : 0) : b_.odd();
  b_.ioctl(context.fd, 0x3ba0, testCommand(createAccess, u32(space), {u32(0), u32(flags)}),
           {{access.fd, 16, 4}});
  context.accesses.push_back(access);
}

void IommufdGenerator::useAccess(Context& context) {
  if (context.accesses.empty()) return addAccess(context);
  Access& access = random().of(context.accesses);
  // guessed-descriptors: a number that only one side may have is never guessed.
  const Token id = u32(random().percent(97) ? variable(access.fd) : number(0xffffffff));
  Value iova = knownIova(context);
  Value user = b_.userMemory(1).address;
  uint64_t length = 1 + random().below(2 * kPage);
  const Area* area = areaIn(context, access.space);
  if (area != nullptr && random().percent(90)) {
    const uint64_t inside = random().below(std::min<uint64_t>(area->length, 1 << 20) + 1);
    iova = area->iova;
    user = area->user;
    length = std::min<uint64_t>(area->length, 1 << 20);
    if (random().percent(60)) {
      iova.number += inside;
      user.number += inside;
      length -= inside;
    }
    if (random().percent(10)) length += random().below(kPage);
  }
  switch (random().below(10)) {
    case 0: {  // unpins an earlier item
      if (access.items.empty()) break;
      const Value item =
          random().percent(90) ? variable(random().of(access.items)) : number(random().below(4));
      b_.ioctl(context.fd, 0x3ba0, testCommand(destroyAccessPages, id, {u32(item)}));
      return;
    }
    case 1: {
      const Value space = spaceId(context);
      b_.ioctl(context.fd, 0x3ba0, testCommand(accessReplaceIoas, id, {u32(space)}));
      if (random().percent(80)) access.space = space;
      return;
    }
    case 2:
      if (random().percent(30)) {
        b_.simple(Op::close, access.fd);
      } else if (random().percent(30)) {
        b_.transfer(random().percent(50) ? Op::read : Op::write, access.fd, memory(0), 8);
      } else {
        b_.simple(Op::poll, access.fd);
      }
      return;
    case 3:
    case 4:
    case 5: {
      const std::string item = b_.fresh('i');
      const uint64_t flags = random().percent(95) ? random().below(2) : b_.odd();
      if (random().percent(65)) user = number(0);
      if (!access.pins && random().percent(80)) break;
      b_.ioctl(context.fd, 0x3ba0,
               testCommand(accessPages, id, {u32(flags), u32(0), u64(iova), u64(length), u64(user)}),
               {{item, 20, 4}});
      access.items.push_back(item);
      return;
    }
    default:
      break;
  }
  const uint64_t flags = random().percent(95) ? random().below(2) + 4 * random().below(2) : b_.odd();
  const Builder::Span buffer = b_.userMemory(1);
  if (random().percent(70)) length = std::min<uint64_t>(length, 1 + random().below(64));
  b_.ioctl(context.fd, 0x3ba0,
           testCommand(accessRw, id, {u64(iova), u64(length), u64(buffer.address), u32(flags)}));
}

void IommufdGenerator::faults(Context& context) {
  if (context.queues.empty() || random().percent(10)) {
    FaultQueue queue{b_.fresh('i'), b_.fresh('f')};
    b_.ioctl(context.fd, 0x3b8e, {u32(0x10), u32(0), u32(0), u32(0)}, {{queue.id, 8, 4}, {queue.fd, 12, 4}});
    context.queues.push_back(queue);
    return;
  }
  // Mostly calls as a driver makes them: requests, then poll, read, and answers to some requests.
  if (random().percent(35)) return fault(context, random().below(8));
  const uint64_t count = 1 + random().below(3);
  for (uint64_t i = 0; i < count; ++i) fault(context, 0);
  for (const uint64_t what : {6, 3, 5}) {
    if (random().percent(80)) fault(context, what);
  }
}

void IommufdGenerator::fault(Context& context, uint64_t what) {
  const FaultQueue& queue = random().of(context.queues);
  switch (what) {
    case 0:
    case 1:
    case 2:
      b_.ioctl(context.fd, 0x3ba0,
               testCommand(triggerFault, u32(0),
                           {u32(deviceId(context)), u32(random().percent(70) ? 0 : random().below(4)),
                            u32(random().below(8)), u32(random().below(16)), u64(somewhere())}));
      break;
    case 3:
    case 4: {
      const uint64_t size = random().percent(85) ? 40 * (1 + random().below(4)) : random().below(100);
      b_.transfer(Op::read, queue.fd,
                  random().percent(90) ? memory(Builder::kData) : b_.userMemory(8).address, size);
      break;
    }
    case 5: {
      const uint64_t count = 1 + random().below(3);
      const uint64_t first = random().percent(80) ? 1 : 2;
      std::vector<Token> responses;
      for (uint64_t i = 0; i < count; ++i) {
        responses.push_back(u32(random().percent(85) ? first + i : random().below(6)));
        responses.push_back(u32(random().percent(90) ? random().below(2) : b_.odd()));
      }
      b_.store(Builder::kData, responses);
      b_.transfer(Op::write, queue.fd, memory(Builder::kData),
                  random().percent(90) ? 8 * count : random().below(30));
      break;
    }
    case 6:
      b_.simple(Op::poll, queue.fd);
      break;
    default:
      if (random().percent(30)) b_.simple(Op::close, queue.fd);
  }
}

void IommufdGenerator::limit() {
  b_.add(
      {.op = Op::limit, .operands = {number(kPage * random().below(24) + (random().percent(20) ? 100 : 0))}});
}

void IommufdGenerator::nestedScene(Context& context) {
  // A parent, a nested page table with a fault queue, and a device that is attached to it: random calls
  // rarely reach this state.
  const std::string space = b_.fresh('i');
  b_.ioctl(context.fd, 0x3b81, {u32(0xc), u32(0), u32(0)}, {{space, 8, 4}});
  context.spaces.push_back({space});
  Mock mock{b_.fresh('i'), b_.fresh('i'), b_.fresh('i'), variable(space)};
  b_.ioctl(context.fd, 0x3ba0, testCommand(mockDomain, u32(variable(space)), {}),
           {{mock.object, 16, 4}, {mock.table, 20, 4}, {mock.device, 24, 4}});
  context.mocks.push_back(mock);
  FaultQueue queue{b_.fresh('i'), b_.fresh('f')};
  b_.ioctl(context.fd, 0x3b8e, {u32(0x10), u32(0), u32(0), u32(0)}, {{queue.id, 8, 4}, {queue.fd, 12, 4}});
  context.queues.push_back(queue);
  Table parent{b_.fresh('i'), false, variable(space)};
  b_.ioctl(context.fd, 0x3b89,
           {u32(0x30), u32(random().percent(50) ? 1 : 3), u32(variable(mock.device)), u32(variable(space)),
            u32(0), u32(0), u32(0), u32(0), u64(0), u32(0), u32(0)},
           {{parent.id, 16, 4}});
  context.tables.push_back(parent);
  Table nested{b_.fresh('i'), true, {}};
  const bool faultable = random().percent(75);
  b_.store(Builder::kData, {u32(0xbadbeef)});
  b_.ioctl(context.fd, 0x3b89,
           {u32(0x30), u32(faultable ? 4 : 0), u32(variable(mock.device)), u32(variable(parent.id)), u32(0),
            u32(0), u32(0xdead), u32(4), u64(memory(Builder::kData)),
            u32(faultable ? variable(queue.id) : number(0)), u32(0)},
           {{nested.id, 16, 4}});
  context.tables.push_back(nested);
  b_.ioctl(context.fd, 0x3ba0,
           testCommand(mockDomainReplace, u32(variable(mock.object)), {u32(variable(nested.id))}));
}

void IommufdGenerator::dirtyScene(Context& context) {
  addMock(context);
  const Value space = spaceId(context);
  Table table{b_.fresh('i'), false, space, true};
  b_.ioctl(context.fd, 0x3b89,
           {u32(0x30), u32(random().percent(80) ? 2 : 3), u32(deviceId(context)), u32(space), u32(0), u32(0),
            u32(0), u32(0), u64(0), u32(0), u32(0)},
           {{table.id, 16, 4}});
  context.tables.push_back(table);
  if (random().percent(80))
    b_.ioctl(context.fd, 0x3b8b, {u32(0x10), u32(1), u32(variable(table.id)), u32(0)});
  map(context);
}

void IommufdGenerator::accessScene(Context& context) {
  addAccess(context);
  context.accesses.back().pins |= random().percent(50);
  for (int i = 0; i < 3; ++i) map(context);
}

void IommufdGenerator::step() {
  struct Choice {
    unsigned weight;
    std::function<void(Context&)> make;
  };
  const auto of = [this](void (IommufdGenerator::*method)(Context&)) {
    return [this, method](Context& context) { (this->*method)(context); };
  };
  std::vector<Choice> choices = {
      {22, of(&IommufdGenerator::map)},
      {8, of(&IommufdGenerator::copy)},
      {12, of(&IommufdGenerator::unmap)},
      {5, of(&IommufdGenerator::allocSpace)},
      {6, of(&IommufdGenerator::ranges)},
      {4, of(&IommufdGenerator::allow)},
      {6, of(&IommufdGenerator::option)},
      {6, of(&IommufdGenerator::destroy)},
      {mocks_ ? 5U : 20U, of(&IommufdGenerator::compat)},
      {3, of(&IommufdGenerator::file)},
      {1, [this](Context&) { openContext(); }},
  };
  if (mocks_) {
    const std::vector<Choice> more = {
        {8, of(&IommufdGenerator::addMock)},
        {8, of(&IommufdGenerator::allocTable)},
        {6, of(&IommufdGenerator::replace)},
        {2, of(&IommufdGenerator::hwInfo)},
        {10, of(&IommufdGenerator::check)},
        {3, of(&IommufdGenerator::reserve)},
        {dirty_ ? 25U : 5U, of(&IommufdGenerator::dirtyTracking)},
        {3, of(&IommufdGenerator::invalidate)},
        {3, of(&IommufdGenerator::iotlb)},
        {4, of(&IommufdGenerator::addAccess)},
        {14, of(&IommufdGenerator::useAccess)},
        {faulty_ ? 20U : 3U, of(&IommufdGenerator::faults)},
    };
    choices.insert(choices.end(), more.begin(), more.end());
  }
  unsigned total = 0;
  for (const Choice& choice : choices) total += choice.weight;
  auto left = random().below(total);
  for (const Choice& choice : choices) {
    if (left < choice.weight) return choice.make(context());
    left -= choice.weight;
  }
}

void IommufdGenerator::generate() {
  if (random().percent(12)) limit();
  Context& first = openContext();
  allocSpace(first);
  if (mocks_ && random().percent(20)) {
    faulty_ = true;
    nestedScene(first);
  } else if (mocks_ && random().percent(20)) {
    dirty_ = true;
    dirtyScene(first);
  } else if (mocks_ && random().percent(25)) {
    accessScene(first);
  } else if (mocks_ && random().percent(70)) {
    addMock(first);
  }
  const uint64_t length = 4 + random().below(random().percent(85) ? 24 : 60);
  for (uint64_t i = 0; i < length; ++i) step();
}

}  // namespace vfio::fuzz
