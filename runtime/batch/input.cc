#include "runtime/batch/input.h"

#include <fnmatch.h>
#include <glob.h>

#include <algorithm>
#include <map>

#include "kernels/base/error.h"
#include "kernels/base/file.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/model/model_config.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";  // says "UTF-8", is no part of the text
constexpr std::string_view kBlanks = " \t\r\n\f\v";
constexpr const char* kWildcards = "*?[";

void check_utf8(std::string_view text) {
  if (auto at = find_invalid_utf8(text); at != std::string_view::npos)
    throw DocumentError("invalid_utf8", fmt::format("not valid UTF-8 at byte {}", at));
}

BatchRequest text_request(std::string custom_id, const fs::path& file) {
  BatchRequest request;
  request.custom_id = std::move(custom_id);
  request.where = file.string();
  request.document = file;
  return request;
}

/// The files below `root / inside`. What cannot be listed, or would be listed without end, is a failed request.
void add_folder(const fs::path& root, const fs::path& inside, const std::set<fs::path>& left_out,
                std::vector<BatchRequest>& out) {
  auto add = [&](const fs::path& name) { out.push_back(text_request(name.generic_string(), root / name)); };
  auto is_left_out = [&](const fs::path& name) {
    std::error_code unknown;
    return !left_out.empty() && left_out.contains(fs::canonical(root / name, unknown));
  };
  auto add_failure = [&](const fs::path& name, std::string_view why) {
    add(name);
    out.back().failure = Failure{"file_unreadable", fmt::format("{}: {}", (root / name).string(), why)};
  };
  std::error_code error, unknown;
  for (fs::directory_iterator at(root / inside, error); !error && at != fs::end(at); at.increment(error)) {
    fs::path name = inside / at->path().filename();
    if (name.filename().string().starts_with('.')) continue;
    if (is_left_out(name)) continue;
    if (!at->is_directory(unknown)) add(name);  // read_document tells what is odd about it
    else if (!at->is_symlink(unknown)) add_folder(root, name, left_out, out);
    else add_failure(name, "a link to a folder is not followed; give the folder itself to --input");
  }
  if (error && inside.empty()) throw UserError(Exit::io, "{}: {}", root.string(), error.message());
  if (error) add_failure(inside, error.message());
}

void add_jsonl(const std::string& path, const std::string& text, std::vector<BatchRequest>& out) {
  std::int64_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    ++number;
    if (number == 1 && line.starts_with(kByteOrderMark)) line.erase(0, kByteOrderMark.size());
    if (is_blank(line)) continue;
    std::string where = fmt::format("{}:{}", path, number);
    try {
      out.push_back(parse_request(line, where));
    } catch (const DocumentError& e) {
      BatchRequest request;
      request.custom_id = request.where = where;
      request.content = content_key("line", line);
      request.failure = Failure{e.code, e.what()};
      out.push_back(std::move(request));
    }
  }
}

/// Files that match a shell's pattern. DIR/**/NAME: those below DIR, at any depth, whose name matches NAME.
void add_pattern(const std::string& pattern, const std::set<fs::path>& left_out, std::vector<BatchRequest>& out) {
  const auto deep = pattern.find("**/");
  if (deep == std::string::npos) {
    glob_t found{};
    if (::glob(pattern.c_str(), GLOB_BRACE, nullptr, &found) == 0)
      for (std::size_t i = 0; i < found.gl_pathc; ++i)
        if (std::error_code unknown; !fs::is_directory(found.gl_pathv[i], unknown) &&
                                     !left_out.contains(fs::weakly_canonical(found.gl_pathv[i], unknown)))
          out.push_back(text_request(found.gl_pathv[i], found.gl_pathv[i]));
    ::globfree(&found);
    return;
  }
  const std::string folder = deep == 0 ? "." : pattern.substr(0, deep), name = pattern.substr(deep + 3);
  if (folder.find_first_of(kWildcards) != std::string::npos || name.find('/') != std::string::npos)
    throw UserError(Exit::usage, "{}: ** stands between a folder and a file's pattern: DIR/**/*.txt", pattern);
  std::vector<BatchRequest> below;
  add_folder(folder, {}, left_out, below);
  for (BatchRequest& request : below)
    if (::fnmatch(name.c_str(), request.document.filename().c_str(), 0) == 0) {
      request.custom_id = deep == 0 ? request.custom_id : folder + request.custom_id;
      out.push_back(std::move(request));
    }
}

bool is_request_line(std::string_view line) {
  const auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
  return json.is_object() && json.contains("custom_id");
}

void add_standard_input(int fd, std::vector<BatchRequest>& out) {
  std::string text = read_file(fd, "stdin");
  if (is_request_line(std::string_view(text).substr(0, text.find('\n')))) return add_jsonl("stdin", text, out);
  BatchRequest request;
  request.custom_id = request.where = "stdin";
  request.text = std::move(text);
  out.push_back(std::move(request));
}

/// A text, or a list of {"type": "text", "text": ...}.
std::string content_of(const nlohmann::json* content, const std::string& where) {
  if (content && content->is_string()) return *content;
  if (!content || !content->is_array())
    throw UserError(Exit::usage, "{}: \"content\" must be a text or a list of text parts", where);
  std::string text;
  for (const auto& part : *content) {
    JsonObject fields(part, where + ": a part of \"content\"", Exit::usage);
    fields.only("type", {"text"});
    text += fields.require("text", fields.text("text"));
    fields.finish();
  }
  return text;
}

std::vector<Message> messages_of(const nlohmann::json* list, const std::string& where) {
  if (!list || !list->is_array() || list->empty())
    throw UserError(Exit::usage, "{}: \"messages\" must be a list with at least one message", where);
  std::vector<Message> messages;
  for (const auto& item : *list) {
    std::string here = fmt::format("{}: message {}", where, messages.size() + 1);
    JsonObject fields(item, here, Exit::usage);
    std::string role = fields.require("role", fields.text("role"));
    if (role != "system" && role != "user" && role != "assistant")
      throw UserError(Exit::usage, "{}: role {} is unknown; known: system, user, assistant", here,
                      longhaul::quoted(role));
    messages.push_back({std::move(role), content_of(fields.take("content"), here)});
    fields.finish();
  }
  return messages;
}

/// A text, or a list of them; at most four, as OpenAI has it.
std::vector<std::string> stops_of(const nlohmann::json* stop, const JsonObject& body) {
  std::vector<std::string> texts;
  if (stop == nullptr) return texts;
  auto add = [&](const nlohmann::json& text) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty() || texts.size() == 4)
      body.refuse("stop", "a text that is not empty, or up to four of them");
    texts.push_back(text);
  };
  if (!stop->is_array()) add(*stop);
  else
    for (const auto& text : *stop) add(text);
  return texts;
}

void read_body(JsonObject& body, BatchRequest& request, const std::string& where) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  request.messages = messages_of(body.take("messages"), where);
  request.max_tokens = body.whole("max_tokens", 1, kMost);
  if (auto newer = body.whole("max_completion_tokens", 1, kMost)) request.max_tokens = newer;
  request.temperature = body.number("temperature", 0, 100);
  request.top_p = body.number("top_p", 0, 1);
  request.top_k = body.whole("top_k", 0, std::numeric_limits<std::int32_t>::max());
  request.repetition_penalty = body.number("repetition_penalty", kLeastPenalty, kMostPenalty);
  request.seed = body.whole("seed", 0, std::numeric_limits<std::int64_t>::max());
  request.stop = stops_of(body.take("stop"), body);
  // The response names the model that answered, whatever the request calls it.
  body.ignore({"model", "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"});
  // What would change the answer is refused unless it is at the value that changes nothing.
  body.only("n", {1});
  body.only("stream", {false});
  body.only("logprobs", {false});
  body.only("frequency_penalty", {0});
  body.only("presence_penalty", {0});
  for (const char* key : {"logit_bias", "top_logprobs", "tools", "tool_choice"}) body.only(key, {});
  body.only("response_format", {nlohmann::json{{"type", "text"}}});
  body.finish();
}

}  // namespace

BatchRequest parse_request(const std::string& line, const std::string& where) {
  check_utf8(line);
  try {
    BatchRequest request;
    request.where = where;
    nlohmann::json json = parse_json(line, where, Exit::usage);
    JsonObject fields(json, where, Exit::usage);
    request.custom_id = fields.require("custom_id", fields.text("custom_id"));
    nlohmann::json content = json;
    content.erase("custom_id");
    request.content = content_key("request", content.dump());
    if (request.custom_id.empty()) fields.refuse("custom_id", "a text that is not empty");
    try {
      fields.only("method", {"POST"});
      fields.only("url", {"/v1/chat/completions"});
      const nlohmann::json* body = fields.take("body");
      if (!body) fields.missing("body");
      fields.finish();
      JsonObject body_fields(*body, where + ": body", Exit::usage);
      read_body(body_fields, request, where + ": body");
    } catch (const UserError& e) {
      request.failure = Failure{"invalid_request", e.what()};  // the line is at fault, but it has a name
      return request;
    }
    if (std::all_of(request.messages.begin(), request.messages.end(), [](auto& m) { return is_blank(m.content); }))
      request.failure = Failure{"empty_document", where + ": the messages hold no text"};
    return request;
  } catch (const UserError& e) {
    throw DocumentError("invalid_request", e.what());
  }
}

bool is_blank(std::string_view text) { return text.find_first_not_of(kBlanks) == std::string_view::npos; }

std::string clean_document(std::string text, const std::string& where) {
  check_utf8(text);
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  text.erase(text.find_last_not_of(kBlanks) + 1);
  if (text.empty()) throw DocumentError("empty_document", where + ": the document is empty");
  return text;
}

std::string read_document(const fs::path& file) {
  std::error_code failed;
  fs::file_status status = fs::status(file, failed);
  if (fs::exists(status) && !fs::is_regular_file(status))
    throw DocumentError("file_unreadable", file.string() + ": not a regular file");
  std::string text;
  try {
    text = read_file(file);
  } catch (const UserError& e) {
    throw DocumentError("file_unreadable", e.what());
  }
  return clean_document(std::move(text), file.string());
}

void read_request(BatchRequest& request) {
  if (!request.messages.empty() || !request.content.empty()) return;  // a line of JSONL
  try {
    if (request.failure) throw DocumentError(request.failure->code, request.failure->message);
    if (request.document.empty()) request.text = clean_document(std::move(request.text), request.where);
    else if (!request.converter) request.text = read_document(request.document);
    else request.text = clean_document(convert(*request.converter, request.document), request.where);
    request.content = content_key("text", request.text);
  } catch (const DocumentError& e) {
    request.failure = Failure{e.code, e.what()};
    request.content = content_key(e.code, request.where);
  }
}

std::vector<BatchRequest> list_requests(const std::vector<std::string>& paths, const std::set<fs::path>& left_out,
                                        int standard_input) {
  std::vector<BatchRequest> requests;
  for (const std::string& path : paths) {
    std::error_code error;
    const auto status = fs::status(path, error);
    const bool there = fs::exists(status), pattern = !there && path.find_first_of(kWildcards) != std::string::npos;
    auto before = static_cast<std::ptrdiff_t>(requests.size());
    if (path == "-") add_standard_input(standard_input, requests);
    else if (pattern) add_pattern(path, left_out, requests);
    else if (!there) throw UserError(Exit::io, "{}: no such file or folder", path);
    else if (fs::is_directory(status)) add_folder(path, {}, left_out, requests);
    else if (path.ends_with(".jsonl")) add_jsonl(path, read_file(path), requests);
    else requests.push_back(text_request(path, path));
    auto added = requests.begin() + before;
    if (added == requests.end())
      throw UserError(Exit::io, "{}: {}", path, pattern ? "no file matches" : "holds no documents");
    if (pattern || fs::is_directory(status))
      std::sort(added, requests.end(), [](const auto& a, const auto& b) { return a.custom_id < b.custom_id; });
  }
  for (BatchRequest& request : requests)
    if (!request.document.empty() && !request.failure) request.converter = find_converter(request.document);
  // As the records will have them: a file's name need not be UTF-8.
  for (BatchRequest& request : requests) request.custom_id = replace_invalid_utf8(request.custom_id);
  std::map<std::string_view, const BatchRequest*> seen;
  for (const BatchRequest& request : requests)
    if (auto [at, fresh] = seen.emplace(request.custom_id, &request); !fresh)
      throw UserError(Exit::usage, "{} and {} have the same custom_id {}; rename one, or answer them in two jobs",
                      at->second->where, request.where, longhaul::quoted(request.custom_id));
  return requests;
}

}  // namespace longhaul
