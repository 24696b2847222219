#include "kernels/cpu/label_basis.h"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>
#include <vector>

namespace longhaul::cpu {
namespace {

using Matrix = Eigen::MatrixXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// An orthogonal matrix whose entries are about equal (Hartley's).
Matrix hartley(std::int64_t n) {
  return Matrix::NullaryExpr(n, n, [n](Eigen::Index i, Eigen::Index j) {
    const double angle = 2 * std::numbers::pi * static_cast<double>(i * j % n) / static_cast<double>(n);
    return (std::cos(angle) + std::sin(angle)) / std::sqrt(static_cast<double>(n));
  });
}

/// Of mean variance 1, and a little more, so that fewer keys than dimensions have an inverse too.
Matrix with_ridge(const double* sums, std::int64_t d) {
  Matrix m = Eigen::Map<const RowMajor>(sums, d, d);
  m = (0.5 * (m + m.transpose()) * (static_cast<double>(d) / m.trace())).eval();
  m.diagonal().array() += 1e-6;
  return m;
}

struct Eigenpairs {
  Eigen::VectorXd values;  // the highest first
  Matrix vectors;
};

/// (T - value)^-1, T symmetric with a diagonal and what is beside it, by elimination with pivots.
class Inverse {
 public:
  Inverse(const Eigen::VectorXd& diagonal, const Eigen::VectorXd& beside, double value, double least)
      : n_(diagonal.size()), rows_(n_), factors_(n_), swaps_(n_) {
    double on = diagonal(0) - value, next = n_ > 1 ? beside(0) : 0;
    for (Eigen::Index i = 0; i + 1 < n_; ++i) {
      const double below = beside(i), on_below = diagonal(i + 1) - value, next_below = i + 2 < n_ ? beside(i + 1) : 0;
      swaps_[i] = std::abs(below) > std::abs(on);
      if (swaps_[i]) {
        factors_[i] = on / below;
        rows_[i] = {below, on_below, next_below};
        on = next - factors_[i] * on_below, next = -factors_[i] * next_below;
      } else {
        if (std::abs(on) < least) on = least;
        factors_[i] = below / on;
        rows_[i] = {on, next, 0};
        on = on_below - factors_[i] * next, next = next_below;
      }
    }
    rows_[n_ - 1] = {on, 0, 0};
    for (Row& row : rows_) row.on = 1 / (std::abs(row.on) < least ? least : row.on);
  }

  void apply(double* x) const {
    for (Eigen::Index i = 0; i + 1 < n_; ++i) {
      if (swaps_[i]) std::swap(x[i], x[i + 1]);
      x[i + 1] -= factors_[i] * x[i];
    }
    for (Eigen::Index i = n_ - 1; i >= 0; --i) {
      double sum = x[i];
      if (i + 1 < n_) sum -= rows_[i].next * x[i + 1];
      if (i + 2 < n_) sum -= rows_[i].after * x[i + 2];
      x[i] = sum * rows_[i].on;
    }
  }

 private:
  struct Row {
    double on, next, after;
  };
  Eigen::Index n_;
  std::vector<Row> rows_;
  std::vector<double> factors_;
  std::vector<char> swaps_;
};

/// The `count` highest of a symmetric matrix. Eigen finds all vectors, which takes three times as long as what is done
/// here: all values, and inverse iteration for the few vectors. Where that has not worked, Eigen does it.
bool highest_pairs(const Matrix& m, std::int64_t count, Eigenpairs& out) {
  const Eigen::Index n = m.rows();
  const Eigen::Tridiagonalization<Matrix> reduced(m);
  const Eigen::VectorXd diagonal = reduced.diagonal(), beside = reduced.subDiagonal();
  Eigen::SelfAdjointEigenSolver<Matrix> solver;
  solver.computeFromTridiagonal(diagonal, beside, Eigen::EigenvaluesOnly);
  if (solver.info() != Eigen::Success) return false;
  out.values = solver.eigenvalues().tail(count).reverse();
  const double size = std::max(solver.eigenvalues().cwiseAbs().maxCoeff(), 1e-300), least = 1e-16 * size;
  out.vectors.resize(n, count);
  std::uint32_t state = 1;
  bool good = true;
  for (std::int64_t j = 0; good && j < count; ++j) {
    const Inverse inverse(diagonal, beside, out.values(j), least);
    auto x = out.vectors.col(j);
    const auto found = out.vectors.leftCols(j);
    for (Eigen::Index i = 0; i < n; ++i) {
      state = state * 1664525u + 1013904223u;
      x(i) = 0.5 + static_cast<double>(state >> 8) * 0x1p-24;
    }
    for (int turn = 0; turn < 3; ++turn) {
      inverse.apply(x.data());
      x.normalize();
      x -= found * (found.transpose() * x).eval();  // equal values have vectors that are at right angles too
      if (turn > 0) x -= found * (found.transpose() * x).eval();
      x.normalize();
    }
    Eigen::VectorXd rest = (diagonal.array() - out.values(j)).matrix().cwiseProduct(x);
    rest.head(n - 1) += beside.cwiseProduct(x.tail(n - 1));
    rest.tail(n - 1) += beside.cwiseProduct(x.head(n - 1));
    good = rest.cwiseAbs().maxCoeff() <= 1e-11 * size;
  }
  if (good) {
    out.vectors.applyOnTheLeft(reduced.matrixQ());
    return true;
  }
  solver.compute(m);
  out.vectors = solver.eigenvectors().rightCols(count).rowwise().reverse();
  return solver.info() == Eigen::Success;
}

}  // namespace

// With sums K = L L^T, and L^T Q L = W S^2 W^T: the singular values of Q^(1/2) K^(1/2) are S, and the best maps are
// S^(1/2) W^T L^-1 for keys and S^(-1/2) W^T L^T for queries, cut to the highest. Labels then vary by S in either
// side's dimensions. Codes have the same number of steps in each, so the noise of the product is the sum of squares of
// the two sides' variances, which is least where they are equal: both are turned by one rotation that mixes all.
bool best_basis(const HeadMoments& moments, std::int64_t dims, float* key_map, float* query_map) {
  const std::int64_t d = moments.d;
  const Matrix q = with_ridge(moments.q, d), k = with_ridge(moments.k, d);
  if (!q.allFinite() || !k.allFinite()) return false;
  const Eigen::LLT<Matrix> root(k);
  if (root.info() != Eigen::Success) return false;
  const Matrix l = root.matrixL();
  Eigenpairs pairs;
  const Matrix right = q * root.matrixL();
  if (!highest_pairs(root.matrixU() * right, dims, pairs)) return false;
  const Eigen::VectorXd s = pairs.values.cwiseMax(0).cwiseSqrt();
  const Eigen::VectorXd scale = s.cwiseMax(1e-9 * s(0)).cwiseSqrt();
  const Matrix &w = pairs.vectors, mix = hartley(dims);
  // W^T L^-1 is the transpose of L^-T W.
  const RowMajor keys = mix * scale.asDiagonal() * root.matrixU().solve(w).transpose();
  const RowMajor queries = mix * scale.cwiseInverse().asDiagonal() * (l * w).transpose();
  if (!keys.allFinite() || !queries.allFinite()) return false;
  std::copy_n(keys.data(), dims * d, key_map);
  std::copy_n(queries.data(), dims * d, query_map);
  return true;
}

void channel_basis(const double* worth, std::int64_t d, std::int64_t dims, float* key_map, float* query_map) {
  std::vector<std::int64_t> order(d);
  std::iota(order.begin(), order.end(), 0);
  auto rank = [&](std::int64_t i) { return std::isfinite(worth[i]) ? worth[i] : -1.0; };
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return rank(a) > rank(b); });
  for (float* map : {key_map, query_map}) {
    std::fill_n(map, dims * d, 0.0f);
    for (std::int64_t j = 0; j < dims; ++j) map[j * d + order[j]] = 1;
  }
}

}  // namespace longhaul::cpu
