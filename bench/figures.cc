#include "bench/figures.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/file.h"

namespace longhaul::bench {

using nlohmann::ordered_json;

namespace {

/// In single quotes, if a shell would read it as anything but itself.
std::string quoted(const std::string& word) {
  constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string text = "'";
  for (const char c : word) c == '\'' ? text += "'\\''" : text += c;
  return text += '\'';
}

}  // namespace

Figure figure(std::string name, double value, std::string unit, double bound, std::string setting) {
  return {std::move(name), value, std::move(unit), bound, value / bound, std::move(setting)};
}

std::string command_line(std::span<const char* const> arguments) {
  std::string text = quoted(std::filesystem::path(arguments[0]).filename().string());
  for (const char* argument : arguments.subspan(1)) (text += ' ') += quoted(argument);
  return text;
}

std::string results_name(const std::string& device) {
  std::string name = device.substr(0, device.find(" ("));
  for (const char* known : {"H200", "H100"})
    if (name.find(known) != std::string::npos) name = known;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? static_cast<char>(std::tolower(c)) : '-';
  return name;
}

Figures::Figures(const std::string& folder, Origin origin, std::vector<std::string> wanted)
    : origin_(std::move(origin)),
      file_((std::filesystem::path(folder) / (results_name(origin_.device) + ".jsonl")).string()),
      wanted_(wanted.begin(), wanted.end()) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
}

bool Figures::wants_any(const std::vector<std::string>& names) const {
  return std::ranges::any_of(names, [&](const std::string& name) { return wants(name); });
}

void Figures::add(const Figure& f) {
  if (!wants(f.name)) return;
  check(std::isfinite(f.value) && std::isfinite(f.bound) && std::isfinite(f.ratio), "a figure is a number");
  fmt::print("{:<38} {:>10.4g} {:<9} bound {:>10.4g}  ratio {:>7.3f}  {}\n", f.name, f.value, f.unit, f.bound, f.ratio,
             f.setting);
  std::fflush(stdout);
  const ordered_json line{{"name", f.name},
                          {"value", f.value},
                          {"unit", f.unit},
                          {"bound", f.bound},
                          {"ratio", f.ratio},
                          {"setting", f.setting},
                          {"command", origin_.command},
                          {"commit", origin_.commit},
                          {"device", origin_.device}};
  std::string text;
  bool replaced = false;
  if (std::error_code none; std::filesystem::exists(file_, none)) {
    std::istringstream before(read_file(file_));
    for (std::string old; std::getline(before, old);) {
      const auto parsed = ordered_json::parse(old, nullptr, false);
      if (!parsed.is_object() || !parsed.contains("name"))
        throw UserError(Exit::io, "{}: a line is not a figure: {}", file_, old);
      const bool same = parsed["name"] == f.name;
      if (!same || !replaced) text += (same ? line.dump() : old) + '\n';
      replaced |= same;
    }
  }
  if (!replaced) text += line.dump() + '\n';
  const std::string fresh = file_ + ".new";
  std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  std::error_code failed;
  if (out) std::filesystem::rename(fresh, file_, failed);
  if (!out || failed) throw UserError(Exit::io, "{}: cannot be written", file_);
  added_.insert(f.name);
}

std::vector<std::string> Figures::missing() const {
  std::vector<std::string> names;
  std::ranges::set_difference(wanted_, added_, std::back_inserter(names));
  return names;
}

}  // namespace longhaul::bench
