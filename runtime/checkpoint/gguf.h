// A GGUF file: typed metadata, and tensors by their GGUF names. Shapes are turned to the order that safetensors have
// (rows first). Every count and length is checked against the file before memory is taken for it.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/checkpoint/tensor_files.h"

namespace longhaul {

class Gguf : public TensorFiles {
 public:
  /// Versions 2 and 3, little-endian. Throws UserError{bad_model} for a damaged file or a tensor of a type that is not
  /// supported (F32, F16, BF16, Q8_0, Q4_K and Q6_K are), UserError{io} when it cannot be opened.
  static Gguf open_file(const std::filesystem::path& file);

  /// Key to value: numbers, booleans, strings, lists of them.
  const nlohmann::json& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return TensorFiles::path(0); }

 private:
  Gguf() = default;
  nlohmann::json metadata_ = nlohmann::json::object();
};

/// How a type packs a row: `bytes` for every `values` of it. Null for a type that is not supported.
struct GgufBlock {
  std::int64_t values, bytes;
};
const GgufBlock* gguf_block(std::string_view dtype);

}  // namespace longhaul
