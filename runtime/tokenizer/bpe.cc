#include "runtime/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <utility>

#include "kernels/base/error.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul {
namespace {

constexpr std::uint64_t kFree = ~std::uint64_t{0};

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

bool spelled_as_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

// GPT-2's alphabet: printable Latin-1 bytes are their own character, the others take U+0100 onwards in order.
struct Alphabet {
  std::array<char32_t, 256> character;
  std::array<std::int16_t, 512> byte;
  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (unsigned b = 0; b < 256; ++b) {
      character[b] = spelled_as_itself(b) ? b : next++;
      byte[character[b]] = static_cast<std::int16_t>(b);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  std::string bytes;
  while (!spelling.empty()) {
    const std::string_view character = character_at(spelling, 0);
    const char32_t code = utf8_code_point(character);
    if (code >= alphabet().byte.size() || alphabet().byte[code] < 0) return std::nullopt;
    bytes += static_cast<char>(alphabet().byte[code]);
    spelling.remove_prefix(character.size());
  }
  return bytes;
}

std::string spelling_of_byte(unsigned char byte) {
  std::string text;
  append_utf8(text, alphabet().character[byte]);
  return text;
}

Bpe::Bpe(Alphabet alphabet, const std::vector<BpeMerge>& merges, std::optional<Joints> joints)
    : alphabet_(std::move(alphabet)),
      joints_(std::move(joints)),
      table_(std::bit_ceil(2 * merges.size() + 2), Slot{kFree, 0, 0}) {
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::uint64_t pair = pair_of(merges[rank].left, merges[rank].right);
    *slot(pair) = {pair, static_cast<std::int32_t>(rank), merges[rank].result};
  }
}

Bpe::Slot* Bpe::slot(std::uint64_t pair) {
  const std::size_t mask = table_.size() - 1;
  std::uint64_t hash = pair * 0x9e3779b97f4a7c15u;
  std::size_t at = (hash ^ hash >> 32) & mask;
  while (table_[at].pair != kFree && table_[at].pair != pair) at = (at + 1) & mask;
  return &table_[at];
}

const Bpe::Slot* Bpe::find(std::int32_t left, std::int32_t right) const {
  const Slot* found = const_cast<Bpe*>(this)->slot(pair_of(left, right));
  return found->pair == kFree ? nullptr : found;
}

void Bpe::cut(std::string_view pretoken, const std::function<void(std::string_view)>& part) const {
  if (!joints_) return part(pretoken);
  // What has no token of its own stays with its neighbours: unknown ones may be fused.
  const auto together = [this](char32_t left, char32_t right) {
    return alphabet_.id(left) < 0 || alphabet_.id(right) < 0 || joints_->contains(left, right);
  };
  cut_text(pretoken, together, part);
}

// The symbols of a pretoken, unmerged.
void Bpe::spell(std::string_view pretoken, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  symbols.clear();
  const auto put = [&](std::int32_t id) {
    const auto place = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, place - 1, place + 1});
  };
  // As in the reference, an unknown token waits for the next one: a run of them may become one.
  bool unknown_waits = false;
  const auto unknown = [&] {
    if (alphabet_.unknown < 0) return;
    if (unknown_waits && !alphabet_.fuse_unknown) put(alphabet_.unknown);
    unknown_waits = true;
  };
  const auto known = [&](std::int32_t id) {
    if (std::exchange(unknown_waits, false)) put(alphabet_.unknown);
    put(id);
  };
  for (std::size_t at = 0; at < pretoken.size();) {
    const std::string_view character = alphabet_.characters ? character_at(pretoken, at) : pretoken.substr(at, 1);
    at += character.size();
    const auto code = alphabet_.characters ? utf8_code_point(character) : static_cast<unsigned char>(character[0]);
    if (const std::int32_t id = alphabet_.id(code); id >= 0) {
      known(id);
      continue;
    }
    const auto& bytes = alphabet_.bytes;
    const auto has_token = [&](char c) { return (*bytes)[static_cast<unsigned char>(c)] >= 0; };
    if (bytes && std::all_of(character.begin(), character.end(), has_token))
      for (const char c : character) put((*bytes)[static_cast<unsigned char>(c)]);
    else unknown();
  }
  if (unknown_waits) put(alphabet_.unknown);
  if (!symbols.empty()) symbols.back().next = -1;
}

void Bpe::encode(std::string_view pretoken, Scratch& scratch, std::vector<std::int32_t>& out) const {
  if (pretoken.size() > std::numeric_limits<std::int32_t>::max())
    throw UserError(Exit::io, "a run of {} bytes without a break is too long to tokenize (at most 2 GiB)",
                    pretoken.size());
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  spell(pretoken, scratch);
  if (symbols.empty()) return;

  const auto consider = [&](std::int32_t left, std::int32_t right) {
    const Slot* merge = find(symbols[left].id, symbols[right].id);
    if (merge) heap.push_back(pair_of(merge->rank, left));
    return merge != nullptr;
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i)
    consider(static_cast<std::int32_t>(i), static_cast<std::int32_t>(i + 1));
  // The reference's order: lowest rank first, then leftmost.
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    const auto rank = static_cast<std::int32_t>(heap.front() >> 32);
    const auto place = static_cast<std::int32_t>(heap.front() & 0xffffffff);
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    auto& left = symbols[place];
    if (left.id < 0 || left.next < 0) continue;
    auto& right = symbols[left.next];
    const Slot* merge = find(left.id, right.id);
    if (!merge || merge->rank != rank) continue;  // one of the two has changed since
    left.id = merge->result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = place;
    if (left.previous >= 0 && consider(left.previous, place))
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    if (left.next >= 0 && consider(place, left.next)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  }
  for (std::int32_t at = 0; at >= 0; at = symbols[at].next) out.push_back(symbols[at].id);
}

}  // namespace longhaul
