#include "actions.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>

#include "guard.h"

namespace vfio::guard {
namespace {

struct Action {
  struct sigaction action;
  const Action* older;  // the action that this one replaced; null: the default action
};

// The actions that follow the guard's handler for one signal.
struct Line {
  std::atomic<const Action*> newest{nullptr};
  // The same actions are installed repeatedly, for example when listeners are added and removed. No known
  // program uses more different actions than this. If one does, the table starts again and overwrites the
  // oldest.
  std::array<Action, 64> known;
  size_t count = 0;
};

std::array<Line, 2> lines;
std::mutex changing;

Line& lineOf(int signal) { return lines[signal == SIGBUS ? 1 : 0]; }

// The newest action; the default action if there is none.
struct sigaction newestOf(const Line& line) {
  const Action* const newest = line.newest.load();
  struct sigaction action = {};
  if (newest != nullptr) action = newest->action;
  return action;
}

bool same(const struct sigaction& a, const struct sigaction& b) {
  return a.sa_flags == b.sa_flags && a.sa_sigaction == b.sa_sigaction &&
         std::memcmp(&a.sa_mask, &b.sa_mask, sizeof(a.sa_mask)) == 0;
}

const Action* remember(Line& line, const struct sigaction& action, const Action* older) {
  // An action that is installed again keeps its old place.
  for (const Action* at = older; at != nullptr; at = at->older) {
    if (same(at->action, action)) return at;
  }
  for (size_t i = 0; i < line.count; ++i) {
    if (line.known[i].older == older && same(line.known[i].action, action)) return &line.known[i];
  }
  // The table is full and starts empty again. No new entry points to an old one, so the list never becomes a
  // ring.
  if (line.count == line.known.size()) {
    line.count = 0;
    older = nullptr;
  }
  Action& added = line.known[line.count++];
  added = {action, older};
  return &added;
}

// Blocks all signals while it holds the lock, so that no signal handler of this thread can try to take it.
class Changing {
 public:
  Changing() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
    changing.lock();
  }
  ~Changing() {
    changing.unlock();
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  Changing(const Changing&) = delete;
  Changing& operator=(const Changing&) = delete;

 private:
  sigset_t before_;
};

// The action that this thread is running, and the signal it is running for, identified by its context. If one
// handler calls another, the called handler's frame is below the caller's. If the kernel calls a handler, it
// may find the same addresses, which a handler that jumped out has left.
struct InAction {
  const Action* action;
  const void* context;
  uintptr_t frame;
};
__attribute__((tls_model("initial-exec"))) thread_local InAction inAction{nullptr, nullptr, 0};

// True: the default action is about to end the process.
std::atomic<bool> ending{false};

// Restores the default action, with the machine state as it was at the fault: the instruction runs again and
// faults again. If the signal was sent, it must be sent again; it stays blocked until this handler returns.
void endByDefault(int signal, bool sent) {
  ending.store(true);
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  sigaction(signal, &action, nullptr);
  if (sent) raise(signal);
}

}  // namespace

void stand(int signal, void (*handler)(int, siginfo_t*, void*)) {
  const Changing hold;
  struct sigaction action;
  sigaction(signal, nullptr, &action);
  const bool inFront = (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == handler;
  if (inFront || ending.load()) return;
  Line& line = lineOf(signal);
  line.newest.store(remember(line, action, line.newest.load()));
  // The other settings of that action stay: blocked signals, restarting, nesting.
  action.sa_flags &= ~SA_RESETHAND;
  action.sa_flags |= SA_SIGINFO | SA_ONSTACK;
  action.sa_sigaction = handler;
  sigaction(signal, &action, nullptr);
}

void exchangePrevious(int signal, const struct sigaction* action, struct sigaction* old) {
  Line& line = lineOf(signal);
  if (action == nullptr) {
    if (old) *old = newestOf(line);
    return;
  }
  const struct sigaction wanted = *action;  // a copy, because `old` may point to the same struct
  const Changing hold;
  if (old) *old = newestOf(line);
  line.newest.store(remember(line, wanted, nullptr));
}

void passOn(int signal, siginfo_t* info, void* context) {
  const bool sent = info->si_code <= 0;
  const auto frame = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
  const InAction before = inAction;
  const bool cameBack = before.action != nullptr && before.context == context && frame < before.frame;
  Line& line = lineOf(signal);
  const Action* const next = cameBack ? before.action->older : line.newest.load();
  if (next == nullptr) {
    endByDefault(signal, sent);
    return;
  }
  const struct sigaction& action = next->action;
  const bool takesAll = (action.sa_flags & SA_SIGINFO) != 0;
  if (!takesAll && action.sa_handler == SIG_IGN && sent) return;
  if (!takesAll && (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN)) {
    endByDefault(signal, sent);
    return;
  }
  // The handler is for one signal only: afterwards the default action applies.
  if ((action.sa_flags & SA_RESETHAND) != 0) {
    const Action* expected = next;
    line.newest.compare_exchange_strong(expected, nullptr);
  }
  inAction = {next, context, frame};
  if (takesAll) {
    action.sa_sigaction(signal, info, context);
  } else {
    action.sa_handler(signal);
  }
  inAction = before;
}

}  // namespace vfio::guard
