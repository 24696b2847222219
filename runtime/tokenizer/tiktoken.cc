#include "runtime/tokenizer/tiktoken.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>
#include <vector>

#include "kernels/base/error.h"
#include "runtime/tokenizer/base64.h"
#include "runtime/tokenizer/bpe.h"

namespace longhaul {
namespace {

struct Line {
  std::string bytes;
  std::int32_t rank;
};

std::optional<Line> parse_line(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const auto bytes = from_base64(line.substr(0, space));
  const std::string_view number = line.substr(space + 1);
  std::int32_t rank = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), rank);
  if (!bytes || bytes->empty() || error != std::errc() || end != number.data() + number.size() || rank < 0)
    return std::nullopt;
  return Line{std::string(bytes->begin(), bytes->end()), rank};
}

std::string spelling(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) text += spelling_of_byte(static_cast<unsigned char>(byte));
  return text;
}

}  // namespace

bool is_tiktoken(std::string_view text) { return parse_line(text.substr(0, text.find('\n'))).has_value(); }

nlohmann::json tiktoken_model(std::string_view text, const std::string& where) {
  constexpr std::size_t kMostTokens = 1 << 20, kLongest = 256;
  std::vector<Line> lines;
  std::unordered_map<std::string_view, std::int32_t> ranks;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.empty()) continue;
    auto token = parse_line(line);
    if (!token) throw UserError(Exit::bad_model, "{}:{}: needs a token in base64 and its rank", where, number);
    if (token->bytes.size() > kLongest || lines.size() == kMostTokens)
      throw UserError(Exit::bad_model,
                      "{}:{}: tokens of more than {} bytes, or more than {} of them, are not supported", where, number,
                      kLongest, kMostTokens);
    lines.push_back(std::move(*token));
  }
  std::ranges::stable_sort(lines, {}, &Line::rank);
  nlohmann::json vocab = nlohmann::json::object(), merges = nlohmann::json::array();
  for (const Line& line : lines)
    if (!ranks.emplace(line.bytes, line.rank).second)
      throw UserError(Exit::bad_model, "{}: the token of rank {} has another rank too", where, line.rank);
  // Every way to put a token together; tiktoken merges whatever gives the lowest rank.
  for (const Line& line : lines) {
    vocab[spelling(line.bytes)] = static_cast<std::uint64_t>(line.rank);  // as a parsed file has it
    std::vector<std::pair<std::pair<std::int32_t, std::int32_t>, std::size_t>> cuts;
    const std::string_view bytes = line.bytes;
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
      const auto left = ranks.find(bytes.substr(0, cut)), right = ranks.find(bytes.substr(cut));
      if (left != ranks.end() && right != ranks.end()) cuts.push_back({{left->second, right->second}, cut});
    }
    std::ranges::sort(cuts);
    for (const auto& [pair, cut] : cuts)
      merges.push_back(spelling(bytes.substr(0, cut)) + " " + spelling(bytes.substr(cut)));
  }
  return {{"type", "BPE"}, {"ignore_merges", true}, {"vocab", std::move(vocab)}, {"merges", std::move(merges)}};
}

}  // namespace longhaul
