// Files read whole and written whole. A fault in the middle is an error, never a shorter text.
#pragma once
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace longhaul {

/// Owns a file descriptor; -1 is none.
class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&&) = delete;
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  operator int() const { return fd_; }

 private:
  int fd_;
};

/// Writes everything, in however many calls. False: errno says why.
bool write_all(int fd, std::string_view bytes);
/// Appends `bytes` to a file of `size` bytes; they are on disk when this returns. False: errno says why, and the file
/// is as it was.
bool append_whole(int fd, std::string_view bytes, std::int64_t size);
/// The bytes of a file, or of a pipe until its end. Throws UserError{io} with the path and the system's reason.
std::string read_file(const std::filesystem::path& file);
/// The same of what is open already; `name` is for messages.
std::string read_file(int fd, const std::string& name);

}  // namespace longhaul
