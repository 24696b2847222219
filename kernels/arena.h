// One run of memory carved into named pieces. In counting mode it only adds up: that count *is* the memory plan,
// because the same layout code runs in both modes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

class Arena {
 public:
  static constexpr std::int64_t kAlign = 256;  // every piece starts here; a bulk copy and a 16-byte load like it

  struct Item {
    std::string name;
    std::int64_t bytes;  // rounded up to kAlign
  };

  /// Counts: take() gives null pointers.
  Arena() = default;
  /// Carves [base, base + size), which the caller owns and has aligned to kAlign; `where` names it in errors.
  Arena(std::byte* base, std::int64_t size, std::string_view where);

  /// `count` elements of T under `name`; pieces of one name are added up in items(). Throws OutOfMemory when carving
  /// past the end.
  template <class T>
  T* take(std::int64_t count, std::string_view name) {
    return reinterpret_cast<T*>(take_bytes(count * static_cast<std::int64_t>(sizeof(T)), name));
  }
  std::byte* take_bytes(std::int64_t bytes, std::string_view name);

  bool counting() const { return counting_; }
  std::int64_t used() const { return used_; }
  const std::vector<Item>& items() const { return items_; }

 private:
  bool counting_ = true;  // not told by base_: an empty run of memory has none either, and must refuse
  std::byte* base_ = nullptr;
  std::int64_t size_ = 0, used_ = 0;
  std::string where_ = "plan";
  std::vector<Item> items_;
};

}  // namespace longhaul
