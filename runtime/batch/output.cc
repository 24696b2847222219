#include "runtime/batch/output.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/batch/journal.h"

namespace longhaul {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

BatchOutput::BatchOutput(const std::string& file, Disk& disk) : disk_(disk), file_(file, disk), size_(file_.size()) {
  if (size_ > 0 && is_absent(manifest_name(this->file()))) file_.refuse_taken();
}

std::set<fs::path> BatchOutput::own_files() const {
  std::set<fs::path> files;
  for (const std::string& name : {file(), manifest_name(file()), journal_name(file())})
    files.insert({name, unfinished_name(name)});
  return files;
}

void BatchOutput::fail() const {
  fail_write(
      file(),
      fmt::format("; the {} records of {} documents that are there are safe: the same command{} goes on from them",
                  recorded_, inputs(), start_over_ ? " without --fresh" : ""));
}

void BatchOutput::refuse(const std::string& why) const {
  throw UserError(Exit::usage, "--output {}: {}; --fresh throws it away and starts over, or choose another name",
                  file(), why);
}

void BatchOutput::refuse_others(const Manifest& job, const Manifest& had, bool inputs_too) const {
  const std::string difference = job.difference(had, inputs_too);
  if (!difference.empty()) refuse("holds the records of another job, with " + difference);
}

void BatchOutput::expect(const Manifest& job, Resume resume) const {
  if (size_ == 0 || resume.fresh) return;
  const auto had = Manifest::read(manifest_name(file()));
  if (!had) file_.refuse_taken();
  refuse_others(job, *had, /*inputs_too=*/false);
}

void BatchOutput::match(const Manifest& manifest, std::vector<InputKey> inputs, Resume resume) {
  manifest_ = manifest;
  inputs_ = std::move(inputs);
  lines_.assign(inputs_.size(), {});
  std::map<std::string_view, std::int64_t> occurrences;
  for (const InputKey& input : inputs_) ids_.push_back(record_id(input.content, occurrences[input.content]++));
  start_over_ = resume.fresh;
  const bool nothing = size_ == 0 || resume.fresh;
  std::optional<Manifest> had;
  if (!nothing || !is_absent(manifest_name(file()))) {
    try {
      had = Manifest::read(manifest_name(file()));
    } catch (const UserError&) {
      if (!nothing) throw;  // of an output that holds nothing, anything may be left
    }
  }
  manifest_differs_ = !had || had->fingerprint() != manifest.fingerprint();
  if (nothing) return;
  if (!had) file_.refuse_taken();
  refuse_others(manifest, *had, /*inputs_too=*/!resume.retry_errors);
  assign(read_records(), resume);
}

std::vector<BatchOutput::Found> BatchOutput::read_records() {
  const std::string text = read_file(fs::path(file()));
  std::vector<Found> found;
  std::int64_t number = 0;
  std::size_t at = 0;
  bool broken = false;  // the line before was no record: only the last may be torn
  for (std::size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    ++number;
    if (broken) refuse(fmt::format("line {} is no record of longhaul batch", number - 1));
    const Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(at),
                                  text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    auto text_at = [&](const char* key) {
      const auto value = line.is_object() ? line.find(key) : line.end();
      return value != line.end() && value->is_string() ? value->get<std::string>() : std::string();
    };
    const std::string id = text_at("id"), content = content_of_id(id);
    broken = content.empty() || !line.contains("error");
    if (broken) continue;
    found.push_back({.number = number,
                     .offset = static_cast<std::int64_t>(at),
                     .bytes = static_cast<std::int64_t>(end + 1 - at),
                     .content = content,
                     .custom_id = text_at("custom_id"),
                     .id = id,
                     .failed = !line["error"].is_null()});
    torn_at_ = static_cast<std::int64_t>(end) + 1;
  }
  return found;
}

/// A record belongs to the input with its content; of several, to the one with its custom_id, else to the first that
/// has none.
void BatchOutput::assign(const std::vector<Found>& found, Resume resume) {
  std::map<std::string_view, std::vector<std::size_t>> by_content;
  for (std::size_t i = 0; i < inputs_.size(); ++i) by_content[inputs_[i].content].push_back(i);
  auto take = [&](const Found& record, bool same_name) {
    for (const std::size_t i : by_content[record.content]) {
      if (lines_[i].bytes > 0 || (same_name && inputs_[i].custom_id != record.custom_id)) continue;
      lines_[i] = {.offset = record.offset,
                   .bytes = record.bytes,
                   .current = record.id == ids_[i] && record.custom_id == inputs_[i].custom_id};
      ++recorded_;
      failed_ += record.failed;
      return true;
    }
    return false;
  };
  std::vector<const Found*> renamed;
  for (const Found& record : found) {
    if (record.failed && resume.retry_errors) drop_ = true;
    else if (!take(record, true)) renamed.push_back(&record);
  }
  for (const Found* record : renamed)
    if (!take(*record, false))
      refuse(fmt::format("line {} ({}) answers none of the documents given", record->number, record->custom_id));
}

void BatchOutput::start() {
  started_ = true;
  file_.keep();
  auto cut = [&](const char* part, std::int64_t to) {
    if (disk_.truncate(part, file_.fd(), to) != 0 || disk_.sync(part, file_.fd()) != 0) fail();
    size_ = to;
  };
  if (start_over_ && size_ > 0) cut("fresh", 0);
  if (size_ > torn_at_) cut("torn", torn_at_);
  else if (size_ > 0 && disk_.sync("resumed", file_.fd()) != 0) fail();  // a killed process may not have got so far
  if (drop_) rewrite("retry", false);
  if (!manifest_differs_) return;
  const Fd fd(replace_file(disk_, "manifest", manifest_name(file()), file_.fd(), manifest_->text()));
  if (fd < 0) fail_write(manifest_name(file()), "; give the same command again");
}

void BatchOutput::append(std::int64_t index, const Answer& answer) {
  append_line(index, answer_record(ids_[index], inputs_[index].custom_id, answer));
}

void BatchOutput::append(std::int64_t index, const Failure& failure) {
  append_line(index, failure_record(ids_[index], inputs_[index].custom_id, failure));
  ++failed_;
}

void BatchOutput::append_line(std::int64_t index, const Json& record) {
  check(started_ && !has(index), "one record for each input");
  const std::string line = record_line(record);
  if (!append_for_good(disk_, "record", file_.fd(), line, size_)) fail();
  lines_[index] = {.offset = size_, .bytes = static_cast<std::int64_t>(line.size())};
  size_ += static_cast<std::int64_t>(line.size());
  ++recorded_;
}

std::string BatchOutput::stored(std::int64_t index) const {
  const Line& line = lines_[index];
  std::string text(static_cast<std::size_t>(line.bytes), '\0');
  if (::pread(file_.fd(), text.data(), text.size(), line.offset) != line.bytes)
    throw UserError(Exit::io, "{}: cannot be read back", file());
  if (line.current) return text;
  Json record = Json::parse(text);
  record["id"] = ids_[index];
  record["custom_id"] = inputs_[index].custom_id;
  return record_line(record);
}

void BatchOutput::rewrite(const char* part, bool all) {
  std::vector<Line> moved(lines_.size());
  std::int64_t index = 0, size = 0;
  auto next = [&](std::string& piece) {
    while (index < inputs() && !has(index)) ++index;
    if (index == inputs()) return false;
    piece = stored(index);
    moved[index] = {.offset = size, .bytes = static_cast<std::int64_t>(piece.size())};
    size += static_cast<std::int64_t>(piece.size());
    ++index;
    return true;
  };
  check(!all || recorded_ == inputs(), "every input has its record");
  const int fd = replace_file(disk_, part, file(), file_.fd(), next);
  if (fd < 0) fail();
  file_.replaced_by(fd);
  lines_ = std::move(moved);
  size_ = torn_at_ = size;
}

void BatchOutput::finish() {
  std::int64_t end = 0;
  bool ordered = true;
  for (const Line& line : lines_) {
    ordered = ordered && line.current && line.offset == end;
    end = line.offset + line.bytes;
  }
  if (!ordered) rewrite("finish", true);
  disk_.remove("leftover", unfinished_name(file()));
  disk_.remove("leftover", unfinished_name(manifest_name(file())));
}

}  // namespace longhaul
