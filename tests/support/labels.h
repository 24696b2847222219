// Labels for tests: a tile that owns its memory, codes as they are laid out, and labels as their definition reads.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/base/bytes.h"
#include "kernels/sparse_ops.h"
#include "tests/support/random.h"

namespace longhaul::test {

/// Poisoned: codes are all ones, the basis NaN. Heads have a block to spare.
struct Labels {
  std::int64_t kv_heads, d, rows, dims, bits;
  std::int64_t blocks = ceil_div(rows, kAttendBlock) + 1;
  std::vector<std::byte> codes =
      std::vector<std::byte>(kv_heads * blocks * label_block_bytes(dims, bits), std::byte{0xff});
  std::vector<float> basis = std::vector<float>(kv_heads * label_basis_floats(dims, d), std::nanf(""));

  /// Makes room for a tail fit, and says where it is.
  TailFit tail(std::int64_t q_heads) {
    basis.resize(kv_heads * label_basis_floats(dims, d) + tail_fit_floats(q_heads, kv_heads, d), std::nanf(""));
    return tail_fit(basis.data(), kv_heads, d, dims);
  }
  /// Some tail fit.
  void random_tail(Random& random, std::int64_t q_heads) {
    const TailFit fit = tail(q_heads);
    const Tensor beside = random.normal(DType::f32, kv_heads * d, 1 / std::sqrt(static_cast<double>(d)));
    for (std::int64_t i = 0; i < beside.size; ++i) fit.beside[i] = static_cast<float>(beside.get(i));
    for (std::int64_t g = 0; g < q_heads; ++g) fit.weights[g] = static_cast<float>(random.integer(1, 40)) / 20;
  }
  /// A label score lacks its zeros'.
  double zeros(std::int64_t h, const auto& q) {
    double sum = 0;
    for (std::int64_t j = 0; bits < 16 && j < dims; ++j) sum += zero(h)[j] * project(query_map(h), j, q);
    return sum;
  }

  LabelTile tile() { return {codes.data(), blocks * label_block_bytes(dims, bits), basis.data(), dims, bits}; }
  float* key_map(std::int64_t h) { return basis.data() + h * label_basis_floats(dims, d); }
  float* query_map(std::int64_t h) { return key_map(h) + dims * d; }
  float* zero(std::int64_t h) { return key_map(h) + 2 * dims * d; }
  float* step(std::int64_t h) { return zero(h) + dims; }

  /// Random maps; zero and step that hold most of such keys.
  void random_basis(Random& random) {
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      const Tensor maps = random.normal(DType::f32, 2 * dims * d, 1 / std::sqrt(static_cast<double>(d)));
      for (std::int64_t i = 0; i < 2 * dims * d; ++i) key_map(h)[i] = static_cast<float>(maps.get(i));
      for (std::int64_t j = 0; j < dims; ++j) {
        zero(h)[j] = -3 + static_cast<float>(random.integer(-10, 10)) / 50;
        step(h)[j] = 6 / static_cast<float>((1 << std::min<std::int64_t>(bits, 8)) - 1);
      }
    }
  }

  /// The coordinate that a row's code stands for.
  double coordinate(std::int64_t h, std::int64_t row, std::int64_t j) {
    const std::byte* at = codes.data() + (h * blocks + row / 64) * label_block_bytes(dims, bits) + j * bits * 8;
    const std::int64_t r = row % 64;
    if (bits == 16) {
      bf16 x;
      std::memcpy(&x, at + 2 * r, 2);
      return to_float(x);
    }
    int code = static_cast<int>(at[bits == 8 ? r : r % 32]);
    if (bits == 4) code = r < 32 ? code & 15 : code >> 4;
    return zero(h)[j] + static_cast<double>(step(h)[j]) * code;
  }

  /// Dot product of a map's row with a vector of head_dim.
  template <class X>
  double project(const float* map, std::int64_t j, const X& x) const {
    double sum = 0;
    for (std::int64_t i = 0; i < d; ++i) sum += static_cast<double>(map[j * d + i]) * x(i);
    return sum;
  }
};

}  // namespace longhaul::test
