// Labels on the CUDA device against the CPU's: the rows of a step, a prompt's rows, and the fit of the basis.
#include <chrono>
#include <cmath>

#include "kernels/base/host_memory.h"
#include "tests/support/batch.h"
#include "tests/support/coded_rows.h"
#include "tests/support/cuda_rig.h"
#include "tests/support/labels.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

const DType kTypes[] = {DType::bf16, DType::f32};

/// A copy of a tile on a rig's device.
LabelTile put(Rig& rig, Labels& labels) {
  LabelTile tile = labels.tile();
  tile.codes = rig.put(labels.codes);
  tile.basis = rig.put(labels.basis);
  return tile;
}

template <class T>
std::vector<T> get(Rig& rig, const void* from, std::size_t size) {
  std::vector<T> v(size);
  rig.stream->copy({.dst = v.data(),
                    .src = from,
                    .width = static_cast<std::int64_t>(size * sizeof(T)),
                    .kind = CopyKind::device_to_host});
  rig.wait();
  return v;
}

/// The code, or the bf16 bits, of a row: codes [heads, blocks, dims, 64 * bits / 8 bytes].
int code_at(const std::vector<std::byte>& codes, std::int64_t dims, std::int64_t bits, std::int64_t block,
            std::int64_t dim, std::int64_t r) {
  const std::byte* at = codes.data() + block * label_block_bytes(dims, bits) + dim * bits * 8;
  if (bits == 16) return static_cast<int>(at[2 * r]) | static_cast<int>(at[2 * r + 1]) << 8;
  if (bits == 8) return static_cast<int>(at[r]);
  return static_cast<int>(at[r % 32]) >> (r < 32 ? 0 : 4) & 15;
}

/// Codes differ by rounding ties alone: by one, and seldom. 16-bit coordinates likewise by one unit of bf16, or where a
/// sum of large terms is near 0 by a unit of those.
void check_codes(const std::vector<std::byte>& got, const std::vector<std::byte>& want, std::int64_t dims,
                 std::int64_t bits, std::int64_t most_per_1000) {
  REQUIRE(got.size() == want.size());
  const std::int64_t blocks = static_cast<std::int64_t>(got.size()) / label_block_bytes(dims, bits);
  std::int64_t off = 0, wrong = 0;
  for (std::int64_t b = 0; b < blocks; ++b)
    for (std::int64_t j = 0; j < dims; ++j)
      for (std::int64_t r = 0; r < kAttendBlock; ++r) {
        const int x = code_at(got, dims, bits, b, j, r), y = code_at(want, dims, bits, b, j, r);
        if (x == y) continue;
        ++off;
        if (bits < 16) {
          wrong += std::abs(x - y) > 1;
          continue;
        }
        const double a = to_float(bf16{static_cast<std::uint16_t>(x)}),
                     c = to_float(bf16{static_cast<std::uint16_t>(y)});
        wrong += !(std::abs(a - c) <= std::abs(c) / 128 + 1e-4);
      }
  CAPTURE(off, blocks * dims * kAttendBlock);
  CHECK(wrong == 0);
  CHECK(off * 1000 <= most_per_1000 * blocks * dims * kAttendBlock + 2000);
}

}  // namespace

TEST_CASE("cuda: append_step", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(40);
  for (DType act : kTypes)
    for (std::int64_t d : {8, 24, 64, 80, 128, 256})
      for (std::int64_t bits : {0, 4, 8, 16})
        for (std::int64_t prefix_rows : {0, 64, 200}) {
          const std::int64_t kv_heads = random.integer(1, 3), q_heads = 2 * kv_heads, ring_rows = 96;
          Batch batch(random, random.integer(1, 5), 200);
          for (StepSpan& span : batch.spans) span.rows = static_cast<std::int32_t>(random.integer(1, 200));
          Labels labels{kv_heads * batch.slots, d, 200, random.integer(1, std::min<std::int64_t>(d, 37)),
                        bits == 0 ? 4 : bits};
          labels.random_basis(random);
          for (std::byte& code : labels.codes) code = static_cast<std::byte>(random.integer(0, 255));
          const Tensor qkv = random.normal(act, batch.count * (q_heads + 2 * kv_heads) * d);
          const RowType type = d % kRowGroup == 0 ? kRowTypes[random.integer(0, 3)] : RowType::act;
          const std::int64_t row = row_bytes(type, d, act), rows = prefix_rows + 1 + ring_rows;
          const Tensor stale(DType::bf16, batch.slots * kv_heads * rows * row / 2);
          auto result = on_both(*cuda, [&](Rig& rig) {
            std::byte* kv = rig.put(stale);
            // A head's prefix, then its ring.
            const KvTile prefix{kv, rows * row, 0, prefix_rows, kv_heads * rows * row, type};
            KvTile ring = prefix;
            ring.data += (prefix_rows + 1) * row, ring.rows = ring_rows;
            LabelTile tile = put(rig, labels);
            std::byte* codes = tile.codes;
            tile.session_stride = kv_heads * tile.head_stride;
            tile.basis_stride = kv_heads * label_basis_floats(labels.dims, d);
            if (bits == 0) tile.codes = nullptr;
            rig.stream->launch(AppendStepArgs{rig.put(qkv),
                                              act,
                                              {rig.put(batch.spans), batch.count, batch.capacity},
                                              prefix,
                                              ring,
                                              tile,
                                              q_heads,
                                              kv_heads,
                                              d});
            return std::pair(rig.get(kv, stale.type, stale.size).bytes,
                             get<std::byte>(rig, codes, labels.codes.size()));
          });
          CAPTURE(name_of(act), int(type), d, bits, prefix_rows, labels.dims);
          CHECK(result.first.first == result.second.first);
          if (bits == 0) CHECK(result.second.second == labels.codes);
          else check_codes(result.second.second, result.first.second, labels.dims, bits, 3);
        }
}

TEST_CASE("cuda: label_rows", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(41);
  for (DType act : kTypes)
    for (std::int64_t d : {8, 24, 64, 80, 128, 256})
      for (std::int64_t bits : {4, 8, 16})
        for (std::int64_t dims : {random.integer(1, std::min<std::int64_t>(d, 16)), std::min<std::int64_t>(d, 32),
                                  std::min<std::int64_t>(d, 71), d}) {
          const std::int64_t first = random.integer(0, 2) * random.integer(0, 150), n = random.integer(1, 700);
          Labels labels{2, d, first + n + 70, dims, bits};
          labels.random_basis(random);
          for (std::byte& code : labels.codes) code = static_cast<std::byte>(random.integer(0, 255));
          const Tensor kv = random.normal(act, 2 * n * 2 * d);
          auto result = on_both(*cuda, [&](Rig& rig) {
            const LabelTile tile = put(rig, labels);
            rig.stream->launch(LabelRowsArgs{{rig.put(kv), n * 2 * d * size_of(act), first, n}, tile, act, 2, d});
            return get<std::byte>(rig, tile.codes, labels.codes.size());
          });
          CAPTURE(name_of(act), d, bits, dims, first, n);
          // Rows that have none before or after keep their codes: they are compared like the others.
          check_codes(result.second, result.first, dims, bits, 5);
        }
}

TEST_CASE("cuda: label_rows in any pieces gives the same codes, and no others change", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(42);
  for (DType act : kTypes)
    for (std::int64_t bits : {4, 8, 16}) {
      const std::int64_t rows = 400, d = 24, row = 2 * d * size_of(act);
      Labels labels{2, d, rows, 5, bits};
      labels.random_basis(random);
      const Tensor kv = random.normal(act, 2 * rows * 2 * d);
      std::byte* data = cuda->put(kv);
      LabelTile whole = put(*cuda, labels), pieces = put(*cuda, labels), some = put(*cuda, labels);
      auto label = [&](const LabelTile& tile, std::int64_t first, std::int64_t n) {
        cuda->stream->launch(LabelRowsArgs{{data + first * row, rows * row, first, n}, tile, act, 2, d});
      };
      label(whole, 0, rows);
      for (std::int64_t at = 0; at < rows;) {
        const std::int64_t n = std::min(random.integer(0, random.integer(0, 3) ? 3 : 150), rows - at);
        label(pieces, at, n);
        at += n;
      }
      label(some, 100, 31);
      const auto want = get<std::byte>(*cuda, whole.codes, labels.codes.size());
      CHECK(get<std::byte>(*cuda, pieces.codes, labels.codes.size()) == want);
      const auto got = get<std::byte>(*cuda, some.codes, labels.codes.size());
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t r = 0; r < labels.blocks * kAttendBlock; ++r)
          for (std::int64_t j = 0; j < 5; ++j) {
            const std::int64_t block = h * labels.blocks + r / kAttendBlock;
            const auto& from = r >= 100 && r < 131 ? want : labels.codes;
            REQUIRE(code_at(got, 5, bits, block, j, r % kAttendBlock) ==
                    code_at(from, 5, bits, block, j, r % kAttendBlock));
          }
      cuda->clear();
    }
}

TEST_CASE("cuda: label_rows of keys that are not finite, and a step of 0", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  for (DType act : kTypes)
    for (std::int64_t bits : {4, 8}) {
      Labels labels{1, 8, 4, 2, bits};
      std::fill_n(labels.key_map(0), 16, 0.0f);
      labels.key_map(0)[0] = labels.key_map(0)[8] = 1;
      labels.zero(0)[0] = labels.zero(0)[1] = -1;
      labels.step(0)[0] = 0.1f, labels.step(0)[1] = 0;
      Tensor kv(act, 4 * 16, 0);
      kv.set(0, NAN), kv.set(16, INFINITY), kv.set(32, -INFINITY), kv.set(48, -1);
      auto result = on_both(*cuda, [&](Rig& rig) {
        const LabelTile tile = put(rig, labels);
        rig.stream->launch(LabelRowsArgs{{rig.put(kv), 4 * 16 * size_of(act), 0, 4}, tile, act, 1, 8});
        return get<std::byte>(rig, tile.codes, labels.codes.size());
      });
      for (std::int64_t r = 0; r < 4; ++r)
        for (std::int64_t j = 0; j < 2; ++j)
          CHECK(code_at(result.second, 2, bits, 0, j, r) == code_at(result.first, 2, bits, 0, j, r));
      CHECK(code_at(result.second, 2, bits, 0, 0, 1) == (1 << bits) - 1);
    }
}

namespace {

/// A layer's keys and queries, and what fit_labels is asked.
struct Fit {
  DType act;
  std::int64_t kv_heads, group, d, rows, queries, dims, bits;
  std::int64_t q_heads = kv_heads * group;
  Tensor kv{act, kv_heads*rows * 2 * d, 0}, q{act, std::max<std::int64_t>(queries, 1) * q_heads*d, 0};
  std::vector<float> inv_freq = std::vector<float>(static_cast<std::size_t>(d / 2));
  Labels labels{kv_heads, d, rows, dims, bits};

  void fill(Random& random) {
    labels.random_basis(random);
    labels.random_tail(random, q_heads);
    for (std::int64_t i = 0; i < d / 2; ++i)
      inv_freq[static_cast<std::size_t>(i)] =
          static_cast<float>(std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(d)));
    const Tensor keys = random.normal(act, kv.size), asked = random.normal(act, q.size);
    for (std::int64_t i = 0; i < kv.size; ++i) kv.set(i, keys.get(i) * (1 + i % d % 5) + (i % d == 3 ? 6 : 0));
    for (std::int64_t i = 0; i < q.size; ++i) q.set(i, asked.get(i) * std::exp(-0.05 * static_cast<double>(i % d)));
  }
  /// The basis, from memory that is poisoned but for a given one's maps.
  std::vector<float> run(Rig& rig, LabelFit how, std::byte* host) {
    const LabelTile tile = put(rig, labels);
    rig.stream->launch(FitLabelsArgs{.kv = {rig.put(kv), rows * 2 * d * size_of(act), 0, rows},
                                     .q = rig.put(q),
                                     .queries = how == LabelFit::given ? 0 : queries,
                                     .q_pos = rows - queries,
                                     .inv_freq = rig.put(inv_freq),
                                     .target = rows,
                                     .targets = 300,
                                     .labels = tile,
                                     .fit = how,
                                     .share = 0.1,
                                     .act = act,
                                     .q_heads = q_heads,
                                     .kv_heads = kv_heads,
                                     .head_dim = d,
                                     .scale = 1 / std::sqrt(static_cast<float>(d)),
                                     .host = host,
                                     .weighs_tail = true,
                                     .sinks = 4,
                                     .window = 32});
    return get<float>(rig, tile.basis, labels.basis.size());
  }
  std::int64_t host_bytes() const { return fit_host_bytes(queries, q_heads, kv_heads, d, dims, act); }
};

}  // namespace

TEST_CASE("cuda: fit_labels gives the CPU's basis, to the bit", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(43);
  for (DType act : kTypes)
    for (std::int64_t d : {24, 64, 128})
      for (std::int64_t rows : {1, 300, 9000})
        for (LabelFit how : {LabelFit::given, LabelFit::document, LabelFit::moments, LabelFit::q, LabelFit::k,
                             LabelFit::qk, LabelFit::abs, LabelFit::rms, LabelFit::pairs}) {
          Fit fit{act, 2, 3, d, rows, std::min<std::int64_t>(rows, 50), 8, 4};
          fit.fill(random);
          HostMemory host(fit.host_bytes(), "test");
          cuda->device->pin(host.data(), host.size());
          auto [want, got] =
              on_both(*cuda, [&](Rig& rig) { return fit.run(rig, how, &rig == cuda ? host.data() : nullptr); });
          cuda->device->unpin(host.data());
          CAPTURE(name_of(act), d, rows, static_cast<int>(how));
          CHECK(std::all_of(got.begin(), got.end(), [](float x) { return std::isfinite(x); }));
          CHECK(got == want);
        }
}

TEST_CASE("cuda: a fit that fails on the host is told at the next host wait, and ever after", "[cuda]") {
  if (cuda_rig() == nullptr) return;
  Random random(44);
  Rig rig(make_cuda_device(0, std::int64_t{1} << 30));
  Fit fit{DType::f32, 1, 1, 8, 10, 0, 4, 4};
  fit.fill(random);
  HostMemory host(fit.host_bytes(), "test");
  rig.device->pin(host.data(), host.size());
  // Nothing to fit to: the CPU's operator refuses.
  CHECK_THROWS_AS(fit.run(rig, LabelFit::document, host.data()), std::logic_error);
  CHECK_THROWS_AS(rig.wait(), std::logic_error);
  rig.device->unpin(host.data());
}

TEST_CASE("cuda: who enqueues a fit does not wait for it", "[cuda][clock]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(45);
  Fit fit{DType::bf16, 8, 4, 128, 5000, 1024, 32, 4};
  fit.fill(random);
  HostMemory host(fit.host_bytes(), "test");
  cuda->device->pin(host.data(), host.size());
  const LabelTile tile = put(*cuda, fit.labels);
  const FitLabelsArgs args{.kv = {cuda->put(fit.kv), fit.rows * 2 * fit.d * 2, 0, fit.rows},
                           .q = cuda->put(fit.q),
                           .queries = fit.queries,
                           .q_pos = fit.rows - fit.queries,
                           .inv_freq = cuda->put(fit.inv_freq),
                           .target = fit.rows,
                           .targets = 300,
                           .labels = tile,
                           .fit = LabelFit::document,
                           .share = 0.1,
                           .act = fit.act,
                           .q_heads = fit.q_heads,
                           .kv_heads = fit.kv_heads,
                           .head_dim = fit.d,
                           .scale = 0.09f,
                           .host = host.data()};
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int i = 0; i < 8; ++i) cuda->stream->launch(args);
  const auto enqueued = Clock::now();
  cuda->wait();
  const auto done = Clock::now();
  CHECK((enqueued - start) * 4 < done - start);
  cuda->device->unpin(host.data());
  cuda->clear();
}
