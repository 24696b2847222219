// A disk that runs full, fails, or ends the process at a named point. Syncs are counted and not made: what is tested is
// a process that dies, not a machine; but with `forget` what was never synced is gone when the process ends.
#pragma once
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/base/durable_file.h"

namespace longhaul::test {

class FaultyDisk final : public Disk {
 public:
  static constexpr int kKilled = 77;  // the exit status of a process that ended at a point

  std::int64_t room = std::int64_t{1} << 40;  // bytes that can be written before the disk is full
  std::string fail_at;                        // "record.write": that call fails with EIO, each time
  std::int64_t kill_at = -1;                  // the n-th point (from 0) ends the process; -1: none
  bool forget = false;
  std::vector<std::string> points;  // that were passed, in order

  int open(std::string_view part, const std::string& file, int flags) override {
    return call(part, "open", [&] {
      const int fd = Disk::open(part, file, flags);
      if (fd >= 0) synced_[fd] = ::lseek(fd, 0, SEEK_END);
      return fd;
    });
  }
  ssize_t write(std::string_view part, int fd, std::string_view bytes) override {
    return call(part, "write", [&]() -> ssize_t {
      if (room == 0) return errno = ENOSPC, -1;
      // In two halves: a process can die in the middle of a write.
      half_written_ = !half_written_ && bytes.size() > 1;
      const std::size_t wanted = half_written_ ? bytes.size() / 2 : bytes.size();
      const ssize_t n = Disk::write(part, fd, bytes.substr(0, std::min(wanted, static_cast<std::size_t>(room))));
      if (n > 0) room -= n;
      return n;
    });
  }
  int sync(std::string_view part, int fd) override {
    return call(part, "sync", [&] {
      synced_[fd] = ::lseek(fd, 0, SEEK_END);
      return 0;
    });
  }
  int sync_folder(std::string_view part, const std::string&) override {
    return call(part, "sync_folder", [] { return 0; });
  }
  int truncate(std::string_view part, int fd, std::int64_t size) override {
    return call(part, "truncate", [&] { return Disk::truncate(part, fd, size); });
  }
  int rename(std::string_view part, const std::string& from, const std::string& to) override {
    return call(part, "rename", [&] { return Disk::rename(part, from, to); });
  }
  int remove(std::string_view part, const std::string& file) override {
    return call(part, "remove", [&] { return Disk::remove(part, file); });
  }

 private:
  template <class Act>
  auto call(std::string_view part, const char* what, const Act& act) -> decltype(act()) {
    const std::string name = std::string(part) + '.' + what;
    point("before " + name);
    if (name == fail_at) return errno = EIO, -1;
    const auto result = act();
    const int error = errno;
    point("after " + name);
    errno = error;
    return result;
  }
  void point(const std::string& name) {
    const auto number = static_cast<std::int64_t>(points.size());
    points.push_back(name);
    if (number != kill_at) return;
    if (forget)
      for (const auto& [fd, size] : synced_)
        if (const std::int64_t now = ::lseek(fd, 0, SEEK_END); now > size && ::ftruncate(fd, size) != 0) ::_exit(1);
    ::_exit(kKilled);
  }

  bool half_written_ = false;
  std::map<int, std::int64_t> synced_;  // bytes of each file that are on the disk for good
};

}  // namespace longhaul::test
