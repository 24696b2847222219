// The open files that a model's tensors are in, and where in them each tensor lies: what Safetensors and Gguf have in
// common once a file's header has been read. Only what a header names is read, by pread, from any thread.
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
  std::string dtype;  // "BF16", "F32", "I32", "Q4_K", ... as in the file
  std::vector<std::int64_t> shape;
  std::int64_t offset;  // of the data, bytes from the start of the file
  std::int64_t bytes;
  std::size_t file;  // index into the set's files
};

/// Pieces of equal width at equal distances within a tensor.
struct Stride {
  std::int64_t begin, width, pitch, count;
};

class TensorFiles {
 public:
  TensorFiles(TensorFiles&&) noexcept;
  virtual ~TensorFiles();

  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  /// Null where there is none.
  const TensorInfo* find(const std::string& name) const;
  /// Throws UserError{bad_model} naming the tensor when it is absent or its dtype or shape differs.
  const TensorInfo& expect(const std::string& name, std::string_view dtype,
                           const std::vector<std::int64_t>& shape) const;
  [[noreturn]] void missing(const std::string& name) const;
  /// Of the file, or of the folder of several.
  std::string name() const;
  /// "FILE: tensor "NAME"", for messages.
  std::string where(const std::string& name, const TensorInfo& info) const;
  /// Reads bytes [begin, begin + bytes) of the tensor to `out`; throws UserError{io} on a short read and when the
  /// file's size is no longer what it was.
  void read(const TensorInfo& info, std::int64_t begin, std::int64_t bytes, std::byte* out) const;
  /// The same of several pieces, which stand in `out` one after the other.
  void read(const TensorInfo& info, const Stride& stride, std::byte* out) const;

 protected:
  TensorFiles() = default;
  /// Opens a regular file that is neither a Git LFS pointer nor a web page; returns its index.
  std::size_t open(const std::filesystem::path& path);
  const std::filesystem::path& path(std::size_t file) const { return files_[file].path; }
  std::int64_t bytes(std::size_t file) const { return files_[file].bytes; }
  void read_at(std::size_t file, std::int64_t offset, std::int64_t bytes, std::byte* out) const;
  /// Throws UserError{bad_model} where a file before has a tensor of that name.
  void add(const std::string& name, TensorInfo info);

 private:
  struct File {
    std::filesystem::path path;
    int fd;
    std::int64_t bytes;  // when it was opened
  };
  void check_unchanged(const File& file) const;
  std::vector<File> files_;
  std::map<std::string, TensorInfo> tensors_;
};

}  // namespace longhaul
