// Tensors of a safetensors file, or of a sharded set named by model.safetensors.index.json. Every size is checked
// against the file before a byte of data is read.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

struct TensorInfo {
  std::string dtype;  // "BF16", "F32", "I32", ... as in the file
  std::vector<std::int64_t> shape;
  std::int64_t offset;  // of the data, bytes from the start of the file
  std::int64_t bytes;
  std::size_t file;  // index into the set's files
};

class Safetensors {
 public:
  /// One file. Throws UserError{bad_model} for a truncated or malformed file or a Git LFS pointer, UserError{io} when
  /// it cannot be opened.
  static Safetensors open_file(const std::filesystem::path& file);
  /// DIR/model.safetensors, or the shards of DIR/model.safetensors.index.json (each must exist, hold exactly the
  /// tensors that the index says, and no tensor may appear twice).
  static Safetensors open_model(const std::filesystem::path& dir);
  Safetensors(Safetensors&&) noexcept;
  ~Safetensors();

  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Throws UserError{bad_model} naming the tensor when it is absent or its dtype or shape differs.
  const TensorInfo& expect(const std::string& name, std::string_view dtype,
                           const std::vector<std::int64_t>& shape) const;
  /// Reads bytes [begin, begin + bytes) of the tensor to `out` by pread; throws UserError{io} on a short read and when
  /// the file's size is no longer what it was.
  void read(const TensorInfo& info, std::int64_t begin, std::int64_t bytes, std::byte* out) const;

 private:
  Safetensors() = default;
  struct File {
    std::filesystem::path path;
    int fd;
    std::int64_t bytes;  // when it was opened
  };
  void add_file(const std::filesystem::path& file);
  std::vector<File> files_;
  std::map<std::string, TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace longhaul
