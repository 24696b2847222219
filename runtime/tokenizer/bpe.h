// Byte-pair encoding of one pretoken: the bytes' tokens, merged by rank until no merge applies.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/joints.h"

namespace longhaul {

/// The bytes that a byte-level token's spelling stands for ("Ġthe" is " the"); none when it holds another character.
std::optional<std::string> bytes_of_spelling(std::string_view spelling);
/// How a byte-level vocabulary spells one byte.
std::string spelling_of_byte(unsigned char byte);

struct BpeMerge {
  std::int32_t left, right, result;
};

class Bpe {
 public:
  /// What a pretoken is made of before anything is merged: bytes, or characters (as in SentencePiece).
  struct Alphabet {
    bool characters = false;
    std::vector<std::int32_t> ids;                       // by byte or by code point; -1: not in the vocabulary
    std::optional<std::array<std::int32_t, 256>> bytes;  // of a character without a token (byte fallback)
    std::int32_t unknown = -1;                           // what has no token becomes this; -1: it is dropped
    bool fuse_unknown = false;                           // a run of those gives one token
    std::int32_t id(std::size_t code) const { return code < ids.size() ? ids[code] : -1; }
  };
  /// `merges` in order of rank; of two that join the same pair the later counts, as in the reference. `joints`: the
  /// characters between which a merge may happen; without it, anywhere.
  Bpe(Alphabet alphabet, const std::vector<BpeMerge>& merges, std::optional<Joints> joints = {});

  /// Cuts `pretoken` where no merge can reach across, so that the parts encode to what the whole does.
  void cut(std::string_view pretoken, const std::function<void(std::string_view)>& part) const;

  struct Scratch {
    struct Symbol {
      std::int32_t id, previous, next;  // id -1: merged into its left neighbour
    };
    std::vector<Symbol> symbols;
    std::vector<std::uint64_t> heap;  // merges to try: rank << 32 | place of the left symbol
  };
  /// Appends the pretoken's ids to `out`; O(n log n).
  void encode(std::string_view pretoken, Scratch& scratch, std::vector<std::int32_t>& out) const;

 private:
  struct Slot {
    std::uint64_t pair;
    std::int32_t rank, result;
  };
  void spell(std::string_view pretoken, Scratch& scratch) const;
  Slot* slot(std::uint64_t pair);
  const Slot* find(std::int32_t left, std::int32_t right) const;  // null: the two do not merge

  Alphabet alphabet_;
  std::optional<Joints> joints_;
  std::vector<Slot> table_;  // open addressing, a power of two
};

}  // namespace longhaul
