// What is attended and where KV rows live, as a printable value. The layer loop never branches on it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

enum class Select { all };  // every row; label selection comes with Double Sparsity

struct KvPolicy {
  std::string name;

  // What is attended. Changing these may change tokens.
  Select select = Select::all;

  // Where rows live and when they move. Changing these may never change a token.
  std::optional<double> resident = 0.0;  // share of a session's rows kept on the device; none ("auto"): what fits
  std::int64_t tile_rows = 1024;         // rows per streamed tile, a multiple of kAttendBlock
  std::int64_t recent_rows = 128;        // rows of the recent window's ring, a multiple of kAttendBlock

  bool operator==(const KvPolicy&) const = default;
};

/// A shipped policy by name (config/policies, compiled in), or a TOML file. Throws UserError{usage} naming the unknown
/// key, the bad value or the contradiction, or listing the known names.
KvPolicy load_policy(const std::string& name_or_file);
/// `where` names the text in errors.
KvPolicy parse_policy(std::string_view toml, const std::string& where);
/// TOML that parse_policy reads back to an equal value.
std::string print_policy(const KvPolicy& policy);
std::vector<std::string> shipped_policies();

}  // namespace longhaul
