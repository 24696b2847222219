#include "runtime/pretokenizer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/base/error.h"
#include "runtime/utf8.h"

namespace longhaul {
namespace {

constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const JsonRef& json) {
  if (!json.is_null()) add(json);
  if (!byte_level_) json.refuse("only byte-level tokenizers are supported, and this one has no ByteLevel");
}

void PreTokenizer::add(const JsonRef& json) {
  const std::string type = json["type"].string();
  if (byte_level_) json.refuse(fmt::format("{} after ByteLevel is not supported", type));
  if (type == "Sequence") {
    json.only({"type", "pretokenizers"});
    const JsonRef list = json["pretokenizers"];
    for (std::size_t i = 0; i < list.array_size(); ++i) add(list.element(i));
  } else if (type == "Split") {
    add_split(json);
  } else if (type == "Digits") {
    json.only({"type", "individual_digits"});
    const bool each = json["individual_digits"].boolean_or(false);
    stages_.push_back(
        {Regex(Regex::Kind::pattern, "\\p{N}", json.where()), each ? Behavior::isolated : Behavior::contiguous});
  } else if (type == "ByteLevel") {
    json.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    byte_level_ = true;
    prefix_space_ = json["add_prefix_space"].boolean_or(true);
    before_byte_level_ = stages_.size();
    if (json["use_regex"].boolean_or(true))
      stages_.push_back({Regex(Regex::Kind::pattern, kGpt2Pattern, json.where()), Behavior::isolated});
  } else {
    json.refuse(fmt::format("pre-tokenizer {} is not supported (Split, Digits, ByteLevel and Sequence are)", type));
  }
}

void PreTokenizer::add_split(const JsonRef& json) {
  static const std::map<std::string, Behavior> kBehaviors = {
      {"Isolated", Behavior::isolated},
      {"Removed", Behavior::removed},
      {"Contiguous", Behavior::contiguous},
      {"MergedWithPrevious", Behavior::merged_with_previous},
      {"MergedWithNext", Behavior::merged_with_next},
  };
  json.only({"type", "pattern", "behavior", "invert"});
  const auto behavior = kBehaviors.find(json["behavior"].string());
  if (behavior == kBehaviors.end()) json["behavior"].refuse("not a behavior that we know");
  const JsonRef pattern = json["pattern"];
  pattern.only({"Regex", "String"});
  const bool literal = pattern["Regex"].is_null();
  const std::string text = pattern[literal ? "String" : "Regex"].string();
  if (text.empty()) pattern.refuse("must not be empty");
  stages_.push_back({Regex(literal ? Regex::Kind::literal : Regex::Kind::pattern, text, pattern.where()),
                     behavior->second, json["invert"].boolean_or(false)});
}

PreTokenizer::Splitter::Splitter(const PreTokenizer& owner) : owner_(owner) {
  for (const Stage& stage : owner.stages_) matchers_.emplace_back(stage.regex);
}

void PreTokenizer::Splitter::run(std::size_t stage, std::string_view text, const Sink& sink) {
  if (stage == owner_.before_byte_level_ && owner_.prefix_space_ && !text.starts_with(' ')) {
    const std::string spaced = fmt::format(" {}", text);
    stage < matchers_.size() ? cut(stage, spaced, sink) : sink(spaced);
  } else {
    stage < matchers_.size() ? cut(stage, text, sink) : sink(text);
  }
}

void PreTokenizer::Splitter::cut(std::size_t stage, std::string_view text, const Sink& sink) {
  const auto [behavior, invert] = std::pair(owner_.stages_[stage].behavior, owner_.stages_[stage].invert);
  // A piece is held back until it is known whether the next one joins it.
  std::size_t held_begin = 0, held_end = 0;
  bool held = false, held_match = false;
  const auto flush = [&] {
    if (held && held_begin < held_end) run(stage + 1, text.substr(held_begin, held_end - held_begin), sink);
    held = false;
  };
  const auto piece = [&](std::size_t begin, std::size_t end, bool match) {
    match = match != invert;
    const bool joins = behavior == Behavior::contiguous             ? match == held_match
                       : behavior == Behavior::merged_with_previous ? match && !held_match
                       : behavior == Behavior::merged_with_next     ? !match && held_match
                                                                    : false;
    if (!held || !joins) {
      flush();
      held_begin = begin;
    }
    held = !(behavior == Behavior::removed && match);
    held_end = end;
    held_match = match;
  };
  std::size_t done = 0;
  for (std::size_t from = 0; from <= text.size();) {
    const auto match = matchers_[stage].find(text, from);
    if (!match) break;
    const auto [begin, end] = *match;
    const bool empty = begin == end;
    from = end;
    if (empty) from += std::max<std::size_t>(1, character_at(text, end).size());
    if (empty && end > 0 && end == done) continue;  // an empty match where the last one ended does not count
    if (done < begin) piece(done, begin, false);
    piece(begin, end, true);
    done = end;
  }
  if (done < text.size()) piece(done, text.size(), false);
  flush();
}

}  // namespace longhaul
