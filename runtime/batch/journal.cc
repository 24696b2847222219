#include "runtime/batch/journal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/batch/crash_signals.h"

namespace longhaul {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::int64_t kLongest = 1 << 16;  // bytes, before what is over is dropped
constexpr const char* kUnread = "unread-";
constexpr const char* kGoesOn = "; the same command goes on";

}  // namespace

void Strikes::add(const Strikes& more) {
  if (count > 0 && more.count > 0) causes += ", ";
  count += more.count;
  causes += more.causes;
}

std::optional<Failure> Strikes::given_up() const {
  if (count < BatchJournal::kMostStrikes) return {};
  return Failure{"process_ended", fmt::format("the process ended {} times while it worked on this document ({}); it is "
                                              "not tried again without --retry-errors",
                                              count, causes)};
}

std::string journal_name(const std::string& output) { return output + ".working"; }

std::string unread_key(const std::filesystem::path& file) {
  struct stat now {};
  ::stat(file.c_str(), &now);
  std::error_code unknown;
  return kUnread + content_key("unread", fmt::format("{}\n{}\n{}.{}", std::filesystem::absolute(file, unknown).string(),
                                                     now.st_size, now.st_mtim.tv_sec, now.st_mtim.tv_nsec));
}

BatchJournal::BatchJournal(const std::string& output, const std::string& job, OomKills oom_kills, Disk& disk)
    : disk_(disk), file_(journal_name(output)), job_(job), oom_kills_(std::move(oom_kills)), counted_(oom_kills_()) {
  if (!is_absent(file_)) read();
}

BatchJournal::~BatchJournal() {
  if (fd_ < 0) return;
  note_crashes_in(-1);
  write("{\"working\":[]}\n");  // where this fails the next run may take a rise of oom_kill for this one's: no more
  ::close(fd_);
  if (strikes_.empty() && !crashed_) disk_.remove("working", file_);
}

void BatchJournal::read() {
  std::istringstream lines(read_file(std::filesystem::path(file_)));
  std::int64_t oom_kills = 0;
  bool ours = false;
  for (std::string text; std::getline(lines, text);) {
    const Json line = Json::parse(text, nullptr, false);
    if (!line.is_object()) continue;  // the process was killed while it wrote this
    try {
      if (line.contains("job")) {
        ours = line["job"] == job_;
        again_ = ours && line.at("again").get<bool>();
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
  if (counted_ > oom_kills) strike("oom_kill");
}

void BatchJournal::strike(const std::string& cause) {
  const std::vector<std::string> keys = std::exchange(working_, {});  // of equal documents, or parts of one: once
  for (const std::string& key : std::set<std::string>(keys.begin(), keys.end())) strikes_[key].add({1, cause});
}

Strikes BatchJournal::of(const std::string& key, const std::string& unread) const {
  Strikes all;
  for (const std::string* one : {&unread, &key})
    if (const auto found = strikes_.find(*one); found != strikes_.end()) all.add(found->second);
  return all;
}

void BatchJournal::ask_again() {
  if (!std::exchange(again_, true)) strikes_.clear();
}

bool BatchJournal::write(const std::string& line) {
  size_ += static_cast<std::int64_t>(line.size());
  return write_all(disk_, "working", fd_, line);
}

std::string BatchJournal::job_line() const {
  return Json{{"job", job_}, {"oom_kills", counted_}, {"again", again_}}.dump() + '\n';
}

/// What this run is, and what it knows of earlier ones. Not synced, like all of this file: what outlives the process is
/// enough.
void BatchJournal::write_head() {
  std::string head = job_line();
  for (const auto& [key, strikes] : strikes_)
    head += Json{{"strikes", key}, {"count", strikes.count}, {"causes", strikes.causes}}.dump() + '\n';
  size_ = 0;
  if (disk_.truncate("working", fd_, 0) != 0 || !write(head)) fail_write(file_, kGoesOn);
}

void BatchJournal::start() {
  fd_ = disk_.open("working", file_, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC);
  if (fd_ < 0) fail_write(file_, kGoesOn);
  write_head();
  note_crashes_in(fd_);
}

void BatchJournal::working(const std::vector<std::string>& keys) {
  if (size_ > kLongest) write_head();
  std::string line;
  if (const std::int64_t now = oom_kills_(); now != counted_) {
    counted_ = now;  // whoever that was, it was not this process
    line = job_line();
  }
  if (!write(line + Json{{"working", keys}}.dump() + '\n')) fail_write(file_, kGoesOn);
}

void BatchJournal::crashed(const std::string& cause) {
  crashed_ = true;
  write(Json{{"crash", cause}}.dump() + '\n');
}

void BatchJournal::finish() {
  if (fd_ < 0) return;
  note_crashes_in(-1);
  again_ = false;
  std::erase_if(strikes_, [](const auto& of) { return !of.first.starts_with(kUnread) || !of.second.given_up(); });
  if (!strikes_.empty()) write_head();
  ::close(std::exchange(fd_, -1));
  if (strikes_.empty()) disk_.remove("working", file_);
}

}  // namespace longhaul
