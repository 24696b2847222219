// Byte-pair encoding of one pretoken: the bytes' tokens, merged by rank until no merge applies.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

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
  struct Bytes {
    std::array<std::int32_t, 256> ids;  // -1: not in the vocabulary
    std::int32_t unknown = -1;          // what a byte without a token becomes; -1: it is dropped
    bool fuse_unknown = false;          // a run of unknown bytes gives one token
  };
  /// `merges` in order of rank; of two that join the same pair the later counts, as in the reference.
  Bpe(const Bytes& bytes, const std::vector<BpeMerge>& merges);

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
  Slot* slot(std::uint64_t pair);
  const Slot* find(std::int32_t left, std::int32_t right) const;  // null: the two do not merge

  Bytes bytes_;
  std::vector<Slot> table_;  // open addressing, a power of two
};

}  // namespace longhaul
