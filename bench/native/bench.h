// The baselines of the benchmarks: the same jobs in plain C++, in the same process as the TypeScript that
// they are compared with. Each file adds its functions to the addon; bench/addon.ts has their types.
#pragma once

#include <napi.h>

namespace vfio::bench {

void addRegisters(Napi::Env env, Napi::Object exports);
void addMappings(Napi::Env env, Napi::Object exports);
void addInterrupts(Napi::Env env, Napi::Object exports);
void addStart(Napi::Env env, Napi::Object exports);
void addSoftware(Napi::Env env, Napi::Object exports);

// Throws an error if a system call failed, which `result` says by -errno. Returns any other result.
int64_t checked(Napi::Env env, int64_t result, const char* what);

}  // namespace vfio::bench
