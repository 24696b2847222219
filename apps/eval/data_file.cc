#include "apps/eval/data_file.h"

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/tokenizer/tokenizer.h"

namespace longhaul::eval {

using nlohmann::json;

std::vector<std::vector<std::string>> parse_csv(std::string_view text, const std::string& where) {
  std::vector<std::vector<std::string>> rows;
  std::size_t at = 0, line = 1;
  while (at < text.size()) {
    std::vector<std::string> row;
    for (bool more = true; more;) {
      std::string field;
      if (at < text.size() && text[at] == '"') {
        const std::size_t opened = line;
        for (++at;; ++at) {
          if (at >= text.size()) throw UserError(Exit::io, "{}:{}: not CSV: a quoted field has no end", where, opened);
          if (text[at] == '"' && (at + 1 == text.size() || text[at + 1] != '"')) break;
          if (text[at] == '"') ++at;
          if (text[at] == '\n') ++line;
          field += text[at];
        }
        ++at;
        if (at < text.size() && text[at] != ',' && text[at] != '\n' && text[at] != '\r')
          throw UserError(Exit::io, "{}:{}: not CSV: text after a quoted field", where, line);
      } else {
        while (at < text.size() && text[at] != ',' && text[at] != '\n' && text[at] != '\r') field += text[at++];
      }
      row.push_back(std::move(field));
      more = at < text.size() && text[at] == ',';
      at += more;
    }
    if (at < text.size() && text[at] == '\r') ++at;
    if (at < text.size() && text[at] == '\n') ++at;
    ++line;
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string read_data(const std::string& file) {
  std::string text = read_file(file);
  if (text.starts_with("\x1f\x8b")) throw UserError(Exit::io, "{}: is compressed; unpack it first (gunzip)", file);
  if (is_lfs_pointer(text))
    throw UserError(Exit::io, "{}: is a Git LFS pointer, not the file: run `git lfs pull`", file);
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  if (auto at = find_invalid_utf8(text); at != std::string::npos)
    throw UserError(Exit::io, "{}: not valid UTF-8 at byte {}", file, at);
  return text;
}

void read_json_lines(const std::string& file,
                     const std::function<void(const json& line, const std::string& where)>& each) {
  const std::string text = read_data(file);
  std::size_t number = 0, found = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", file, number);
    const json object = parse_json(line, where, Exit::io);
    if (!object.is_object())
      throw UserError(Exit::io, "{}: expected a JSON object, found {}", where, object.type_name());
    each(object, where);
    ++found;
  }
  if (found == 0) throw UserError(Exit::io, "{}: holds no records", file);
}

std::string text_field(const json& line, const char* key, const std::string& where) {
  const auto found = line.find(key);
  if (found == line.end() || !found->is_string())
    throw UserError(Exit::io, "{}: the key \"{}\" must be a text", where, key);
  return found->get<std::string>();
}

std::vector<std::string> texts_field(const json& line, const char* key, const std::string& where) {
  const auto found = line.find(key);
  bool good = found != line.end() && found->is_array();
  if (good)
    for (const json& one : *found) good = good && one.is_string();
  if (!good) throw UserError(Exit::io, "{}: the key \"{}\" must be a list of texts", where, key);
  return found->get<std::vector<std::string>>();
}

}  // namespace longhaul::eval
