#include "shrink.h"

#include <algorithm>
#include <utility>

namespace vfio::fuzz {
namespace {

// Replaces `what` by the first candidate on which the sides still differ.
bool improve(Case& what, std::vector<Case> candidates, const Differ& differ) {
  constexpr size_t kBatch = 64;
  for (size_t start = 0; start < candidates.size(); start += kBatch) {
    const size_t end = std::min(start + kBatch, candidates.size());
    const std::vector<Case> batch(candidates.begin() + static_cast<long>(start),
                                  candidates.begin() + static_cast<long>(end));
    const std::vector<bool> differs = differ(batch);
    for (size_t i = 0; i < batch.size(); ++i) {
      if (!differs[i]) continue;
      what = batch[i];
      return true;
    }
  }
  return false;
}

std::vector<Case> withoutPieces(const Case& what, size_t size) {
  std::vector<Case> out;
  // Removes from the end, since later calls depend on earlier ones.
  for (size_t end = what.calls.size(); end > 0; end -= std::min(end, size)) {
    Case shorter = what;
    const size_t start = end - std::min(end, size);
    shorter.calls.erase(shorter.calls.begin() + static_cast<long>(start),
                        shorter.calls.begin() + static_cast<long>(end));
    if (!shorter.calls.empty()) out.push_back(std::move(shorter));
  }
  return out;
}

std::vector<Case> withPlainerValues(const Case& what) {
  std::vector<Case> out;
  for (size_t i = 0; i < what.calls.size(); ++i) {
    const Call& call = what.calls[i];
    if (call.at && !call.bytes.empty() && call.op == Op::ioctl) {
      out.push_back(what);
      out.back().calls[i].at.reset();
    }
    for (size_t j = 1; j < call.bytes.size(); ++j) {
      const Value& value = call.bytes[j].value;
      std::vector<Value> plainer;
      if (value.variable.empty()) {
        // Tries simpler numbers, with fewer bits set.
        if (value.number != 0) plainer.push_back({"", 0});
        if ((value.number & (value.number - 1)) != 0)
          plainer.push_back({"", value.number & ~uint64_t{0xfff}});
        if (value.number > 0x1000) plainer.push_back({"", 0x1000});
      } else if (value.number != 0) {
        plainer.push_back({value.variable, 0});
      }
      for (const Value& each : plainer) {
        if (each == value) continue;
        out.push_back(what);
        out.back().calls[i].bytes[j].value = each;
      }
    }
  }
  return out;
}

}  // namespace

Case shrink(Case what, const Differ& differ) {
  for (size_t size = std::max<size_t>(1, what.calls.size() / 2); size > 0;) {
    if (improve(what, withoutPieces(what, size), differ)) {
      size = std::min(size, std::max<size_t>(1, what.calls.size() / 2));
    } else {
      size /= 2;
    }
  }
  constexpr int kRounds = 24;
  for (int round = 0; round < kRounds && improve(what, withPlainerValues(what), differ); ++round) {
  }
  while (improve(what, withoutPieces(what, 1), differ)) {
  }
  return what;
}

}  // namespace vfio::fuzz
