#include "kernels/base/huge_pages.h"

#include "kernels/base/system_file.h"

namespace longhaul {

std::string huge_page_mode(const std::filesystem::path& root) {
  const std::string modes =
      first_line(root / "sys/kernel/mm/transparent_hugepage/enabled");  // "always [madvise] never"
  const auto open = modes.find('['), close = modes.find(']', open);
  return close == std::string::npos ? std::string() : modes.substr(open + 1, close - open - 1);
}

}  // namespace longhaul
