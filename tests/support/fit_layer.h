// A layer to fit labels to.
#pragma once
#include <Eigen/Eigenvalues>
#include <cmath>

#include "kernels/cpu/ops.h"
#include "tests/support/labels.h"

namespace longhaul::test {

using Matrix = Eigen::MatrixXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using FloatRows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline Matrix random_matrix(Random& random, std::int64_t rows, std::int64_t cols) {
  const Tensor t = random.normal(DType::f32, rows * cols);
  Matrix m(rows, cols);
  for (std::int64_t i = 0; i < rows * cols; ++i) m(i / cols, i % cols) = t.get(i);
  return m;
}

/// Directions of very different weight, as keys and queries have.
inline Matrix random_moment(Random& random, std::int64_t d) {
  Matrix m = random_matrix(random, d, d + 4);
  for (std::int64_t i = 0; i < m.cols(); ++i) m.col(i) *= std::exp(-0.15 * static_cast<double>(i));
  return m * m.transpose();
}

inline Matrix root(const Matrix& m) {
  Eigen::SelfAdjointEigenSolver<Matrix> solver(m);
  return solver.eigenvectors() * solver.eigenvalues().cwiseMax(0).cwiseSqrt().asDiagonal() *
         solver.eigenvectors().transpose();
}

/// A layer whose keys and queries lie mostly in a few directions, not those of the channels.
struct Layer {
  DType act;
  std::int64_t kv_heads, group, d, rows, queries, dims, bits;
  std::int64_t q_heads = kv_heads * group;
  Tensor kv{act, kv_heads*rows * 2 * d, 0}, q{act, queries*q_heads*d, 0};
  std::int64_t chunk = 0, reach = 0;  // of dual-chunk attention
  std::vector<float> inv_freq = std::vector<float>(d / 2);
  Labels labels{kv_heads, d, rows, dims, bits};

  void fill(Random& random) {
    labels.tail(q_heads);
    for (std::int64_t i = 0; i < d / 2; ++i) inv_freq[i] = static_cast<float>(std::pow(1e4, -2.0 * i / d));
    for (std::int64_t h = 0; h < kv_heads; ++h) {
      const Matrix mix = root(random_moment(random, d)), keys = random_matrix(random, rows, d) * mix;
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t i = 0; i < d; ++i) kv.set(((h * rows + r) * 2) * d + i, keys(r, i) + (i % 5 == 0 ? 6 : 0));
    }
    const Matrix more = random_matrix(random, queries, q_heads * d);
    for (std::int64_t i = 0; i < q.size; ++i)
      q.set(i, more(i / (q_heads * d), i % (q_heads * d)) * std::exp(-0.05 * static_cast<double>(i % d)));
  }
  KvTile tile() { return {kv.bytes.data(), rows * 2 * d * size_of(act), 0, rows}; }
  FitLabelsArgs args(LabelFit how, std::int64_t target = 5000, std::int64_t targets = 300) {
    return {.kv = tile(),
            .q = q.data(),
            .queries = queries,
            .q_pos = rows - queries,
            .inv_freq = inv_freq.data(),
            .target = target,
            .targets = targets,
            .labels = labels.tile(),
            .fit = how,
            .share = 0.1,
            .act = act,
            .q_heads = q_heads,
            .kv_heads = kv_heads,
            .head_dim = d,
            .scale = 1 / std::sqrt(static_cast<float>(d)),
            .host = nullptr,
            .weighs_tail = true,
            .sinks = 2,
            .window = 5,
            .chunk = chunk,
            .reach = reach};
  }
  double key(std::int64_t h, std::int64_t row, std::int64_t c) const { return kv.get((h * rows + row) * 2 * d + c); }
  /// Query head g of the i-th query, as it asks `row` from `position`.
  std::vector<double> asked(std::int64_t i, std::int64_t g, std::int64_t position, std::int64_t row) const {
    const std::int64_t stood = rows - queries + i, form = query_form(row, position, chunk);
    const std::int64_t place = chunk > 0 ? position % chunk : position;
    const std::int64_t to = form == 0 ? place : std::min(form == 1 ? place + chunk : 2 * chunk - 1, reach);
    std::vector<double> x(d);
    for (std::int64_t c = 0; c < d / 2; ++c) {
      const double angle = static_cast<double>(to - (chunk > 0 ? stood % chunk : stood)) * inv_freq[c];
      const double a = q.get((i * q_heads + g) * d + c), b = q.get((i * q_heads + g) * d + c + d / 2);
      x[c] = a * std::cos(angle) - b * std::sin(angle);
      x[c + d / 2] = b * std::cos(angle) + a * std::sin(angle);
    }
    return x;
  }
  void fit(LabelFit how, std::int64_t target = 5000, std::int64_t targets = 300) {
    cpu::fit_labels(args(how, target, targets));
  }
  bool finite() const {
    return std::all_of(labels.basis.begin(), labels.basis.end(), [](float x) { return std::isfinite(x); });
  }
};

}  // namespace longhaul::test
