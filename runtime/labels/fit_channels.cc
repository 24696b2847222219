#include "runtime/labels/fit_channels.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/types.h"
#include "kernels/sparse_ops.h"

namespace longhaul {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

struct Means {
  MatrixXd q, k;                  // second moments: of q about zero, of k about its mean
  VectorXd abs_q, abs_k, abs_qk;  // [d]
};

Means means_of(const double* sums, std::int64_t d, double group) {
  const double tokens = sums[moment_doubles(d) - 1], heads = tokens * group;
  using Square = Eigen::Map<const MatrixXd>;  // both are symmetric, so the order of storage does not matter
  const double* vectors = sums + 2 * d * d;
  auto vector = [&](std::int64_t i) { return Eigen::Map<const VectorXd>(vectors + i * d, d); };
  const VectorXd mean = vector(0) / tokens;
  return {.q = Square(sums + d * d, d, d) / heads,
          .k = Square(sums, d, d) / tokens - mean * mean.transpose(),
          .abs_q = vector(2) / heads,
          .abs_k = vector(1) / tokens,
          .abs_qk = vector(3) / heads};
}

/// Channels, or pairs of them, by falling worth.
std::vector<std::int32_t> rank(const VectorXd& worth) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(worth.size()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return worth[a] > worth[b]; });
  return order;
}

std::vector<float> rounded(const MatrixXd& rows) {
  std::vector<float> out;
  for (Eigen::Index i = 0; i < rows.rows(); ++i)
    for (Eigen::Index j = 0; j < rows.cols(); ++j) out.push_back(to_float(to_bf16(static_cast<float>(rows(i, j)))));
  return out;
}

/// With k's covariance L L^T and L^T (second moment of q) L = W S^2 W^T, the projection of whitened keys onto the first
/// columns of W loses least. S goes half to each side, so that both have coordinates of the same spread.
void fit_basis(const Means& means, std::int64_t dims, HeadChannels& out) {
  const Eigen::Index d = means.k.rows();
  // Keys that never leave a subspace, or stand still: a little of every direction keeps the factors regular. A factor
  // by eigenvectors rather than Cholesky's: beside a large mean, rounding can leave a covariance that is not quite one.
  const double ridge = std::max(1e-6 * means.k.trace() / static_cast<double>(d), 1e-30);
  const Eigen::SelfAdjointEigenSolver<MatrixXd> keys(means.k);
  const VectorXd spread = (keys.eigenvalues().cwiseMax(0).array() + ridge).sqrt();
  const MatrixXd L = keys.eigenvectors() * spread.asDiagonal();
  const MatrixXd inverse = spread.cwiseInverse().asDiagonal() * keys.eigenvectors().transpose();
  const Eigen::SelfAdjointEigenSolver<MatrixXd> eigen(L.transpose() * means.q * L);  // eigenvalues rise
  const MatrixXd W = eigen.eigenvectors().rowwise().reverse().leftCols(dims);
  VectorXd s = eigen.eigenvalues().reverse().head(dims).cwiseMax(0).cwiseSqrt();
  s = s.cwiseMax(std::max(1e-6 * s[0], 1e-30));  // directions that no query has
  const VectorXd root = s.cwiseSqrt();
  MatrixXd key = root.asDiagonal() * (W.transpose() * inverse);
  MatrixXd query = root.cwiseInverse().asDiagonal() * (W.transpose() * L.transpose());
  for (Eigen::Index i = 0; i < dims; ++i) {  // an eigenvector's sign is arbitrary
    Eigen::Index largest;
    key.row(i).cwiseAbs().maxCoeff(&largest);
    if (key(i, largest) < 0) key.row(i) *= -1, query.row(i) *= -1;
  }
  out.key_map = rounded(key);
  out.query_map = rounded(query);
}

}  // namespace

HeadChannels fit_channels(std::span<const double> sums, std::int64_t d, std::int64_t group) {
  check(static_cast<std::int64_t>(sums.size()) == moment_doubles(d) && sums.back() > 0, "fit_channels: moments");
  const Means means = means_of(sums.data(), d, static_cast<double>(group));
  HeadChannels out;
  auto set = [&](Labels by, std::vector<std::int32_t> ranking) { out.rankings[ranking_of(by)] = std::move(ranking); };
  const VectorXd rms = (means.q.diagonal().cwiseMax(0).array() * means.k.diagonal().cwiseMax(0).array()).sqrt();
  set(Labels::q, rank(means.abs_q));
  set(Labels::k, rank(means.abs_k));
  set(Labels::qk, rank(means.abs_qk));
  set(Labels::abs, rank(means.abs_q.cwiseProduct(means.abs_k)));
  set(Labels::rms, rank(rms));
  std::vector<std::int32_t> pairs;
  for (std::int32_t c : rank(rms.head(d / 2) + rms.tail(d / 2)))
    pairs.insert(pairs.end(), {c, c + static_cast<std::int32_t>(d / 2)});
  set(Labels::pairs, std::move(pairs));
  fit_basis(means, std::min(kFittedDims, d), out);
  return out;
}

bool all_finite(std::span<const double> sums) {
  return std::all_of(sums.begin(), sums.end(), [](double x) { return std::isfinite(x); });
}

}  // namespace longhaul
