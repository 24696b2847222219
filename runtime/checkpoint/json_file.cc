#include "runtime/checkpoint/json_file.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "kernels/base/file.h"

namespace longhaul {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;  // real files stay below 10; the limit bounds the memory that brackets alone can ask for

std::string shorten(std::string text, std::size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (text[most] & 0xc0) == 0x80) --most;  // not inside a UTF-8 sequence
  return text.substr(0, most) + "…";
}

/// nlohmann's message without its prefix, as one line.
std::string parse_complaint(const json::exception& error) {
  std::string text = error.what();
  if (auto at = text.find("] "); at != std::string::npos) text.erase(0, at + 2);
  if (text.starts_with("parse error ")) text.erase(0, std::strlen("parse error "));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  return shorten(std::move(text), 240);
}

}  // namespace

bool is_lfs_pointer(std::string_view head) { return head.starts_with("version https://git-lfs"); }

bool is_web_page(std::string_view head) {
  head.remove_prefix(std::min(head.find_first_not_of(" \t\r\n"), head.size()));
  return head.starts_with("<!") || head.starts_with("<html") || head.starts_with("<HTML") || head.starts_with("<?xml");
}

std::string quoted(const std::string& text) {
  return shorten(json(text).dump(-1, ' ', false, json::error_handler_t::replace), 120);
}

json parse_json(std::string_view text, const std::string& where, Exit exit) {
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) throw UserError(exit, "{}: nested more than {} levels deep", where, kMaxDepth);
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get_ref<const std::string&>()).second)
      throw UserError(exit, "{}: the key {} appears twice in one object", where,
                      quoted(parsed.get_ref<const std::string&>()));
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    throw UserError(exit, "{}: not valid JSON: {}", where, parse_complaint(error));
  }
}

std::string read_text_file(const std::filesystem::path& file, std::int64_t max_bytes, Exit exit) {
  const std::string name = file.string();
  std::error_code failed;
  const auto status = std::filesystem::status(file, failed);
  if (status.type() == std::filesystem::file_type::not_found) throw UserError(exit, "{}: no such file", name);
  if (failed) throw UserError(Exit::io, "{}: {}", name, failed.message());
  if (std::filesystem::is_directory(status)) throw UserError(exit, "{}: is a folder, not a file", name);
  if (!std::filesystem::is_regular_file(status)) throw UserError(exit, "{}: is not a regular file", name);

  const auto bytes = static_cast<std::int64_t>(std::filesystem::file_size(file, failed));
  if (bytes > max_bytes)
    throw UserError(exit, "{}: {} bytes, more than the {} that such a file may have", name, bytes, max_bytes);
  std::string text = read_file(file);
  if (is_lfs_pointer(text)) throw UserError(exit, "{}: is a Git LFS pointer, not the file: run `git lfs pull`", name);
  if (is_web_page(text))
    throw UserError(exit, "{}: is a web page: download the file itself (does the hub ask for a login?)", name);
  return text;
}

json read_json_file(const std::filesystem::path& file, std::int64_t max_bytes, Exit exit) {
  const std::string name = file.string(), text = read_text_file(file, max_bytes, exit);
  if (text.empty()) throw UserError(exit, "{}: is empty", name);
  // Each value takes some 50 bytes of memory, whatever it takes in the file.
  constexpr std::int64_t kMostValues = 4 << 20;
  if (const auto commas = std::count(text.begin(), text.end(), ','); commas > kMostValues)
    throw UserError(exit, "{}: has about {} values; at most {} are read", name, commas, kMostValues);
  return parse_json(text, name, exit);
}

JsonObject::JsonObject(const json& object, std::string where, Exit exit)
    : object_(object), where_(std::move(where)), exit_(exit) {
  if (!object.is_object()) throw UserError(exit_, "{}: expected a JSON object, found {}", where_, object.type_name());
}

const json* JsonObject::take(const std::string& key) {
  taken_.insert(key);
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<std::int64_t> JsonObject::whole(const std::string& key, std::int64_t least, std::int64_t most) {
  const json* value = take(key);
  if (!value) return std::nullopt;
  // Unsigned values past int64 would wrap in get(); they are past `most` too.
  const bool fits =
      value->is_number_integer() &&
      (!value->is_number_unsigned() || value->get<std::uint64_t>() <= static_cast<std::uint64_t>(INT64_MAX));
  if (!fits || value->get<std::int64_t>() < least || value->get<std::int64_t>() > most)
    refuse(key, fmt::format("a whole number from {} to {}", least, most));
  return value->get<std::int64_t>();
}

std::optional<double> JsonObject::number(const std::string& key, double least, double most) {
  const json* value = take(key);
  if (!value) return std::nullopt;
  if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most))
    refuse(key, fmt::format("a number from {:g} to {:g}", least, most));
  return value->get<double>();
}

std::optional<std::string> JsonObject::text(const std::string& key) {
  const json* value = take(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) refuse(key, "a string");
  return value->get<std::string>();
}

std::optional<bool> JsonObject::boolean(const std::string& key) {
  const json* value = take(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) refuse(key, "true or false");
  return value->get<bool>();
}

std::vector<std::int32_t> JsonObject::ids(const std::string& key, std::int32_t most) {
  const json* value = take(key);
  std::vector<std::int32_t> ids;
  if (!value) return ids;
  const auto add = [&](const json& id) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > static_cast<std::uint64_t>(most))
      refuse(key, fmt::format("a token id or a list of them, each from 0 to {}", most));
    ids.push_back(id.get<std::int32_t>());
  };
  if (value->is_array()) {
    for (const json& id : *value) add(id);
  } else {
    add(*value);
  }
  return ids;
}

void JsonObject::ignore(std::initializer_list<const char*> keys) { taken_.insert(keys.begin(), keys.end()); }

void JsonObject::only(const std::string& key, std::initializer_list<json> accepted) {
  const json* value = take(key);
  if (!value) return;
  std::string list;
  for (const json& one : accepted) {
    if (*value == one) return;
    list += (list.empty() ? "" : " or ") + one.dump();
  }
  refuse(key, list.empty() ? "none: it is not supported" : list);
}

void JsonObject::finish() const {
  for (const auto& [key, value] : object_.items())
    if (!taken_.contains(key))
      throw UserError(exit_, "{}: the key {} is unknown, so what it asks for would be ignored", where_, quoted(key));
}

void JsonObject::missing(const std::string& key) const {
  throw UserError(exit_, "{}: the key \"{}\" is missing", where_, key);
}

void JsonObject::refuse(const std::string& key, const std::string& expected) const {
  throw UserError(exit_, "{}: \"{}\" is {}; expected {}", where_, key, shorten(object_.at(key).dump(), 80), expected);
}

}  // namespace longhaul
