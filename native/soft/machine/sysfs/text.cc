#include "text.h"

#include <cctype>
#include <cerrno>
#include <charconv>

#include "../driver.h"

namespace vfio::soft::machine::sysfs {

int number(std::string_view text, uint64_t most, uint64_t& value) {
  text = trimmed(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto letter = [text](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0; };
  int base = letter(0) == '0' ? 8 : 10;
  if (base == 8 && std::tolower(letter(1)) == 'x' && std::isxdigit(letter(2)) != 0) {
    base = 16;
    text.remove_prefix(2);
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error == std::errc::result_out_of_range) return -ERANGE;
  if (error != std::errc() || end != text.data() + text.size()) return -EINVAL;
  return value > most ? -ERANGE : 0;
}

std::optional<bool> yesOrNo(std::string_view text) {
  const auto letter = [text](size_t i) {
    return i < text.size() ? std::tolower(static_cast<unsigned char>(text[i])) : 0;
  };
  switch (letter(0)) {
    case 'y':
    case 't':
    case '1':
      return true;
    case 'n':
    case 'f':
    case '0':
      return false;
    case 'o':
      if (letter(1) == 'n') return true;
      if (letter(1) == 'f') return false;
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

std::function<int64_t(std::string_view)> storeFlag(bool& flag) {
  return store([&flag](std::string_view text) {
    const auto said = yesOrNo(text);
    if (!said) return -EINVAL;
    flag = *said;
    return 0;
  });
}

Attribute fixed(std::string text) {
  return {[text = std::move(text)](std::string& out) {
            out = text;
            return 0;
          },
          nullptr};
}

}  // namespace vfio::soft::machine::sysfs
