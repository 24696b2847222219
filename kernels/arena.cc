#include "kernels/arena.h"

#include <algorithm>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"

namespace longhaul {

Arena::Arena(std::byte* base, std::int64_t size, std::string_view where)
    : counting_(false), base_(base), size_(size), where_(where) {
  check(reinterpret_cast<std::uintptr_t>(base) % kAlign == 0, "an arena's base is aligned");
}

std::byte* Arena::take_bytes(std::int64_t bytes, std::string_view name) {
  check(bytes >= 0, "a size is not negative");
  bytes = round_up(bytes, kAlign);
  if (!counting_ && bytes > size_ - used_)
    throw OutOfMemory(fmt::format("{} ({})", where_, name), bytes, size_ - used_);
  std::byte* piece = counting_ ? nullptr : base_ + used_;
  used_ += bytes;
  auto item = std::find_if(items_.begin(), items_.end(), [&](const Item& i) { return i.name == name; });
  if (item == items_.end()) items_.push_back({std::string(name), bytes});
  else item->bytes += bytes;
  return piece;
}

}  // namespace longhaul
