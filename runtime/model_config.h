// What config.json and generation_config.json say, checked. Strict: an unknown key or a value we would ignore is an
// error.
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace longhaul {

enum class RopeType { standard, linear, dynamic, llama3 };

struct RopeConfig {
  RopeType type = RopeType::standard;
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  std::int64_t original_max_position = 0;            // llama3, dynamic: tokens the model was trained at; 0 elsewhere
};

struct ModelConfig {
  std::string model_type;
  std::int64_t hidden, layers, q_heads, kv_heads, head_dim, intermediate, vocab;
  /// Longest context the model takes, tokens: max_position_embeddings; times the factor for the dynamic rope type,
  /// whose max_position_embeddings is the trained length; max_sequence_length where the file has it (Vicuna 16K).
  std::int64_t max_position;
  float rms_norm_eps;
  RopeConfig rope;
  bool tied_embeddings;
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;
};

/// Defaults of generation_config.json; absent file: greedy.
struct GenerationDefaults {
  float temperature = 0, top_p = 1;
  std::int32_t top_k = 0;
  std::vector<std::int32_t> eos;  // empty: the model config's
  std::optional<std::int64_t> max_new_tokens;
};

/// Reads DIR/config.json (both schemas: rope_theta + rope_scaling + torch_dtype, and rope_parameters + dtype).
/// Throws UserError{bad_model} with file, key and what to do.
ModelConfig load_model_config(const std::filesystem::path& dir);
/// The same of a document; `where` is for messages.
ModelConfig parse_model_config(const nlohmann::json& document, const std::string& where);
GenerationDefaults load_generation_defaults(const std::filesystem::path& dir);

/// inv_freq[head_dim / 2] in float32, operation by operation as the reference computes it; `seq_len` matters to the
/// dynamic type only, where it is the number of positions so far (up to original_max_position it changes nothing).
std::vector<float> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim, std::int64_t seq_len);

}  // namespace longhaul
