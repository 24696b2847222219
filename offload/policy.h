// What is attended and where KV rows live, as a printable value. The layer loop never branches on it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/sparse_ops.h"

namespace longhaul {

enum class Select : std::uint8_t {
  all,     // every row
  labels,  // the rows whose labels score highest (Double Sparsity)
  recent,  // sinks and a window that fills the budget (StreamingLLM, arXiv 2309.17453)
  heavy,   // half the budget recent, half those that attention has gone to; what is given up is lost (H2O, 2306.14048)
};

enum class Labels : std::uint8_t {
  document,  // basis fitted to the session's own keys and recent queries; all below but exact: of the channel file
  fitted,    // fitted basis
  q,         // single channels by mean |q|: with k and qk the published rankings
  k,         // by mean |k|
  qk,        // by mean |q k|
  abs,       // by mean |q| times mean |k|
  rms,       // by RMS of q times RMS of centred k
  pairs,     // the same, of the two channels that RoPE turns together
  exact,     // every channel, unrounded: the oracle
};

/// What stands for the rows that are not attended.
enum class Tail : std::uint8_t {
  none,  // nothing
  mean,  // one row, the mean value, with the attention that the labels estimate
};

enum class LookAhead : std::uint8_t {
  none,
  hidden,    // from the layer's input and the next layer's weights
  measured,  // likewise, or not at all, whichever steps take less time; needs repair, so that the rows attended do not
             // depend on it
};

/// As policies spell it.
std::string_view name_of(Labels labels);
std::string_view name_of(RowType type);

struct KvPolicy {
  std::string name;

  // What is attended. Changing these may change tokens.
  Select select = Select::all;
  double share = 1.0 / 16;          // of a session's rows that a token attends, everything included
  std::int64_t rows = 0;            // a fixed number instead; 0: by share
  std::int64_t min_rows = 256;      // at least this many, by share
  double top_p = 1;                 // as few as hold this share of the estimated attention; 1: all the budget
  std::int64_t sinks = 4;           // first rows, always attended
  std::int64_t window = 32;         // last rows, always attended
  Combine combine = Combine::mean;  // of the scores of a group's query heads
  Labels labels = Labels::document;
  Tail tail = Tail::none;
  double label_dims = 32;                     // dimensions of a label; below 1: a share of head_dim
  std::int64_t label_bits = 4;                // 4, 8 or 16
  bool repair = true;                         // the true query selects; false: the predicted one, as published
  std::vector<std::int64_t> dense_layers;     // these attend every row
  std::vector<std::int64_t> eager_layers{0};  // these are never predicted
  RowType kv_dtype = RowType::act;            // of KV rows once a prompt's layer has been attended

  // Where rows live and when they move. Changing these may never change a token (with repair).
  LookAhead look_ahead = LookAhead::none;
  std::optional<double> cache = 0.0;     // slots of the resident set, as a multiple of the budget; none: what fits
  std::optional<double> resident = 0.0;  // share of a session's rows kept on the device; none ("auto"): what fits
  /// Rows per streamed tile, a multiple of kAttendBlock; none ("auto"): as many as the plan says, kTileRows without.
  std::optional<std::int64_t> tile_rows;
  static constexpr std::int64_t kTileRows = 1024;
  std::int64_t recent_rows = 128;  // rows of the recent window's ring, a multiple of kAttendBlock

  bool operator==(const KvPolicy&) const = default;

  bool selects() const { return select != Select::all; }
  /// Rows that a token attends in a session of n rows (its own included), in a layer that selects.
  std::int64_t budget(std::int64_t n) const;
  /// Dimensions of a label for this head size.
  std::int64_t dims(std::int64_t head_dim) const;
};

/// A shipped policy by name (config/policies, compiled in), or a TOML file; then each of `sets`, `KEY=VALUE` with a
/// TOML value. Throws UserError{usage} naming the unknown key, the bad value or the contradiction, or listing the known
/// names.
KvPolicy load_policy(const std::string& name_or_file, const std::vector<std::string>& sets = {});
/// `where` names the text in errors.
KvPolicy parse_policy(std::string_view toml, const std::string& where);
/// TOML that parse_policy reads back to an equal value.
std::string print_policy(const KvPolicy& policy);
/// What of a policy may change a token, all else as by default: equal for two that answer alike. A job's record has it
/// as text, so that must stay.
KvPolicy answering(KvPolicy policy);
std::vector<std::string> shipped_policies();

}  // namespace longhaul
