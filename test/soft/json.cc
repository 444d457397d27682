// The reader of JSON, and its messages for texts that are not JSON. Deep or large texts exhaust neither
// memory nor the stack, and no part of a text in a message moves a terminal's cursor.
#include "../../native/soft/topology/json.h"
#include "../../native/soft/topology/catalogue.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../native/base/shown.h"
#include "../../native/soft/machine/numbers.h"
#include "../../native/soft/topology/topology.h"

namespace {

using namespace vfio;
using namespace vfio::soft;

int failures = 0;
void claim(const std::string& text, bool holds) {
  std::printf("%s %s\n", holds ? "ok  " : "FAIL", text.c_str());
  if (!holds) ++failures;
}

// The reader's error for the text; empty: there is none.
std::string refused(const std::string& text) {
  try {
    (void)json::parse(text);
    return {};
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}
std::string refusedTopology(const std::string& text) {
  try {
    (void)topology::readTopology(text, topology::builtinModels());
    return {};
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

std::string repeated(const std::string& part, size_t times) {
  std::string text;
  text.reserve(part.size() * times);
  for (size_t i = 0; i < times; ++i) text += part;
  return text;
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void limits() {
  constexpr size_t kMillion = 1'000'000;
  for (const char* part : {"[", "{\"a\":", "[{\"a\":", "[1,[", "\n[", " [ "}) {
    const std::string said = refused(repeated(part, kMillion));
    claim(std::string("a million times ") + shown(part) + " is an error that says how deep it may be",
          contains(said, "no more than 32 levels"));
  }
  const auto nested = [](size_t depth) { return repeated("[", depth) + repeated("]", depth); };
  claim("33 lists in each other are read", refused(nested(33)).empty());
  claim("... 34 are not", contains(refused(nested(34)), "32 levels"));
  claim("16 MiB of spaces hold no value",
        contains(refused(std::string(size_t{16} << 20, ' ')), "a value of JSON"));
  claim("one byte more is not read at all",
        contains(refused(std::string((size_t{16} << 20) + 1, ' ')), "at most 16777216 bytes"));
  claim("a million values are read", refused("[" + repeated("0,", kMillion - 1) + "0]").empty());
  claim("... 2^20 are not, with the list that they are in",
        contains(refused("[" + repeated("0,", (1 << 20) - 1) + "0]"), "1048576 values"));
  claim("a number of a million digits is read", refused(std::string(kMillion, '1')).empty());
  claim("... and shown in short where it is wrong",
        refusedTopology("{\"devices\":[],\"system\":{\"user\":" + std::string(kMillion, '1') + "}}").size() <
            300);
  claim("... so is a text",
        refusedTopology("{\"devices\":[],\"system\":{\"user\":\"" + std::string(kMillion, 'x') + "\"}}")
                .size() < 300);
  claim(
      "... and a name",
      refused("{\"" + std::string(kMillion, 'x') + "\":1,\"" + std::string(kMillion, 'x') + "\":1}").size() <
          300);
  for (const char* text : {"", " ", "\n", "\t \r\n", "\xef\xbb\xbf", "#"}) {
    claim("\"" + shown(text) + "\" is no topology", !refusedTopology(text).empty());
  }
  for (const char* text :
       {"null", "[]", "\"\"", "0", "true", "{}", "{\"devices\":null}", "{\"devices\":{}}"}) {
    claim(std::string(text) + " is no topology", refusedTopology(text).starts_with("Expected"));
  }
}

// An object has each name only once. The check for that must take the same time per name for any number of
// names.
void names() {
  const auto object = [](size_t names, const std::string& more) {
    std::string text = "{";
    for (size_t i = 0; i < names; ++i) text += "\"n" + std::to_string(i) + "\":0,";
    return text + more + "}";
  };
  claim("a name that is there twice is found among few",
        contains(refused(object(3, "\"n1\":0")), "\"n1\" once"));
  claim("... and among 200,000", contains(refused(object(200'000, "\"n7\":0")), "\"n7\" once"));
  claim("... and one of the last", contains(refused(object(200'000, "\"m\":0,\"m\":0")), "\"m\" once"));
  claim("... and 200,000 different ones are read", refused(object(200'000, "\"m\":0")).empty());
}

// ---------------------------------------------------------------- text in messages

void append(std::string& text, uint32_t point) {
  const auto byte = [&text](uint32_t value) { text += static_cast<char>(value); };
  if (point < 0x80) {
    byte(point);
  } else if (point < 0x800) {
    byte(0xc0 | point >> 6);
    byte(0x80 | (point & 63));
  } else if (point < 0x10000) {
    byte(0xe0 | point >> 12);
    byte(0x80 | (point >> 6 & 63));
    byte(0x80 | (point & 63));
  } else {
    byte(0xf0 | point >> 18);
    byte(0x80 | (point >> 12 & 63));
    byte(0x80 | (point >> 6 & 63));
    byte(0x80 | (point & 63));
  }
}

// Whether a text is plain: UTF-8 without control characters, marks of direction or line separators. It
// compares byte patterns, unlike the code that is tested.
bool plain(const std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto at = [&text, i](size_t k) {
      return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0U;
    };
    if (at(0) < 0x20 || at(0) == 0x7f) return false;
    if (at(0) == 0xc2 && at(1) < 0xa0) return false;                                     // C1
    if (at(0) == 0xe2 && at(1) == 0x80 && at(2) >= 0x8b && at(2) <= 0x8f) return false;  // U+200B to U+200F
    if (at(0) == 0xe2 && at(1) == 0x80 && at(2) >= 0xa8 && at(2) <= 0xae) return false;  // U+2028 to U+202E
    if (at(0) == 0xe2 && at(1) == 0x81 && at(2) >= 0xa6 && at(2) <= 0xaf) return false;  // U+2066 to U+206F
    if (at(0) == 0xd8 && at(1) == 0x9c) return false;                                    // U+061C
    if (at(0) >= 0x80) {
      const size_t size = at(0) >= 0xf0 ? 4 : at(0) >= 0xe0 ? 3 : 2;
      if (at(0) < 0xc2) return false;
      for (size_t k = 1; k < size; ++k) {
        if ((at(k) & 0xc0) != 0x80) return false;
      }
      i += size - 1;
    }
  }
  return true;
}

void whatIsShown() {
  bool all = true;
  bool same = true;
  for (uint32_t point = 0; point < 0x110000; ++point) {
    std::string text = "a";
    append(text, point);
    text += 'b';
    const std::string result = shown(text);
    all = all && plain(result) && result.front() == 'a' && result.back() == 'b';
    if (plain(text) && point < 0x370 && point != 0xad) same = same && result == text;
    if (shown(result) != result) same = false;
  }
  claim("each character is shown as text", all);
  claim("... letters as they are, and what was shown stays as it is", same);
  claim("a control character is its number", shown("a\x1b[2Jb") == "a\\u{1b}[2Jb");
  claim("so is a mark of direction", shown("\xe2\x80\xae") == "\\u{202e}");
  claim("a byte that is no text is too", shown("\x9b\xff\xc3") == "\\x9b\\xff\\xc3");

  uint64_t state = 88172645463325252;
  const auto random = [&state] {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  };
  const auto hostile = [&random] {
    std::string text;
    const size_t size = random() % 60;
    while (text.size() < size) {
      switch (random() % 4) {
        case 0:
          text += static_cast<char>(random());
          break;
        case 1:
          append(text, static_cast<uint32_t>(0x2000 + random() % 0x70));
          break;
        case 2:
          append(text, static_cast<uint32_t>(random() % 0xa0));
          break;
        default:
          text += "\"\\{}[]:, abcn0"[random() % 14];
      }
    }
    return text;
  };
  bool bytes = true;
  bool texts = true;
  bool cut = true;
  unsigned wrong = 0;
  for (int i = 0; i < 10'000; ++i) {
    const std::string text = hostile();
    bytes = bytes && plain(shown(text));
    cut = cut && shortened(text, 20).size() <= 23 && plain(shown(shortened(text, 20)));
    std::string escaped;
    for (const char letter : text) {
      const auto byte = static_cast<unsigned char>(letter);
      constexpr const char* digits = "0123456789abcdef";
      if (byte < 0x20 || letter == '"' || letter == '\\') {
        escaped += std::string("\\u00") + digits[byte >> 4] + digits[byte & 15];
      } else {
        escaped += letter;
      }
    }
    const std::string quoted = "\"" + escaped + "\"";
    for (const std::string& topology :
         {text, "{" + quoted + ":1}", "{\"devices\":" + quoted + "}", "{" + quoted + ":1," + quoted + ":2}",
          "{\"devices\":[],\"iommus\":[{\"kind\":" + quoted + "}]}",
          "{\"devices\":[{\"model\":" + quoted + "}]}",
          "{\"devices\":[{\"model\":\"edu\",\"bdf\":" + quoted + "}]}",
          "{\"devices\":[{\"model\":\"edu\",\"bdf\":\"0000:00:01.0\",\"mdevs\":[" + quoted + "]}]}",
          "{\"devices\":[{\"model\":\"edu\",\"bdf\":\"0000:00:01.0\",\"disk\":{\"name\":" + quoted +
              "}}]}"}) {
      const std::string said = refusedTopology(topology);
      texts = texts && plain(said);
      wrong += said.empty() ? 0 : 1;
    }
  }
  claim("10,000 texts of bytes and hostile characters are shown as plain text", bytes);
  claim("... also when they are cut", cut);
  claim("... and what is said of topologies with them is plain", texts && wrong > 50'000);
}

void numbers() {
  // Compares with a simple search for the lowest free number.
  machine::Numbers numbers;
  std::vector<bool> taken(200);
  uint64_t state = 1;
  bool same = true;
  for (int i = 0; i < 100'000; ++i) {
    state = state * 6364136223846793005 + 1442695040888963407;
    const auto which = static_cast<unsigned>(state >> 33) % 200;
    const auto lowest = static_cast<unsigned>(std::find(taken.begin(), taken.end(), false) - taken.begin());
    same = same && numbers.lowest() == lowest;
    if (taken[which]) {
      numbers.giveBack(which);
      taken[which] = false;
    } else if ((state >> 60) % 2 == 0) {
      numbers.take(which);
      taken[which] = true;
    } else {
      same = same && numbers.take() == lowest;
      taken[lowest] = true;
    }
  }
  claim("the number that is handed out is the lowest that nobody has", same);
}

}  // namespace

int main() {
  limits();
  names();
  whatIsShown();
  numbers();
  return failures == 0 ? 0 : 1;
}
