// A file for results, opened before minutes or hours of work begin, and nobody else's while this object lives.
#pragma once
#include <cstdint>
#include <string>

#include "kernels/base/durable_file.h"

namespace longhaul {

class OutputFile {
 public:
  /// Opens and locks FILE; makes it if need be and changes nothing in it. Throws UserError{usage} when it is not a
  /// regular file, UserError{io} when it cannot be written, UserError{locked} while another job writes it.
  explicit OutputFile(const std::string& file, Disk& disk = system_disk());
  OutputFile(OutputFile&&) = delete;
  /// Removes the file that it made, unless it was kept: a job that never began leaves nothing behind.
  ~OutputFile();

  /// Absolute, without symbolic links: what is renamed over it replaces the file and not a link to it.
  const std::string& name() const { return file_; }
  int fd() const { return fd_; }
  std::int64_t size() const;
  void keep() { made_ = false; }
  /// `fd` is open at this name now, and locked.
  void replaced_by(int fd);
  /// Throws the UserError{usage} of a file that holds something already.
  [[noreturn]] void refuse_taken() const;

 private:
  bool is_named() const;  // is the open file the one at `file_`?
  void close_unused();

  Disk& disk_;
  std::string given_, file_;
  bool made_;  // by this object, and not kept
  int fd_;
};

}  // namespace longhaul
