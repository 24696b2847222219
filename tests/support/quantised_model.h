// A quantised copy of a small bf16 model: each value to its nearest code.
#pragma once
#include <filesystem>
#include <functional>
#include <string>

namespace longhaul::test {

enum class Quantised {
  int8_rows,  // compressed-tensors, a scale a row
  gptq        // 4 bits, symmetric, groups of 16
};

/// Writes config.json and model.safetensors of `model`, a folder that has these two and bf16 alone. `keeps` names
/// matrices that stay bf16; vectors, the embedding table, the head and routers do in any case.
void write_quantised(
    const std::filesystem::path& model, const std::filesystem::path& to, Quantised kind,
    const std::function<bool(const std::string& name)>& keeps = [](const std::string&) { return false; });

}  // namespace longhaul::test
