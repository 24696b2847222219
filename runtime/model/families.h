// What tells one Llama-like family from another, as data: which keys its config.json has, what they are when they are
// absent (as transformers has it), and what its tensors are called. Who reads configs and weights has no cases.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

/// Yes or no: what a key of config.json says, and `otherwise` where it is absent or the family has no such key.
struct Flag {
  const char* key = nullptr;
  bool otherwise = false;
};

/// Which layers attend a window only. All but `none` have the key sliding_window, and all but these two
/// use_sliding_window.
enum class Windows : std::uint8_t {
  none,
  all,           // wherever there is a window
  switched,      // all, if use_sliding_window
  upper,         // from max_window_layers on, or by layer_types
  without_rope,  // those that RoPE does not turn, or by layer_types
};

/// Keys and tensors of a mixture of experts.
struct ExpertNames {
  std::vector<const char*> count;  // the key of their number, under its names
  const char* intermediate;        // the key of an expert's intermediate size
  Flag normalised;                 // weights of a token's experts add up to 1
  const char *router, *list;       // of a layer's tensors
  const char *gate, *up, *down;    // of an expert's, below list.NUMBER
};

/// A key that is accepted with one value (as JSON), because another would change the result.
struct FixedKey {
  const char *key, *value;
};

struct Family {
  const char* model_type;
  Flag qkv_bias = {}, out_bias = {};
  bool head_norm = false;    // q_norm and k_norm, of every head
  bool fused = false;        // tensors qkv_proj and gate_up_proj
  bool dual_chunks = false;  // key dual_chunk_attention_config
  bool skips_rope = false;   // keys no_rope_layers and no_rope_layer_interval
  Windows windows = Windows::none;
  std::optional<ExpertNames> experts = {};
  const char* trained_length = nullptr;          // a key beside rope_scaling of the length that RoPE was trained at
  std::vector<const char*> longrope_names = {};  // other names of that rope type
  std::vector<FixedKey> fixed = {};
  std::vector<const char*> ignored = {};  // without a part in inference
  // Where keys are absent. head_dim and kv_heads 0: hidden_size / heads, and as many as there are heads.
  std::int64_t kv_heads = 0, head_dim = 0, window = 0;
  double theta = 10000;
  bool tied = false;
  std::optional<std::int32_t> bos = {}, eos = {};
};

std::span<const Family> families();
/// Null: there is none.
const Family* find_family(std::string_view model_type);

}  // namespace longhaul
