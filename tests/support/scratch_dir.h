// A folder of its own for one test, removed with all that is in it.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace longhaul::test {

class ScratchDir {
 public:
  explicit ScratchDir(const std::filesystem::path& where = std::filesystem::temp_directory_path()) {
    std::string name = (where / "longhaul-test-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed");
    path_ = name;
  }
  ScratchDir(const ScratchDir&) = delete;
  /// Where files come and go by the thousand: in memory, if the system has such a place.
  static std::filesystem::path in_memory() {
    std::error_code unknown;
    const std::filesystem::path shared = "/dev/shm";
    return std::filesystem::is_directory(shared, unknown) && ::access(shared.c_str(), W_OK) == 0
               ? shared
               : std::filesystem::temp_directory_path();
  }
  ~ScratchDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  /// Writes a file in the folder; returns its path.
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::ofstream(path_ / name, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

/// What is in a file; of one that is not there, nothing.
inline std::string text_of(const std::filesystem::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

}  // namespace longhaul::test
