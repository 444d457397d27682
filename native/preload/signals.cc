// Registers of a software device have no memory behind them: the mapping can't be touched, and a load or
// store of it arrives here as SIGSEGV. The instruction is not interpreted but run elsewhere: a copy of it,
// with the registers' address replaced by that of a scratch area that holds what the device's model answered,
// is what the thread goes on with. A copy that only loads ends in a jump behind the original; one that stores
// ends in an instruction that traps (hlt), and what it stored is given to the model then.
//
// Life: a thread gets a slot with room for its copies at its first such access, and gives it back at its end.
#include "signals.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <system_error>
#include <utility>

#include "../guard/guard.h"
#include "../soft/mm/memory.h"
#include "instruction.h"
#include "real.h"
#include "software.h"

namespace vfio::preload {

namespace {

constinit std::mutex poolLock;

[[noreturn]] void giveUp(const char* why, const uint8_t* code, size_t size, const void* at) {
  std::array<char, 400> text;
  int length = std::snprintf(text.data(), text.size(), "vfio-soft-preload: %s: the instruction", why);
  for (size_t i = 0; i < size; ++i) {
    length +=
        std::snprintf(text.data() + length, text.size() - static_cast<size_t>(length), " %02x", code[i]);
  }
  Dl_info info{};
  const bool known = dladdr(at, &info) != 0;
  length += std::snprintf(text.data() + length, text.size() - static_cast<size_t>(length),
                          " at %p (%s in %s) touches registers of a software device\n", at,
                          known && info.dli_sname ? info.dli_sname : "?",
                          known && info.dli_fname ? info.dli_fname : "?");
  const auto written =
      REAL(write)(STDERR_FILENO, text.data(), static_cast<size_t>(std::min<int>(length, 399)));
  if (written >= 0) abort();
  abort();
}

// Accesses as a bus makes them: aligned, 8 bytes at most. False: the device does not answer, or the bytes
// are no registers.
template <typename Access>
bool pieces(uint64_t address, unsigned width, uint8_t* bytes, const Access& access) {
  while (width > 0) {
    unsigned size = 8;
    while (size > width || address % size != 0) size /= 2;
    if (!access(address, size, bytes)) return false;
    address += size;
    bytes += size;
    width -= size;
  }
  return true;
}

bool readRegisters(uint64_t address, unsigned width, uint8_t* bytes) {
  return pieces(address, width, bytes, [](uint64_t at, unsigned size, uint8_t* to) {
    uint64_t value = 0;
    if (host().registerRead(reinterpret_cast<void*>(at), size, value) != 0) return false;
    std::memcpy(to, &value, size);
    return true;
  });
}

bool writeRegisters(uint64_t address, unsigned width, uint8_t* bytes) {
  return pieces(address, width, bytes, [](uint64_t at, unsigned size, const uint8_t* from) {
    uint64_t value = 0;
    std::memcpy(&value, from, size);
    return host().registerWrite(reinterpret_cast<void*>(at), size, value) == 0;
  });
}

bool isRegister(uint64_t address) { return host().trapped(reinterpret_cast<void*>(address)); }

#if defined(__x86_64__)

// A device that does not answer is a bus error, as where the kernel finds its memory decoding off.
void raiseBusError(siginfo_t* info, void* context, uint64_t address) {
  struct sigaction action {};
  guard::exchangePrevious(SIGBUS, nullptr, &action);
  info->si_signo = SIGBUS;
  info->si_code = BUS_ADRERR;
  info->si_addr = reinterpret_cast<void*>(address);
  if ((action.sa_flags & SA_SIGINFO) != 0) {
    action.sa_sigaction(SIGBUS, info, context);
  } else if (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN) {
    action.sa_handler(SIGBUS);
  } else {
    struct sigaction usual {};
    usual.sa_handler = SIG_DFL;
    REAL(sigaction)(SIGBUS, &usual, nullptr);
    raise(SIGBUS);
  }
}

// ---------------------------------------------------------------- slots

struct Slot {
  alignas(64) std::array<uint8_t, 64> code;
  alignas(64) std::array<uint8_t, 64> data;
  // What to do when the copy has stored.
  uint64_t address;
  unsigned width;
  uint64_t end;   // of the copy: where it traps
  uint64_t next;  // instruction of the program
};

// Signal handlers may touch registers between a fault and its copy: each level has a slot of its own.
constexpr unsigned levels = 4;
struct Slots {
  std::array<Slot, levels> level;
  unsigned used;
  Slots* nextFree;
};

constexpr size_t poolSize = size_t{1} << 20;
constinit std::atomic<Slots*> pool{nullptr};
constinit std::atomic<size_t> poolUsed{0};
Slots* freeSlots = nullptr;
pthread_key_t slotsKey;
bool slotsAreReturned = false;  // at the end of their threads

__attribute__((tls_model("initial-exec"))) thread_local Slots* mySlots = nullptr;

void giveBack(void* slots) {
  const std::lock_guard hold(poolLock);
  auto* mine = static_cast<Slots*>(slots);
  mine->nextFree = freeSlots;
  freeSlots = mine;
  mySlots = nullptr;
}

// Before anybody can touch registers: there is no way to tell an instruction that there is no memory for it.
void makePool() {
  const std::lock_guard hold(poolLock);
  if (pool.load()) return;
  void* memory = REAL(mmap)(nullptr, poolSize, PROT_READ | PROT_WRITE | PROT_EXEC,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  slotsAreReturned = pthread_key_create(&slotsKey, giveBack) == 0;
  pool.store(static_cast<Slots*>(memory));
}

Slots* takeSlots() {
  const std::lock_guard hold(poolLock);
  Slots* taken = freeSlots;
  if (taken) {
    freeSlots = taken->nextFree;
  } else if (poolUsed < poolSize / sizeof(Slots)) {
    taken = pool.load() + poolUsed++;
  }
  if (taken && slotsAreReturned) pthread_setspecific(slotsKey, taken);
  return taken;
}

// The slot whose copy traps at `rip`.
Slot* slotOf(uint64_t rip) {
  const auto start = reinterpret_cast<uint64_t>(pool.load());
  if (start == 0 || rip < start || rip - start >= poolSize) return nullptr;
  auto& slots = pool.load()[(rip - start) / sizeof(Slots)];
  const auto found = std::find_if(slots.level.begin(), slots.level.end(),
                                  [rip](const Slot& slot) { return slot.end == rip && slot.width != 0; });
  return found == slots.level.end() ? nullptr : found;
}

// ---------------------------------------------------------------- the access

uint64_t reg(const mcontext_t& machine, unsigned number) {
  constexpr std::array<int, 16> order{REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
  return number < order.size() ? static_cast<uint64_t>(machine.gregs[order[number]]) : 0;
}

uint64_t placeOf(const Instruction& instruction, const mcontext_t& machine) {
  uint64_t at = static_cast<uint64_t>(instruction.displacement) + reg(machine, instruction.base) +
                reg(machine, instruction.index) * instruction.scale;
  if (instruction.base == 17) at += static_cast<uint64_t>(machine.gregs[REG_RIP]) + instruction.length;
  return at;
}

// movs, stos, lods: element by element. False: not registers but the program's own memory can't be reached.
bool runString(const Instruction& instruction, mcontext_t& machine, siginfo_t* info, void* context) {
  auto& registers = machine.gregs;
  constexpr long long directionFlag = 0x400;
  const long long step = (registers[REG_EFL] & directionFlag) != 0
                             ? -static_cast<long long>(instruction.width)
                             : instruction.width;
  const auto move = [&](bool write, uint64_t at, uint8_t* bytes) {
    if (isRegister(at)) {
      const bool done =
          write ? writeRegisters(at, instruction.width, bytes) : readRegisters(at, instruction.width, bytes);
      if (!done) raiseBusError(info, context, at);
      return done ? 1 : -1;
    }
    return (write ? soft::mm::Memory::copyOut(at, bytes, instruction.width)
                  : soft::mm::Memory::copyIn(bytes, at, instruction.width)) == 0
               ? 1
               : 0;
  };
  using String = Instruction::String;
  while (!instruction.repeats || registers[REG_RCX] != 0) {
    std::array<uint8_t, 8> bytes{};
    std::memcpy(bytes.data(), &registers[REG_RAX], bytes.size());
    if (instruction.string != String::store) {
      const int moved = move(false, static_cast<uint64_t>(registers[REG_RSI]), bytes.data());
      if (moved <= 0) return moved != 0;
    }
    if (instruction.string == String::load) {
      std::memcpy(&registers[REG_RAX], bytes.data(), instruction.width);
      if (instruction.width == 4) registers[REG_RAX] &= 0xffffffff;
    } else {
      const int moved = move(true, static_cast<uint64_t>(registers[REG_RDI]), bytes.data());
      if (moved <= 0) return moved != 0;
      registers[REG_RDI] += step;
    }
    if (instruction.string != String::store) registers[REG_RSI] += step;
    if (!instruction.repeats) break;
    --registers[REG_RCX];
  }
  registers[REG_RIP] += instruction.length;
  return true;
}

bool onFault(int signal, siginfo_t* info, void* context) {
  if (signal != SIGSEGV) return false;
  const int error = errno;
  auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
  auto& rip = machine.gregs[REG_RIP];

  if (Slot* slot = slotOf(static_cast<uint64_t>(rip))) {
    rip = static_cast<greg_t>(slot->next);
    const unsigned width = std::exchange(slot->width, 0);
    if (!writeRegisters(slot->address, width, slot->data.data())) raiseBusError(info, context, slot->address);
    errno = error;
    return true;
  }

  const auto touched = reinterpret_cast<uint64_t>(info->si_addr);
  if (info->si_code == SI_KERNEL || !atHome() || !isRegister(touched)) return false;
  std::array<uint8_t, 15> code{};
  const size_t size = soft::mm::Memory::copyInSome(code.data(), static_cast<uint64_t>(rip), code.size());
  const auto instruction = decode(code.data(), size);
  const auto* at = reinterpret_cast<const void*>(rip);
  if (!instruction) giveUp("not emulated", code.data(), size, at);
  if (instruction->string != Instruction::String::none) {
    const bool done = runString(*instruction, machine, info, context);
    errno = error;
    return done;
  }
  const uint64_t address = instruction->segment ? touched : placeOf(*instruction, machine);
  if (address > touched || touched - address >= std::max(instruction->width, 1U))
    giveUp("not understood", code.data(), size, at);

  if (!mySlots) mySlots = takeSlots();
  if (!mySlots) giveUp("no memory to run it in", code.data(), size, at);
  Slot& slot = mySlots->level[mySlots->used++ % levels];
  slot.width = 0;
  if (instruction->reads && !readRegisters(address, instruction->width, slot.data.data())) {
    raiseBusError(info, context, address);
    errno = error;
    return true;
  }
  const auto start = reinterpret_cast<uint64_t>(slot.code.data());
  const unsigned length = instruction->rewrittenLength;
  std::memcpy(slot.code.data(), instruction->rewritten.data(), length);
  const auto distance = static_cast<int32_t>(reinterpret_cast<uint64_t>(slot.data.data()) - (start + length));
  std::memcpy(slot.code.data() + instruction->displacementAt, &distance, sizeof distance);
  const uint64_t next = static_cast<uint64_t>(rip) + instruction->length;
  if (instruction->writes) {
    constexpr uint8_t halt = 0xf4;
    slot.code[length] = halt;
    slot.address = address;
    slot.width = instruction->width;
    slot.end = start + length;
    slot.next = next;
  } else {
    // jmp *0(%rip), and the address.
    constexpr std::array<uint8_t, 6> jump{0xff, 0x25, 0, 0, 0, 0};
    std::memcpy(slot.code.data() + length, jump.data(), jump.size());
    std::memcpy(slot.code.data() + length + jump.size(), &next, sizeof next);
  }
  rip = static_cast<greg_t>(start);
  errno = error;
  return true;
}

#else

void makePool() {}

// Only x86-64 can do it yet: on others, registers are reached by read and write on the device.
bool onFault(int signal, siginfo_t* info, void*) {
  if (signal != SIGSEGV || !atHome() || !isRegister(reinterpret_cast<uint64_t>(info->si_addr))) return false;
  giveUp("mapped registers can't be emulated on this processor", nullptr, 0, info->si_addr);
}

#endif

// A thread that blocks these two would end at its first touch of registers.
const sigset_t* unblocked(const sigset_t* set, sigset_t& copy) {
  if (!set) return nullptr;
  copy = *set;
  sigdelset(&copy, SIGSEGV);
  sigdelset(&copy, SIGBUS);
  return &copy;
}

}  // namespace

std::mutex& slotsLock() { return poolLock; }

void catchRegisterAccesses() {
  makePool();
  guard::onFault(onFault);
}

}  // namespace vfio::preload

using namespace vfio::preload;

// A program's own handler for these two comes after the host's.
EXPORTED int sigaction(int signal, const struct sigaction* action, struct sigaction* old) noexcept {
  if ((signal == SIGSEGV || signal == SIGBUS) && existingHost()) {
    vfio::guard::exchangePrevious(signal, action, old);
    return 0;
  }
  struct sigaction copy {};
  if (action) {
    copy = *action;
    unblocked(&action->sa_mask, copy.sa_mask);
  }
  return REAL(sigaction)(signal, action ? &copy : nullptr, old);
}

EXPORTED sighandler_t signal(int number, sighandler_t handler) noexcept {
  if ((number != SIGSEGV && number != SIGBUS) || !existingHost()) return REAL(signal)(number, handler);
  struct sigaction action {};
  struct sigaction old {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  vfio::guard::exchangePrevious(number, &action, &old);
  return old.sa_handler;
}

EXPORTED int sigprocmask(int how, const sigset_t* set, sigset_t* old) noexcept {
  sigset_t copy;
  return REAL(sigprocmask)(how, how == SIG_UNBLOCK ? set : unblocked(set, copy), old);
}
EXPORTED int pthread_sigmask(int how, const sigset_t* set, sigset_t* old) noexcept {
  sigset_t copy;
  return REAL(pthread_sigmask)(how, how == SIG_UNBLOCK ? set : unblocked(set, copy), old);
}
