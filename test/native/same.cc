// Backend::same() on real descriptors. On the kernel it is checked three times: each time one more system
// call that it can use is refused, as on older kernels and in containers. Prints its claims; fails if one
// does not hold.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "../../native/kernel/kernel.h"
#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"

namespace {

int failures = 0;

void claim(bool holds, const std::string& what) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", what.c_str());
  if (!holds) ++failures;
}

// From now on this system call fails if its second argument is `argument` (-1: always).
bool forbid(uint32_t number, int64_t argument, uint32_t error) {
  const auto nr = offsetof(seccomp_data, nr);
  const auto second = offsetof(seccomp_data, args) + sizeof(uint64_t);
  std::vector<sock_filter> filter{BPF_STMT(BPF_LD | BPF_W | BPF_ABS, nr)};
  const auto skipped = static_cast<uint8_t>(argument < 0 ? 1 : 3);
  filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, skipped));
  if (argument >= 0) {
    filter.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, second));
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(argument), 0, 1));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error));
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

void claims(vfio::Backend& backend, const std::string& way, const std::vector<const char*>& paths) {
  for (const char* path : paths) {
    const int one = backend.open(path, O_RDWR);
    const int other = backend.open(path, O_RDWR);
    const int copy = backend.dup(one);
    claim(one >= 0 && other >= 0 && copy >= 0, way + path + " opens twice");
    const int signal = fcntl(one, F_GETSIG);
    claim(backend.same(one, one) == true, way + path + " is itself");
    claim(backend.same(one, copy) == true && backend.same(copy, one) == true,
          way + path + " is its duplicate");
    claim(backend.same(one, other) == false && backend.same(other, copy) == false,
          way + path + " is not what another open gave");
    claim(fcntl(one, F_GETSIG) == signal && fcntl(other, F_GETSIG) == signal,
          way + path + " is left as it was");
    const int elsewhere = open("/dev/zero", O_RDWR | O_CLOEXEC);
    claim(backend.same(one, elsewhere) == false, way + path + " is not /dev/zero");
    close(elsewhere);
    backend.close(copy);
    claim(!backend.same(one, copy).value_or(false), way + path + " is not what is closed");
    backend.close(one);
    backend.close(other);
  }
}

// All anonymous files share one inode.
void anonymousClaims(vfio::Backend& backend, const std::string& way) {
  const int one = eventfd(0, EFD_CLOEXEC);
  const int other = eventfd(0, EFD_CLOEXEC);
  const int copy = dup(one);
  claim(backend.same(one, copy) == true, way + "an eventfd is its duplicate");
  claim(backend.same(one, other) == false, way + "an eventfd is not another one");
  for (const int fd : {one, other, copy}) close(fd);
}

// Several threads call same() on one file at the same time: none gets a wrong answer.
void threadClaims(vfio::Backend& backend, const std::string& way) {
  const int one = backend.open("/dev/null", O_RDWR);
  const int copy = backend.dup(one);
  const int other = backend.open("/dev/null", O_RDWR);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 2000; ++round)
        if (backend.same(one, copy) != true || backend.same(other, copy) != false) ++wrong;
    });
  for (auto& thread : threads) thread.join();
  claim(wrong == 0,
        way + "16,000 questions of 4 threads at a time: " + std::to_string(wrong) + " answers wrong");
  for (const int fd : {one, other, copy}) backend.close(fd);
}

std::string waysOfThisKernel() {
  const int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  const bool query = fcntl(fd, 1027, fd) >= 0;
  const bool kcmp = syscall(SYS_kcmp, getpid(), getpid(), 0, fd, fd) >= 0;
  close(fd);
  return std::string("fcntl(F_DUPFD_QUERY) ") + (query ? "yes" : "no") + ", kcmp " + (kcmp ? "yes" : "no");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "software") == 0) {
    vfio::soft::Host host(std::make_shared<vfio::soft::mm::Memory>());
    claims(host, "software: ", {"/dev/iommu", "/dev/vfio/vfio"});
  }
  vfio::KernelBackend kernel;
  std::vector<const char*> paths{"/dev/null"};
  for (const char* path : {"/dev/iommu", "/dev/vfio/vfio"})
    if (access(path, F_OK) == 0) paths.push_back(path);
  const auto round = [&] {
    const std::string way = "kernel, " + waysOfThisKernel() + ": ";
    claims(kernel, way, paths);
    anonymousClaims(kernel, way);
    threadClaims(kernel, way);
  };
  round();
  claim(forbid(SYS_fcntl, 1027, EINVAL), "a filter takes F_DUPFD_QUERY away");
  round();
  claim(forbid(SYS_kcmp, -1, EPERM), "a filter takes kcmp away");
  round();
  return failures == 0 ? 0 : 1;
}
