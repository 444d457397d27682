// The tables are Intel's opcode maps, as far as needed.
#include "instruction.h"

namespace vfio::preload {

namespace {

enum class Map { one, two, three38, three3a };

// What an opcode does with its memory operand.
struct Shape {
  unsigned width;
  bool reads, writes;
  unsigned immediate = 0;
};
using Found = std::optional<Shape>;

Shape load(unsigned width, unsigned immediate = 0) { return {width, true, false, immediate}; }
Shape store(unsigned width, unsigned immediate = 0) { return {width, false, true, immediate}; }
Shape both(unsigned width, unsigned immediate = 0) { return {width, true, true, immediate}; }

struct Prefixes {
  bool operand = false;  // 66
  unsigned repeat = 0;   // f2, f3 or 0
  bool wide = false;     // REX.W and its like
  unsigned vector = 16;  // bytes of a full vector
  bool modern = false;   // VEX or EVEX
};

unsigned operandSize(const Prefixes& p) { return p.wide ? 8 : p.operand ? 2 : 4; }
// Of push and pop.
unsigned stackSize(const Prefixes& p) { return p.operand && !p.wide ? 2 : 8; }
unsigned immediateSize(unsigned size) { return size == 8 ? 4 : size; }

// The eight operations of the old arithmetic; the last one, cmp, writes nothing.
Found arithmetic(unsigned operation, unsigned size, unsigned immediate) {
  return operation == 7 ? load(size, immediate) : both(size, immediate);
}

Found oneByte(unsigned opcode, const Prefixes& p, unsigned reg) {
  const unsigned size = operandSize(p);
  const unsigned either = (opcode & 1) == 0 ? 1 : size;
  if (opcode < 0x40 && (opcode & 7) < 4) {
    return (opcode & 7) < 2 ? arithmetic(opcode >> 3, either, 0) : Found(load(either));
  }
  switch (opcode) {
    case 0x63:
      return load(4);
    case 0x69:
      return load(size, immediateSize(size));
    case 0x6b:
      return load(size, 1);
    case 0x80:
      return arithmetic(reg, 1, 1);
    case 0x81:
      return arithmetic(reg, size, immediateSize(size));
    case 0x83:
      return arithmetic(reg, size, 1);
    case 0x84:
    case 0x85:
    case 0x8a:
    case 0x8b:
      return load(either);
    case 0x86:
    case 0x87:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
      return both(either);
    case 0x88:
    case 0x89:
      return store(either);
    case 0x8f:
      return reg == 0 ? Found(store(stackSize(p))) : std::nullopt;
    case 0xc0:
    case 0xc1:
      return both(either, 1);
    case 0xc6:
      return reg == 0 ? Found(store(1, 1)) : std::nullopt;
    case 0xc7:
      return reg == 0 ? Found(store(size, immediateSize(size))) : std::nullopt;
    case 0xf6:
    case 0xf7:
      if (reg < 2) return load(either, immediateSize(either));
      return reg < 4 ? both(either) : load(either);
    case 0xfe:
    case 0xff:
      if (reg < 2) return both(either);
      return opcode == 0xff && reg == 6 ? Found(load(stackSize(p))) : std::nullopt;
    default:
      return std::nullopt;
  }
}

// Single and double, alone or as many as a vector has.
unsigned floatWidth(const Prefixes& p) { return p.repeat == 0xf3 ? 4 : p.repeat == 0xf2 ? 8 : p.vector; }

Found twoBytes(unsigned opcode, const Prefixes& p, unsigned reg) {
  const unsigned size = operandSize(p);
  // Without a prefix these are MMX.
  const unsigned packed = p.operand || p.repeat != 0 || p.modern ? p.vector : 8;
  if (opcode >= 0x40 && opcode <= 0x4f && !p.modern) return load(size);
  if (opcode >= 0x90 && opcode <= 0x9f && !p.modern) return store(1);
  if (opcode >= 0x60 && opcode <= 0x62) return load(packed == 8 ? 4 : packed);
  if ((opcode >= 0x63 && opcode <= 0x6d) || (opcode >= 0x74 && opcode <= 0x76)) return load(packed);
  switch (opcode) {
    case 0x10:
    case 0x51:
    case 0x54:
    case 0x55:
    case 0x56:
    case 0x57:
    case 0x58:
    case 0x59:
    case 0x5c:
    case 0x5d:
    case 0x5e:
    case 0x5f:
      return load(floatWidth(p));
    case 0x11:
      return store(floatWidth(p));
    case 0x12:
    case 0x16:
      return p.repeat == 0 ? Found(load(8)) : std::nullopt;
    case 0x13:
    case 0x17:
      return store(8);
    case 0x28:
      return load(p.vector);
    case 0x29:
      return store(p.vector);
    case 0x2b:
      return store(floatWidth(p));
    case 0x2a:
      return p.repeat != 0 ? Found(load(p.wide ? 8 : 4)) : std::nullopt;
    case 0x2c:
    case 0x2d:
      return p.repeat != 0 ? Found(load(p.repeat == 0xf3 ? 4 : 8)) : std::nullopt;
    case 0x2e:
    case 0x2f:
      return load(p.operand ? 8 : 4);
    case 0x6e:
      return load(p.wide ? 8 : 4);
    case 0x6f:
      return load(packed);
    case 0x70:
      return load(packed, 1);
    case 0x7e:
      return p.repeat == 0xf3 ? load(8) : store(p.wide ? 8 : 4);
    case 0x7f:
    case 0xe7:
      return store(packed);
    case 0xa4:
    case 0xac:
      return both(size, 1);
    case 0xa5:
    case 0xad:
      return both(size);
    case 0xae:
      if (reg == 2) return load(4);
      if (reg == 3) return store(4);
      return reg == 7 ? Found(Shape{0, false, false}) : std::nullopt;  // a flush of the caches
    case 0xaf:
    case 0xb8:
    case 0xbc:
    case 0xbd:
      return load(size);
    case 0xb0:
    case 0xc0:
      return both(1);
    case 0xb1:
    case 0xc1:
      return both(size);
    case 0xb6:
    case 0xbe:
      return load(1);
    case 0xb7:
    case 0xbf:
      return load(2);
    case 0xba:
      if (reg < 4) return std::nullopt;
      return reg == 4 ? load(size, 1) : both(size, 1);
    case 0xc2:
      return load(floatWidth(p), 1);
    case 0xc3:
      return store(size);
    case 0xc6:
      return load(p.vector, 1);
    case 0xc7:
      return reg == 1 ? Found(both(p.wide ? 16 : 8)) : std::nullopt;
    case 0xd6:
      return p.operand ? Found(store(8)) : std::nullopt;
    case 0xd7:
    case 0xf7:
      return std::nullopt;
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xe1:
    case 0xe2:
    case 0xf1:
    case 0xf2:
    case 0xf3:
      return load(packed == 8 ? 8 : 16);  // how far to shift: never more than 16 bytes
    case 0xe6:
      if (p.repeat != 0xf3) return load(p.vector);
      return p.modern && p.wide ? std::nullopt : Found(load(p.vector / 2));
    default:
      return opcode >= 0xd1 && opcode <= 0xfe ? Found(load(packed)) : std::nullopt;
  }
}

Found threeBytes38(unsigned opcode, const Prefixes& p) {
  const unsigned size = operandSize(p);
  if (!p.modern && (opcode == 0xf0 || opcode == 0xf1)) {
    if (p.repeat == 0xf2) return load(opcode == 0xf0 ? 1 : size);  // crc32
    return opcode == 0xf0 ? load(size) : store(size);              // movbe
  }
  if (p.modern && (opcode == 0xf2 || opcode == 0xf3 || opcode == 0xf5 || opcode == 0xf7))
    return load(p.wide ? 8 : 4);
  if (!p.operand) return std::nullopt;
  if (opcode <= 0x0b || opcode == 0x17 || (opcode >= 0x1c && opcode <= 0x1e) || opcode == 0x28 ||
      opcode == 0x29 || opcode == 0x2a || opcode == 0x2b || (opcode >= 0x37 && opcode <= 0x40)) {
    return load(p.vector);
  }
  if (!p.modern) return std::nullopt;
  switch (opcode) {
    case 0x78:
      return load(1);
    case 0x79:
      return load(2);
    case 0x18:
    case 0x58:
      return load(4);
    case 0x19:
    case 0x59:
      return load(8);
    case 0x1a:
    case 0x5a:
      return load(16);
    default:
      return std::nullopt;
  }
}

Found threeBytes3a(unsigned opcode, const Prefixes& p) {
  switch (opcode) {
    case 0x0f:
      return load(p.operand ? p.vector : 8, 1);
    case 0x14:
      return store(1, 1);
    case 0x15:
      return store(2, 1);
    case 0x16:
      return store(p.wide ? 8 : 4, 1);
    case 0x17:
      return store(4, 1);
    case 0x18:
    case 0x38:
      return load(16, 1);
    case 0x19:
    case 0x39:
      return store(16, 1);
    case 0x1a:
    case 0x3a:
      return load(32, 1);
    case 0x1b:
    case 0x3b:
      return store(32, 1);
    case 0x20:
      return load(1, 1);
    case 0x21:
      return load(4, 1);
    case 0x22:
      return load(p.wide ? 8 : 4, 1);
    default:
      return std::nullopt;
  }
}

class Decoder {
 public:
  Decoder(const uint8_t* code, size_t size) : code_(code), size_(size) {}

  std::optional<Instruction> run() {
    if (!prefixes()) return std::nullopt;
    const unsigned opcode = next();
    if (map_ == Map::one && !prefixes_.modern && isString(opcode)) return string(opcode);
    emit(opcode);
    const unsigned modrm = next();
    if (modrm >> 6 == 3 || failed_) return std::nullopt;
    const unsigned reg = modrm >> 3 & 7;
    emit(reg << 3 | 5);  // relative to the next instruction
    place(modrm);
    const Found shape = map_ == Map::one       ? oneByte(opcode, prefixes_, reg)
                        : map_ == Map::two     ? twoBytes(opcode, prefixes_, reg)
                        : map_ == Map::three38 ? threeBytes38(opcode, prefixes_)
                                               : threeBytes3a(opcode, prefixes_);
    if (!shape || (prefixes_.modern && map_ == Map::one)) return std::nullopt;
    result_.displacementAt = result_.rewrittenLength;
    for (int i = 0; i < 4; ++i) emit(0);
    for (unsigned i = 0; i < shape->immediate; ++i) emit(next());
    if (failed_) return std::nullopt;
    result_.length = at_;
    // EVEX counts a short displacement in operands.
    if (compressed_ && short_) result_.displacement *= shape->width;
    result_.width = shape->width;
    result_.reads = shape->reads;
    result_.writes = shape->writes;
    return result_;
  }

 private:
  unsigned next() {
    if (at_ >= size_) {
      failed_ = true;
      return 0;
    }
    return code_[at_++];
  }
  void emit(unsigned byte) { result_.rewritten[result_.rewrittenLength++] = static_cast<uint8_t>(byte); }

  // Up to the opcode. False: not known.
  bool prefixes() {
    for (; at_ < 6; ++at_) {
      const unsigned byte = at_ < size_ ? code_[at_] : 0;
      if (byte == 0x66) prefixes_.operand = true;
      if (byte == 0xf2 || byte == 0xf3) prefixes_.repeat = byte;
      if (byte == 0x64 || byte == 0x65) result_.segment = true;
      const bool kept = byte == 0x66 || byte == 0xf2 || byte == 0xf3 || byte == 0xf0;
      const bool dropped =
          byte == 0x64 || byte == 0x65 || byte == 0x2e || byte == 0x36 || byte == 0x3e || byte == 0x26;
      if (kept) emit(byte);
      if (!kept && !dropped) break;
    }
    const unsigned first = at_ < size_ ? code_[at_] : 0;
    if (first == 0xc5 || first == 0xc4 || first == 0x62) return modern(first);
    if (first >> 4 == 4) {
      ++at_;
      emit(first);
      prefixes_.wide = (first & 8) != 0;
      indexHigh_ = (first & 2) != 0 ? 8 : 0;
      baseHigh_ = (first & 1) != 0 ? 8 : 0;
    }
    if (at_ < size_ && code_[at_] == 0x0f) {
      emit(next());
      map_ = Map::two;
      const unsigned second = at_ < size_ ? code_[at_] : 0;
      if (second == 0x38 || second == 0x3a) {
        emit(next());
        map_ = second == 0x38 ? Map::three38 : Map::three3a;
      }
    }
    return !failed_;
  }

  bool modern(unsigned first) {
    prefixes_.modern = true;
    emit(next());
    unsigned last = next();
    emit(last);
    if (first != 0xc5) {
      // X and B are inverted, and mean nothing in the rewritten form.
      indexHigh_ = (last & 0x40) == 0 ? 8 : 0;
      baseHigh_ = (last & 0x20) == 0 ? 8 : 0;
      const unsigned map = last & (first == 0xc4 ? 0x1f : 0x07);
      if (map < 1 || map > 3) return false;
      map_ = map == 1 ? Map::two : map == 2 ? Map::three38 : Map::three3a;
      last = next();
      emit(last);
      prefixes_.wide = (last & 0x80) != 0;
    } else {
      map_ = Map::two;
    }
    prefixes_.operand = (last & 3) == 1;
    prefixes_.repeat = (last & 3) == 2 ? 0xf3 : (last & 3) == 3 ? 0xf2 : 0;
    if (first == 0x62) {
      const unsigned third = next();
      emit(third);
      if ((third & 0x17) != 0) return false;  // broadcasts and masks
      prefixes_.vector = 16U << (third >> 5 & 3);
      compressed_ = true;
    } else {
      prefixes_.vector = (last & 4) != 0 ? 32 : 16;
    }
    return !failed_;
  }

  static bool isString(unsigned opcode) {
    return opcode == 0xa4 || opcode == 0xa5 || (opcode >= 0xaa && opcode <= 0xad);
  }
  std::optional<Instruction> string(unsigned opcode) {
    if (result_.segment || failed_) return std::nullopt;
    result_.string = opcode <= 0xa5   ? Instruction::String::move
                     : opcode <= 0xab ? Instruction::String::store
                                      : Instruction::String::load;
    result_.repeats = prefixes_.repeat != 0;
    result_.width = (opcode & 1) == 0 ? 1 : operandSize(prefixes_);
    result_.length = at_;
    return result_;
  }

  int64_t number(unsigned size) {
    uint64_t value = 0;
    for (unsigned i = 0; i < size; ++i) value |= uint64_t{next()} << 8 * i;
    return size == 1 ? static_cast<int8_t>(value) : static_cast<int32_t>(value);
  }

  void place(unsigned modrm) {
    const unsigned mode = modrm >> 6;
    const unsigned rm = modrm & 7;
    if (rm == 4) {
      const unsigned sib = next();
      const unsigned index = (sib >> 3 & 7) + indexHigh_;
      if (index != 4) {
        result_.index = index;
        result_.scale = 1U << (sib >> 6);
      }
      if ((sib & 7) != 5 || mode != 0) {
        result_.base = (sib & 7) + baseHigh_;
      } else {
        result_.displacement = number(4);
      }
    } else if (rm == 5 && mode == 0) {
      result_.base = 17;
      result_.displacement = number(4);
    } else {
      result_.base = rm + baseHigh_;
    }
    short_ = mode == 1;
    if (mode == 1) result_.displacement = number(1);
    if (mode == 2) result_.displacement = number(4);
  }

  const uint8_t* code_;
  const size_t size_;
  unsigned at_ = 0;
  bool failed_ = false;
  bool compressed_ = false;
  bool short_ = false;
  Map map_ = Map::one;
  Prefixes prefixes_;
  unsigned indexHigh_ = 0, baseHigh_ = 0;
  Instruction result_;
};

}  // namespace

std::optional<Instruction> decode(const uint8_t* code, size_t size) { return Decoder(code, size).run(); }

}  // namespace vfio::preload
