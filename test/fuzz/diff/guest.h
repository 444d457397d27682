// The fuzzer's connection to a real kernel: a guest that runs batches of sequences and returns their
// transcripts.
//
// Batches and answers are files in a folder that both sides can access ("N.cases", "N.answers"). Each is
// written under another name and then renamed. The guest takes the batches in the order of their numbers,
// until there is a file "quit".
#pragma once

#include <string>
#include <vector>

#include "execute.h"
#include "sequence.h"

namespace vfio::fuzz {

class Guest {
 public:
  explicit Guest(std::string folder) : folder_(std::move(folder)) {}

  // Sends a batch and returns its number.
  unsigned send(const std::vector<Case>& batch);
  // The transcripts of a batch, in order. Ends the program if the guest has ended, or does not answer in
  // time.
  [[nodiscard]] std::vector<Transcript> receive(unsigned number);
  void quit();

 private:
  std::string folder_;
  unsigned next_ = 0;
};

// The other end of the connection. In the guest, `side` is the kernel.
int serve(const std::string& folder, const Side& side);

[[nodiscard]] std::string readFile(const std::string& path);
void writeFile(const std::string& path, const std::string& text);

}  // namespace vfio::fuzz
