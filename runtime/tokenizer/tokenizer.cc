#include "runtime/tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include "kernels/base/error.h"
#include "runtime/tokenizer/tokenizer_files.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

// One text on its way to ids. Words repeat, so their ids are kept for the length of the text.
class Encoder {
 public:
  Encoder(const TokenizerModel& model, std::vector<std::int32_t>& out)
      : model_(model), splitter_(model.pre_tokenizer), out_(out) {}

  void plain(std::string_view text) {
    std::string unguarded;
    if (text.find(Tokenizer::kSpecialGuard) != std::string_view::npos) {
      unguarded = text;
      std::erase(unguarded, Tokenizer::kSpecialGuard);
      text = unguarded;
    }
    const bool first = std::exchange(first_, false);
    if (model_.pieces) {
      stretch_ = out_.size();
      return model_.pieces->cut(model_.pieces->spell(text, first), [this](std::string_view part) { encode(part); });
    }
    splitter_.split(text, first, [this](std::string_view pretoken) {
      model_.bpe.cut(pretoken, [this](std::string_view part) { encode(part); });
    });
  }
  void token(std::int32_t id) {
    first_ = false;
    out_.push_back(id);
  }

 private:
  static constexpr std::size_t kLongestKept = 64;    // bytes of a pretoken
  static constexpr std::size_t kMostKept = 1 << 18;  // pretokens

  void encode(std::string_view pretoken) {
    const auto begin = static_cast<std::ptrdiff_t>(out_.size());
    if (pretoken.size() > kLongestKept) {
      encode_afresh(pretoken);
    } else if (const auto kept = kept_.find(pretoken); kept != kept_.end()) {
      out_.insert(out_.end(), kept->second.begin(), kept->second.end());
    } else {
      encode_afresh(pretoken);
      if (kept_.size() < kMostKept) kept_.emplace(pretoken, std::vector(out_.begin() + begin, out_.end()));
    }
    if (model_.pieces && model_.pieces->unknown_id() >= 0) fuse_unknown(begin);
  }

  // A run of what SentencePiece does not know gives one id, also where it was cut.
  void fuse_unknown(std::ptrdiff_t at) {
    const std::int32_t unknown = model_.pieces->unknown_id();
    const auto place = static_cast<std::size_t>(at);
    if (place > stretch_ && place < out_.size() && out_[place - 1] == unknown && out_[place] == unknown)
      out_.erase(out_.begin() + at);
  }

  void encode_afresh(std::string_view pretoken) {
    if (model_.pieces) model_.pieces->encode(pretoken, out_);
    else if (const auto whole = model_.whole_ids.find(pretoken); whole != model_.whole_ids.end())
      out_.push_back(whole->second);
    else model_.bpe.encode(pretoken, scratch_, out_);
  }

  const TokenizerModel& model_;
  PreTokenizer::Splitter splitter_;
  Bpe::Scratch scratch_;
  TextMap<std::vector<std::int32_t>> kept_;
  std::vector<std::int32_t>& out_;
  std::size_t stretch_ = 0;  // of `out_`: where what is encoded now begins
  bool first_ = true;        // nothing of the text has been seen
};

void check_utf8(std::string_view text) {
  std::size_t bad;
  if (text.find(Tokenizer::kSpecialGuard) == std::string_view::npos) {
    bad = find_invalid_utf8(text);
  } else {
    std::string unguarded(text);
    std::erase(unguarded, Tokenizer::kSpecialGuard);
    bad = find_invalid_utf8(unguarded);
  }
  if (bad != std::string_view::npos) throw UserError(Exit::io, "the text is not valid UTF-8 at byte {}", bad);
}

}  // namespace

struct Tokenizer::Impl {
  TokenizerModel model;
  // Null for an id that is no token's.
  const TokenizerModel::Token* token(std::int32_t id) const {
    const bool known = id >= 0 && static_cast<std::size_t>(id) < model.tokens.size() && model.tokens[id].used;
    return known ? &model.tokens[id] : nullptr;
  }
  TokenDecoder::Joiner::Piece piece(std::int32_t id) const {
    const auto first = model.at_first.find(id);
    const TokenizerModel::Token& token = model.tokens[id];
    return {token.text, first == model.at_first.end() ? token.text : first->second, token.byte};
  }
};

Tokenizer::Tokenizer(const std::filesystem::path& dir)
    : impl_(std::make_unique<Impl>(Impl{load_tokenizer_model(dir)})) {}
Tokenizer::Tokenizer(const nlohmann::json& document, const std::string& where)
    : impl_(std::make_unique<Impl>(Impl{tokenizer_model(document, where)})) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool with_template) const {
  const TokenizerModel& model = impl_->model;
  check_utf8(text);
  std::vector<std::int32_t> out;
  out.reserve(text.size() / 4 + 2);
  if (with_template) out.insert(out.end(), model.around.prefix.begin(), model.around.prefix.end());
  Encoder encoder(model, out);
  model.added.split(
      text, model.normalizer, [&](std::string_view plain) { encoder.plain(plain); },
      [&](std::int32_t id) { encoder.token(id); });
  if (with_template) out.insert(out.end(), model.around.suffix.begin(), model.around.suffix.end());
  return out;
}

// An id without a token gives nothing, as in the reference: a model's vocabulary may be padded beyond the tokenizer's.
std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::string out;
  TokenDecoder::Joiner joiner(impl_->model.decoder);
  for (const std::int32_t id : ids)
    if (const auto* token = impl_->token(id); token && !(skip_special && token->special))
      joiner.push(impl_->piece(id), out);
  joiner.finish(out);
  return out;
}

std::string_view Tokenizer::token_bytes(std::int32_t id) const {
  const auto* token = impl_->token(id);
  if (!token) throw UserError(Exit::usage, "token id {} is not in the vocabulary (0 to {})", id, vocab_size() - 1);
  return token->text;
}

bool Tokenizer::is_special(std::int32_t id) const {
  const auto* token = impl_->token(id);
  return token && token->special;
}

std::optional<std::int32_t> Tokenizer::id_of(std::string_view text) const {
  const auto found = impl_->model.ids.find(text);
  return found == impl_->model.ids.end() ? std::nullopt : std::optional(found->second);
}

std::int64_t Tokenizer::vocab_size() const { return static_cast<std::int64_t>(impl_->model.tokens.size()); }

std::string Tokenizer::guard(std::string_view text) const {
  return impl_->model.added.guard(text, impl_->model.normalizer);
}

struct StreamDecoder::State {
  const Tokenizer::Impl& tokenizer;
  TokenDecoder::Joiner joiner;
  std::string pending;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer)
    : state_(
          std::make_unique<State>(State{*tokenizer.impl_, TokenDecoder::Joiner(tokenizer.impl_->model.decoder), ""})) {}
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(std::int32_t id) {
  std::string& pending = state_->pending;
  if (const auto* token = state_->tokenizer.token(id); token && !token->special)
    state_->joiner.push(state_->tokenizer.piece(id), pending);
  const std::size_t certain = without_cut_character(pending).size();
  std::string out = replace_invalid_utf8(std::string_view(pending).substr(0, certain));
  pending.erase(0, certain);
  return out;
}

std::string StreamDecoder::finish() {
  state_->joiner.finish(state_->pending);
  std::string out = replace_invalid_utf8(state_->pending);
  state_->pending.clear();
  return out;
}

}  // namespace longhaul
