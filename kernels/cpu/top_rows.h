// The exact top of ordered keys, by counting digits, in steps: all chunks count a digit, then one caller picks the
// threshold's digit, and so on for each digit; then place, then all chunks emit. Results do not depend on who runs a
// chunk.
#pragma once
#include <cstdint>
#include <vector>

namespace longhaul::cpu {

inline constexpr int kKeyDigits = 3;

/// What an ordered key (simd.h, combine) was made from; 0 has no value.
float value_of_key(std::uint32_t key);

class TopRows {
 public:
  struct Options {
    const std::uint32_t* keys;  // [rows], of which [first, rows) compete
    std::int64_t first, rows, chunk;
    std::uint32_t lowest;  // keys below it are never taken
    std::int64_t wanted;   // rows, at most
    float top_p = 1;       // below 1: as few as make up, with [0, first), this share of the mass of [0, rows)
    double mass = 1;       // about what the values sum to
  };
  explicit TopRows(const Options& options);

  void count(std::int64_t chunk, int digit);
  void pick(int digit);
  /// Finds where each chunk's rows go; returns how many they are together.
  std::int64_t place();
  void emit(std::int64_t chunk, std::int32_t* out) const;

 private:
  struct Part {
    std::int64_t above = 0, equal = 0;        // rows of the chunk: above the threshold, at it
    std::int64_t begin = 0, taken_equal = 0;  // in the output
    std::vector<std::uint32_t> left;          // keys that agree with the threshold so far
  };
  std::uint64_t units(std::uint32_t key) const;
  std::int64_t chunk_end(std::int64_t chunk) const;
  void want_mass();

  Options o_;
  std::int64_t chunks_;
  std::int64_t rows_wanted_;
  std::uint64_t units_wanted_ = ~std::uint64_t{0};  // of mass, in whole units: a sum is the same in any order
  std::uint32_t threshold_ = 0;                     // its digits so far
  bool settled_ = false;                            // every row, or none, is taken: no digits to look at
  std::vector<std::uint32_t> counts_;               // [chunks, bins]
  std::vector<std::uint64_t> masses_;               // [chunks, bins] units; empty without top_p
  std::vector<Part> parts_;
};

}  // namespace longhaul::cpu
