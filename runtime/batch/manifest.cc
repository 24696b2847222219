#include "runtime/batch/manifest.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/file.h"

namespace longhaul {
namespace {

using Json = Manifest::Json;
constexpr const char* kMark = "longhaul_batch";

std::string shown(const Json& value) {
  std::string text = value.is_null() ? "nothing" : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  constexpr std::size_t kMost = 60;
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

std::string first_difference(const std::string& key, const Json& had, const Json& want) {
  if (had == want) return "";
  if (!had.is_object() || !want.is_object()) return fmt::format("{} = {}, not {}", key, shown(had), shown(want));
  for (const auto& [name, value] : want.items()) {
    const auto found = had.find(name);
    const std::string words = first_difference(key + '.' + name, found == had.end() ? Json() : *found, value);
    if (!words.empty()) return words;
  }
  for (const auto& [name, value] : had.items())
    if (!want.contains(name)) return fmt::format("{}.{} = {}, not nothing", key, name, shown(value));
  return "";
}

}  // namespace

std::string manifest_name(const std::string& output) { return output + ".manifest"; }

Manifest::Manifest(Json model, Json options, std::span<const InputKey> inputs) {
  std::vector<std::string> contents;
  for (const InputKey& input : inputs) contents.push_back(input.content);
  std::ranges::sort(contents);
  std::string all;
  for (const std::string& content : contents) all += content + '\n';
  all_ = {{kMark, 1},
          {"model", std::move(model)},
          {"options", std::move(options)},
          {"inputs", {{"count", inputs.size()}, {"contents", content_key("inputs", all)}}}};
  // Through text and back: what is compared with a file's is what a file would hold.
  all_ = Json::parse(record_line(all_));
  fingerprint_ = content_key("manifest", all_.dump());
}

Manifest::Manifest(Json all) : all_(std::move(all)), fingerprint_(content_key("manifest", all_.dump())) {}

Manifest Manifest::of_inputs(std::span<const InputKey> inputs) const {
  return Manifest(all_.at("model"), all_.at("options"), inputs);
}

std::string Manifest::job() const { return content_key("job", all_.at("model").dump() + all_.at("options").dump()); }

std::string Manifest::text() const {
  Json all = all_;
  all["fingerprint"] = fingerprint_;
  return all.dump(2) + '\n';
}

std::optional<Manifest> Manifest::read(const std::string& file) {
  std::error_code unknown;
  if (!std::filesystem::exists(file, unknown)) return {};
  Json all = Json::parse(read_file(file), nullptr, false);
  auto has = [&](const char* key) { return all.contains(key) && all[key].is_object(); };
  if (!all.is_object() || all.value(kMark, Json()) != 1 || !has("model") || !has("options") || !has("inputs"))
    throw UserError(Exit::usage, "{}: is no manifest of longhaul batch; remove it, or choose another --output", file);
  all.erase("fingerprint");
  return Manifest(std::move(all));
}

std::string Manifest::difference(const Manifest& had, bool inputs_too) const {
  for (const char* key : {"model", "options"}) {
    const std::string words = first_difference(key, had.all_.at(key), all_.at(key));
    if (!words.empty()) return words;
  }
  if (!inputs_too || had.all_.at("inputs") == all_.at("inputs")) return "";
  const Json a = had.all_.at("inputs").value("count", Json()), b = all_.at("inputs").at("count");
  return a == b ? "other documents" : fmt::format("{} documents, not {}", shown(a), shown(b));
}

}  // namespace longhaul
