// How a published checkpoint's linear layers are quantised: quantization_config of config.json, checked. Strict: a
// method, a layout or a key that we would get wrong is refused by name.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace longhaul {

enum class QuantMethod : std::uint8_t {
  none,
  scaled,  // int8 or fp8 (e4m3) with scales of the whole tensor, of its rows, or of blocks
  awq,     // 4 bits, "gemm" packing
  gptq     // 4 bits
};

struct Quantization {
  QuantMethod method = QuantMethod::none;
  std::string name = "none";     // in messages
  std::int64_t group = 0;        // awq, gptq: inputs that share a scale; 0: all
  std::int64_t zero_offset = 0;  // gptq: what the stored zero points lack (1 in the older checkpoint_format)
  std::int64_t block_rows = 0, block_cols = 0;  // scaled: of a block; 0: no blocks
};

/// `config` is the document of `file`. Which modules are left unquantised (modules_to_not_convert, ignore) is not kept:
/// the tensors of each module show it. Scales of activations are not used: activations stay as they are.
Quantization parse_quantization(const nlohmann::json& config, const std::string& file);

}  // namespace longhaul
