// All steps of a driver for the edu device: it binds the device, maps memory, transfers it by DMA, waits for an
// interrupt, and accesses the registers by plain loads and stores.
#include "driver.h"

int main(int count, char **arguments) {
  struct edu edu = open_edu(count > 1 ? arguments[1] : "0000:00:10.0");
  claim("the identification by a plain load", edu.regs[0] == 0x010000ed);
  edu.regs[1] = 0x12345678;
  claim("a store and a load: the device answers with the inverse", edu.regs[1] == ~0x12345678u);
  edu.regs[2] = 10;
  while (edu.regs[8] & 1) usleep(100);
  claim("10! is 3628800", edu.regs[2] == 3628800);

  uint8_t *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 4096; i++) memory[i] = (uint8_t)(i * 7);
  map(&edu, memory, 8192, 0x100000);

  int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  struct irq_set set = {
      .argsz = sizeof set, .flags = IRQ_EVENTFD_TRIGGER, .index = IRQ_MSI, .count = 1, .fds = {event}};
  if (ioctl(edu.device, DEVICE_SET_IRQS, &set)) fail("SET_IRQS");

  dma(&edu, 0x100000, 0x40000, 2048, 0);
  wait_idle(&edu);
  dma(&edu, 0x40000, 0x101000, 2048, 2 | 4);
  struct pollfd ready = {.fd = event, .events = POLLIN};
  claim("an MSI arrives on the eventfd", poll(&ready, 1, 5000) == 1);
  claim("what came back is what went out", memcmp(memory, memory + 4096, 2048) == 0);
  claim("the interrupt's reason by a plain load", edu.regs[0x24 / 4] == 0x100);
  edu.regs[0x64 / 4] = 0x100;
  claim("... and acknowledged", edu.regs[0x24 / 4] == 0);

  struct ioas_unmap unmap = {.size = sizeof unmap, .ioas_id = edu.ioas, .iova = 0x100000, .length = 8192};
  claim("unmap", ioctl(edu.iommu, IOAS_UNMAP, &unmap) == 0 && unmap.length == 8192);
  memset(memory + 4096, 0xaa, 4096);
  dma(&edu, 0x40000, 0x101000, 2048, 2);
  wait_idle(&edu);
  claim("after it the device reaches nothing", memory[4096] == 0xaa && memory[6143] == 0xaa);

  errno = 0;
  claim("a bad pointer is EFAULT", ioctl(edu.iommu, IOAS_ALLOC, (void *)8) == -1 && errno == EFAULT);
  claim("registers are unmapped", munmap((void *)edu.regs, edu.size) == 0);
  struct bind_iommufd again = {.argsz = sizeof again, .iommufd = edu.iommu};
  claim("bound once", ioctl(edu.device, DEVICE_BIND_IOMMUFD, &again) == -1 && errno == EINVAL);
  close(edu.device);
  close(edu.iommu);
  return 0;
}
