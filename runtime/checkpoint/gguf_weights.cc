#include "runtime/checkpoint/gguf_weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <utility>

#include "kernels/base/error.h"
#include "runtime/checkpoint/halves.h"
#include "runtime/checkpoint/json_file.h"

namespace longhaul {
namespace {

float half_at(const unsigned char* at) { return half_to_float(static_cast<std::uint16_t>(at[0] | at[1] << 8)); }
signed char signed_at(const unsigned char* at) { return static_cast<signed char>(*at); }

/// 32 values: a scale d, and a byte each.
void decode_q8_0(const unsigned char* block, bf16* out) {
  const float d = half_at(block);
  for (int i = 0; i < 32; ++i) out[i] = round_weight(static_cast<float>(signed_at(block + 2 + i)) * d);
}

void encode_q8_0(const unsigned char* block, std::byte* codes, std::uint32_t* scales) {
  const float d = half_at(block);
  std::memcpy(codes, block + 2, 32);
  std::memcpy(scales, &d, 4);
}

/// The scale and the least value, of 6 bits each, of group g of a Q4_K block. Of their 12 bytes the first four groups
/// have bytes of their own, whose high bits hold what the last four have no room for.
struct Six {
  int scale, least;
};
Six six_bits(const unsigned char* packed, int g) {
  if (g < 4) return {packed[g] & 63, packed[g + 4] & 63};
  return {(packed[g + 4] & 15) | (packed[g - 4] >> 6) << 4, packed[g + 4] >> 4 | (packed[g] >> 6) << 4};
}
/// Code i of group g.
unsigned q4_k_code(const unsigned char* block, int g, int i) { return block[16 + g / 2 * 32 + i] >> g % 2 * 4 & 15u; }

/// 256 values in 8 groups of 32, each with a scale and a least value, which d and dmin scale.
void decode_q4_k(const unsigned char* block, bf16* out) {
  const float d = half_at(block), d_least = half_at(block + 2);
  for (int g = 0; g < 8; ++g) {
    const auto [scale, least] = six_bits(block + 4, g);
    const float step = d * static_cast<float>(scale), base = d_least * static_cast<float>(least);
    for (int i = 0; i < 32; ++i)
      out[g * 32 + i] = round_weight(step * static_cast<float>(q4_k_code(block, g, i)) - base);
  }
}

void encode_q4_k(const unsigned char* block, std::byte* codes, std::uint32_t* scales) {
  std::memcpy(scales, block, 4);  // d and dmin
  for (int g = 0; g < 8; ++g) {
    const auto [scale, least] = six_bits(block + 4, g);
    scales[1 + g / 2] |= static_cast<std::uint32_t>(scale | least << 8) << g % 2 * 16;
    for (int i = 0; i < 32; i += 2)
      codes[g * 16 + i / 2] = static_cast<std::byte>(q4_k_code(block, g, i) | q4_k_code(block, g, i + 1) << 4);
  }
}

/// 256 values of 6 bits, 4 and 2 of them apart, in 16 groups of 16 with a signed scale each, which d scales.
/// of(at, number) for all.
template <class Of>
void for_q6_k(const unsigned char* block, const Of& of) {
  const unsigned char *low = block, *high = block + 128;
  for (int half = 0; half < 2; ++half, low += 64, high += 32)
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int i = 0; i < 32; ++i) {
        const int code = (low[quarter % 2 * 32 + i] >> quarter / 2 * 4 & 15) | (high[i] >> quarter * 2 & 3) << 4;
        of(half * 128 + quarter * 32 + i, code - 32);
      }
}
void decode_q6_k(const unsigned char* block, bf16* out) {
  const float d = half_at(block + 208);
  for_q6_k(block, [&](int at, int number) {
    const float step = d * static_cast<float>(signed_at(block + 192 + at / 16));
    out[at] = round_weight(step * static_cast<float>(number));
  });
}
void encode_q6_k(const unsigned char* block, std::byte* codes, std::uint32_t* scales) {
  for_q6_k(block, [&](int at, int number) { codes[at] = static_cast<std::byte>(number); });
  std::memcpy(scales, block + 208, 2);
  std::memcpy(scales + 1, block + 192, 16);
}

/// A kind of block: what it stands for, and how rows of it are packed, `words` of scales a block.
struct BlockKind {
  std::string_view dtype;
  PackedType type;
  std::int64_t group, words;
  void (*decode)(const unsigned char* block, bf16* out);
  void (*encode)(const unsigned char* block, std::byte* codes, std::uint32_t* scales);
};
constexpr std::array<BlockKind, 3> kBlockKinds{{{"Q8_0", PackedType::int8, 32, 1, decode_q8_0, encode_q8_0},
                                                {"Q4_K", PackedType::q4_k, 32, kBlockWords, decode_q4_k, encode_q4_k},
                                                {"Q6_K", PackedType::q6_k, 16, kBlockWords, decode_q6_k, encode_q6_k}}};

class BlockReader final : public TensorReader {
 public:
  BlockReader(const TensorFiles& files, const std::string& name, const TensorShape& shape, std::string_view dtype)
      : TensorReader(files, name, shape),
        info_(part(name, dtype, shape)),
        block_(*gguf_block(dtype)),
        row_bytes_(cols() / block_.values * block_.bytes),
        kind_(*std::ranges::find(kBlockKinds, dtype, &BlockKind::dtype)) {}
  std::int64_t stored_bytes(std::int64_t rows) const override { return rows * row_bytes_; }
  void fetch(RowSpan rows, std::byte* stored) const override {
    files_.read(info_, rows.first * row_bytes_, rows.count * row_bytes_, stored);
  }
  PackedFormat packed_format() const override { return if_packable(kind_.type, kind_.group); }

 private:
  const unsigned char* block_at(const std::byte* stored, RowSpan fetched, std::int64_t row) const {
    return reinterpret_cast<const unsigned char*>(stored) + (row - fetched.first) * row_bytes_;
  }
  void decode(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const override {
    const unsigned char* block = block_at(stored, fetched, rows.first);
    for (std::int64_t n = rows.count * cols() / block_.values; n > 0; --n, block += block_.bytes, out += block_.values)
      kind_.decode(block, out);
  }
  void encode(const std::byte* stored, RowSpan fetched, RowSpan rows, std::byte* out) const override {
    const unsigned char* block = block_at(stored, fetched, rows.first);
    const std::int64_t bytes = packed_row_bytes(packed_format(), cols());
    for (std::int64_t r = 0; r < rows.count; ++r, out += bytes) {
      auto [codes, scales] = packed_row(out);
      for (std::int64_t n = cols() / block_.values; n > 0; --n, block += block_.bytes, scales += kind_.words) {
        kind_.encode(block, codes, scales);
        codes += packed_code_bytes(packed_format(), block_.values);
      }
    }
  }
  const TensorInfo& info_;
  const GgufBlock block_;
  const std::int64_t row_bytes_;
  const BlockKind& kind_;
};

std::unique_ptr<TensorReader> stored_reader(const TensorFiles& files, const std::string& name,
                                            const TensorShape& shape) {
  const TensorInfo* info = files.find(name);
  if (info == nullptr) files.missing(name);
  if (is_float(info->dtype)) return float_reader(files, name, shape);
  return std::make_unique<BlockReader>(files, name, shape, info->dtype);
}

/// A matrix whose rows stand elsewhere in a stored one.
class MovedReader final : public TensorReader {
 public:
  using StoredRow = std::function<std::int64_t(std::int64_t row)>;
  MovedReader(const TensorFiles& files, const std::string& name, const TensorShape& shape, const TensorShape& stored,
              StoredRow stored_row)
      : TensorReader(files, name, shape),
        inner_(stored_reader(files, name, stored)),
        stored_row_(std::move(stored_row)) {
    part(name);
  }
  bool plain() const override { return inner_->plain(); }
  std::int64_t stored_bytes(std::int64_t rows) const override { return inner_->stored_bytes(rows); }
  void fetch(RowSpan rows, std::byte* stored) const override {
    for (std::int64_t r = 0; r < rows.count;) {
      RowSpan run{stored_row_(rows.first + r), 1};
      while (r + run.count < rows.count && stored_row_(rows.first + r + run.count) == run.first + run.count)
        ++run.count;
      inner_->fetch(run, stored + inner_->stored_bytes(r));
      r += run.count;
    }
  }
  PackedFormat packed_format() const override { return inner_->packed_format(); }

 private:
  void decode(const std::byte* stored, RowSpan fetched, RowSpan rows, bf16* out) const override {
    decode_of(*inner_, stored, fetched, rows, out);
  }
  void encode(const std::byte* stored, RowSpan fetched, RowSpan rows, std::byte* out) const override {
    encode_of(*inner_, stored, fetched, rows, out);
  }
  const std::unique_ptr<TensorReader> inner_;
  const StoredRow stored_row_;
};

/// Row i of half h of a head is stored as row 2 i + h of it.
std::unique_ptr<TensorReader> permuted_reader(const TensorFiles& files, const std::string& name,
                                              const TensorShape& shape, std::int64_t heads) {
  if (heads < 1 || shape.size() != 2 || shape[0] % (2 * heads) != 0)
    throw UserError(Exit::bad_model, "{}: tensor {}: [{}] are not the rows of {} heads", files.name(), quoted(name),
                    fmt::join(shape, ", "), heads);
  const std::int64_t half = shape[0] / (2 * heads);
  return std::make_unique<MovedReader>(files, name, shape, shape, [half](std::int64_t row) {
    const std::int64_t head = row / (2 * half), in_head = row % (2 * half);
    return head * 2 * half + in_head % half * 2 + in_head / half;
  });
}

/// Experts are stored one after the other, as one tensor.
std::unique_ptr<TensorReader> expert_reader(const TensorFiles& files, const std::string& name, const TensorShape& shape,
                                            std::int64_t expert, std::int64_t experts) {
  const std::int64_t first = expert * shape.front();
  return std::make_unique<MovedReader>(files, name, shape, TensorShape{experts, shape[0], shape[1]},
                                       [first](std::int64_t row) { return first + row; });
}

struct Place {
  std::string name;
  std::int64_t expert = -1;
};

Place place_of(const std::string& name) {
  static const std::map<std::string, const char*, std::less<>> top = {
      {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
  static const std::map<std::string, const char*, std::less<>> of_layer = {{"input_layernorm", "attn_norm"},
                                                                           {"self_attn.q_proj", "attn_q"},
                                                                           {"self_attn.k_proj", "attn_k"},
                                                                           {"self_attn.v_proj", "attn_v"},
                                                                           {"self_attn.qkv_proj", "attn_qkv"},
                                                                           {"self_attn.o_proj", "attn_output"},
                                                                           {"self_attn.q_norm", "attn_q_norm"},
                                                                           {"self_attn.k_norm", "attn_k_norm"},
                                                                           {"post_attention_layernorm", "ffn_norm"},
                                                                           {"mlp.gate_proj", "ffn_gate"},
                                                                           {"mlp.up_proj", "ffn_up"},
                                                                           {"mlp.gate_up_proj", "ffn_up"},
                                                                           {"mlp.down_proj", "ffn_down"},
                                                                           {"mlp.gate", "ffn_gate_inp"},
                                                                           {"block_sparse_moe.gate", "ffn_gate_inp"}};
  static const std::map<std::string, const char*, std::less<>> of_expert = {
      {"w1", "ffn_gate_exps"},        {"w3", "ffn_up_exps"},      {"w2", "ffn_down_exps"},
      {"gate_proj", "ffn_gate_exps"}, {"up_proj", "ffn_up_exps"}, {"down_proj", "ffn_down_exps"}};
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {};
  const std::string module = name.substr(0, dot), kind = name.substr(dot);  // ".weight" or ".bias"
  if (const auto found = top.find(module); found != top.end()) return {found->second + kind};
  constexpr std::string_view kLayers = "model.layers.", kExperts = ".experts.";
  const std::size_t after = module.find('.', kLayers.size());
  if (!module.starts_with(kLayers) || after == std::string::npos) return {};
  const std::string layer = "blk." + module.substr(kLayers.size(), after - kLayers.size()) + ".";
  if (const std::size_t experts = module.find(kExperts); experts != std::string::npos) {
    const std::string number = module.substr(experts + kExperts.size());
    const auto found = of_expert.find(number.substr(number.find('.') + 1));
    if (found == of_expert.end()) return {};
    return {layer + found->second + kind, std::stol(number)};
  }
  const auto found = of_layer.find(module.substr(after + 1));
  if (found == of_layer.end()) return {};
  return {layer + found->second + kind};
}

}  // namespace

std::string gguf_name(const std::string& name) { return place_of(name).name; }

std::function<std::unique_ptr<TensorReader>(const TensorFiles&, const std::string&, const TensorShape&)> gguf_finder(
    const Gguf& file) {
  const nlohmann::json& metadata = file.metadata();
  const auto named = metadata.find("general.architecture");
  const std::string arch = named != metadata.end() && named->is_string() ? named->get<std::string>() : "";
  const auto whole = [&](const char* key) {
    const auto found = metadata.find(arch + "." + key);
    return found != metadata.end() && found->is_number_unsigned() ? found->get<std::int64_t>() : 0;
  };
  const bool permuted = arch == "llama" || arch == "smollm3";
  const std::int64_t q_heads = whole("attention.head_count"), experts = whole("expert_count");
  const std::int64_t given = whole("attention.head_count_kv"), kv_heads = given == 0 ? q_heads : given;
  return [=](const TensorFiles& files, const std::string& name,
             const TensorShape& shape) -> std::unique_ptr<TensorReader> {
    const auto [stored, expert] = place_of(name);
    if (stored.empty()) throw UserError(Exit::bad_model, "tensor {} has no counterpart in GGUF files", quoted(name));
    if (expert >= 0) return expert_reader(files, stored, shape, expert, experts);
    const bool q = stored.ends_with(".attn_q.weight"), k = stored.ends_with(".attn_k.weight");
    if (permuted && (q || k)) return permuted_reader(files, stored, shape, q ? q_heads : kv_heads);
    return stored_reader(files, stored, shape);
  };
}

}  // namespace longhaul
