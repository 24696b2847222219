#include "runtime/batch/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/batch/crash_signals.h"

namespace longhaul {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::int64_t kLongest = 1 << 16;  // bytes, before what is over is dropped

}  // namespace

std::string journal_name(const std::string& output) { return output + ".working"; }

BatchJournal::BatchJournal(const std::string& output, const std::string& fingerprint, std::int64_t oom_kills,
                           Disk& disk)
    : disk_(disk), file_(journal_name(output)), fingerprint_(fingerprint), oom_kills_(oom_kills) {
  std::error_code unknown;
  if (std::filesystem::exists(file_, unknown)) read(fingerprint);
}

BatchJournal::~BatchJournal() {
  if (fd_ < 0) return;
  note_crashes_in(-1);
  write("{\"working\":[]}\n");  // where this fails the next run may take a rise of oom_kill for this one's: no more
  ::close(fd_);
}

void BatchJournal::read(const std::string& fingerprint) {
  std::istringstream lines(read_file(std::filesystem::path(file_)));
  std::int64_t oom_kills = 0;
  bool ours = false;
  for (std::string text; std::getline(lines, text);) {
    const Json line = Json::parse(text, nullptr, false);
    if (!line.is_object()) continue;  // the process was killed while it wrote this
    try {
      if (line.contains("job")) {
        ours = line["job"] == fingerprint;
        oom_kills = line.at("oom_kills").get<std::int64_t>();
        working_.clear();
      } else if (ours && line.contains("strikes")) {
        strikes_[line["strikes"].get<std::string>()] = {line.at("count").get<int>(), line.at("causes")};
      } else if (ours && line.contains("working")) {
        working_ = line["working"].get<std::vector<std::string>>();
      } else if (ours && line.contains("crash")) {
        strike(line["crash"].get<std::string>());
      }
    } catch (const nlohmann::json::exception&) {
      continue;
    }
  }
  if (oom_kills_ > oom_kills) strike("oom_kill");
}

void BatchJournal::strike(const std::string& cause) {
  for (const std::string& key : std::exchange(working_, {})) {
    Strikes& strikes = strikes_[key];
    if (strikes.count++ > 0) strikes.causes += ", ";
    strikes.causes += cause;
  }
}

const Strikes& BatchJournal::of(const std::string& key) const {
  static const Strikes none;
  const auto found = strikes_.find(key);
  return found == strikes_.end() ? none : found->second;
}

bool BatchJournal::write(const std::string& line) {
  for (std::size_t done = 0; done < line.size();) {
    const ssize_t n = disk_.write("working", fd_, std::string_view(line).substr(done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    done += static_cast<std::size_t>(n);
    size_ += n;
  }
  return true;
}

/// What this run is, and what it knows of earlier ones. Not synced, like all of this file: what outlives the process is
/// enough.
void BatchJournal::write_head() {
  std::string head = Json{{"job", fingerprint_}, {"oom_kills", oom_kills_}}.dump() + '\n';
  for (const auto& [key, strikes] : strikes_)
    head += Json{{"strikes", key}, {"count", strikes.count}, {"causes", strikes.causes}}.dump() + '\n';
  size_ = 0;
  if (disk_.truncate("working", fd_, 0) != 0 || !write(head)) fail_write(file_, "; the same command goes on");
}

void BatchJournal::start() {
  fd_ = disk_.open("working", file_, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) fail_write(file_, "; the same command goes on");
  write_head();
  note_crashes_in(fd_);
}

void BatchJournal::working(const std::vector<std::string>& keys) {
  if (size_ > kLongest) write_head();
  if (!write(Json{{"working", keys}}.dump() + '\n')) fail_write(file_, "; the same command goes on");
}

void BatchJournal::crashed(const std::string& cause) { write(Json{{"crash", cause}}.dump() + '\n'); }

void BatchJournal::finish() {
  note_crashes_in(-1);
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  disk_.remove("working", file_);
}

}  // namespace longhaul
