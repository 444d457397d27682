#include "campaign.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <random>

#include "generate.h"
#include "guest.h"
#include "random.h"
#include "shrink.h"

namespace vfio::fuzz {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostShrunk = 12;  // how many different differences are shrunk

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Options {
  double seconds = 60;
  uint64_t seed = 0;
  std::string keep;
  std::string replay;
  std::map<std::string, std::string> guests;  // folder by kind
};

bool parseOptions(const std::vector<std::string>& arguments, Options& out) {
  out.seed = std::random_device{}();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    if (!name.starts_with("--")) {
      const size_t equals = name.find('=');
      if (equals == std::string::npos) return false;
      out.guests[name.substr(0, equals)] = name.substr(equals + 1);
      continue;
    }
    if (i + 1 == arguments.size()) return false;
    const std::string& value = arguments[++i];
    if (name == "--seconds") {
      out.seconds = std::strtod(value.c_str(), nullptr);
    } else if (name == "--seed") {
      out.seed = std::strtoull(value.c_str(), nullptr, 0);
    } else if (name == "--keep") {
      out.keep = value;
    } else if (name == "--replay") {
      out.replay = value;
    } else {
      return false;
    }
  }
  return !out.guests.empty() && out.seconds > 0;
}

// How often a command was called, how often it succeeded, and its errors.
struct Reached {
  uint64_t made = 0;
  uint64_t succeeded = 0;
  std::map<std::string, uint64_t> errors;
};

struct Difference {
  Case what;
  std::string call;
  std::string kernel;
  std::string software;
  unsigned times = 1;
  bool again = true;  // it was found again in a second run
};

std::string lineAt(const Transcript& side, size_t where) {
  return where < side.size() ? side[where] : "nothing";
}

std::string callAt(const Case& what, size_t where) {
  return where < what.calls.size() ? nameOf(what.calls[where]) : "the end";
}

std::string firstWord(const std::string& line) { return line.substr(0, line.find(' ')); }

// Two differences are the same if they have the same command and the same two results.
std::string keyOf(const Case& what, const Transcript& kernel, const Transcript& software, size_t where) {
  return callAt(what, where) + " " + firstWord(lineAt(kernel, where)) + " " +
         firstWord(lineAt(software, where));
}

class Campaign {
 public:
  explicit Campaign(Options options) : options_(std::move(options)) {
    for (const auto& [kind, folder] : options_.guests) guests_.emplace(kind, Guest(folder));
  }

  int run() {
    const auto start = Clock::now();
    std::printf("seed %llu\n", static_cast<unsigned long long>(options_.seed));
    std::fflush(stdout);
    if (options_.replay.empty()) {
      explore(start);
    } else {
      replay();
    }
    seconds_ = secondsSince(start);
    shrinkAll();
    report();
    for (auto& [kind, guest] : guests_) guest.quit();
    return differences_.empty() ? 0 : 1;
  }

 private:
  struct Batch {
    std::string kind;
    unsigned number;
    std::vector<Case> cases;
    std::vector<Transcript> software;
  };

  // Each guest has two batches at any time: it runs one while this side runs the other.
  void explore(Clock::time_point start) {
    constexpr unsigned kAhead = 2;
    std::map<std::string, std::deque<Batch>> under;
    uint64_t index = 0;
    bool more = true;
    while (more) {
      more = false;
      const bool time = secondsSince(start) < options_.seconds;
      for (auto& [kind, guest] : guests_) {
        std::deque<Batch>& queue = under[kind];
        while (time && queue.size() < kAhead) queue.push_back(sendBatch(kind, guest, index));
        if (queue.empty()) continue;
        more = true;
        Batch& batch = queue.front();
        compare(batch, guest.receive(batch.number));
        queue.pop_front();
      }
    }
  }

  Batch sendBatch(const std::string& kind, Guest& guest, uint64_t& index) {
    // A DMA of QEMU's edu takes 100 ms, so a batch with such devices is short.
    const size_t size = kind == "vfio" ? 4 : 64;
    Batch batch{kind, 0, {}, {}};
    for (size_t i = 0; i < size; ++i) {
      batch.cases.push_back(generate(kind, Random(options_.seed ^ (index++ << 32)).next()));
      batch.cases.back().without = without_;
    }
    batch.number = guest.send(batch.cases);
    for (const Case& each : batch.cases) batch.software.push_back(fuzz::run(side_, each));
    return batch;
  }

  void replay() {
    for (auto& [kind, guest] : guests_) {
      std::vector<Case> cases = parseCases(readFile(options_.replay));
      std::erase_if(cases, [&kind = kind](const Case& each) { return each.kind != kind; });
      if (cases.empty()) continue;
      Batch batch{kind, 0, cases, {}};
      batch.number = guest.send(cases);
      for (const Case& each : cases) batch.software.push_back(fuzz::run(side_, each));
      compare(batch, guest.receive(batch.number));
    }
  }

  void compare(const Batch& batch, const std::vector<Transcript>& kernel) {
    for (size_t i = 0; i < batch.cases.size(); ++i) {
      const Case& what = batch.cases[i];
      const Transcript& expected = i < kernel.size() ? kernel[i] : Transcript{};
      ++sequences_;
      count(what, expected);
      const long where = firstDifference(expected, batch.software[i]);
      if (where < 0) {
        if (!options_.keep.empty()) keepGood(what, expected);
      } else {
        differs(what, expected, batch.software[i], static_cast<size_t>(where));
      }
    }
  }

  void count(const Case& what, const Transcript& answers) {
    for (size_t i = 0; i < std::min(what.calls.size(), answers.size()); ++i) {
      ++calls_;
      Reached& reached = reached_[nameOf(what.calls[i])];
      ++reached.made;
      const std::string word = firstWord(answers[i]);
      if (word[0] == 'E') {
        ++reached.errors[word];
      } else {
        ++reached.succeeded;
      }
    }
  }

  void differs(const Case& what, const Transcript& kernel, const Transcript& software, size_t where) {
    const auto at = [where](const Transcript& side) { return where < side.size() ? side[where] : "nothing"; };
    Difference found{what, where < what.calls.size() ? nameOf(what.calls[where]) : "the end", at(kernel),
                     at(software)};
    found.what.calls.resize(std::min(where + 1, what.calls.size()));
    const std::string key = found.call + " " + firstWord(found.kernel) + " " + firstWord(found.software);
    const auto [known, fresh] = differences_.emplace(key, found);
    if (fresh) {
      std::printf("difference in %s: the kernel: %s, the software host: %s (%s)\n", found.call.c_str(),
                  found.kernel.c_str(), found.software.c_str(), what.name.c_str());
      std::fflush(stdout);
      return;
    }
    ++known->second.times;
    if (found.what.calls.size() < known->second.what.calls.size()) {
      const unsigned times = known->second.times;
      known->second = std::move(found);
      known->second.times = times;
    }
  }

  // Keeps a sequence if it is the first with some result of a command, up to the last such call.
  void keepGood(const Case& what, const Transcript& answers) {
    size_t needed = 0;
    for (size_t i = 0; i < std::min(what.calls.size(), answers.size()); ++i) {
      if (kept_[nameOf(what.calls[i]) + " " + firstWord(answers[i])]++ == 0) needed = i + 1;
    }
    if (needed == 0) return;
    Case answered = what;
    answered.calls.resize(needed);
    answered.answers.assign(answers.begin(), answers.begin() + static_cast<long>(needed));
    good_ += print(answered);
  }

  // Which of the cases have the difference that `key` names.
  std::vector<bool> differ(const std::vector<Case>& cases, const std::string& key) {
    Guest& guest = guests_.at(cases[0].kind);
    const unsigned number = guest.send(cases);
    std::vector<Transcript> software;
    for (const Case& each : cases) software.push_back(fuzz::run(side_, each));
    const std::vector<Transcript> kernel = guest.receive(number);
    std::vector<bool> out;
    for (size_t i = 0; i < cases.size(); ++i) {
      const long where = i < kernel.size() ? firstDifference(kernel[i], software[i]) : -1;
      out.push_back(where >= 0 && keyOf(cases[i], kernel[i], software[i], static_cast<size_t>(where)) == key);
      if (out.back()) last_ = {kernel[i], software[i]};
    }
    return out;
  }

  void shrinkAll() {
    size_t done = 0;
    for (auto& [key, difference] : differences_) {
      if (done++ == kMostShrunk) break;
      const auto differ = [this, &key = key](const std::vector<Case>& cases) {
        return this->differ(cases, key);
      };
      difference.again = differ({difference.what})[0];
      if (!difference.again) continue;
      difference.what = shrink(difference.what, differ);
      differ({difference.what});
      std::printf("\n%s (%u times), shrunk:\n%s", key.c_str(), difference.times,
                  describe(difference.what, last_.first, last_.second).c_str());
      std::fflush(stdout);
      Case answered = difference.what;
      answered.answers = last_.first;
      bad_ += print(answered);
    }
    if (options_.keep.empty()) return;
    std::filesystem::create_directories(options_.keep);
    const std::string base = options_.keep + "/" + std::to_string(options_.seed);
    if (!bad_.empty()) writeFile(base + ".differences", bad_);
    if (!good_.empty()) writeFile(base + ".same", good_);
  }

  void report() const {
    std::printf("\n%-48s %9s %9s  errors\n", "command", "made", "succeeded");
    for (const auto& [name, reached] : reached_) {
      std::string errors;
      for (const auto& [error, times] : reached.errors) errors += error + " " + std::to_string(times) + "  ";
      std::printf("%-48s %9llu %9llu  %s\n", name.c_str(), static_cast<unsigned long long>(reached.made),
                  static_cast<unsigned long long>(reached.succeeded), errors.c_str());
    }
    uint64_t times = 0;
    for (const auto& [key, difference] : differences_) {
      times += difference.times;
      std::printf("difference: %s, %u times%s\n", key.c_str(), difference.times,
                  difference.again ? "" : ", not when run again");
    }
    std::printf(
        "\nseed %llu: %llu sequences, %llu calls in %.1f s (%.1f sequences a second); %llu sequences differ, "
        "in "
        "%zu ways\n",
        static_cast<unsigned long long>(options_.seed), static_cast<unsigned long long>(sequences_),
        static_cast<unsigned long long>(calls_), seconds_, static_cast<double>(sequences_) / seconds_,
        static_cast<unsigned long long>(times), differences_.size());
    if (const char* file = std::getenv("VFIO_TEST_REPORT"); file != nullptr && *file != '\0')
      writeReport(file, times);
  }

  // Writes a report in the format of test/support/reporter.ts. Each sequence counts as a test.
  void writeReport(const std::string& file, uint64_t times) const {
    std::string failures;
    for (const auto& [key, difference] : differences_) {
      failures += (failures.empty() ? "" : ", ") + ("\"" + difference.what.name + ": " + key + "\"");
    }
    char text[256];
    std::snprintf(
        text, sizeof text,
        "  \"backend\": \"differential\",\n  \"node\": \"none\",\n  \"seconds\": %.1f,\n  \"passed\": "
        "%llu,\n  \"failed\": %llu,\n",
        seconds_, static_cast<unsigned long long>(sequences_ - times),
        static_cast<unsigned long long>(times));
    writeFile(file,
              std::string("{\n") + text + "  \"failures\": [" + failures + "],\n  \"skipped\": []\n}\n");
  }

  Options options_;
  std::map<std::string, Guest> guests_;
  const Side side_ = softwareSide(true);
  const uint64_t without_ = lackedCapabilities();
  std::map<std::string, Reached> reached_;
  std::map<std::string, Difference> differences_;  // by keyOf
  std::pair<Transcript, Transcript> last_;
  std::map<std::string, unsigned> kept_;
  std::string good_;
  std::string bad_;
  uint64_t sequences_ = 0;
  uint64_t calls_ = 0;
  double seconds_ = 0;
};

}  // namespace

std::string describe(const Case& what, const Transcript& kernel, const Transcript& software) {
  const long where = firstDifference(kernel, software);
  std::string out;
  for (size_t i = 0; i < what.calls.size(); ++i) {
    out += "  " + print(what.calls[i]) + "\n";
    if (where < 0 || i < static_cast<size_t>(where)) {
      if (i < kernel.size()) out += "      = " + kernel[i] + "\n";
      continue;
    }
    out += "      kernel:   " + (i < kernel.size() ? kernel[i] : "nothing") + "\n";
    out += "      software: " + (i < software.size() ? software[i] : "nothing") + "\n";
    break;
  }
  return out;
}

int campaign(const std::vector<std::string>& arguments) {
  Options options;
  if (!parseOptions(arguments, options)) {
    std::cerr << "diff_fuzz fuzz [--seconds N] [--seed S] [--keep FOLDER] [--replay FILE] KIND=FOLDER ...\n";
    return 2;
  }
  return Campaign(std::move(options)).run();
}

}  // namespace vfio::fuzz
