#include "kernels/cpu/label_basis.h"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>
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
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(l.transpose() * q * l);
  if (solver.info() != Eigen::Success) return false;
  const Eigen::VectorXd s = solver.eigenvalues().tail(dims).reverse().cwiseMax(0).cwiseSqrt();
  const Eigen::VectorXd scale = s.cwiseMax(1e-9 * s(0)).cwiseSqrt();
  const Matrix w = solver.eigenvectors().rightCols(dims).rowwise().reverse(), mix = hartley(dims);
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
