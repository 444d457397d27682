#include "sequence.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>

namespace vfio::fuzz {
namespace {

constexpr std::array kOps = {"open",  "eventfd", "close",  "dup",  "ioctl", "read",
                             "write", "pread",   "pwrite", "poll", "mmap",  "munmap",
                             "store", "count",   "signal", "dma",  "limit"};

std::string hex(uint64_t number) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%llx", static_cast<unsigned long long>(number));
  return text.data();
}

bool parseHex(std::string_view text, uint64_t& number) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number, 16);
  return result.ec == std::errc() && result.ptr == text.data() + text.size();
}

std::string print(const Value& value) {
  if (value.variable.empty()) return hex(value.number);
  std::string out = value.variable == "m" ? "m" : "$" + value.variable;
  if (value.number != 0 || value.variable == "m") out += "+" + hex(value.number);
  return out;
}

bool parseValue(std::string_view text, Value& value) {
  value = {};
  if (text.empty()) return false;
  if (text[0] != '$' && text[0] != 'm') return parseHex(text, value.number);
  if (text[0] == '$') text.remove_prefix(1);
  const size_t plus = text.find('+');
  value.variable = text.substr(0, plus);
  return plus == std::string_view::npos || parseHex(text.substr(plus + 1), value.number);
}

bool parseWord(std::string_view word, Call& call) {
  if (word[0] == '=') {
    call.result = word.substr(1);
    return !call.result.empty();
  }
  if (word[0] == '/') {
    call.path = word;
    return true;
  }
  if (word[0] == '@') return parseValue(word.substr(1), call.at.emplace());
  if (word[0] == '>') {
    const size_t first = word.find('.');
    const size_t second = word.find('.', first + 1);
    uint64_t offset = 0;
    uint64_t width = 0;
    if (second == std::string_view::npos || !parseHex(word.substr(first + 1, second - first - 1), offset) ||
        !parseHex(word.substr(second + 1), width) || width > 8 || offset > 4096) {
      return false;
    }
    call.saves.push_back({std::string(word.substr(1, first - 1)), static_cast<unsigned>(offset),
                          static_cast<unsigned>(width)});
    return true;
  }
  if (word.size() > 2 && word[1] == ':') {
    Token token{static_cast<unsigned>(word[0] - '0'), {}};
    if (token.width != 1 && token.width != 2 && token.width != 4 && token.width != 8) return false;
    if (!parseValue(word.substr(2), token.value)) return false;
    call.bytes.push_back(token);
    return true;
  }
  return parseValue(word, call.operands.emplace_back());
}

}  // namespace

std::string print(const Call& call) {
  std::string out = kOps[static_cast<size_t>(call.op)];
  if (!call.result.empty()) out += " =" + call.result;
  for (const Value& operand : call.operands) out += " " + print(operand);
  if (!call.path.empty()) out += " " + call.path;
  if (call.at) out += " @" + print(*call.at);
  for (const Token& token : call.bytes) out += " " + hex(token.width) + ":" + print(token.value);
  for (const Save& save : call.saves)
    out += " >" + save.variable + "." + hex(save.offset) + "." + hex(save.width);
  return out;
}

std::string print(const Sequence& sequence) {
  std::string out;
  for (const Call& call : sequence) out += print(call) + "\n";
  return out;
}

std::optional<Call> parse(std::string_view line) {
  std::istringstream words{std::string(line)};
  std::string word;
  words >> word;
  Call call{};
  size_t op = 0;
  while (op < kOps.size() && word != kOps[op]) ++op;
  if (op == kOps.size()) return std::nullopt;
  call.op = static_cast<Op>(op);
  while (words >> word) {
    if (!parseWord(word, call)) return std::nullopt;
  }
  return call;
}

std::string nameOf(const Call& call) {
  static const std::map<uint64_t, const char*> requests = {
      {0x3b80, "IOMMU_DESTROY"},
      {0x3b81, "IOMMU_IOAS_ALLOC"},
      {0x3b82, "IOMMU_IOAS_ALLOW_IOVAS"},
      {0x3b83, "IOMMU_IOAS_COPY"},
      {0x3b84, "IOMMU_IOAS_IOVA_RANGES"},
      {0x3b85, "IOMMU_IOAS_MAP"},
      {0x3b86, "IOMMU_IOAS_UNMAP"},
      {0x3b87, "IOMMU_OPTION"},
      {0x3b88, "IOMMU_VFIO_IOAS"},
      {0x3b89, "IOMMU_HWPT_ALLOC"},
      {0x3b8a, "IOMMU_GET_HW_INFO"},
      {0x3b8b, "IOMMU_HWPT_SET_DIRTY_TRACKING"},
      {0x3b8c, "IOMMU_HWPT_GET_DIRTY_BITMAP"},
      {0x3b8d, "IOMMU_HWPT_INVALIDATE"},
      {0x3b8e, "IOMMU_FAULT_QUEUE_ALLOC"},
      {0x3b64, "VFIO_GET_API_VERSION"},
      {0x3b65, "VFIO_CHECK_EXTENSION"},
      {0x3b66, "VFIO_SET_IOMMU"},
      {0x3b6b, "VFIO_DEVICE_GET_INFO"},
      {0x3b6c, "VFIO_DEVICE_GET_REGION_INFO"},
      {0x3b6d, "VFIO_DEVICE_GET_IRQ_INFO"},
      {0x3b6e, "VFIO_DEVICE_SET_IRQS"},
      {0x3b6f, "VFIO_DEVICE_RESET"},
      {0x3b70, "VFIO_IOMMU_GET_INFO or GET_PCI_HOT_RESET_INFO"},
      {0x3b71, "VFIO_IOMMU_MAP_DMA or PCI_HOT_RESET"},
      {0x3b72, "VFIO_IOMMU_UNMAP_DMA"},
      {0x3b74, "VFIO_DEVICE_IOEVENTFD"},
      {0x3b75, "VFIO_DEVICE_FEATURE"},
      {0x3b76, "VFIO_DEVICE_BIND_IOMMUFD"},
      {0x3b77, "VFIO_DEVICE_ATTACH_IOMMUFD_PT"},
      {0x3b78, "VFIO_DEVICE_DETACH_IOMMUFD_PT"},
  };
  static constexpr std::array tests = {"",
                                       "ADD_RESERVED",
                                       "MOCK_DOMAIN",
                                       "MD_CHECK_MAP",
                                       "MD_CHECK_REFS",
                                       "CREATE_ACCESS",
                                       "DESTROY_ACCESS_PAGES",
                                       "ACCESS_PAGES",
                                       "ACCESS_RW",
                                       "SET_TEMP_MEMORY_LIMIT",
                                       "MOCK_DOMAIN_REPLACE",
                                       "ACCESS_REPLACE_IOAS",
                                       "MOCK_DOMAIN_FLAGS",
                                       "DIRTY",
                                       "MD_CHECK_IOTLB",
                                       "TRIGGER_IOPF"};
  if (call.op != Op::ioctl || call.operands.size() < 2) return kOps[static_cast<size_t>(call.op)];
  const uint64_t request = call.operands[1].number;
  if (request == 0x3ba0) {
    const uint64_t op = call.bytes.size() > 1 ? call.bytes[1].value.number : 0;
    return std::string("IOMMU_TEST_") + (op > 0 && op < tests.size() ? tests[op] : "CMD with another op");
  }
  const auto found = requests.find(request);
  return found == requests.end() ? "another request" : found->second;
}

std::string print(const Case& what) {
  std::string out = "# " + what.name + "\nkind " + what.kind + "\n";
  if (what.without != 0) out += "without " + hex(what.without) + "\n";
  for (size_t i = 0; i < what.calls.size(); ++i) {
    out += print(what.calls[i]) + "\n";
    if (i < what.answers.size()) out += "= " + what.answers[i] + "\n";
  }
  return out + "\n";
}

std::vector<Case> parseCases(std::string_view text) {
  std::vector<Case> out;
  Case current;
  const auto end = [&] {
    if (!current.calls.empty()) out.push_back(current);
    current = {};
  };
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const std::string_view line = text.substr(0, newline);
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (line.empty()) {
      end();
    } else if (line.starts_with("# ")) {
      current.name += (current.name.empty() ? "" : " ") + std::string(line.substr(2));
    } else if (line.starts_with("kind ")) {
      current.kind = line.substr(5);
    } else if (line.starts_with("without ") && parseHex(line.substr(8), current.without)) {
    } else if (line.starts_with("= ")) {
      current.answers.emplace_back(line.substr(2));
    } else if (auto call = parse(line)) {
      current.calls.push_back(std::move(*call));
    } else {
      std::fprintf(stderr, "not a call: %.*s\n", static_cast<int>(line.size()), line.data());
      std::exit(2);
    }
  }
  end();
  return out;
}

}  // namespace vfio::fuzz
