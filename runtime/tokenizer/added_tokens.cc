#include "runtime/tokenizer/added_tokens.h"

#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

constexpr char kGuard = Tokenizer::kSpecialGuard;

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer)
    : tokens_(std::move(tokens)), space_(Regex::Kind::pattern, "\\s", "added_tokens") {
  Regex::Matcher space(space_);
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    AddedToken& token = tokens_[i];
    const std::string raw = token.content;
    if (token.normalized && !normalizer.empty()) token.content = normalizer.apply(token.content);
    if (token.content.empty()) continue;
    (token.normalized ? normalized_ : raw_).add(token.content, i);
    // Rust's \w, which the reference uses here, is Oniguruma's with the joiners.
    if (token.single_word && !word_) word_.emplace(Regex::Kind::pattern, "[\\w\\p{Join_Control}]", "added_tokens");
    bool blank = true;
    for (std::string_view rest = token.content; blank && !rest.empty(); rest.remove_prefix(utf8_step(rest).length))
      blank = space.in(character_at(rest, 0));
    // Runs of spaces as added tokens are vocabulary for indented text; they command nothing and are left to match.
    if (!token.special && blank) continue;
    guarded_.add(token.content, i);
    if (!token.normalized) continue;
    guarded_.add(raw, i);
    normalized_guarded_.add(token.content, i);
  }
}

void AddedTokens::Tree::add(std::string_view text, std::size_t token) {
  std::uint32_t node = 0;
  first[static_cast<unsigned char>(text[0])] = true;
  for (const char c : text) {
    const std::uint64_t key = std::uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [edge, fresh] = edges.try_emplace(key, static_cast<std::uint32_t>(token_at.size()));
    if (fresh) token_at.push_back(-1);
    node = edge->second;
  }
  token_at[node] = static_cast<std::int64_t>(token);
}

std::optional<std::size_t> AddedTokens::Tree::longest(std::string_view rest) const {
  if (!first[static_cast<unsigned char>(rest[0])]) return std::nullopt;
  // A guard after the first character keeps tokens out; this line is for those of a single character.
  if (const std::size_t length = character_at(rest, 0).size(); length < rest.size() && rest[length] == kGuard)
    return std::nullopt;
  std::optional<std::size_t> best;
  std::uint32_t node = 0;
  for (const char c : rest) {
    const auto edge = edges.find(std::uint64_t{node} << 8 | static_cast<unsigned char>(c));
    if (edge == edges.end()) break;
    node = edge->second;
    if (token_at[node] >= 0) best = static_cast<std::size_t>(token_at[node]);
  }
  return best;
}

bool AddedTokens::stands_alone(std::string_view text, std::size_t begin, std::size_t end, Matchers& matchers) const {
  if (!matchers.word) matchers.word.emplace(*word_);
  Regex::Matcher& word = *matchers.word;
  while (begin > 0 && text[begin - 1] == kGuard) --begin;
  while (end < text.size() && text[end] == kGuard) ++end;
  return !(begin > 0 && word.in(character_before(text, begin))) &&
         !(end < text.size() && word.in(character_at(text, end)));
}

void AddedTokens::split_by(const Tree& tree, std::string_view text, Matchers& matchers,
                           const std::function<void(std::string_view)>& plain,
                           const std::function<void(std::int32_t)>& emit) const {
  const auto is_space = [&](std::string_view character) {
    if (!matchers.space) matchers.space.emplace(space_);
    return character[0] == kGuard || matchers.space->in(character);
  };
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto found = tree.longest(text.substr(at));
    if (!found) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[*found];
    std::size_t begin = at, end = at + token.content.size();
    at = end;
    // As in the reference, a match that is discarded still hides what overlaps it.
    if (token.single_word && !stands_alone(text, begin, end, matchers)) continue;
    while (token.lstrip && begin > done && is_space(character_before(text, begin)))
      begin -= character_before(text, begin).size();
    while (token.rstrip && end < text.size() && is_space(character_at(text, end)))
      end += character_at(text, end).size();
    if (done < begin) plain(text.substr(done, begin - done));
    emit(token.id);
    done = end;
  }
  if (done < text.size()) plain(text.substr(done));
}

void AddedTokens::split(std::string_view text, const Normalizer& normalizer,
                        const std::function<void(std::string_view)>& plain,
                        const std::function<void(std::int32_t)>& token) const {
  Matchers matchers;
  const auto normalized = [&](std::string_view rest) {
    if (normalizer.empty()) return split_by(normalized_, rest, matchers, plain, token);
    std::string changed(rest);
    if (normalized_.empty()) std::erase(changed, kGuard);  // they have done what they are for
    split_by(normalized_, normalizer.apply(changed), matchers, plain, token);
  };
  split_by(raw_, text, matchers, normalized, token);
}

bool AddedTokens::spells_guarded(std::string_view text, const Normalizer& normalizer) const {
  const std::string changed = normalizer.apply(text);
  for (std::size_t at = 0; at < changed.size(); ++at)
    if (normalized_guarded_.longest(std::string_view(changed).substr(at))) return true;
  return false;
}

std::string AddedTokens::guard(std::string_view text, const Normalizer& normalizer) const {
  const auto guarded_where = [&](const auto& guards) {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) {
      const std::string_view character = character_at(text, at);
      out += character;
      if (guards(at)) out += kGuard;
      at += character.size();
    }
    return out;
  };
  std::string out = guarded_where([&](std::size_t at) { return guarded_.longest(text.substr(at)).has_value(); });
  // A text that the normalizer turns into such a token (＜s＞ with NFKC) is kept apart, every character.
  if (normalizer.empty() || normalized_guarded_.empty() || !spells_guarded(out, normalizer)) return out;
  return guarded_where([](std::size_t) { return true; });
}

}  // namespace longhaul
