// The CPU operators against the double-precision definitions: fresh inputs, poisoned outputs, both types, every
// instruction set this machine has.
#include "kernels/cpu/ops.h"

#include <algorithm>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/simd/simd.h"
#include "tests/support/batch.h"
#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tests/support/isa.h"
#include "tests/support/labels.h"
#include "tests/support/random.h"
#include "tests/support/reference.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

/// Rounding once to bf16 costs about 1.3e-6; float32 sums stay far below 1e-12.
double bound(DType out) { return out == DType::bf16 ? 4e-6 : 1e-12; }

void check_close(const Tensor& got, const Doubles& want, std::int64_t columns, double limit) {
  INFO(first_bad(got.values(), want, columns, 100 * std::sqrt(limit)));
  CHECK(nmse(got.values(), want) <= limit);
}

Tensor rounded(const Doubles& values, DType type) {
  Tensor t(type, values.size());
  for (std::size_t i = 0; i < values.size(); ++i) t.set(i, values[i]);
  return t;
}

}  // namespace

TEST_CASE("embed copies rows of the table and refuses ids outside it") {
  Random random(1);
  const std::int64_t vocab = 50, hidden = 72;
  Tensor table = random.normal(DType::bf16, vocab * hidden);
  std::vector<std::int32_t> ids{0, 49, 7, 7, 31};
  for (DType act : {DType::bf16, DType::f32})
    for_each_isa([&] {
      Tensor out(act, ids.size() * hidden);
      cpu::embed({ids.data(), table.halves(), out.data(), act, 5, hidden, vocab});
      for (std::size_t i = 0; i < ids.size() * hidden; ++i)
        REQUIRE(out.get(i) == table.get(ids[i / hidden] * hidden + i % hidden));
    });
  Tensor out(DType::f32, hidden);
  for (std::int32_t bad : {-1, 50})
    CHECK_THROWS(cpu::embed({&bad, table.halves(), out.data(), DType::f32, 1, hidden, vocab}));
}

TEST_CASE("rms_norm") {
  Random random(2);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t hidden : {8, 72, 576, 4096})
      for_each_isa([&] {
        const std::int64_t tokens = 7;
        Tensor x = random.normal(act, tokens * hidden, 3), gain = random.normal(DType::bf16, hidden);
        Tensor out(act, tokens * hidden);
        cpu::rms_norm({x.data(), gain.halves(), out.data(), act, tokens, hidden, 1e-5f});
        // Rounded twice in bf16: before and after the gain.
        check_close(out, reference_rms_norm(x.values(), gain.values(), 1e-5f), hidden, 3 * bound(act));
      });
}

TEST_CASE("silu_mul, out to where exp overflows") {
  Random random(3);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t inter : {8, 88, 1376})
      for_each_isa([&] {
        const std::int64_t tokens = 5;
        Tensor x = random.normal(act, tokens * 2 * inter, 5), out(act, tokens * inter);
        x.set(0, -200), x.set(1, 200), x.set(2, -88.5), x.set(3, -3e38), x.set(4, 0);
        cpu::silu_mul({x.data(), out.data(), act, tokens, inter});
        check_close(out, reference_silu_mul(x.values(), inter), inter, bound(act));
      });
}

TEST_CASE("rope turns q and k, leaves v, takes one table or one per token") {
  Random random(4);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 24, 64, 80, 128, 256})
      for_each_isa([&] {
        const std::int64_t tokens = 3, q_heads = 4, kv_heads = 2, width = (q_heads + 2 * kv_heads) * d;
        const std::int32_t positions[] = {0, 4711, 1048575};
        const bool per_token = random.integer(0, 1);
        std::vector<float> inv_freq(tokens * d / 2);
        for (std::size_t i = 0; i < inv_freq.size(); ++i)
          inv_freq[i] = std::pow(1e4f, -2.0f * (i % (d / 2)) / d) / (1 + i / (d / 2));
        Tensor x = random.normal(act, tokens * width), out = x;
        cpu::rope(
            {out.data(), positions, inv_freq.data(), per_token ? d / 2 : 0, act, tokens, q_heads, kv_heads, d, 1.5f});
        Doubles want = x.values();
        for (std::int64_t t = 0; t < tokens; ++t)
          for (std::int64_t h = 0; h < q_heads + kv_heads; ++h) {
            auto head = want.begin() + t * width + h * d;
            auto table = inv_freq.begin() + (per_token ? t * d / 2 : 0);
            Doubles turned = reference_rope(Doubles(head, head + d), positions[t], {table, table + d / 2}, 1.5);
            std::copy(turned.begin(), turned.end(), head);
          }
        check_close(out, want, width, bound(act));
      });
}

TEST_CASE("head_norm normalises each head of q and k by its gain and leaves v") {
  Random random(14);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {8, 64, 80, 128, 256})
      for (std::int64_t kv_heads : {0, 2})
        for_each_isa([&] {
          const std::int64_t tokens = 3, q_heads = 4, width = (q_heads + 2 * kv_heads) * d;
          Tensor x = random.normal(act, tokens * width, 3), out = x;
          Tensor q_gain = random.normal(DType::bf16, d), k_gain = random.normal(DType::bf16, d);
          cpu::head_norm({out.data(), q_gain.halves(), k_gain.halves(), act, tokens, q_heads, kv_heads, d, 1e-6f});
          Doubles want = x.values();
          for (std::int64_t i = 0; i < std::ssize(want) / d; ++i) {
            const std::int64_t h = i % (q_heads + 2 * kv_heads);
            if (h >= q_heads + kv_heads) continue;
            auto head = want.begin() + i * d;
            const Doubles normed =
                reference_rms_norm(Doubles(head, head + d), (h < q_heads ? q_gain : k_gain).values(), 1e-6f);
            std::copy(normed.begin(), normed.end(), head);
          }
          check_close(out, want, d, 3 * bound(act));
        });
}

TEST_CASE("append writes K | V rows into the tile and nothing else") {
  Random random(5);
  for (DType act : {DType::bf16, DType::f32}) {
    const std::int64_t tokens = 37, q_heads = 6, kv_heads = 3, d = 24, width = (q_heads + 2 * kv_heads) * d;
    const std::int64_t stride = (tokens + 4) * 2 * d;
    Tensor qkv = random.normal(act, tokens * width), store(act, kv_heads * stride, 9);
    KvTile dst{store.at(2 * 2 * d), stride * size_of(act), 64, tokens};
    cpu::append({qkv.data(), dst, act, tokens, q_heads, kv_heads, d});
    for (std::int64_t i = 0; i < store.size; ++i) {
      const std::int64_t h = i / stride, row = i % stride / (2 * d) - 2, e = i % (2 * d);
      const std::int64_t part = e < d ? q_heads + h : q_heads + kv_heads + h;
      REQUIRE(store.get(i) == (row < 0 || row >= tokens ? 9 : qkv.get(row * width + part * d + e % d)));
    }
  }
}

TEST_CASE("linear, few tokens and many, with and without bias and residual") {
  Random random(6);
  struct Shape {
    std::int64_t tokens, in, out;
  };
  for (Shape s :
       {Shape{1, 64, 40}, {3, 200, 77}, {8, 515, 130}, {64, 256, 33}, {65, 64, 24}, {77, 328, 300}, {600, 72, 264}})
    for (DType act : {DType::bf16, DType::f32})
      for (DType out_type : {DType::bf16, DType::f32})
        for (bool accumulate : {false, true}) {
          Tensor x = random.normal(act, s.tokens * s.in), w = random.normal(DType::bf16, s.out * s.in, 0.1);
          Tensor residual = random.normal(out_type, s.tokens * s.out, accumulate ? 2 : 0);
          const bool biased = random.integer(0, 1);
          Tensor bias = random.normal(DType::bf16, s.out, biased ? 1 : 0);
          Doubles want = reference_linear(x.values(), w.values(), s.in);
          for (std::size_t i = 0; i < want.size(); ++i) want[i] += residual.get(i) + bias.get(i % s.out);
          for (bool bf16_gemm : {true, false})
            for_each_isa([&] {
              INFO(s.tokens << " x " << s.in << " x " << s.out << " " << name_of(act) << " bf16 gemm " << bf16_gemm);
              cpu::set_bf16_gemm(bf16_gemm);
              Tensor out = accumulate ? residual : Tensor(out_type, s.tokens * s.out);
              cpu::linear({x.data(), w.halves(), biased ? bias.halves() : nullptr, out.data(), act, out_type,
                           accumulate, s.tokens, s.in, s.out});
              cpu::set_bf16_gemm(true);
              check_close(out, want, s.out, bound(out_type));
              if (out_type == DType::bf16) {  // one rounding: all but ties broken by the sums' own error agree
                Tensor once = rounded(want, DType::bf16);
                std::int64_t differ = 0;
                for (std::int64_t i = 0; i < out.size; ++i) differ += out.get(i) != once.get(i);
                CHECK(differ <= 2 + out.size / 200);
              }
            });
        }
}

TEST_CASE("linear: a token's bits do not depend on the other tokens of a call (law 10)") {
  Random random(7);
  const std::int64_t in = 1000, out_dim = 203;
  for (DType act : {DType::bf16, DType::f32})
    for_each_isa([&] {
      Tensor x = random.normal(act, 64 * in), w = random.normal(DType::bf16, out_dim * in, 0.1);
      Tensor all(DType::f32, 64 * out_dim);
      cpu::linear({x.data(), w.halves(), nullptr, all.data(), act, DType::f32, false, 64, in, out_dim});
      for (std::int64_t tokens : {1, 2, 4, 7, 63})
        for (std::int64_t t = 0; t + tokens <= 64; t += tokens) {
          Tensor some(DType::f32, tokens * out_dim);
          cpu::linear({x.at(t * in), w.halves(), nullptr, some.data(), act, DType::f32, false, tokens, in, out_dim});
          REQUIRE(std::memcmp(some.data(), all.at(t * out_dim), some.bytes.size()) == 0);
        }
    });
}

TEST_CASE("finish divides, and an empty state gives zeros") {
  Random random(9);
  const std::int64_t tokens = 4, heads = 3, d = 24, states = tokens * heads;
  for (DType act : {DType::bf16, DType::f32})
    for_each_isa([&] {
      Tensor o = random.normal(DType::f32, states * d), m = random.normal(DType::f32, states, 9), l(DType::f32, states);
      for (std::int64_t i = 0; i < states; ++i) l.set(i, 1 + static_cast<double>(random.integer(0, 1000)) / 7);
      m.set(2, -kInf), l.set(2, 0);
      for (std::int64_t j = 0; j < d; ++j) o.set(2 * d + j, 0);
      Doubles want;
      for (std::int64_t i = 0; i < states * d; ++i) want.push_back(i / d == 2 ? 0 : o.get(i) / l.get(i / d));
      Tensor out(act, states * d);
      cpu::finish({{o.floats(), m.floats(), l.floats()}, out.data(), act, tokens, heads, d});
      check_close(out, want, d, bound(act));
      for (std::int64_t j = 0; j < d; ++j) CHECK(out.get(2 * d + j) == 0);
    });
}

TEST_CASE("append_step writes each token's row and label where its span says, and nothing else") {
  Random random(10);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t bits : {0, 4, 8, 16})  // 0: no labels
      for (int repeat = 0; repeat < 8; ++repeat)
        for_each_isa([&] {
          const std::int64_t q_heads = 6, kv_heads = 3, d = 24, dims = 5, capacity = 256, ring_rows = 64;
          const std::int64_t prefix_rows = 64 * random.integer(0, 4), width = (q_heads + 2 * kv_heads) * d;
          Batch batch(random, random.integer(1, 3), capacity);
          Tensor qkv = random.normal(act, batch.count * width);
          Tensor prefix(act, batch.slots * kv_heads * prefix_rows * 2 * d, 9);
          Tensor ring(act, batch.slots * kv_heads * ring_rows * 2 * d, 9);
          std::vector<Labels> labels(batch.slots, Labels{kv_heads, d, capacity, dims, bits == 0 ? 8 : bits});
          std::vector<std::byte> codes;
          std::vector<float> basis;
          for (Labels& l : labels) {
            l.random_basis(random);
            codes.insert(codes.end(), l.codes.begin(), l.codes.end());
            basis.insert(basis.end(), l.basis.begin(), l.basis.end());
          }
          Tensor want_prefix = prefix, want_ring = ring;
          for (std::int64_t t = 0; t < batch.count; ++t) {
            StepSpan& span = batch.spans[t];
            const std::int64_t r = random.integer(0, capacity - 1);
            span.rows = static_cast<std::int32_t>(r + 1);
            Tensor row(act, kv_heads * 2 * d);
            for (std::int64_t h = 0; h < kv_heads; ++h)
              for (std::int64_t e = 0; e < 2 * d; ++e) {
                const std::int64_t part = e < d ? q_heads + h : q_heads + kv_heads + h, head = span.slot * kv_heads + h;
                const double x = qkv.get(t * width + part * d + e % d);
                row.set(h * 2 * d + e, x);
                if (r < prefix_rows) want_prefix.set((head * prefix_rows + r) * 2 * d + e, x);
                else want_ring.set((head * ring_rows + r % ring_rows) * 2 * d + e, x);
              }
            if (bits > 0)
              cpu::label_rows({{row.at(0), 2 * d * size_of(act), r, 1}, labels[span.slot].tile(), act, kv_heads, d});
          }
          auto tile = [&](Tensor& t, std::int64_t rows) {
            const std::int64_t stride = rows * 2 * d * size_of(act);
            return KvTile{t.at(0), stride, 0, rows, kv_heads * stride};
          };
          LabelTile into = labels[0].tile();
          into.codes = bits > 0 ? codes.data() : nullptr, into.basis = basis.data();
          into.session_stride = std::ssize(labels[0].codes), into.basis_stride = std::ssize(labels[0].basis);
          cpu::append_step({qkv.data(), act, batch.view(), tile(prefix, prefix_rows), tile(ring, ring_rows), into,
                            q_heads, kv_heads, d});
          CHECK(prefix.bytes == want_prefix.bytes);
          CHECK(ring.bytes == want_ring.bytes);
          for (std::int64_t slot = 0; slot < batch.slots; ++slot)
            CHECK(std::equal(labels[slot].codes.begin(), labels[slot].codes.end(),
                             codes.begin() + slot * std::ssize(labels[0].codes)));
        });
}
