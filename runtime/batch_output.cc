#include "runtime/batch_output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>

#include "kernels/base/error.h"
#include "kernels/base/hash.h"

namespace longhaul {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void fail(const std::string& file) {
  throw UserError(Exit::io, "{}: cannot be written: {}", file, std::strerror(errno));
}

/// The same request gets the same id in every run.
std::string stable_id(std::int64_t index, const std::string& custom_id) {
  return fmt::format("{:016x}", hash64(fmt::format("{}:{}", index, custom_id)));
}

bool is_absent(const std::string& file) {
  std::error_code unknown;
  return fs::status(file, unknown).type() == fs::file_type::not_found;
}

/// Makes the file's name last. EINVAL: a file system that has no such promise to give.
bool sync_folder(const fs::path& file) {
  const Fd fd(::open(file.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd >= 0 && (::fsync(fd) == 0 || errno == EINVAL);
}

}  // namespace

Json answer_record(std::int64_t index, const std::string& custom_id, const Answer& answer) {
  std::string id = stable_id(index, custom_id);
  Json message{{"role", "assistant"}, {"content", answer.text}};
  Json choice{{"index", 0}, {"message", message}, {"finish_reason", answer.finish_reason}, {"logprobs", nullptr}};
  Json usage{{"prompt_tokens", answer.prompt_tokens},
             {"completion_tokens", answer.completion_tokens},
             {"total_tokens", answer.prompt_tokens + answer.completion_tokens}};
  Json body{{"id", "chatcmpl-" + id}, {"object", "chat.completion"},      {"created", std::time(nullptr)},
            {"model", answer.model},  {"choices", Json::array({choice})}, {"usage", usage}};
  return {{"id", "batch_req_" + id},
          {"custom_id", custom_id},
          {"response", {{"status_code", 200}, {"request_id", "req_" + id}, {"body", body}}},
          {"error", nullptr}};
}

Json failure_record(std::int64_t index, const std::string& custom_id, const Failure& failure) {
  return {{"id", "batch_req_" + stable_id(index, custom_id)},
          {"custom_id", custom_id},
          {"response", nullptr},
          {"error", {{"code", failure.code}, {"message", failure.message}}}};
}

BatchOutput::BatchOutput(const std::string& file)
    : made_(is_absent(file)), fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  auto refuse = [&](Exit exit, const char* why) { throw UserError(exit, "--output {}: {}", file, why); };
  if (fd_ < 0 && errno != EISDIR) fail(file);
  struct stat now {};
  if (fd_ < 0 || ::fstat(fd_, &now) != 0 || !S_ISREG(now.st_mode)) refuse(Exit::usage, "not a regular file");
  // A symbolic link's target: finish() renames, and must replace the file rather than the link.
  std::error_code gone;
  file_ = fs::canonical(file, gone);
  // Its maker may remove an empty file between our open and our lock.
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0 || gone || !is_named()) refuse(Exit::locked, "another job is writing it");
  if (::fstat(fd_, &now) != 0 || now.st_size != 0)
    refuse(Exit::usage, "exists and is not this job's; remove it or choose another name");
  if (sync_folder(file_)) return;
  int error = errno;
  remove_unused();
  errno = error;
  fail(file_);
}

BatchOutput::~BatchOutput() { remove_unused(); }

bool BatchOutput::is_named() const {
  struct stat named {
  }, open{};
  return ::stat(file_.c_str(), &named) == 0 && ::fstat(fd_, &open) == 0 && named.st_dev == open.st_dev &&
         named.st_ino == open.st_ino;
}

void BatchOutput::remove_unused() const {
  if (made_ && lines_.empty() && is_named()) ::unlink(file_.c_str());
}

void BatchOutput::append(std::int64_t index, const Json& record) {
  // A file name may hold bytes that are not UTF-8; JSON cannot.
  std::string line = record.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  if (!append_whole(fd_, line, size_)) fail(file_);
  lines_.push_back({index, size_, static_cast<std::int64_t>(line.size())});
  size_ += static_cast<std::int64_t>(line.size());
}

void BatchOutput::finish() {
  auto by_index = [](const Line& a, const Line& b) { return a.index < b.index; };
  if (std::is_sorted(lines_.begin(), lines_.end(), by_index)) return;
  std::sort(lines_.begin(), lines_.end(), by_index);
  std::string ordered = file_ + ".XXXXXX";  // a name that is nobody's
  int fd = ::mkostemp(ordered.data(), O_CLOEXEC);
  if (fd < 0) fail(ordered);
  struct stat at {};
  bool ok = ::fstat(fd_, &at) == 0 && ::fchmod(fd, at.st_mode & 0777) == 0;
  std::string text;
  for (const Line& line : lines_) {
    text.resize(line.bytes);
    ok = ok && ::pread(fd_, text.data(), line.bytes, line.offset) == line.bytes && write_all(fd, text);
  }
  ok = ok && ::fsync(fd) == 0;
  ok = ::close(fd) == 0 && ok;
  if (!ok || ::rename(ordered.c_str(), file_.c_str()) != 0) {
    int error = errno;
    ::unlink(ordered.c_str());
    errno = error;
    fail(file_);
  }
  if (!sync_folder(file_)) fail(file_);
}

}  // namespace longhaul
