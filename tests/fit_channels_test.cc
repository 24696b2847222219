// Rankings and the fitted basis against their definitions, on random keys and queries.
#include "runtime/labels/fit_channels.h"

#include <Eigen/Dense>
#include <random>

#include "kernels/sparse_ops.h"
#include "tests/support/catch.h"

namespace longhaul {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

struct Sample {
  MatrixXd k;               // [tokens, d]
  std::vector<MatrixXd> q;  // of each query head of the group
};

/// Keys that are correlated, off centre, and of very different spread from channel to channel.
Sample random_sample(std::int64_t tokens, std::int64_t d, std::int64_t group, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  auto draw = [&](std::int64_t rows, std::int64_t cols) {
    return MatrixXd(MatrixXd::NullaryExpr(rows, cols, [&] { return normal(random); }));
  };
  auto mixed = [&] {
    const VectorXd spread = draw(d, 1).array().exp();
    return MatrixXd((draw(tokens, d) * draw(d, d) * spread.asDiagonal()).rowwise() + 3 * draw(1, d).row(0));
  };
  Sample s{mixed(), {}};
  for (std::int64_t g = 0; g < group; ++g) s.q.push_back(mixed());
  return s;
}

std::vector<double> moments(const Sample& s) {
  const Eigen::Index d = s.k.cols();
  MatrixXd qq = MatrixXd::Zero(d, d);
  VectorXd q = VectorXd::Zero(d), qk = q;
  for (const MatrixXd& head : s.q) {
    qq += head.transpose() * head;
    q += head.cwiseAbs().colwise().sum().transpose();
    qk += head.cwiseProduct(s.k).cwiseAbs().colwise().sum().transpose();
  }
  const MatrixXd kk = s.k.transpose() * s.k;
  const VectorXd k = s.k.colwise().sum(), abs_k = s.k.cwiseAbs().colwise().sum();
  std::vector<double> sums(kk.data(), kk.data() + d * d);
  sums.insert(sums.end(), qq.data(), qq.data() + d * d);
  for (const VectorXd* v : std::initializer_list<const VectorXd*>{&k, &abs_k, &q, &qk})
    sums.insert(sums.end(), v->data(), v->data() + d);
  sums.push_back(static_cast<double>(s.k.rows()));
  return sums;
}

/// Ranks by `worth`, computed anew for every comparison.
template <class Worth>
bool is_ranking(const std::vector<std::int32_t>& ranking, const Worth& worth) {
  for (std::size_t i = 1; i < ranking.size(); ++i)
    if (worth(ranking[i - 1]) < worth(ranking[i]) * (1 - 1e-12)) return false;
  return true;
}

MatrixXd root(const MatrixXd& square) { return Eigen::SelfAdjointEigenSolver<MatrixXd>(square).operatorSqrt(); }

TEST_CASE("rankings are what they are called") {
  const std::int64_t d = 24, group = 3;
  const Sample s = random_sample(200, d, group, 5);
  const HeadChannels fit = fit_channels(moments(s), d, group);
  auto ranking = [&](Labels by) { return fit.rankings[ranking_of(by)]; };
  auto mean_q = [&](std::int32_t c) {
    double sum = 0;
    for (const MatrixXd& q : s.q) sum += q.col(c).cwiseAbs().mean();
    return sum / group;
  };
  auto mean_k = [&](std::int32_t c) { return s.k.col(c).cwiseAbs().mean(); };
  auto rms = [&](std::int32_t c) {
    double q = 0;
    for (const MatrixXd& head : s.q) q += head.col(c).squaredNorm() / (200.0 * group);
    return std::sqrt(q * (s.k.col(c).array() - s.k.col(c).mean()).square().mean());
  };
  for (const auto& one : fit.rankings) {
    REQUIRE(one.size() == 24);
    std::vector<std::int32_t> sorted = one;
    std::sort(sorted.begin(), sorted.end());
    for (std::int32_t c = 0; c < d; ++c) CHECK(sorted[static_cast<std::size_t>(c)] == c);
  }
  CHECK(is_ranking(ranking(Labels::q), mean_q));
  CHECK(is_ranking(ranking(Labels::k), mean_k));
  CHECK(is_ranking(ranking(Labels::qk), [&](std::int32_t c) {
    double sum = 0;
    for (const MatrixXd& q : s.q) sum += q.col(c).cwiseProduct(s.k.col(c)).cwiseAbs().mean();
    return sum;
  }));
  CHECK(is_ranking(ranking(Labels::abs), [&](std::int32_t c) { return mean_q(c) * mean_k(c); }));
  CHECK(is_ranking(ranking(Labels::rms), rms));
  const auto pairs = ranking(Labels::pairs);
  for (std::size_t i = 0; i < 24; i += 2) CHECK(pairs[i + 1] == pairs[i] + 12);
  CHECK(is_ranking(pairs, [&](std::int32_t c) { return rms(c % 12) + rms(c % 12 + 12); }));
}

TEST_CASE("equal channels rank by their number") {
  const Sample s{MatrixXd::Constant(10, 8, 2.0), {MatrixXd::Constant(10, 8, -1.0)}};
  const HeadChannels fit = fit_channels(moments(s), 8, 1);
  for (Labels by : {Labels::q, Labels::k, Labels::qk, Labels::abs, Labels::rms})
    CHECK(fit.rankings[ranking_of(by)] == std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(fit.rankings[ranking_of(Labels::pairs)] == std::vector<std::int32_t>{0, 4, 1, 5, 2, 6, 3, 7});
  for (const auto* map : {&fit.key_map, &fit.query_map}) {
    CHECK(map->size() == 64);
    for (float x : *map) CHECK(std::isfinite(x));
  }
}

TEST_CASE("the fitted basis loses no more than the best factorisation of each rank") {
  const std::int64_t d = 48, group = 2;
  const Sample s = random_sample(600, d, group, 9);
  const HeadChannels fit = fit_channels(moments(s), d, group);
  REQUIRE(fit.key_map.size() == static_cast<std::size_t>(kFittedDims * d));
  const MatrixXd centred = s.k.rowwise() - s.k.colwise().mean();
  const MatrixXd root_k = root(centred.transpose() * centred / 600);
  const MatrixXd root_q = root((s.q[0].transpose() * s.q[0] + s.q[1].transpose() * s.q[1]) / (600 * group));
  const VectorXd singular = (root_q * root_k).jacobiSvd().singularValues();
  using Rows = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
  for (std::int64_t r : {1, 4, 8, 16, 32}) {
    const MatrixXd key = Rows(fit.key_map.data(), r, d).cast<double>();
    const MatrixXd query = Rows(fit.query_map.data(), r, d).cast<double>();
    const double lost = (root_q * (MatrixXd::Identity(d, d) - query.transpose() * key) * root_k).squaredNorm();
    const double least = singular.tail(d - r).squaredNorm();
    INFO("rank " << r << ": lost " << lost << " of " << singular.squaredNorm() << ", least " << least);
    CHECK(lost >= least * (1 - 1e-9));
    CHECK(lost <= least + 1e-4 * singular.squaredNorm());  // bf16 rounds by up to 2^-9 of each number
    // Coordinates of keys and of queries have the same spread, and they are uncorrelated.
    const MatrixXd spread_k = key * root_k * root_k * key.transpose();
    const MatrixXd spread_q = query * root_q * root_q * query.transpose();
    CHECK((spread_k - spread_q).norm() <= 0.02 * spread_k.norm());
  }
}

TEST_CASE("a fit has no sign of chance") {
  const Sample s = random_sample(300, 16, 2, 11);
  CHECK(fit_channels(moments(s), 16, 2) == fit_channels(moments(s), 16, 2));
  const HeadChannels fit = fit_channels(moments(s), 16, 2);
  for (std::size_t i = 0; i < 16; ++i) {
    const auto row = fit.key_map.begin() + static_cast<std::ptrdiff_t>(16 * i);
    CHECK(*std::max_element(row, row + 16, [](float a, float b) { return std::abs(a) < std::abs(b); }) > 0);
  }
}

}  // namespace
}  // namespace longhaul
