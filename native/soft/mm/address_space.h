// The live memory of a process, as a device reaches it under shared virtual addressing: by the process's own
// addresses, with no pin and no copy of its page table. Each access sees the memory as it is at that moment:
// what is unmapped or protected meanwhile can't be reached, and nothing crashes.
//
// A page that is not present is brought in by the kernel itself (faultIn), with the rights of its area. The
// stack is not grown.
//
// Life: shared by the bonds of the process. It ends with the process: from then on nothing can be reached.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace vfio::soft::mm {

class Memory;

// What came of bringing in a page.
enum class FaultIn {
  done,
  noArea,        // nothing is mapped there
  notPermitted,  // its area does not allow the access
  noMemory,      // the area has no memory there (a file has become shorter), or none can be had
  ended,         // the process is gone
};

class AddressSpace {
 public:
  // The memory of this process. `memory` knows what the program has unmapped although it is pinned.
  [[nodiscard]] static std::shared_ptr<AddressSpace> ofSelf(Memory& memory);
  // The memory of another process: 0, -ESRCH, -EPERM (the system lets this process not trace it), or -EMFILE
  // and the like. Its pid may be that of any of its threads' groups, as for process_vm_readv(2).
  [[nodiscard]] static int ofProcess(pid_t pid, std::shared_ptr<AddressSpace>& out);

  virtual ~AddressSpace() = default;
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  const pid_t pid;
  // A descriptor that becomes readable when the process ends; -1: this process.
  [[nodiscard]] virtual int ending() const { return -1; }

  // 0, or -errno: -EPERM if the system lets this process not access it.
  [[nodiscard]] virtual int permitted() const { return 0; }
  // Is the process there? It may have ended although nobody was told yet.
  [[nodiscard]] virtual bool isAlive() const { return true; }
  [[nodiscard]] bool hasEnded() const { return ended_; }
  void end() { ended_ = true; }

  // How many of the first `limit` (> 0) bytes from `address` are on pages that are present.
  [[nodiscard]] virtual uint64_t present(uint64_t address, uint64_t limit) const = 0;
  // Copies. These return how many of the first bytes could be copied.
  [[nodiscard]] virtual size_t read(void* into, uint64_t address, size_t size) const = 0;
  [[nodiscard]] virtual size_t write(uint64_t address, const void* from, size_t size) const = 0;
  // Brings in the page of `address`, if its area allows to read it, or to write and to execute it as asked.
  [[nodiscard]] virtual FaultIn faultIn(uint64_t address, bool write, bool execute) const = 0;

 protected:
  explicit AddressSpace(pid_t its) : pid(its) {}

 private:
  bool ended_ = false;
};

}  // namespace vfio::soft::mm
