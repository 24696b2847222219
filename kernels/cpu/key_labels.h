// What labels a fit's keys have in a basis: the range that codes cover, and what is left of the keys in them.
#pragma once
#include <utility>
#include <vector>

#include "kernels/cpu/labels.h"

namespace longhaul::cpu {

class KeyLabels {
 public:
  /// keys: [count, head_dim]; padded: count, rounded up to whole blocks.
  KeyLabels(const LabelTile& labels, const Basis& basis, const float* keys, std::int64_t count, std::int64_t padded,
            std::int64_t head_dim)
      : labels_(labels), basis_(basis), keys_(keys), count_(count), padded_(padded), d_(head_dim) {}

  /// Writes zero and step of the basis.
  void fit_range() const;
  /// What is left of the keys' coordinates in their labels, less the zeros, [dims, padded].
  std::vector<float> quantised() const;

 private:
  std::vector<float> coordinates() const;  // of the keys in the basis, [dims, padded]
  std::pair<float, float> range_of(const float* x) const;
  void quantise(float* x, std::int64_t j) const;
  float top_code() const;

  const LabelTile& labels_;
  const Basis& basis_;
  const float* keys_;
  std::int64_t count_, padded_, d_;
};

}  // namespace longhaul::cpu
