// fork, vfork, exec: the child has its own copy of the machine, in the state at the fork. Calls of the child have
// no effect in the parent.
#include <pthread.h>
#include <sys/wait.h>

#include "driver.h"

static int wait_for(pid_t child) {
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint32_t next_ioas(int iommu) {
  struct ioas_alloc alloc = {.size = sizeof alloc};
  return ioctl(iommu, IOAS_ALLOC, &alloc) ? 0 : alloc.out_ioas_id;
}

int main(void) {
  struct edu edu = open_edu("0000:00:10.0");
  uint8_t *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(memory, 0x11, 4096);
  map(&edu, memory, 4096, 0x100000);
  uint32_t before = next_ioas(edu.iommu);

  pid_t child = fork();
  if (child == 0) {
    int ok = next_ioas(edu.iommu) == before + 1;
    ok &= edu.regs[0] == 0x010000ed;
    memset(memory, 0x22, 4096);
    dma(&edu, 0x100000, 0x40000, 4096, 0);
    wait_idle(&edu);
    memset(memory, 0, 4096);
    dma(&edu, 0x40000, 0x100000, 4096, 2);
    wait_idle(&edu);
    ok &= memory[0] == 0x22 && memory[4095] == 0x22;
    ok &= access("/sys/bus/pci/devices/0000:00:10.0/vendor", R_OK) == 0;
    ok &= close(edu.device) == 0;
    _exit(ok ? 0 : 1);
  }
  claim("the child's device works on the child's memory", wait_for(child) == 0);
  claim("the parent's memory is as it was", memory[0] == 0x11 && memory[4095] == 0x11);
  claim("... and its ids", next_ioas(edu.iommu) == before + 1);
  claim("... and its device, which the child closed", edu.regs[0] == 0x010000ed);
  dma(&edu, 0x100000, 0x40000, 4096, 0);
  wait_idle(&edu);
  memset(memory, 0, 4096);
  dma(&edu, 0x40000, 0x100000, 4096, 2);
  wait_idle(&edu);
  claim("... which moves the parent's memory", memory[0] == 0x11 && memory[4095] == 0x11);

  child = vfork();
  if (child == 0) {
    close(edu.iommu);
    _exit(0);
  }
  wait_for(child);
  claim("a close in a child of vfork is the child's", next_ioas(edu.iommu) == before + 2);
  claim("system() works", system("exit 7") == 7 << 8);

  // The parent's file is closed with the parent's last descriptor, although the child has a copy of it.
  int pipes[2];
  if (pipe(pipes)) fail("pipe");
  child = fork();
  if (child == 0) {
    char byte;
    close(pipes[1]);
    _exit(read(pipes[0], &byte, 1) == 0 && next_ioas(edu.iommu) != 0 ? 0 : 1);
  }
  munmap((void *)edu.regs, edu.size);
  close(edu.device);
  close(edu.iommu);
  struct edu again = open_edu("0000:00:10.0");
  claim("the parent can open anew what it closed", again.regs[0] == 0x010000ed);
  close(pipes[1]);
  claim("... while the child still has its own", wait_for(child) == 0);
  return 0;
}
