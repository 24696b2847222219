// Where sessions' rows lie in the host store: each takes a run of places of its own size, the first that is free.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>

namespace longhaul {

class RowRegions {
 public:
  explicit RowRegions(std::int64_t places) : places_(places) {}

  /// The first of `rows` free places in a row; none: there are not so many together.
  std::optional<std::int64_t> take(std::int64_t rows) {
    std::int64_t first = 0;
    for (const auto& [begin, taken] : taken_) {
      if (begin - first >= rows) break;
      first = begin + taken;
    }
    if (first + rows > places_) return {};
    if (rows > 0) taken_[first] = rows;
    return first;
  }
  /// What take() has given, where that was any.
  void give_back(std::int64_t first, std::int64_t rows) {
    if (rows > 0) taken_.erase(first);
  }
  /// Whether take() would find places for each of these, one after the other.
  bool has_room(std::span<const std::int64_t> rows) const {
    RowRegions trial = *this;
    for (const std::int64_t n : rows)
      if (!trial.take(n)) return false;
    return true;
  }

 private:
  std::int64_t places_;
  std::map<std::int64_t, std::int64_t> taken_;  // rows, by their first place
};

}  // namespace longhaul
