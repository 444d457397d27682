// The instructions that compilers use for memory, on registers of a device. Each must have the same effect on the
// device's registers, the processor's registers and the flags as it has with plain memory.
#include <immintrin.h>
#include <setjmp.h>
#include <signal.h>

#include "driver.h"

static sigjmp_buf back;
static void on_fault(int number) { siglongjmp(back, number); }

// Runs the same code on 16 bytes of memory and on two registers of 8 bytes that keep the stored value. `out` and
// the flags must be the same afterwards. The values are small, because a store of 4 bytes clears the upper half
// of a register.
typedef volatile uint64_t *place;
#define ON(where, code, ...)                                      \
  __asm__ volatile(code "\n\tpushfq\n\tpopq %[flags]"             \
                   : [out] "+a"(out), [flags] "=&r"(flags)        \
                   : [at] "r"(where), [in] "r"(in), ##__VA_ARGS__ \
                   : "memory", "cc", "rcx", "xmm0", "xmm1")
#define SAME(name, first, input, code, ...)                                                              \
  do {                                                                                                   \
    uint64_t in = (input), out = 0x0102030405060708, flags = 0, result[2], seen[2];                      \
    memory[0] = (first);                                                                                 \
    memory[1] = 0x99;                                                                                    \
    ON(memory, code, ##__VA_ARGS__);                                                                     \
    result[0] = out, result[1] = flags;                                                                  \
    wide[0] = (first);                                                                                   \
    wide[1] = 0x99;                                                                                      \
    out = 0x0102030405060708;                                                                            \
    ON(wide, code, ##__VA_ARGS__);                                                                       \
    seen[0] = wide[0], seen[1] = wide[1];                                                                \
    claim(name, result[0] == out && result[1] == flags && seen[0] == memory[0] && seen[1] == memory[1]); \
  } while (0)

int main(void) {
  struct edu edu = open_edu("0000:00:10.0");
  static volatile uint64_t memory[2];
  place wide = (place)((volatile char *)edu.regs + 0x80);
  const uint64_t large = 0x8122334455667788;

  SAME("mov of a constant", 0, 0, "movl $0x11223344, (%[at])");
  SAME("mov of a negative constant", 0, 0, "movq $-2, (%[at])");
  SAME("mov from a register", 0, large, "movq %[in], (%[at])");
  SAME("mov to a register", large, 0, "movq (%[at]), %[out]");
  SAME("mov of 4 bytes clears the rest", large, 0, "movl (%[at]), %k[out]");
  SAME("movslq", 0xfffffff0, 0, "movslq (%[at]), %[out]");
  SAME("movzx, movsx of the bits that a device gives for 1 and 2 bytes", 0, 0,
       "movzbl (%[at]), %k[out]\n\tmovswq (%[at]), %[out]");
  SAME("add to memory", large, large, "addq %[in], (%[at])");
  SAME("adc with the carry", large, 1, "stc\n\tadcq %[in], (%[at])");
  SAME("sub of a constant of one byte", 5, 0, "subq $6, (%[at])");
  SAME("sub from a register", 5, 0, "subq (%[at]), %[out]");
  SAME("and with a constant", 0x1234, 0, "andl $0xff, (%[at])");
  SAME("or", large, 0x0f, "orq %[in], (%[at])");
  SAME("xor to zero", 0x77, 0x77, "xorq %[in], (%[at])");
  SAME("cmp", large, large, "cmpq %[in], (%[at])");
  SAME("cmp with a constant", 5, 0, "cmpl $6, (%[at])");
  SAME("test with a constant", 0x90, 0, "testl $0x80, (%[at])");
  SAME("test with a register", 0x90, 0x0f, "testq %[in], (%[at])");
  SAME("inc", ~0ull, 0, "incq (%[at])");
  SAME("dec", 0, 0, "decq (%[at])");
  SAME("neg", 5, 0, "negq (%[at])");
  SAME("not", large, 0, "notq (%[at])");
  SAME("shl", large, 0, "shlq $4, (%[at])");
  SAME("sar by cl", large, 3, "movq %[in], %%rcx\n\tsarq %%cl, (%[at])");
  SAME("imul", 12, 0, "imulq $3, (%[at]), %[out]");
  SAME("xchg", large, 7, "xchgq %[out], (%[at])");
  SAME("lock cmpxchg that fits", 0x0102030405060708, 77, "lock cmpxchgq %[in], (%[at])");
  SAME("lock cmpxchg that does not", 5, 77, "lock cmpxchgq %[in], (%[at])");
  SAME("lock xadd", 5, 7, "lock xaddq %[out], (%[at])");
  SAME("lock add", 5, 7, "lock addq %[in], (%[at])");
  SAME("bt", 0x10, 0, "btl $4, (%[at])");
  SAME("bts", 0x10, 0, "btsq $63, (%[at])");
  SAME("cmov", large, 0, "cmpq %[in], %[in]\n\tcmoveq (%[at]), %[out]");
  SAME("movnti", 0, large, "movntiq %[in], (%[at])");
  SAME("movbe", large, 0, "bswapq %[out]\n\tmovbeq (%[at]), %[out]");
  SAME("push and pop", large, 0, "pushq (%[at])\n\tpopq 8(%[at])");
  SAME("popcnt", large, 0, "popcntq (%[at]), %[out]");
  SAME("base, index and scale", 0, large,
       "movl $1, %%ecx\n\tmovq %[in], (%[at], %%rcx, 8)\n\tmovq -8(%[at], %%rcx, 8), %[out]");
  SAME("16 bytes into a vector register and out of it", large, 0,
       "movdqu (%[at]), %%xmm0\n\tpaddq %%xmm0, %%xmm0\n\tmovups %%xmm0, (%[at])");
  SAME("8 bytes of a vector register", large, 0, "movq (%[at]), %%xmm1\n\tmovq %%xmm1, 8(%[at])");
  SAME("a vector operation", large, 0, "pxor %%xmm0, %%xmm0\n\tpaddq (%[at]), %%xmm0\n\tmovq %%xmm0, %[out]");
  SAME("a double", 0x3ff8000000000000, 0,
       "movsd (%[at]), %%xmm0\n\taddsd (%[at]), %%xmm0\n\tmovsd %%xmm0, (%[at])");
  SAME("an integer to a double", 41, 0, "cvtsi2sdq (%[at]), %%xmm0\n\tmovq %%xmm0, %[out]");
  if (__builtin_cpu_supports("avx2")) {
    SAME("AVX", large, 0,
         "vmovdqu (%[at]), %%xmm0\n\tvpaddq (%[at]), %%xmm0, %%xmm1\n\tvmovdqu %%xmm1, "
         "(%[at])\n\tvpbroadcastq (%[at]), %%xmm0\n\tvmovq %%xmm0, %[out]");
    volatile uint64_t *buffer = (volatile uint64_t *)((volatile char *)edu.regs + 0x80);
    buffer[0] = 1, buffer[1] = 2, buffer[2] = 3;
    uint64_t four[4];
    __asm__ volatile("vmovdqu (%[at]), %%ymm0\n\tvmovdqu %%ymm0, (%[to])\n\tvzeroupper"
                     :
                     : [at] "r"(buffer), [to] "r"(four)
                     : "memory", "xmm0");
    claim("32 bytes at once", four[0] == 1 && four[1] == 2 && four[2] == 3);
  }
  SAME("registers r8 to r15", large, 0,
       "movq %[at], %%rcx\n\tpushq %%r13\n\tpushq %%r12\n\tmovq %%rcx, %%r13\n\tmovq (%%r13), %%r12\n\tmovq "
       "%%r12, 8(%%r13)\n\tpopq %%r12\n\tpopq %%r13");

  uint64_t words[2] = {0, 0};
  wide[0] = 7, wide[1] = 8;
  void *to = words;
  const void *from = (const void *)wide;
  uint64_t count = 2;
  __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
  claim("rep movs", words[0] == 7 && words[1] == 8 && count == 0 && to == words + 2);
  to = (void *)wide;
  count = 2;
  __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"((uint64_t)9) : "memory");
  claim("rep stos", wide[0] == 9 && wide[1] == 9 && count == 0);
  wide[0] = 10;
  memcpy(words, (const void *)wide, 16);
  claim("memcpy", words[0] == 10 && words[1] == 9);
  claim("memcmp", memcmp(words, (const void *)wide, 16) == 0);

  // Faults at other addresses than registers reach the program's own handler.
  signal(SIGSEGV, on_fault);
  volatile int *volatile nowhere = (volatile int *)8;
  if (sigsetjmp(back, 1) == 0) {
    *nowhere = 1;
    claim("a wild store is a fault", 0);
  } else {
    claim("a wild store is a fault of the program", 1);
  }
  claim("... and registers work on", edu.regs[0] == 0x010000ed);
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, NULL);
  claim("... with all signals blocked", edu.regs[0] == 0x010000ed);
  sigprocmask(SIG_UNBLOCK, &all, NULL);
  signal(SIGBUS, on_fault);
  uint16_t off = 0;
  if (pwrite(edu.device, &off, 2, (off_t)(edu.config + 4)) != 2) fail("config write");
  int got = sigsetjmp(back, 1);
  if (got == 0) {
    (void)edu.regs[0];
    claim("registers of a device that does not decode", 0);
  } else {
    claim("registers of a device that does not decode are SIGBUS", got == SIGBUS);
  }
  return 0;
}
