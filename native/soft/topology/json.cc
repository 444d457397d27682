// A recursive descent parser. Nesting is limited, so that no text can exhaust the stack.
#include "json.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <stdexcept>

#include "../../base/shown.h"

namespace vfio::soft::json {

namespace {

constexpr unsigned deepest = 32;
// Their number is limited too, since a value takes some 100 bytes, however short its text is.
constexpr size_t longest = size_t{16} << 20;
constexpr size_t mostValues = size_t{1} << 20;

bool isDigit(char c) { return c >= '0' && c <= '9'; }

void appendUtf8(std::string& text, uint32_t point) {
  const auto byte = [&text](uint32_t value) { text += static_cast<char>(value); };
  const auto tail = [&](unsigned shift) { byte(0x80 | (point >> shift & 0x3f)); };
  if (point < 0x80) {
    byte(point);
  } else if (point < 0x800) {
    byte(0xc0 | point >> 6);
    tail(0);
  } else if (point < 0x10000) {
    byte(0xe0 | point >> 12);
    tail(6);
    tail(0);
  } else {
    byte(0xf0 | point >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text)
      : text_(text), line_(text.find('\n') == std::string_view::npos ? 0 : 1) {}

  Value whole() {
    if (text_.size() > longest) {
      throw std::invalid_argument("Expected at most " + std::to_string(longest) +
                                  " bytes of JSON but received " + std::to_string(text_.size()));
    }
    Value result = value(0);
    skipSpace();
    if (at_ != text_.size()) refuse("nothing", "after the value");
    return result;
  }

 private:
  [[noreturn]] void refuse(const char* expected, const char* where) const {
    std::string received = "the end of the text";
    if (at_ < text_.size()) {
      const auto c = static_cast<unsigned char>(text_[at_]);
      received = c > ' ' && c < 0x7f ? std::string(1, text_[at_]) : "the byte " + std::to_string(c);
    }
    throw std::invalid_argument(lineText(line_) + "Expected " + expected + " " + where + " but received " +
                                received);
  }

  [[nodiscard]] char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char wanted) {
    if (at_ == text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void skipSpace() {
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
      if (c == '\n') ++line_;
    }
  }

  Value value(unsigned depth) {
    skipSpace();
    if (depth > deepest) refuse("no more than 32 levels", "of lists and objects");
    if (++values_ > mostValues) refuse("no more than 1048576 values", "in a text");
    Value result;
    result.line = line_;
    const char first = peek();
    if (first == '{') {
      object(result, depth);
    } else if (first == '[') {
      list(result, depth);
    } else if (first == '"') {
      result.kind = Value::Kind::string;
      result.text = string();
    } else if (first == '-' || isDigit(first)) {
      result.kind = Value::Kind::number;
      result.text = number();
    } else if (word("true") || word("false")) {
      result.kind = Value::Kind::boolean;
      result.boolean = first == 't';
    } else if (!word("null")) {
      refuse("a value", "of JSON");
    }
    return result;
  }

  bool word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  // Whether the object has a member of this name. If it has many members, `names` contains their names, so
  // that this is fast.
  static bool isKnown(const Value& object, std::set<std::string>& names, const std::string& name) {
    constexpr size_t few = 32;
    if (object.members.size() < few) return object.find(name) != nullptr;
    if (names.empty()) {
      for (const auto& member : object.members) names.insert(member.name);
    }
    return !names.insert(name).second;
  }

  void object(Value& result, unsigned depth) {
    result.kind = Value::Kind::object;
    std::set<std::string> names;
    ++at_;
    skipSpace();
    if (take('}')) return;
    for (;;) {
      skipSpace();
      if (peek() != '"') refuse("a name in quotes", "in an object");
      std::string name = string();
      if (isKnown(result, names, name)) {
        throw std::invalid_argument(lineText(line_) + "Expected the name \"" + shown(shortened(name, 40)) +
                                    "\" once in an object but received it twice");
      }
      skipSpace();
      if (!take(':')) refuse("a colon", "after a name");
      result.members.push_back({std::move(name), value(depth + 1)});
      skipSpace();
      if (take('}')) return;
      if (!take(',')) refuse("a comma or }", "in an object");
    }
  }

  void list(Value& result, unsigned depth) {
    result.kind = Value::Kind::list;
    ++at_;
    skipSpace();
    if (take(']')) return;
    for (;;) {
      result.items.push_back(value(depth + 1));
      skipSpace();
      if (take(']')) return;
      if (!take(',')) refuse("a comma or ]", "in a list");
    }
  }

  void digits() {
    if (!isDigit(peek())) refuse("a digit", "in a number");
    while (isDigit(peek())) ++at_;
  }

  std::string number() {
    const size_t start = at_;
    take('-');
    if (take('0')) {
      if (isDigit(peek())) refuse("no digit", "after a leading 0");
    } else {
      digits();
    }
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    return std::string(text_.substr(start, at_ - start));
  }

  uint32_t unit() {
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const bool lower = c >= 'a' && c <= 'f';
      if (!isDigit(c) && !lower && !(c >= 'A' && c <= 'F')) refuse("four hexadecimal digits", "after \\u");
      result = result << 4 | static_cast<uint32_t>(isDigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return result;
  }

  void escape(std::string& into) {
    constexpr std::string_view names = "\"\\/bfnrt";
    constexpr std::string_view meanings = "\"\\/\b\f\n\r\t";
    if (take('u')) {
      uint32_t point = unit();
      if (point >= 0xd800 && point < 0xdc00) {
        if (!word("\\u")) refuse("the second half of a pair", "after \\ud800-\\udbff");
        const uint32_t low = unit();
        if (low < 0xdc00 || low > 0xdfff) refuse("the second half of a pair", "before this");
        point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
      } else if (point >= 0xdc00 && point < 0xe000) {
        refuse("the first half of a pair", "before this");
      }
      appendUtf8(into, point);
      return;
    }
    const size_t which = at_ < text_.size() ? names.find(peek()) : std::string_view::npos;
    if (which == std::string_view::npos) refuse("one of \" \\ / b f n r t u", "after a backslash");
    into += meanings[which];
    ++at_;
  }

  std::string string() {
    std::string result;
    ++at_;
    while (!take('"')) {
      if (at_ == text_.size() || static_cast<unsigned char>(peek()) < ' ')
        refuse("a closing quote", "of a string");
      if (take('\\')) {
        escape(result);
      } else {
        result += text_[at_++];
      }
    }
    return result;
  }

  const std::string_view text_;
  size_t at_ = 0;
  unsigned line_;
  size_t values_ = 0;
};

}  // namespace

std::string lineText(unsigned line) {
  return line == 0 ? std::string() : "line " + std::to_string(line) + ": ";
}

const Value* Value::find(std::string_view name) const {
  const auto found =
      std::find_if(members.begin(), members.end(), [name](const auto& each) { return each.name == name; });
  return found == members.end() ? nullptr : &found->value;
}

std::string Value::shown() const {
  constexpr size_t most = 40;
  switch (kind) {
    case Kind::null:
      return "null";
    case Kind::boolean:
      return boolean ? "true" : "false";
    case Kind::number:
      return shortened(text, most);
    case Kind::string:
      return '"' + vfio::shown(shortened(text, most)) + '"';
    case Kind::list:
      return "a list of " + std::to_string(items.size());
    default:
      return "an object";
  }
}

Value parse(std::string_view text) { return Parser(text).whole(); }

}  // namespace vfio::soft::json
