#include "guest.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

namespace vfio::fuzz {
namespace {

constexpr unsigned kPollMicroseconds = 3000;
constexpr unsigned kSecondsToAnswer = 300;

std::string name(const std::string& folder, unsigned number, const char* what) {
  return folder + "/" + std::to_string(number) + "." + what;
}

}  // namespace

std::string readFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::cerr << path << ": can't be read\n";
    std::exit(2);
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void writeFile(const std::string& path, const std::string& text) {
  const std::string other = path + ".new";
  std::ofstream(other, std::ios::binary) << text;
  if (std::rename(other.c_str(), path.c_str()) != 0) {
    std::perror(path.c_str());
    std::exit(2);
  }
}

unsigned Guest::send(const std::vector<Case>& batch) {
  std::string text;
  for (const Case& each : batch) text += print(each);
  writeFile(name(folder_, next_, "cases"), text);
  return next_++;
}

std::vector<Transcript> Guest::receive(unsigned number) {
  const std::string path = name(folder_, number, "answers");
  uint64_t waited = 0;
  while (access(path.c_str(), F_OK) != 0) {
    const bool gone = access((folder_ + "/gone").c_str(), F_OK) == 0;
    if (gone || waited > uint64_t{kSecondsToAnswer} * 1000000) {
      std::cerr << "the guest " << (gone ? "died" : "does not answer") << "; what it was given is "
                << name(folder_, number, "cases") << "\n";
      std::exit(2);
    }
    usleep(kPollMicroseconds);
    waited += kPollMicroseconds;
  }
  std::vector<Transcript> out(1);
  std::istringstream text(readFile(path));
  for (std::string line; std::getline(text, line);) {
    if (line.empty()) {
      out.emplace_back();
    } else {
      out.back().push_back(line);
    }
  }
  out.pop_back();
  std::filesystem::remove(path);
  std::filesystem::remove(name(folder_, number, "cases"));
  return out;
}

void Guest::quit() { writeFile(folder_ + "/quit", "\n"); }

int serve(const std::string& folder, const Side& side) {
  std::string prepared;
  writeFile(folder + "/ready", "\n");
  for (unsigned number = 0;; ++number) {
    const std::string path = name(folder, number, "cases");
    while (access(path.c_str(), F_OK) != 0) {
      if (access((folder + "/quit").c_str(), F_OK) == 0) return 0;
      usleep(kPollMicroseconds);
    }
    std::string answers;
    for (const Case& each : parseCases(readFile(path))) {
      if (prepared != each.kind) {
        prepare(*side.open(each.kind), each.kind);
        prepared = each.kind;
      }
      for (const std::string& line : run(side, each)) answers += line + "\n";
      answers += "\n";
    }
    writeFile(name(folder, number, "answers"), answers);
  }
}

}  // namespace vfio::fuzz
