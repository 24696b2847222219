#include "runtime/tokenizer/token_decoder.h"

#include <charconv>

#include "kernels/base/error.h"
#include "runtime/tokenizer/bpe.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {

std::optional<unsigned char> byte_of_spelling(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned char byte = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  return error == std::errc() && end == token.data() + 5 ? std::optional(byte) : std::nullopt;
}

TokenDecoder::TokenDecoder(const JsonRef& json) {
  if (json.is_null()) json.refuse("is missing; without it tokens are not text");
  add(json);
  if (byte_level_ && (byte_fallback_ || !metaspace_.empty() || !replacements_.empty()))
    json.refuse("contradicts itself: tokens are spelled in bytes (ByteLevel) and in characters");
}

void TokenDecoder::add(const JsonRef& json) {
  const std::string type = json["type"].string();
  if (fused_ && type != "Strip") json.refuse(fmt::format("{} after Fuse is not supported", type));
  if (type == "Sequence") {
    json.only({"type", "decoders"});
    const JsonRef list = json["decoders"];
    for (std::size_t i = 0; i < list.array_size(); ++i) add(list.element(i));
  } else if (type == "ByteLevel") {
    json.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    byte_level_ = true;
  } else if (type == "Replace") {
    json.only({"type", "pattern", "content"});
    json["pattern"].only({"String"});
    if (byte_fallback_) json.refuse("Replace after ByteFallback is not supported");
    replacements_.emplace_back(json["pattern"]["String"].string(), json["content"].string());
    if (replacements_.back().first.empty()) json["pattern"].refuse("must not be empty");
  } else if (type == "ByteFallback") {
    json.only({"type"});
    byte_fallback_ = true;
  } else if (type == "Fuse") {
    json.only({"type"});
    fused_ = true;
  } else if (type == "Metaspace") {
    json.only({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    metaspace_ = json["replacement"].string();
    const JsonRef scheme = json["prepend_scheme"];
    drops_first_space_ = scheme.is_null() ? json["add_prefix_space"].boolean_or(true) : scheme.string() != "never";
  } else if (type == "Strip") {
    add_strip(json);
  } else {
    json.refuse(fmt::format(
        "decoder {} is not supported (ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace and Sequence are)",
        type));
  }
}

void TokenDecoder::add_strip(const JsonRef& json) {
  json.only({"type", "content", "start", "stop"});
  if (!fused_) json.refuse("Strip before Fuse is not supported");
  stripped_ = json["content"].string();
  if (stripped_.empty() || character_at(stripped_, 0).size() != stripped_.size())
    json["content"].refuse("must be one character");
  strip_start_ = static_cast<std::size_t>(json["start"].id());
  if (json["stop"].id() != 0) json["stop"].refuse("only 0 is supported");
}

std::string TokenDecoder::text_of(std::string_view token, bool first) const {
  // As the reference's byte-level decoder: a text in the byte alphabet is bytes, another is itself.
  if (byte_level_) return bytes_of_spelling(token).value_or(std::string(token));
  std::string text(token);
  const auto replace = [&](const std::string& from, const std::string& to) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
      text.replace(at, from.size(), to);
  };
  for (const auto& [from, to] : replacements_) replace(from, to);
  if (!metaspace_.empty()) replace(metaspace_, first && drops_first_space_ ? "" : " ");
  return text;
}

std::optional<unsigned char> TokenDecoder::byte_of(std::string_view token) const {
  return byte_fallback_ ? byte_of_spelling(token) : std::nullopt;
}

void TokenDecoder::Joiner::push(const Piece& piece, std::string& out) {
  if (piece.byte) {
    bytes_ += static_cast<char>(*piece.byte);
  } else {
    finish(out);
    put(first_ ? piece.first : piece.text, out);
  }
  first_ = false;
}

void TokenDecoder::Joiner::finish(std::string& out) {
  if (bytes_.empty()) return;
  const bool whole = find_invalid_utf8(bytes_) == std::string_view::npos;
  const std::string run = std::move(bytes_);
  bytes_.clear();
  if (whole) put(run, out);
  else
    for (std::size_t i = 0; i < run.size(); ++i) put("\xef\xbf\xbd", out);
}

void TokenDecoder::Joiner::put(std::string_view text, std::string& out) {
  for (; to_strip_ > 0 && text.starts_with(decoder_.stripped_); --to_strip_)
    text.remove_prefix(decoder_.stripped_.size());
  if (!text.empty()) to_strip_ = 0;
  out += text;
}

}  // namespace longhaul
