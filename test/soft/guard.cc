// The guarded routines in programs with signal handlers of their own. Whenever a program installs a handler
// for SIGSEGV or SIGBUS, a bad address in a routine is still an error, and every other fault reaches the
// program's handler.
#include "../../native/guard/guard.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <thread>

namespace {

using namespace vfio;

int failures = 0;
void claim(const std::string& text, bool holds) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", text.c_str());
  std::fflush(stdout);
  if (!holds) ++failures;
}

constexpr size_t kPage = 4096;

// An address where a load raises this signal.
uint8_t* badAddress(int signal) {
  static auto* const closed =
      static_cast<uint8_t*>(mmap(nullptr, kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  static auto* const beyond = [] {
    const int file = memfd_create("empty", MFD_CLOEXEC);
    return static_cast<uint8_t*>(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  }();
  return signal == SIGBUS ? beyond : closed;
}

std::array<uint8_t, 64> place;
struct Routine {
  const char* name;
  bool (*fails)(uint8_t* bad);
};
constexpr std::array<Routine, 6> kRoutines = {
    {{"a copy from",
      [](uint8_t* bad) { return guard::copy(place.data(), bad, place.size()) == place.size(); }},
     {"a copy to", [](uint8_t* bad) { return guard::copy(bad, place.data(), place.size()) == place.size(); }},
     {"a probe of",
      [](uint8_t* bad) { return guard::probe(reinterpret_cast<uint64_t>(bad), 1, kPage, false) == 1; }},
     {"a probe for writes of",
      [](uint8_t* bad) { return guard::probe(reinterpret_cast<uint64_t>(bad), 1, kPage, true) == 1; }},
     {"a load from",
      [](uint8_t* bad) {
        uint64_t value = 0;
        return !guard::load(bad, 4, value);
      }},
     {"a store to", [](uint8_t* bad) { return !guard::store(bad, 4, 1); }}}};

// Runs `work` in a child, so that a fault that no handler takes ends only the child. Returns its status, as
// wait does.
int inChild(const std::function<int()>& work) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    // Ends a routine that never returns, also if it blocks all signals.
    alarm(10);
    const rlimit seconds{10, 10};
    setrlimit(RLIMIT_CPU, &seconds);
    _exit(work());
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}
bool leaves(int status, int code) { return WIFEXITED(status) && WEXITSTATUS(status) == code; }
bool killedBy(int status, int signal) { return WIFSIGNALED(status) && WTERMSIG(status) == signal; }

void setHandler(int signal, void (*handler)(int, siginfo_t*, void*), int flags = 0) {
  struct sigaction action = {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  sigaction(signal, &action, nullptr);
}

void returns(int, siginfo_t*, void*) {}
void leavesWith7(int, siginfo_t*, void*) { _exit(7); }

struct sigaction replacedAction;
// A handler such as those of crash reporters: it passes the signal on to the handler that it replaced.
void passesOn(int signal, siginfo_t* info, void* context) {
  if (replacedAction.sa_flags & SA_SIGINFO) {
    replacedAction.sa_sigaction(signal, info, context);
  } else if (replacedAction.sa_handler == SIG_DFL) {
    _exit(9);
  } else {
    replacedAction.sa_handler(signal);
  }
}

sigjmp_buf back;
void jumpsOut(int, siginfo_t*, void*) { siglongjmp(back, 1); }

void waitForKeeper() {
  // The keeper's thread checks fifty times a second.
  const timespec pause{0, 300'000'000};
  nanosleep(&pause, nullptr);
}
void use() { (void)guard::copy(place.data(), place.data() + 32, 8); }
int touch(int signal) { return *const_cast<volatile uint8_t*>(badAddress(signal)); }

const char* nameOf(int signal) { return signal == SIGBUS ? "SIGBUS" : "SIGSEGV"; }

void routinesUnder(int signal, const std::string& circumstance, const std::function<void()>& prepare) {
  for (const auto& routine : kRoutines) {
    const int status = inChild([&] {
      prepare();
      return routine.fails(badAddress(signal)) ? 0 : 1;
    });
    claim(
        std::string(routine.name) + " an address that is " + nameOf(signal) + " is an error " + circumstance,
        leaves(status, 0));
  }
}

void about(int signal) {
  routinesUnder(signal, "with nothing else there", [] { guard::install(); });
  routinesUnder(signal, "though a handler that returns came later", [signal] {
    guard::install();
    use();
    setHandler(signal, returns);
  });
  routinesUnder(signal, "though a handler that returns came later, while nothing was used", [signal] {
    guard::install();
    setHandler(signal, returns);
  });
  routinesUnder(signal, "though one that passes on came later", [signal] {
    guard::install();
    sigaction(signal, nullptr, &replacedAction);
    setHandler(signal, passesOn);
  });
  routinesUnder(signal, "where a handler that leaves had stood first", [signal] {
    setHandler(signal, leavesWith7);
    guard::install();
  });
  routinesUnder(signal, "though a handler that leaves came later, which who knows says", [signal] {
    guard::install();
    setHandler(signal, leavesWith7);
    guard::keepInFront();
  });
  routinesUnder(signal, "though the default action came later, which who knows says", [signal] {
    guard::install();
    ::signal(signal, SIG_DFL);
    guard::keepInFront();
  });
  routinesUnder(signal, "though handlers came and went a thousand times", [signal] {
    guard::install();
    for (int i = 0; i < 1000; ++i) {
      setHandler(signal, i % 2 == 0 ? returns : leavesWith7, i % 128 < 64 ? 0 : SA_NODEFER | SA_RESTART);
      guard::keepInFront();
      if (i % 3 == 0) ::signal(signal, SIG_DFL);
      if (i % 5 == 0) guard::keepInFront();
    }
    guard::keepInFront();
  });
  routinesUnder(signal, "though more different handlers came than are remembered", [signal] {
    guard::install();
    uint32_t state = 1;
    for (int i = 0; i < 20'000; ++i) {
      state = state * 1'664'525 + 1'013'904'223;
      struct sigaction action = {};
      action.sa_sigaction = (state >> 31) != 0 ? returns : passesOn;
      action.sa_flags = SA_SIGINFO;
      sigaddset(&action.sa_mask, SIGRTMIN + static_cast<int>((state >> 16) % 12));
      sigaction(signal, nullptr, &replacedAction);
      sigaction(signal, &action, nullptr);
      guard::keepInFront();
    }
  });

  const std::string name = nameOf(signal);
  claim("a fault that is nobody's ends the process by " + name, killedBy(inChild([signal] {
                                                                           guard::install();
                                                                           return touch(signal);
                                                                         }),
                                                                         signal));
  claim("... so does one where the default action was set later", killedBy(inChild([signal] {
                                                                             guard::install();
                                                                             use();
                                                                             ::signal(signal, SIG_DFL);
                                                                             waitForKeeper();
                                                                             return touch(signal);
                                                                           }),
                                                                           signal));
  claim("... and one where it is ignored", killedBy(inChild([signal] {
                                                      ::signal(signal, SIG_IGN);
                                                      guard::install();
                                                      return touch(signal);
                                                    }),
                                                    signal));
  claim("a signal that was sent and is ignored stays so", leaves(inChild([signal] {
                                                                   ::signal(signal, SIG_IGN);
                                                                   guard::install();
                                                                   raise(signal);
                                                                   return 5;
                                                                 }),
                                                                 5));
  claim("a signal that was sent ends the process by " + name, killedBy(inChild([signal] {
                                                                         guard::install();
                                                                         raise(signal);
                                                                         return 5;
                                                                       }),
                                                                       signal));
  for (const bool before : {true, false}) {
    const std::string when = before ? " that was there before" : " that came later";
    const auto arrange = [signal, before](void (*handler)(int, siginfo_t*, void*), int flags = 0) {
      if (before) setHandler(signal, handler, flags);
      guard::install();
      use();
      if (!before) setHandler(signal, handler, flags);
      waitForKeeper();
    };
    claim("a fault that is the program's reaches its handler" + when, leaves(inChild([&] {
                                                                               arrange(leavesWith7);
                                                                               return touch(signal);
                                                                             }),
                                                                             7));
    claim("... and so does a signal that was sent", leaves(inChild([&] {
                                                             arrange(leavesWith7);
                                                             raise(signal);
                                                             return 5;
                                                           }),
                                                           7));
    claim("a handler for one time" + when + " has the default action after it",
          killedBy(inChild([&] {
                     arrange(returns, static_cast<int>(SA_RESETHAND));
                     return touch(signal);
                   }),
                   signal));
    claim("a handler" + when + " that jumps out is called again, and then the routines still work",
          leaves(inChild([&] {
                   arrange(jumpsOut, SA_NODEFER);
                   volatile int jumps = 0;
                   if (sigsetjmp(back, 1) != 0) jumps = jumps + 1;
                   if (jumps < 3) return touch(signal);
                   for (const auto& routine : kRoutines) {
                     if (!routine.fails(badAddress(signal))) return 1;
                   }
                   return jumps;
                 }),
                 3));
  }
  claim("what one that passes on leaves is the handler's that was there before both",
        leaves(inChild([signal] {
                 setHandler(signal, leavesWith7);
                 guard::install();
                 use();
                 sigaction(signal, nullptr, &replacedAction);
                 setHandler(signal, passesOn);
                 waitForKeeper();
                 return touch(signal);
               }),
               7));
  claim("... and the default action's if there was none", killedBy(inChild([signal] {
                                                                     guard::install();
                                                                     use();
                                                                     sigaction(signal, nullptr,
                                                                               &replacedAction);
                                                                     setHandler(signal, passesOn);
                                                                     waitForKeeper();
                                                                     return touch(signal);
                                                                   }),
                                                                   signal));
}

}  // namespace

int main() {
  about(SIGSEGV);
  about(SIGBUS);
  claim("the routines work in several threads while handlers come and go",
        leaves(inChild([] {
                 guard::install();
                 std::atomic<bool> done{false};
                 std::atomic<int> wrong{0};
                 std::array<std::thread, 3> users;
                 for (auto& user : users) {
                   user = std::thread([&] {
                     while (!done) {
                       for (const auto& routine : kRoutines)
                         wrong += routine.fails(badAddress(SIGSEGV)) ? 0 : 1;
                     }
                   });
                 }
                 for (int i = 0; i < 100; ++i) {
                   setHandler(SIGSEGV, returns);
                   const timespec pause{0, 1'000'000};
                   nanosleep(&pause, nullptr);
                 }
                 done = true;
                 for (auto& user : users) user.join();
                 return wrong == 0 ? 0 : 1;
               }),
               0));
  return failures == 0 ? 0 : 1;
}
