// The fuzzer's command line. `npm run fuzz:diff` (run.sh) starts the guests and calls `fuzz`; docs/fuzzing.md
// explains.
//
//   diff_fuzz fuzz [--seconds N] [--seed S] [--keep FOLDER] [--replay FILE] KIND=FOLDER ...
//   diff_fuzz serve FOLDER                    in the guest
//   diff_fuzz serve-software FOLDER           instead of a guest, for the fuzzer's own test
//   diff_fuzz check FILE ...                  the software host against answers that the kernel gave
//   diff_fuzz run kernel|software FILE        cases with one side's answers
//   diff_fuzz generate KIND SEED              one case
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "campaign.h"
#include "execute.h"
#include "generate.h"
#include "guest.h"
#include "sequence.h"

using namespace vfio::fuzz;

namespace {

int check(const std::vector<std::string>& files) {
  const Side side = softwareSide(true);
  unsigned failures = 0;
  for (const std::string& file : files) {
    const std::vector<Case> cases = parseCases(readFile(file));
    size_t answers = 0;
    unsigned wrong = 0;
    for (const Case& each : cases) {
      answers += each.answers.size();
      const Transcript got = run(side, each);
      const long where = firstDifference(each.answers, got);
      if (where < 0) continue;
      ++wrong;
      std::cout << "FAIL " << file << ": " << each.name << "\n" << describe(each, each.answers, got);
    }
    failures += wrong;
    std::cout << (wrong == 0 ? "ok   " : "FAIL ") << "the kernel's " << answers << " answers to "
              << cases.size() << " sequences of " << file.substr(file.rfind('/') + 1) << "\n";
  }
  return failures == 0 ? 0 : 1;
}

int runOne(const std::string& which, const std::string& file) {
  const Side side = which == "kernel" ? kernelSide() : softwareSide(true);
  std::string prepared;
  for (Case& each : parseCases(readFile(file))) {
    if (which == "kernel" && prepared != each.kind) prepare(*side.open(each.kind), each.kind);
    prepared = each.kind;
    each.answers = run(side, each);
    std::cout << print(each);
  }
  return 0;
}

}  // namespace

int main(int count, char** values) {
  const std::vector<std::string> arguments(values + 1, values + count);
  const std::string command = arguments.empty() ? "" : arguments[0];
  const std::vector<std::string> rest(arguments.begin() + (arguments.empty() ? 0 : 1), arguments.end());
  if (command == "fuzz") return campaign(rest);
  if (command == "serve" && rest.size() == 1) return serve(rest[0], kernelSide());
  if (command == "serve-software" && rest.size() == 1) return serve(rest[0], softwareSide(false));
  if (command == "check" && !rest.empty()) return check(rest);
  if (command == "run" && rest.size() == 2) return runOne(rest[0], rest[1]);
  if (command == "generate" && rest.size() == 2) {
    std::cout << print(generate(rest[0], std::strtoull(rest[1].c_str(), nullptr, 0)));
    return 0;
  }
  std::cerr << "diff_fuzz fuzz|serve|check|run|generate ...: see test/fuzz/diff/main.cc\n";
  return 2;
}
