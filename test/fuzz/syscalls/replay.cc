// Runs the sequences in the given files and folders without a fuzzer, so that errors that were found and
// fixed don't return.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "run.h"

int main(int count, char** arguments) {
  namespace fs = std::filesystem;
  int ran = 0;
  const auto one = [&ran](const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
    vfio::soft::fuzz::run(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    ++ran;
  };
  for (int at = 1; at < count; ++at) {
    if (!fs::is_directory(arguments[at])) {
      one(arguments[at]);
      continue;
    }
    for (const auto& entry : fs::recursive_directory_iterator(arguments[at])) {
      if (entry.is_regular_file()) one(entry.path());
    }
  }
  std::printf("%d sequences\n", ran);
  return ran == 0 ? 1 : 0;
}
