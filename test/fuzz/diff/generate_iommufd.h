// See generate_iommufd.cc.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "builder.h"

namespace vfio::fuzz {

struct Space {
  std::string id;
};
struct Area {
  Value iova;
  uint64_t length;
  Value user;
  Value space;
};
struct Table {
  std::string id;
  bool nested;
  Value space;  // the address space that it was allocated from
  bool dirty = false;
};
struct Mock {
  std::string object;  // the id that the test command returned
  std::string table;   // the page table that it was attached to first
  std::string device;
  Value space;
};
struct FaultQueue {
  std::string id;
  std::string fd;
};
struct Access {
  std::string fd;
  bool pins;
  Value space;
  std::vector<std::string> items;
};

// The objects that were made, or tried, in one open /dev/iommu.
struct Context {
  std::string fd;
  bool compat = false;
  std::vector<Space> spaces;
  std::vector<Area> areas;
  std::vector<Table> tables;
  std::vector<Mock> mocks;
  std::vector<FaultQueue> queues;
  std::vector<Access> accesses;
};

class IommufdGenerator {
 public:
  IommufdGenerator(Builder& builder, bool mocks);

  void generate();

  // For sequences that contain other calls too.
  Context& openContext();
  Context& context();
  void step();
  [[nodiscard]] Value attachTarget(Context& context);
  void map(Context& context);

 private:
  [[nodiscard]] Random& random() { return b_.random; }
  [[nodiscard]] Value anyId(Context& context);
  template <class List>
  [[nodiscard]] Value idOf(Context& context, List& list, std::string List::value_type::*field);
  [[nodiscard]] Value spaceId(Context& context);
  [[nodiscard]] const Area* areaIn(Context& context, const Value& space);
  // A page table, and its address space if that is known.
  [[nodiscard]] std::pair<Value, Value> tableAndSpace(Context& context);
  [[nodiscard]] Value tableId(Context& context) { return tableAndSpace(context).first; }
  [[nodiscard]] Value nestedId(Context& context);
  [[nodiscard]] static Value spaceOf(const Context& context, const Value& id);
  [[nodiscard]] Value deviceId(Context& context);
  [[nodiscard]] uint64_t granule();
  [[nodiscard]] uint64_t somewhere();
  [[nodiscard]] Value knownIova(Context& context);
  [[nodiscard]] uint64_t someLength();
  [[nodiscard]] static std::vector<Token> testCommand(uint32_t op, Token id, std::vector<Token> body);

  void allocSpace(Context& context);
  void copy(Context& context);
  void unmap(Context& context);
  void ranges(Context& context);
  void allow(Context& context);
  void option(Context& context);
  void destroy(Context& context);
  void compat(Context& context);
  void file(Context& context);
  void addMock(Context& context);
  void allocTable(Context& context);
  void replace(Context& context);
  void hwInfo(Context& context);
  void check(Context& context);
  void reserve(Context& context);
  void dirtyTracking(Context& context);
  void invalidate(Context& context);
  void iotlb(Context& context);
  void addAccess(Context& context);
  void useAccess(Context& context);
  void faults(Context& context);
  void fault(Context& context, uint64_t what);
  void limit();
  void nestedScene(Context& context);
  void dirtyScene(Context& context);
  void accessScene(Context& context);

  Builder& b_;
  bool mocks_;
  bool faulty_ = false;
  bool dirty_ = false;
  std::deque<Context> contexts_;
};

}  // namespace vfio::fuzz
