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

enum class RopeType { standard, linear, dynamic, llama3, yarn, longrope };

struct RopeConfig {
  RopeType type = RopeType::standard;
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  /// Tokens the model was trained at; 0 with the types standard and linear, to which it does not matter.
  std::int64_t original_max_position = 0;
  double attention_factor = 1;                                // yarn, longrope: multiplies cosine and sine
  double beta_fast = 32, beta_slow = 1;                       // yarn
  bool truncate = true;                                       // yarn: the blend begins and ends at whole dimensions
  std::vector<double> short_factors = {}, long_factors = {};  // longrope: [head_dim / 2]
};

/// Dual-chunk attention (arXiv 2402.17463) as the Qwen2.5-1M models have it.
struct DualChunks {
  std::int64_t rows = 0;     // of a chunk; 0: the model has plain attention
  std::int64_t reach = 0;    // most positions that RoPE turns a query ahead of a key
  std::int64_t trained = 0;  // tokens that the model was trained at; 0: longer prompts change no score's scale

  /// What q and k are each multiplied by in a session whose prompt has so many tokens.
  float temperature(std::int64_t prompt) const;
};

struct ModelConfig {
  std::string model_type;
  std::int64_t hidden, layers, q_heads, kv_heads, head_dim;
  std::int64_t intermediate;  // of an expert, where there are experts
  std::int64_t vocab;
  /// Longest context the model takes, tokens: max_position_embeddings; times the factor for the dynamic rope type,
  /// whose max_position_embeddings is the trained length, and likewise for yarn, where it often is;
  /// max_sequence_length where the file has it (Vicuna 16K).
  std::int64_t max_position;
  float rms_norm_eps;
  RopeConfig rope;
  bool tied_embeddings;
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;

  bool qkv_bias = false, out_bias = false;
  bool head_norm = false;  // every head of q and k is normalised before RoPE
  std::int64_t experts = 0, experts_per_token = 0;
  bool normalised_routes = false;   // the weights of a token's experts add up to 1
  std::int64_t window = 0;          // rows that a token sees in a windowed layer, its own included; 0: there is none
  std::vector<bool> windowed = {};  // [layers]; empty: none is
  std::vector<bool> still = {};     // [layers] not turned by RoPE; empty: all are
  DualChunks dual_chunks = {};
};

/// What a repetition_penalty may be, whoever asks for it.
inline constexpr double kLeastPenalty = 0.01, kMostPenalty = 100;

/// Defaults of generation_config.json; absent file: greedy.
struct GenerationDefaults {
  float temperature = 0, top_p = 1, repetition_penalty = 1;
  std::int32_t top_k = 0;
  std::vector<std::int32_t> eos;  // empty: the model config's
  std::optional<std::int64_t> max_new_tokens;
};

/// DIR/config.json. Throws UserError{bad_model} with what to do.
nlohmann::json read_model_config(const std::filesystem::path& dir);
/// What DIR/config.json says (both schemas: rope_theta + rope_scaling + torch_dtype, and rope_parameters + dtype).
/// Throws UserError{bad_model} with file, key and what to do.
ModelConfig load_model_config(const std::filesystem::path& dir);
/// The same of a document; `where` is for messages.
ModelConfig parse_model_config(const nlohmann::json& document, const std::string& where);
GenerationDefaults load_generation_defaults(const std::filesystem::path& dir);

/// inv_freq[head_dim / 2] in float32, operation by operation as the reference computes it. `seq_len` matters to two
/// types: dynamic, where it is the number of positions so far, and longrope, where past original_max_position it
/// chooses the long factors.
std::vector<float> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim, std::int64_t seq_len);

}  // namespace longhaul
