#include "runtime/batch/output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/file.h"

namespace longhaul {
namespace fs = std::filesystem;

OutputFile::OutputFile(const std::string& file, Disk& disk)
    : disk_(disk),
      given_(file),
      made_(is_absent(file)),
      fd_(disk.open("output", file, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC)) {
  auto refuse = [&](Exit exit, const char* why) {
    if (fd_ >= 0) ::close(fd_);
    throw UserError(exit, "--output {}: {}", file, why);
  };
  if (fd_ < 0 && errno != EISDIR) fail_write(file, "");
  struct stat now {};
  if (fd_ < 0 || ::fstat(fd_, &now) != 0 || !S_ISREG(now.st_mode)) refuse(Exit::usage, "not a regular file");
  std::error_code gone;
  file_ = fs::canonical(file, gone);
  // Its maker may remove an empty file, or replace a whole one, between our open and our lock.
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 || gone || !is_named())
    refuse(Exit::locked, "another job is writing it; wait for that to end, or choose another name");
  if (disk_.sync_folder("output", file_) == 0) return;
  const int error = errno;
  close_unused();
  errno = error;
  fail_write(file_, "");
}

OutputFile::~OutputFile() { close_unused(); }

void OutputFile::close_unused() {
  if (made_ && is_named()) disk_.remove("unused", file_);
  ::close(fd_);
}

bool OutputFile::is_named() const {
  struct stat named {
  }, open{};
  return ::stat(file_.c_str(), &named) == 0 && ::fstat(fd_, &open) == 0 && named.st_dev == open.st_dev &&
         named.st_ino == open.st_ino;
}

std::int64_t OutputFile::size() const {
  struct stat now {};
  check(::fstat(fd_, &now) == 0, "an open file has a size");
  return now.st_size;
}

void OutputFile::replaced_by(int fd) { ::close(std::exchange(fd_, fd)); }

void OutputFile::refuse_taken() const {
  throw UserError(Exit::usage, "--output {}: exists and is not this job's; remove it or choose another name", given_);
}

}  // namespace longhaul
