#include "apps/eval/chat.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

using Ids = std::vector<std::int32_t>;

// Control characters that no template trims or escapes.
constexpr char kUser = '\x02', kAssistant = '\x03';

std::size_t place_of(const std::string& text, char mark) {
  const std::size_t at = text.find(mark);
  if (at == std::string::npos || text.find(mark, at + 1) != std::string::npos)
    throw UserError(Exit::bad_model, "the chat template does not show a message once, so documents cannot be cut");
  return at;
}

Ids encode_framed(const ModelFiles& model, const ChatFrame& frame, const std::string& text, bool begins) {
  const bool plain = frame.before.empty() && frame.after.empty();
  return model.tokenizer.encode((begins ? frame.before : "") + model.tokenizer.guard(text), plain && begins);
}

Ids encode_whole(const ModelFiles& model, const ChatFrame& frame, const std::string& text) {
  const bool plain = frame.before.empty() && frame.after.empty();
  return model.tokenizer.encode(frame.before + model.tokenizer.guard(text) + frame.after, plain);
}

std::size_t common_size(const Ids& a, const Ids& b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

/// Cuts each whole prompt where all agree. Slow, but right whatever the tokenizer does.
SplitPrompt split_whole(const ModelFiles& model, const ChatFrame& frame, const std::string& document,
                        const std::vector<std::string>& questions) {
  SplitPrompt split{encode_framed(model, frame, document, true), {}};
  std::size_t common = split.prompt.size();
  for (const std::string& question : questions) {
    split.asks.push_back(encode_whole(model, frame, document + question));
    common = std::min({common, common_size(split.prompt, split.asks.back()), split.asks.back().size() - 1});
  }
  split.prompt.resize(common);
  for (Ids& ask : split.asks) ask.erase(ask.begin(), ask.begin() + static_cast<std::ptrdiff_t>(common));
  return split;
}

}  // namespace

ChatFrame plain_frame() { return {}; }

ChatFrame chat_frame(const ModelFiles& model) {
  if (!model.chat.exists()) return plain_frame();
  const std::string asked = model.chat.render({{"user", {kUser}}}, true);
  const std::size_t at = place_of(asked, kUser);
  ChatFrame frame{asked.substr(0, at), asked.substr(at + 1), {}};
  const std::string answered = model.chat.render({{"user", {kUser}}, {"assistant", {kAssistant}}}, false);
  const Ids rest = model.tokenizer.encode(answered.substr(place_of(answered, kAssistant) + 1), false);
  if (!rest.empty() && std::ranges::find(model.eos(), rest[0]) != model.eos().end()) frame.end = {rest[0]};
  return frame;
}

SplitPrompt split_prompt(const ModelFiles& model, const ChatFrame& frame, const std::string& document,
                         const std::vector<std::string>& questions) {
  check(!questions.empty(), "a document has a question");
  const Ids alone = encode_framed(model, frame, document, true);
  const Ids whole = encode_whole(model, frame, document + questions[0]);
  std::size_t cut = std::min(common_size(alone, whole), whole.size() - 1);
  // Which text the dropped tokens spell. Tokenizers work piece by piece, so a little of the text before a question is
  // all that its tokens depend on; how much is found by trying.
  const std::size_t least = cut > 16 ? cut - 16 : 1;
  for (; cut >= least; --cut) {
    const std::string tail = model.tokenizer.decode(std::span(alone).subspan(cut), false);
    if (!document.ends_with(tail) || find_invalid_utf8(tail) != std::string::npos) continue;
    auto ask = [&](const std::string& question) {
      return model.tokenizer.encode(model.tokenizer.guard(tail + question) + frame.after, false);
    };
    if (!std::ranges::equal(ask(questions[0]), std::span(whole).subspan(cut))) continue;
    SplitPrompt split{{alone.begin(), alone.begin() + static_cast<std::ptrdiff_t>(cut)}, {}};
    for (const std::string& question : questions) split.asks.push_back(ask(question));
    return split;
  }
  return split_whole(model, frame, document, questions);
}

std::vector<std::int32_t> answer_tokens(const ModelFiles& model, const ChatFrame& frame, const std::string& text) {
  Ids ids = model.tokenizer.encode(model.tokenizer.guard(text), false);
  ids.insert(ids.end(), frame.end.begin(), frame.end.end());
  return ids;
}

std::int64_t count_tokens(const Tokenizer& tokenizer, std::string_view text) {
  return static_cast<std::int64_t>(tokenizer.encode(tokenizer.guard(text), false).size());
}

}  // namespace longhaul::eval
