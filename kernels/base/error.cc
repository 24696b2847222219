#include "kernels/base/error.h"

#include "kernels/base/bytes.h"

namespace longhaul {
namespace {

std::string told(const std::string& where, std::int64_t asked, std::int64_t left) {
  std::string text = "out of memory in " + where;
  if (asked >= 0) text += fmt::format(": asked for {}", format_bytes(asked));
  if (left >= 0) text += fmt::format("{} {} left", asked >= 0 ? "," : ":", format_bytes(left));
  return text;
}

}  // namespace

OutOfMemory::OutOfMemory(std::string where_, std::int64_t asked_, std::int64_t left_)
    : std::runtime_error(told(where_, asked_, left_)), where(std::move(where_)), asked(asked_), left(left_) {}

void check(bool ok, const char* what, std::source_location at) {
  if (!ok) throw std::logic_error(fmt::format("{}:{} ({}): {}", at.file_name(), at.line(), at.function_name(), what));
}

}  // namespace longhaul
