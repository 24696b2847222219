#include "apps/eval/library.h"

#include <algorithm>
#include <filesystem>
#include <span>

#include "apps/eval/chat.h"
#include "kernels/base/error.h"
#include "kernels/base/file.h"

namespace longhaul::eval {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_of(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw UserError(Exit::io, "--texts {}: no such file or folder", path);
  if (!fs::is_directory(status)) return {path};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path, error))
    if (entry.is_regular_file() && entry.path().extension() == ".txt") files.push_back(entry.path());
  if (error) throw UserError(Exit::io, "--texts {}: {}", path, error.message());
  if (files.empty()) throw UserError(Exit::io, "--texts {}: the folder holds no .txt files", path);
  std::ranges::sort(files);
  return files;
}

std::string stripped(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1));
}

bool is_prose(const std::string& paragraph) {
  if (paragraph.empty() || paragraph.find('\n') != std::string::npos) return false;
  if (std::string_view("[{*=").find(paragraph[0]) != std::string_view::npos) return false;
  for (const char* ours : {"Note", "Section", "The special magic"})
    if (paragraph.starts_with(ours)) return false;
  auto small = [](char c) { return c >= 'a' && c <= 'z'; };
  return std::ranges::adjacent_find(paragraph, [&](char a, char b) { return small(a) && small(b); }) != paragraph.end();
}

/// Blocks between blank lines; a line of white space is blank too.
std::vector<std::string> blocks_of(const std::string& text) {
  std::vector<std::string> blocks(1);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, end - at);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) {
      if (!blocks.back().empty()) blocks.emplace_back();
    } else {
      if (!blocks.back().empty()) blocks.back() += '\n';
      // An indented line is verse or a picture; a space alone before a line (WikiText) is not.
      blocks.back() += line.starts_with("  ") ? "{" : "";
      blocks.back() += stripped(line);
    }
    at = end + 1;
  }
  if (blocks.back().empty()) blocks.pop_back();
  return blocks;
}

void read_title(Library::Text& text) {
  const std::size_t first = text.text.find('\n');
  if (first == std::string::npos || first == 0 || text.text.compare(first + 1, 3, "by ") != 0) return;
  const std::size_t second = std::min(text.text.find('\n', first + 1), text.text.size());
  text.title = stripped(std::string_view(text.text).substr(0, first));
  text.author = stripped(std::string_view(text.text).substr(first + 4, second - first - 4));
}

}  // namespace

std::vector<std::string> prose_of(const std::string& text) {
  std::vector<std::string> blocks = blocks_of(text);
  if (!blocks.empty() && blocks[0].find("\nby ") != std::string::npos) blocks.erase(blocks.begin());
  const auto count = static_cast<std::ptrdiff_t>(blocks.size());
  const std::ptrdiff_t begin = count / 10, end = count - std::max<std::ptrdiff_t>(1, count / 20);
  std::vector<std::string> prose;
  for (std::ptrdiff_t i = begin; i < end; ++i)
    if (is_prose(blocks[static_cast<std::size_t>(i)])) prose.push_back(std::move(blocks[static_cast<std::size_t>(i)]));
  return prose;
}

std::string cut_to(const Tokenizer& tokenizer, const std::string& text, std::int64_t tokens) {
  std::vector<std::int32_t> ids = tokenizer.encode(tokenizer.guard(text), false);
  if (static_cast<std::int64_t>(ids.size()) <= tokens) return text;
  ids.resize(static_cast<std::size_t>(std::max<std::int64_t>(tokens, 0)));
  std::string part = tokenizer.decode(ids, false);
  if (!text.starts_with(part)) return {};  // a tokenizer that adds a space of its own
  if (part.size() < text.size() && text[part.size()] == ' ') return part;
  part.resize(std::min(part.find_last_of(' '), part.size()));
  return part.find(' ') == std::string::npos ? std::string() : part;
}

Library::Library(const std::vector<std::string>& paths, const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  for (const std::string& path : paths)
    for (const fs::path& file : files_of(path)) {
      Text text{.name = file.filename().string(), .text = read_file(file)};
      if (text.text.starts_with("\xef\xbb\xbf")) text.text.erase(0, 3);
      if (auto at = find_invalid_utf8(text.text); at != std::string::npos)
        throw UserError(Exit::io, "--texts {}: not valid UTF-8 at byte {}", file.string(), at);
      if (stripped(text.text).empty()) throw UserError(Exit::io, "--texts {}: is empty", file.string());
      read_title(text);
      texts_.push_back(std::move(text));
    }
}

const Library::Text& Library::tokenized(std::int64_t index) const {
  Text& text = texts_[static_cast<std::size_t>(index)];
  if (text.tokens.empty()) text.tokens = tokenizer_.encode(tokenizer_.guard(text.text), false);
  return text;
}

const Library::Text& Library::with_prose(std::int64_t index) const {
  Text& text = texts_[static_cast<std::size_t>(index)];
  if (!text.prose.empty()) return text;
  for (std::string& paragraph : prose_of(text.text)) {
    const std::int64_t tokens = count_tokens(tokenizer_, paragraph + "\n\n");
    text.prose.push_back({std::move(paragraph), tokens});
    text.prose_tokens += tokens;
  }
  return text;
}

std::uint64_t Library::fingerprint() const {
  std::uint64_t hash = hash64("");
  for (const Text& text : texts_) hash = hash64(text.text, hash64(text.name, hash));
  return hash;
}

std::int64_t Library::pick(std::int64_t tokens, bool title, Random& random) const {
  std::vector<std::int64_t> any, enough;
  for (std::int64_t i = 0; i < size(); ++i) {
    const Text& text = with_prose(i);
    if (text.prose.empty() || (title && text.title.empty())) continue;
    any.push_back(i);
    if (text.prose_tokens >= tokens) enough.push_back(i);
  }
  if (any.empty())
    throw UserError(Exit::usage, "--texts: no text has paragraphs of prose{}",
                    title ? " and begins with TITLE and 'by AUTHOR' lines" : "");
  return random.pick(std::span<const std::int64_t>(enough.empty() ? any : enough));
}

std::vector<std::string> Library::excerpt(std::int64_t index, std::int64_t tokens, Random& random) const {
  std::vector<std::string> paragraphs;
  std::vector<std::int64_t> others;
  for (std::int64_t i = 0; i < size(); ++i)
    if (i != index) others.push_back(i);
  random.shuffle(others);
  others.push_back(index);  // taken from the back
  for (std::int64_t left = tokens; left > 0;) {
    if (others.empty())
      throw UserError(Exit::usage, "--texts: all texts together lack {} tokens of prose for a document", left);
    const std::vector<Paragraph>& prose = with_prose(others.back()).prose;
    others.pop_back();
    // The places from which the rest of the text is long enough.
    auto last = static_cast<std::int64_t>(prose.size());
    for (std::int64_t room = left; last > 0 && room > 0;) room -= prose[static_cast<std::size_t>(--last)].tokens;
    auto at = static_cast<std::size_t>(random.below(last + 1));
    for (; at < prose.size() && left > 0; ++at) {
      const bool whole = prose[at].tokens <= left;
      std::string text = whole ? prose[at].text : cut_to(tokenizer_, prose[at].text, left - 2);
      left = whole ? left - prose[at].tokens : 0;
      if (!text.empty()) paragraphs.push_back(std::move(text));
    }
  }
  return paragraphs;
}

}  // namespace longhaul::eval
