#include "kernels/base/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/base/error.h"

namespace longhaul {

bool is_absent(const std::filesystem::path& file) {
  std::error_code unknown;
  return std::filesystem::status(file, unknown).type() == std::filesystem::file_type::not_found;
}

std::string read_file(int fd, const std::string& name) {
  auto fail = [&] { throw UserError(Exit::io, "{}: cannot be read: {}", name, std::strerror(errno)); };
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail();
  if (S_ISDIR(status.st_mode)) throw UserError(Exit::io, "{}: is a folder, not a file", name);
  // One byte more than the file has, so that its end is seen without growing; /proc and pipes say that they have none.
  std::string text(std::max<std::size_t>(static_cast<std::size_t>(status.st_size) + 1, 4096), '\0');
  for (std::size_t size = 0;;) {
    const ssize_t got = ::read(fd, text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail();
    size += static_cast<std::size_t>(got);
    if (got == 0) {
      text.resize(size);
      return text;
    }
    if (size == text.size()) text.resize(2 * size);
  }
}

std::string read_file(const std::filesystem::path& file) {
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd < 0) throw UserError(Exit::io, "{}: {}", file.string(), std::strerror(errno));
  return read_file(fd, file.string());
}

}  // namespace longhaul
