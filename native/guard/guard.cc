// The guarded routines and the signal handler. The routines are in assembly, so that the handler knows each
// instruction that can fault and the state at that instruction. Only this folder changes state of the whole
// process on behalf of the software host.
#include "guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <type_traits>

#include "actions.h"
#include "keeper.h"

// A copy has two parts. The first part moves as many bytes at once as it can. After a fault there, execution
// continues at the second part with the same registers. The second part copies byte by byte up to the exact
// address that faults. After a fault there, or in the probe, execution continues at the fix-up, which returns
// the remaining count.
#if defined(__x86_64__)
asm(R"(
    .pushsection .text
    .p2align 4
    .globl  vfio_guard_copy
    .hidden vfio_guard_copy
    .type   vfio_guard_copy, @function
    .globl  vfio_guard_copy_bytes
    .hidden vfio_guard_copy_bytes
    .globl  vfio_guard_copy_end
    .hidden vfio_guard_copy_end
    .globl  vfio_guard_probe
    .hidden vfio_guard_probe
    .type   vfio_guard_probe, @function
    .globl  vfio_guard_probe_end
    .hidden vfio_guard_probe_end
    .globl  vfio_guard_load
    .hidden vfio_guard_load
    .type   vfio_guard_load, @function
    .globl  vfio_guard_store
    .hidden vfio_guard_store
    .type   vfio_guard_store, @function
    .globl  vfio_guard_store_end
    .hidden vfio_guard_store_end
    .globl  vfio_guard_access_failed
    .hidden vfio_guard_access_failed
    .globl  vfio_guard_fixup
    .hidden vfio_guard_fixup

vfio_guard_copy:            # rdi to, rsi from, rdx bytes; rcx: bytes left
    endbr64
    movq    %rdx, %rcx
    cmpq    $64, %rcx
    jb      1f
    cmpq    $16384, %rcx
    jae     vfio_guard_copy_bytes
0:  movups  (%rsi), %xmm0
    movups  16(%rsi), %xmm1
    movups  32(%rsi), %xmm2
    movups  48(%rsi), %xmm3
    movups  %xmm0, (%rdi)
    movups  %xmm1, 16(%rdi)
    movups  %xmm2, 32(%rdi)
    movups  %xmm3, 48(%rdi)
    addq    $64, %rsi
    addq    $64, %rdi
    subq    $64, %rcx
    cmpq    $64, %rcx
    jae     0b
1:  cmpq    $8, %rcx
    jb      2f
    movq    (%rsi), %rax
    movq    %rax, (%rdi)
    addq    $8, %rsi
    addq    $8, %rdi
    subq    $8, %rcx
    jmp     1b
2:  cmpq    $4, %rcx
    jb      3f
    movl    (%rsi), %eax
    movl    %eax, (%rdi)
    addq    $4, %rsi
    addq    $4, %rdi
    subq    $4, %rcx
3:  cmpq    $2, %rcx
    jb      4f
    movzwl  (%rsi), %eax
    movw    %ax, (%rdi)
    addq    $2, %rsi
    addq    $2, %rdi
    subq    $2, %rcx
4:  testq   %rcx, %rcx
    je      vfio_guard_copy_end
    movzbl  (%rsi), %eax
    movb    %al, (%rdi)
    decq    %rcx
    jmp     vfio_guard_copy_end
vfio_guard_copy_bytes:      # also the fastest way for much
    rep movsb
vfio_guard_copy_end:
    movq    %rcx, %rax
    ret
    .size   vfio_guard_copy, .-vfio_guard_copy

vfio_guard_probe:           # rdi address, rsi pages, rdx stride, ecx write; rcx: pages left
    endbr64
    xchgq   %rsi, %rcx
    testl   %esi, %esi
    jne     2f
1:  movzbl  (%rdi), %eax
    addq    %rdx, %rdi
    decq    %rcx
    jne     1b
    jmp     3f
2:  lock orb $0, (%rdi)
    addq    %rdx, %rdi
    decq    %rcx
    jne     2b
3:
vfio_guard_probe_end:
    movq    %rcx, %rax
    ret
    .size   vfio_guard_probe, .-vfio_guard_probe

vfio_guard_load:                 # rdi address, esi width, rdx where to say that it failed; one load
    endbr64
    cmpl    $4, %esi
    je      4f
    cmpl    $8, %esi
    je      8f
    cmpl    $2, %esi
    je      2f
    movzbl  (%rdi), %eax
    ret
2:  movzwl  (%rdi), %eax
    ret
4:  movl    (%rdi), %eax
    ret
8:  movq    (%rdi), %rax
    ret
    .size   vfio_guard_load, .-vfio_guard_load

vfio_guard_store:                # the same, and rcx value; one store
    endbr64
    cmpl    $4, %esi
    je      4f
    cmpl    $8, %esi
    je      8f
    cmpl    $2, %esi
    je      2f
    movb    %cl, (%rdi)
    ret
2:  movw    %cx, (%rdi)
    ret
4:  movl    %ecx, (%rdi)
    ret
8:  movq    %rcx, (%rdi)
    ret
vfio_guard_store_end:
    .size   vfio_guard_store, .-vfio_guard_store

vfio_guard_access_failed:
    movl    $1, (%rdx)
    ret

vfio_guard_fixup:
    movq    %rcx, %rax
    ret
    .popsection
)");
#elif defined(__aarch64__)
asm(R"(
    .pushsection .text
    .p2align 4
    .globl  vfio_guard_copy
    .hidden vfio_guard_copy
    .type   vfio_guard_copy, %function
    .globl  vfio_guard_copy_bytes
    .hidden vfio_guard_copy_bytes
    .globl  vfio_guard_copy_end
    .hidden vfio_guard_copy_end
    .globl  vfio_guard_probe
    .hidden vfio_guard_probe
    .type   vfio_guard_probe, %function
    .globl  vfio_guard_probe_end
    .hidden vfio_guard_probe_end
    .globl  vfio_guard_load
    .hidden vfio_guard_load
    .type   vfio_guard_load, %function
    .globl  vfio_guard_store
    .hidden vfio_guard_store
    .type   vfio_guard_store, %function
    .globl  vfio_guard_store_end
    .hidden vfio_guard_store_end
    .globl  vfio_guard_access_failed
    .hidden vfio_guard_access_failed
    .globl  vfio_guard_fixup
    .hidden vfio_guard_fixup

vfio_guard_copy:            // x0 to, x1 from, x2 bytes; x2: bytes left
    hint    #34                  // bti c
    cmp     x2, #64
    b.lo    1f
0:  ldp     x3, x4, [x1]
    ldp     x5, x6, [x1, #16]
    ldp     x7, x8, [x1, #32]
    ldp     x9, x10, [x1, #48]
    stp     x3, x4, [x0]
    stp     x5, x6, [x0, #16]
    stp     x7, x8, [x0, #32]
    stp     x9, x10, [x0, #48]
    add     x1, x1, #64
    add     x0, x0, #64
    sub     x2, x2, #64
    cmp     x2, #64
    b.hs    0b
1:  cmp     x2, #8
    b.lo    2f
    ldr     x3, [x1]
    str     x3, [x0]
    add     x1, x1, #8
    add     x0, x0, #8
    sub     x2, x2, #8
    b       1b
2:  cmp     x2, #4
    b.lo    3f
    ldr     w3, [x1]
    str     w3, [x0]
    add     x1, x1, #4
    add     x0, x0, #4
    sub     x2, x2, #4
3:  cmp     x2, #2
    b.lo    4f
    ldrh    w3, [x1]
    strh    w3, [x0]
    add     x1, x1, #2
    add     x0, x0, #2
    sub     x2, x2, #2
4:  cbz     x2, vfio_guard_copy_end
vfio_guard_copy_bytes:
    ldrb    w3, [x1]
    strb    w3, [x0]
    add     x1, x1, #1
    add     x0, x0, #1
    subs    x2, x2, #1
    b.ne    vfio_guard_copy_bytes
vfio_guard_copy_end:
    mov     x0, x2
    ret
    .size   vfio_guard_copy, .-vfio_guard_copy

vfio_guard_probe:           // x0 address, x1 pages, x2 stride, w3 write; x2: pages left
    hint    #34
    mov     x4, x2
    mov     x2, x1
    cbnz    w3, 2f
1:  ldrb    w5, [x0]
    add     x0, x0, x4
    subs    x2, x2, #1
    b.ne    1b
    b       3f
2:  ldxrb   w5, [x0]
    stxrb   w6, w5, [x0]
    cbnz    w6, 2b
    add     x0, x0, x4
    subs    x2, x2, #1
    b.ne    2b
3:
vfio_guard_probe_end:
    mov     x0, x2
    ret
    .size   vfio_guard_probe, .-vfio_guard_probe

vfio_guard_load:                 // x0 address, w1 width, x2 where to say that it failed; one load
    hint    #34
    cmp     w1, #4
    b.eq    4f
    cmp     w1, #8
    b.eq    8f
    cmp     w1, #2
    b.eq    2f
    ldrb    w0, [x0]
    ret
2:  ldrh    w0, [x0]
    ret
4:  ldr     w0, [x0]
    ret
8:  ldr     x0, [x0]
    ret
    .size   vfio_guard_load, .-vfio_guard_load

vfio_guard_store:                // the same, and x3 value; one store
    hint    #34
    cmp     w1, #4
    b.eq    4f
    cmp     w1, #8
    b.eq    8f
    cmp     w1, #2
    b.eq    2f
    strb    w3, [x0]
    ret
2:  strh    w3, [x0]
    ret
4:  str     w3, [x0]
    ret
8:  str     x3, [x0]
    ret
vfio_guard_store_end:
    .size   vfio_guard_store, .-vfio_guard_store

vfio_guard_access_failed:
    mov     w3, #1
    str     w3, [x2]
    ret

vfio_guard_fixup:
    mov     x0, x2
    ret
    .popsection
)");
#else
#error "no guarded copy for this processor"
#endif

extern "C" {
size_t vfio_guard_copy(void* to, const void* from, size_t size);
size_t vfio_guard_probe(uint64_t address, size_t pages, size_t pageSize, unsigned write);
uint64_t vfio_guard_load(const void* address, unsigned width, int* failed);
void vfio_guard_store(void* address, unsigned width, int* failed, uint64_t value);
extern const char vfio_guard_store_end[];
extern const char vfio_guard_access_failed[];
extern const char vfio_guard_copy_bytes[];
extern const char vfio_guard_copy_end[];
extern const char vfio_guard_probe_end[];
extern const char vfio_guard_fixup[];
}

namespace vfio::guard {
namespace {

// The address to continue at after a fault at `pc`; null: the fault is not in a guarded routine.
const char* continuation(uintptr_t pc) {
  const auto within = [pc](uintptr_t begin, const char* end) {
    return pc >= begin && pc < reinterpret_cast<uintptr_t>(end);
  };
  const auto bytes = reinterpret_cast<uintptr_t>(vfio_guard_copy_bytes);
  if (within(reinterpret_cast<uintptr_t>(&vfio_guard_copy), vfio_guard_copy_bytes)) {
    return vfio_guard_copy_bytes;
  }
  if (within(bytes, vfio_guard_copy_end)) return vfio_guard_fixup;
  if (within(reinterpret_cast<uintptr_t>(&vfio_guard_probe), vfio_guard_probe_end)) {
    return vfio_guard_fixup;
  }
  if (within(reinterpret_cast<uintptr_t>(&vfio_guard_load), vfio_guard_store_end)) {
    return vfio_guard_access_failed;
  }
  return nullptr;
}

// Continues after a fault in a guarded routine. False: the fault is not in one.
bool recover(void* context) {
  auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  auto& pc = machine.gregs[REG_RIP];
#else
  auto& pc = machine.pc;
#endif
  const char* const next = continuation(static_cast<uintptr_t>(pc));
  if (next == nullptr) return false;
  pc = static_cast<std::remove_reference_t<decltype(pc)>>(reinterpret_cast<uintptr_t>(next));
  return true;
}

}  // namespace

// A watched range, which a signal handler can read. A nonzero start reserves the entry; a nonzero length
// makes it active.
class Watch {
 public:
  std::atomic<uintptr_t> start{0};
  std::atomic<size_t> length{0};
  std::atomic<size_t> pageSize{0};
  std::atomic<bool> replaced{false};
};

namespace {

std::array<Watch, 4096> watches;

// Maps a page of zeroes where a device did not answer.
bool replacePage(uintptr_t at) {
  for (Watch& range : watches) {
    const size_t length = range.length.load(std::memory_order_acquire);
    const uintptr_t start = range.start.load(std::memory_order_relaxed);
    if (length == 0 || at < start || at - start >= length) continue;
    const size_t size = range.pageSize.load(std::memory_order_relaxed);
    void* page = reinterpret_cast<void*>(at & ~(size - 1));
    range.replaced.store(true);
    return mmap(page, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
  }
  return false;
}

std::atomic<bool (*)(int, siginfo_t*, void*)> otherHandler{nullptr};

void handle(int signal, siginfo_t* info, void* context) {
  // A signal that was sent has no faulting instruction, even if it happened to arrive in a guarded routine.
  const bool sent = info->si_code <= 0;
  if (!sent && recover(context)) return;
  if (!sent && signal == SIGBUS && replacePage(reinterpret_cast<uintptr_t>(info->si_addr))) return;

  const auto other = otherHandler.load();
  if (!sent && other && other(signal, info, context)) return;
  passOn(signal, info, context);
}

}  // namespace

void install() {
  static std::once_flag once;
  std::call_once(once, [] {
    stand(SIGSEGV, handle);
    stand(SIGBUS, handle);
  });
}

void keepInFront() {
  install();
  stand(SIGSEGV, handle);
  stand(SIGBUS, handle);
}

void onFault(bool (*handler)(int signal, siginfo_t* info, void* context)) {
  otherHandler.store(handler);
  trustHandlers();
}

bool load(const void* address, unsigned width, uint64_t& value) {
  mark();
  int failed = 0;
  value = vfio_guard_load(address, width, &failed);
  return failed == 0;
}

bool store(void* address, unsigned width, uint64_t value) {
  mark();
  int failed = 0;
  vfio_guard_store(address, width, &failed, value);
  return failed == 0;
}

Watch* watchRange(uintptr_t start, size_t length, size_t pageSize) {
  for (Watch& range : watches) {
    uintptr_t none = 0;
    if (!range.start.compare_exchange_strong(none, start)) continue;
    range.pageSize.store(pageSize);
    range.replaced.store(false);
    range.length.store(length, std::memory_order_release);
    return &range;
  }
  return nullptr;
}

void unwatchRange(Watch* watch) {
  if (watch == nullptr) return;
  watch->length.store(0);
  watch->start.store(0);
}

bool replaced(const Watch* watch) {
  return watch != nullptr && watch->replaced.load(std::memory_order_relaxed);
}

size_t copy(void* to, const void* from, size_t size) {
  mark();
  return vfio_guard_copy(to, from, size);
}

size_t probe(uint64_t address, size_t pages, size_t pageSize, bool write) {
  mark();
  return vfio_guard_probe(address, pages, pageSize, write ? 1 : 0);
}

}  // namespace vfio::guard
