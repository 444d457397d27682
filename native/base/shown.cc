#include "shown.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>

namespace vfio {

namespace {

struct Range {
  uint32_t first, last;
};

// Unicode 17: control and format characters, separators of lines and paragraphs, surrogates, characters for
// private use; and the character that replaces bytes that were no text.
constexpr std::array<Range, 27> unseen = {
    {{0x0, 0x1f},        {0x7f, 0x9f},        {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},
     {0x6dd, 0x6dd},     {0x70f, 0x70f},      {0x890, 0x891},     {0x8e2, 0x8e2},     {0x180e, 0x180e},
     {0x200b, 0x200f},   {0x2028, 0x202e},    {0x2060, 0x2064},   {0x2066, 0x206f},   {0xd800, 0xf8ff},
     {0xfeff, 0xfeff},   {0xfff9, 0xfffb},    {0xfffd, 0xfffd},   {0x110bd, 0x110bd}, {0x110cd, 0x110cd},
     {0x13430, 0x1343f}, {0x1bca0, 0x1bca3},  {0x1d173, 0x1d17a}, {0xe0001, 0xe0001}, {0xe0020, 0xe007f},
     {0xf0000, 0xffffd}, {0x100000, 0x10fffd}}};

bool isUnseen(uint32_t point) {
  const auto* const range = std::lower_bound(unseen.begin(), unseen.end(), point,
                                             [](const Range& each, uint32_t at) { return each.last < at; });
  return range != unseen.end() && point >= range->first;
}

struct Character {
  uint32_t point;
  size_t size;  // 0: these bytes are no character
};

Character characterAt(std::string_view text, size_t at) {
  const auto byte = [text, at](size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
  };
  const uint32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  const size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return {first, 0};
  uint32_t point = first & (0x7fU >> size);
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return {first, 0};
    point = point << 6 | (byte(i) & 0x3f);
  }
  constexpr std::array<uint32_t, 5> least = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = point >= 0xd800 && point < 0xe000;
  return point < least[size] || point > 0x10ffff || surrogate ? Character{first, 0} : Character{point, size};
}

std::string hex(uint32_t value) {
  std::array<char, 8> digits;
  return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value, 16).ptr};
}

}  // namespace

std::string shown(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    const auto [point, size] = characterAt(text, at);
    if (size == 0) {
      result += "\\x" + hex(point);
    } else if (isUnseen(point)) {
      result += "\\u{" + hex(point) + "}";
    } else {
      result += text.substr(at, size);
    }
    at += size == 0 ? 1 : size;
  }
  return result;
}

std::string shortened(std::string_view text, size_t most) {
  if (text.size() <= most) return std::string(text);
  size_t end = most;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80 && most - end < 3) --end;
  return std::string(text.substr(0, end)) + "...";
}

}  // namespace vfio
