// Compares our decoder of loads and stores with Zydis, on random instructions of x86-64 with every kind of
// prefix, each with an operand in memory. An instruction that ours decodes must have the same length and the
// same operand, and read and write it alike. Ours may return nothing for an instruction. Bytes that are no
// instruction are not compared: a processor refuses them before it touches memory.
//
// Arguments: the number of instructions, and the seed. Prints each kind of difference once, and the totals.
#include <Zydis/Zydis.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>

#include "../../native/preload/instruction.h"

namespace {

using vfio::preload::Instruction;

struct Theirs {
  ZydisDecodedInstruction instruction;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

std::string hex(const uint8_t* code, size_t size) {
  std::string text;
  char one[4];
  for (size_t i = 0; i < size; ++i) {
    std::snprintf(one, sizeof one, "%02x ", code[i]);
    text += one;
  }
  return text;
}

unsigned numberOf(ZydisRegister name) {
  if (name == ZYDIS_REGISTER_NONE) return 16;
  if (name == ZYDIS_REGISTER_RIP) return 17;
  return static_cast<unsigned>(ZydisRegisterGetId(name));
}

// The operand in memory; null if there is none.
const ZydisDecodedOperand* memoryOf(const Theirs& theirs) {
  const ZydisDecodedOperand* memory = nullptr;
  for (unsigned i = 0; i < theirs.instruction.operand_count; ++i) {
    const ZydisDecodedOperand& operand = theirs.operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY && operand.visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
        operand.actions != 0)
      memory = &operand;
  }
  return memory;
}

// The name of the part that differs; empty: no part differs.
std::string compare(const Instruction& ours, const Theirs& theirs) {
  if (ours.length != theirs.instruction.length) return "length";
  // A string instruction has fixed operands, and an instruction that flushes caches accesses no bytes.
  if (ours.string != Instruction::String::none || ours.width == 0) return {};
  const ZydisDecodedOperand* const memory = memoryOf(theirs);
  if (memory == nullptr) return "no operand in memory";
  if (ours.base != numberOf(memory->mem.base)) return "base";
  if (ours.index != numberOf(memory->mem.index)) return "index";
  if (ours.index != 16 && ours.scale != memory->mem.scale) return "scale";
  if (ours.displacement != memory->mem.disp.value) return "displacement";
  const bool segment = memory->mem.segment == ZYDIS_REGISTER_FS || memory->mem.segment == ZYDIS_REGISTER_GS;
  if (ours.segment != segment) return "segment";
  if (ours.width * 8 != memory->size) return "width";
  if (ours.reads != ((memory->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0)) return "reads";
  if (ours.writes != ((memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0)) return "writes";
  return {};
}

class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  // Random bytes in the form of an instruction.
  void next(uint8_t (&code)[24]) {
    for (uint8_t& byte : code) byte = static_cast<uint8_t>(random_());
    size_t at = 0;
    const auto put = [&](unsigned byte) { code[at++] = static_cast<uint8_t>(byte); };
    static constexpr uint8_t kPrefixes[] = {0x66, 0xf2, 0xf3, 0x64, 0x65, 0x2e, 0xf0};
    const unsigned form = pick(8);
    if (form < 5) {
      for (unsigned i = pick(3); i != 0; --i) put(kPrefixes[pick(sizeof kPrefixes)]);
      if (pick(2) == 0) put(0x40 + pick(16));
      if (form >= 2) put(0x0f);
      if (form == 3) put(0x38);
      if (form == 4) put(0x3a);
    } else if (form == 5) {
      put(0xc5);
      put(pick(256));
    } else if (form == 6) {
      put(0xc4);
      put((pick(8) << 5) | (1 + pick(3)));
      put(pick(256));
    } else {
      put(0x62);
      put((pick(16) << 4) | (1 + pick(3)));
      put(pick(256) | 4);
      put(pick(2) == 0 ? pick(4) << 5 | 8 : pick(256));
    }
    put(pick(256));
    code[at] = static_cast<uint8_t>(pick(3) << 6 | pick(64));  // an operand in memory
  }

 private:
  unsigned pick(unsigned below) { return static_cast<unsigned>(random_() % below); }
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  const long count = argc > 1 ? std::strtol(argv[1], nullptr, 0) : 1'000'000;
  Generator generator(argc > 2 ? std::strtoull(argv[2], nullptr, 0) : 1);
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  long both = 0, unknown = 0, none = 0, differ = 0;
  std::map<std::string, long> seen;
  for (long i = 0; i < count; ++i) {
    uint8_t code[24];
    generator.next(code);
    const auto ours = vfio::preload::decode(code, 15);  // the greatest length of an instruction
    Theirs theirs;
    const bool valid =
        ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, 15, &theirs.instruction, theirs.operands));
    if (!ours) {
      ++(valid && memoryOf(theirs) != nullptr ? unknown : none);
      continue;
    }
    if (!valid) {
      ++none;
      continue;
    }
    const std::string what = compare(*ours, theirs);
    if (what.empty()) {
      ++both;
      continue;
    }
    ++differ;
    const std::string name = ZydisMnemonicGetString(theirs.instruction.mnemonic);
    if (++seen[what + " of " + name] == 1)
      std::printf("%s of %s: %s\n", what.c_str(), name.c_str(), hex(code, ours->length).c_str());
  }
  std::printf("%ld instructions: %ld decoded alike, %ld unknown to ours, %ld differ; %ld are none\n", count,
              both, unknown, differ, none);
  return differ == 0 && both > count / 20 ? 0 : 1;
}
