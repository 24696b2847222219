// The system calls that durable results are made of, in one place, so that tests can fail each of them or end the
// process there; and the two things done with them: to append for good, and to replace a file as a whole.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace longhaul {

/// As the system's: -1 is a failure, and errno says why. `part` names what of the protocol a call belongs to ("record",
/// "manifest"); part and call together name a point at which a process may be killed.
class Disk {
 public:
  virtual ~Disk() = default;
  virtual int open(std::string_view part, const std::string& file, int flags);
  virtual ssize_t write(std::string_view part, int fd, std::string_view bytes);
  virtual int sync(std::string_view part, int fd);
  /// Makes the names in the file's folder last.
  virtual int sync_folder(std::string_view part, const std::string& file);
  virtual int truncate(std::string_view part, int fd, std::int64_t size);
  virtual int rename(std::string_view part, const std::string& from, const std::string& to);
  virtual int remove(std::string_view part, const std::string& file);
};

Disk& system_disk();

/// Throws UserError{io} with the file, errno's reason and what to do.
[[noreturn]] void fail_write(const std::string& file, std::string_view what_then);

/// Writes everything, in however many calls. False: errno says why.
bool write_all(Disk& disk, std::string_view part, int fd, std::string_view bytes);

/// Appends `bytes` to a file of `size` bytes; they are on the disk when this returns true. False: errno says why, and
/// the file is as it was, if the system let us cut it.
bool append_for_good(Disk& disk, std::string_view part, int fd, std::string_view bytes, std::int64_t size);

/// Puts what `next` gives, piece by piece until it returns false, in the place of `file`: a file beside it is written,
/// synced, locked and renamed, and the folder synced. Returns the new file, open for reading and appending, or -1 with
/// errno; then `file` is as it was. It has the mode of `like`, where that is a file.
int replace_file(Disk& disk, std::string_view part, const std::string& file, int like,
                 const std::function<bool(std::string&)>& next);
/// The same of a text that is there as a whole.
int replace_file(Disk& disk, std::string_view part, const std::string& file, int like, std::string_view text);
/// The name of the file beside it, which a killed process may leave behind.
std::string unfinished_name(const std::string& file);

}  // namespace longhaul
