// How the time to make a machine grows with its size: four times as many parts take about four times as long,
// and not sixteen times. Processor time is compared, so that the check does not fail on a busy machine.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>

#include "../../native/soft/host/host.h"
#include "../../native/soft/mm/memory.h"
#include "../../native/soft/topology/json.h"

namespace {

using namespace vfio::soft;

int failures = 0;
void claim(const std::string& text, bool holds) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", text.c_str());
  if (!holds) ++failures;
}

double processorTime(const std::function<void()>& job) {
  timespec start{};
  timespec end{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
  job();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  return static_cast<double>(end.tv_sec - start.tv_sec) +
         static_cast<double>(end.tv_nsec - start.tv_nsec) / 1e9;
}

std::string format(const char* pattern, unsigned a, unsigned b, unsigned c) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, a, b, c);
  return text;
}
std::string address(size_t i) {
  const auto at = static_cast<unsigned>(i);
  return format("0000:%02x:%02x.%u", at >> 8, at >> 3 & 31, at & 7);
}
std::string uuid(size_t i) { return format("%08x-%04x-0000-0000-%012x", static_cast<unsigned>(i), 0, 0); }

// The text of `count` devices, each with the fields that `more` returns.
std::string devices(size_t count, const std::function<std::string(size_t)>& more) {
  std::string text;
  for (size_t i = 0; i < count; ++i) {
    text += (i == 0 ? "" : ",") + std::string(R"({"model":"passive","vendor":"0x1234","device":1,)") +
            R"("classCode":"0x020000","bdf":")" + address(i) + "\"" + more(i) + "}";
  }
  return "\"devices\":[" + text + "]";
}

std::string withMdevs(size_t count, bool isolated) {
  constexpr size_t kEach = 64;
  return "{" +
         devices(count / kEach,
                 [isolated](size_t parent) {
                   std::string list;
                   for (size_t i = 0; i < kEach; ++i)
                     list += (i == 0 ? "\"" : ",\"") + uuid(parent * kEach + i) + "\"";
                   return R"(,"driver":"nvme","mdevsIsolated":)" + std::string(isolated ? "true" : "false") +
                          ",\"mdevs\":[" + list + "]";
                 }) +
         "}";
}

std::unique_ptr<Host> made(const std::string& topology) {
  return std::make_unique<Host>(std::make_shared<mm::Memory>(), HostOptions{.topology = topology});
}

void unbindAll(Host& host, size_t parents) {
  for (size_t i = 0; i < parents; ++i) {
    const int fd = host.open("/sys/bus/pci/drivers/nvme/unbind", 1);
    const std::string text = address(i);
    if (host.write(fd, text.data(), text.size()) < 0) ++failures;
    host.close(fd);
  }
}
void removeAll(Host& host, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (host.removeDevice(address(i).c_str()) != 0) ++failures;
  }
}

struct Kind {
  const char* name;
  size_t count;  // measured with this many, and with four times as many
  std::function<double(size_t count)> time;
};

double making(const std::string& topology) {
  std::unique_ptr<Host> host;
  return processorTime([&] { host = made(topology); });
}

}  // namespace

int main() {
  const Kind kinds[] = {
      {"mediated devices, each in a group of its own", 4096,
       [](size_t count) { return making(withMdevs(count, true)); }},
      {"mediated devices that share groups", 4096,
       [](size_t count) { return making(withMdevs(count, false)); }},
      {"mediated devices that go with their drivers", 4096,
       [](size_t count) {
         const auto host = made(withMdevs(count, true));
         return processorTime([&] { unbindAll(*host, count / 64); });
       }},
      {"devices without an IOMMU, which get groups from VFIO", 1024,
       [](size_t count) {
         return making(R"({"system":{"commandLine":"vfio.enable_unsafe_noiommu_mode=1"},"iommus":[],)" +
                       devices(count, [](size_t) { return R"(,"driver":"vfio-pci")"; }) + "}");
       }},
      {"devices with vfio-pci, each in a group of its own", 1024,
       [](size_t count) {
         return making(
             "{" +
             devices(count,
                     [](size_t) {
                       return R"(,"driver":"vfio-pci","acs":true,"bars":[{"kind":"memory32","size":4096}])";
                     }) +
             "}");
       }},
      {"devices with a number of a group that is asked for, from the highest", 1024,
       [](size_t count) {
         return making(
             "{" +
             devices(count,
                     [count](size_t i) { return ",\"acs\":true,\"group\":" + std::to_string(count - i); }) +
             "}");
       }},
      {"devices with a driver of its own each", 1024,
       [](size_t count) {
         return making("{" +
                       devices(count, [](size_t i) { return ",\"driver\":\"d" + std::to_string(i) + "\""; }) +
                       "}");
       }},
      {"devices that are unplugged, the first first", 1024,
       [](size_t count) {
         const auto host =
             made("{" + devices(count, [](size_t) { return R"(,"driver":"vfio-pci","acs":true)"; }) + "}");
         return processorTime([&] { removeAll(*host, count); });
       }},
      {"names in one object", 20'000,
       [](size_t count) {
         std::string text = "{\"first\":0";
         for (size_t i = 0; i < count; ++i) text += ",\"" + std::to_string(i) + "\":0";
         text += "}";
         return processorTime([&] { (void)json::parse(text); });
       }},
  };
  for (const auto& kind : kinds) {
    double few = 1e9;
    double many = 1e9;
    // The least of three times counts, because other programs may slow down some of them.
    for (int round = 0; round < 3; ++round) {
      few = std::min(few, kind.time(kind.count));
      many = std::min(many, kind.time(kind.count * 4));
    }
    const double ratio = many / few;
    std::printf("     %zu: %.1f ms, %zu: %.1f ms, %.1f times\n", kind.count, few * 1e3, kind.count * 4,
                many * 1e3, ratio);
    claim("four times as many " + std::string(kind.name) + " take less than nine times as long", ratio < 9);
  }
  return failures == 0 ? 0 : 1;
}
