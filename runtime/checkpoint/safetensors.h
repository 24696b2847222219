// Tensors of a safetensors file, or of a sharded set named by model.safetensors.index.json. Every size is checked
// against the file before a byte of data is read.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "runtime/checkpoint/tensor_files.h"

namespace longhaul {

class Safetensors : public TensorFiles {
 public:
  /// One file. Throws UserError{bad_model} for a truncated or malformed file, a Git LFS pointer or a web page,
  /// UserError{io} when it cannot be opened.
  static Safetensors open_file(const std::filesystem::path& file);
  /// DIR/model.safetensors, or the shards of DIR/model.safetensors.index.json (each must exist, hold exactly the
  /// tensors that the index says, and no tensor may appear twice).
  static Safetensors open_model(const std::filesystem::path& dir);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  Safetensors() = default;
  void add_file(const std::filesystem::path& file);
  std::string read_header(std::size_t file) const;
  std::map<std::string, std::string> metadata_;
};

}  // namespace longhaul
