// The function that libFuzzer calls.
#include "run.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vfio::soft::fuzz::run(data, size);
  return 0;
}
