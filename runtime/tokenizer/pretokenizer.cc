#include "runtime/tokenizer/pretokenizer.h"

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/base/error.h"
#include "runtime/tokenizer/patterns.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
PreTokenizer::PreTokenizer(const JsonRef& json) {
  if (!json.is_null()) add(json);
}

void PreTokenizer::add(const JsonRef& json) {
  constexpr std::size_t kMostStages = 32;  // of each text, one within the other
  if (stages_.size() >= kMostStages) json.refuse(fmt::format("more than {} stages are not supported", kMostStages));
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
    const bool spaced = json["add_prefix_space"].boolean_or(true), cuts = json["use_regex"].boolean_or(true);
    if (spaced || cuts)
      stages_.push_back({.regex = Regex(Regex::Kind::pattern, kGpt2Pattern, json.where()),
                         .behavior = Behavior::isolated,
                         .cuts = cuts,
                         .prefix = spaced ? Prefix::space : Prefix::none});
  } else if (type == "Metaspace") {
    add_metaspace(json);
  } else {
    json.refuse(
        fmt::format("pre-tokenizer {} is not supported (Split, Digits, Metaspace, ByteLevel and Sequence are)", type));
  }
}

void PreTokenizer::add_metaspace(const JsonRef& json) {
  json.only({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
  const JsonRef scheme = json["prepend_scheme"];
  const std::string prepend = !scheme.is_null()                           ? scheme.string()
                              : json["add_prefix_space"].boolean_or(true) ? "always"
                                                                          : "never";
  if (prepend != "always" && prepend != "first" && prepend != "never")
    scheme.refuse(fmt::format("{:?} is not supported (always, first and never are)", prepend));
  const std::string space = json["replacement"].string();
  if (space.empty()) json["replacement"].refuse("must not be empty");
  stages_.push_back({.regex = Regex(Regex::Kind::literal, space, json.where()),
                     .behavior = Behavior::merged_with_next,
                     .cuts = json["split"].boolean_or(true),
                     .prefix = prepend == "always"  ? Prefix::always
                               : prepend == "first" ? Prefix::first
                                                    : Prefix::none,
                     .metaspace = space});
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

void PreTokenizer::Splitter::run(std::size_t stage, std::string_view text, bool first, const Sink& sink) {
  if (stage == owner_.stages_.size()) return sink(text);
  const Stage& now = owner_.stages_[stage];
  std::string changed;
  if (!now.metaspace.empty() && text.find(' ') != std::string_view::npos) {
    for (const char c : text) c == ' ' ? changed += now.metaspace : changed += c;
    text = changed;
  }
  const bool spaced = now.prefix == Prefix::space;
  const std::string_view prefix = spaced ? std::string_view(" ") : now.metaspace;
  if (now.prefix != Prefix::none && (now.prefix != Prefix::first || first) && !text.starts_with(prefix)) {
    changed = std::string(prefix).append(text);
    text = changed;
  }
  now.cuts ? cut(stage, text, first, sink) : run(stage + 1, text, first, sink);
}

void PreTokenizer::Splitter::cut(std::size_t stage, std::string_view text, bool first, const Sink& sink) {
  const auto [behavior, invert] = std::pair(owner_.stages_[stage].behavior, owner_.stages_[stage].invert);
  // A piece is held back until it is known whether the next one joins it.
  std::size_t held_begin = 0, held_end = 0;
  bool held = false, held_match = false;
  const auto flush = [&] {
    if (held && held_begin < held_end)
      run(stage + 1, text.substr(held_begin, held_end - held_begin), first && held_begin == 0, sink);
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
