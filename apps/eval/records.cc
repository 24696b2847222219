#include "apps/eval/records.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>

#include "kernels/base/durable_file.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

using Json = nlohmann::ordered_json;
constexpr const char* kMark = "longhaul_eval";

[[noreturn]] void refuse(const std::string& file, std::int64_t line) {
  throw UserError(Exit::usage, "--output {}: line {} is no record of longhaul eval; choose another name", file, line);
}

/// A value from a little before `place` on, cut to a line's length.
std::string shown(const std::string& text, std::size_t place) {
  const std::size_t begin = place > 24 ? place - 24 : 0;
  std::string part = text.substr(std::min(begin, text.size()), 60);
  std::ranges::replace(part, '\n', ' ');
  return (begin > 0 ? "..." : "") + part + (begin + 60 < text.size() ? "..." : "");
}

/// Names the first setting that differs, and of a list its first item that does.
void check_equal(const std::string& file, const std::string& key, const Json& had, const Json& want) {
  if (had == want) return;
  if (had.is_array() && want.is_array())
    for (std::size_t i = 0; i < std::min(had.size(), want.size()); ++i) check_equal(file, key, had[i], want[i]);
  auto text_of = [](const Json& value) {
    if (value.is_string()) return value.get<std::string>();
    return value.is_array() ? fmt::format("{} of them", value.size())
                            : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  const std::string a = text_of(had), b = text_of(want);
  const auto place = static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
  throw UserError(Exit::usage, "--output {}: was made with {} = {}, not {}; remove it or choose another name", file,
                  key, shown(a, place), shown(b, place));
}

void check_settings(const std::string& file, const Json& had, const Json& want) {
  for (const auto& [key, value] : want.items()) {
    const auto found = had.find(key);
    check_equal(file, key, found == had.end() ? Json() : *found, value);
  }
}

}  // namespace

Records::Records(const std::string& file, const Json& settings)
    : file_(file), fd_(::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (fd_ < 0) fail_write(file, "");
  struct stat now {};
  if (::fstat(fd_, &now) != 0 || !S_ISREG(now.st_mode))
    throw UserError(Exit::usage, "--output {}: not a regular file", file);
  if (::flock(fd_, LOCK_EX | LOCK_NB) != 0)
    throw UserError(Exit::locked, "--output {}: another job is writing it", file);
  read(settings);
}

void Records::read(const Json& settings) {
  const std::string text = read_file(std::filesystem::path(file_));
  std::vector<std::pair<Json, std::int64_t>> group;  // lines of the group that is being read, and their numbers
  std::int64_t number = 0, good = 0;                 // bytes up to the last whole group
  std::size_t at = 0;
  for (std::size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    ++number;
    Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(at),
                            text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    try {
      if (number == 1) {
        if (line.is_discarded() || line.at(kMark) != 1) refuse(file_, number);
        check_settings(file_, line.at("settings"), settings);
        good = static_cast<std::int64_t>(end) + 1;
        continue;
      }
      if (line.is_discarded()) refuse(file_, number);
      const auto index = line.at("line").get<std::int64_t>();
      if (index == 0) group.clear();
      if (index != static_cast<std::int64_t>(group.size())) refuse(file_, number);
      group.emplace_back(std::move(line), number);
      const Json& last = group.back().first;
      if (last.at("of").get<std::int64_t>() > index + 1) continue;
      Group done;
      for (const auto& [one, n] : group) {
        if (one.contains("steps")) done.steps = one.at("steps");
        else done.items.push_back({one.value("item", ""), one.at("sum").get<double>(), one.at("weight").get<double>()});
        done.attended = one.at("attended").get<double>();
      }
      groups_[{last.at("key").get<std::string>(), last.at("document").get<std::int64_t>()}] = std::move(done);
      good = static_cast<std::int64_t>(end) + 1;
    } catch (const nlohmann::json::exception&) {
      refuse(file_, number);
    }
  }
  // A first line without its end may be anybody's.
  if (number == 0 && !text.empty() && !text.starts_with(fmt::format("{{\"{}\":1,", kMark))) refuse(file_, 1);
  resumed_ = static_cast<std::int64_t>(groups_.size());
  size_ = good;
  if (static_cast<std::int64_t>(text.size()) > good && ::ftruncate(fd_, good) != 0) fail_write(file_, "");
  if (good == 0)
    write(Json{{kMark, 1}, {"settings", settings}}.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n');
}

const Group* Records::find(const std::string& cell, std::int64_t document) const {
  const auto found = groups_.find({cell, document});
  return found == groups_.end() ? nullptr : &found->second;
}

void Records::append(const std::string& cell, std::int64_t document, const Json& labels, Group group) {
  const std::size_t of = group.items.size() + !group.steps.is_null();
  std::string text;
  std::size_t line = 0;
  auto add = [&](const Json& what) {
    Json record{{"key", cell}};
    record.update(labels);
    record.update(Json{{"document", document}, {"line", line++}, {"of", of}, {"attended", group.attended}});
    record.update(what);
    text += record.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  };
  for (const Item& item : group.items) {
    Json what{{"item", item.name}, {"sum", item.sum}, {"weight", item.weight}};
    if (!item.text.empty()) what["text"] = item.text;
    add(what);
  }
  if (!group.steps.is_null()) add({{"steps", group.steps}});
  write(text);
  groups_[{cell, document}] = std::move(group);
}

void Records::write(const std::string& text) {
  if (!append_for_good(system_disk(), "record", fd_, text, size_)) fail_write(file_, "");
  size_ += static_cast<std::int64_t>(text.size());
}

}  // namespace longhaul::eval
