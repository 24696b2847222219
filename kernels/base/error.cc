#include "kernels/base/error.h"

#include "kernels/base/bytes.h"

namespace longhaul {

OutOfMemory::OutOfMemory(std::string where_, std::int64_t asked_, std::int64_t left_)
    : std::runtime_error(
          fmt::format("out of memory in {}: asked for {}, {} left", where_, format_bytes(asked_), format_bytes(left_))),
      where(std::move(where_)),
      asked(asked_),
      left(left_) {}

void check(bool ok, const char* what, std::source_location at) {
  if (!ok) throw std::logic_error(fmt::format("{}:{} ({}): {}", at.file_name(), at.line(), at.function_name(), what));
}

}  // namespace longhaul
