#include "kernels/base/durable_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/file.h"

namespace longhaul {

bool write_all(Disk& disk, std::string_view part, int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = disk.write(part, fd, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

int Disk::open(std::string_view, const std::string& file, int flags) { return ::open(file.c_str(), flags, 0666); }
ssize_t Disk::write(std::string_view, int fd, std::string_view bytes) {
  return ::write(fd, bytes.data(), bytes.size());
}
int Disk::sync(std::string_view, int fd) { return ::fsync(fd); }
int Disk::truncate(std::string_view, int fd, std::int64_t size) { return ::ftruncate(fd, size); }
int Disk::rename(std::string_view, const std::string& from, const std::string& to) {
  return std::rename(from.c_str(), to.c_str());
}
int Disk::remove(std::string_view, const std::string& file) { return ::unlink(file.c_str()); }

int Disk::sync_folder(std::string_view, const std::string& file) {
  std::filesystem::path folder = std::filesystem::path(file).parent_path();
  const Fd fd(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: a file system that has no such promise to give.
  return fd >= 0 && (::fsync(fd) == 0 || errno == EINVAL) ? 0 : -1;
}

Disk& system_disk() {
  static Disk disk;
  return disk;
}

void fail_write(const std::string& file, std::string_view what_then) {
  const bool full = errno == ENOSPC || errno == EDQUOT;
  throw UserError(Exit::io, "{}: cannot be written: {}{}{}", file, std::strerror(errno), what_then,
                  full ? " once there is room" : "");
}

bool append_for_good(Disk& disk, std::string_view part, int fd, std::string_view bytes, std::int64_t size) {
  if (write_all(disk, part, fd, bytes) && disk.sync(part, fd) == 0) return true;
  const int error = errno;
  disk.truncate(part, fd, size);  // what stays where this fails is cut off when the file is opened again
  errno = error;
  return false;
}

int replace_file(Disk& disk, std::string_view part, const std::string& file, int like, std::string_view text) {
  bool told = false;
  return replace_file(disk, part, file, like, [&](std::string& piece) {
    piece = text;
    return !std::exchange(told, true);
  });
}

std::string unfinished_name(const std::string& file) { return file + ".longhaul-new"; }

int replace_file(Disk& disk, std::string_view part, const std::string& file, int like,
                 const std::function<bool(std::string&)>& next) {
  const std::string unfinished = unfinished_name(file);
  const int fd = disk.open(part, unfinished, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC);
  if (fd < 0) return -1;
  struct stat mode {};
  bool ok = ::fstat(like, &mode) != 0 || ::fchmod(fd, mode.st_mode & 0777) == 0;
  // Locked before it has the name, so that nobody finds the name unlocked.
  ok = ok && ::flock(fd, LOCK_EX | LOCK_NB) == 0;
  for (std::string piece; ok && next(piece);) ok = write_all(disk, part, fd, piece);
  ok = ok && disk.sync(part, fd) == 0 && disk.rename(part, unfinished, file) == 0;
  if (ok && disk.sync_folder(part, file) == 0) return fd;
  const int error = errno;
  if (!ok) disk.remove(part, unfinished);
  ::close(fd);
  errno = error;
  return -1;
}

}  // namespace longhaul
