// Files read whole. A fault in the middle is an error, never a shorter text.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <string>

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

/// Whether nothing has this name; a link to nothing is nothing.
bool is_absent(const std::filesystem::path& file);
/// The bytes of a file, or of a pipe until its end. Throws UserError{io} with the path and the system's reason.
std::string read_file(const std::filesystem::path& file);
/// The same of what is open already; `name` is for messages.
std::string read_file(int fd, const std::string& name);

}  // namespace longhaul
