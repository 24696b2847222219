// Law 8: every operator, CPU and CUDA within a normalised error, on fresh inputs with poisoned outputs.
#include <algorithm>

#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

const DType kTypes[] = {DType::bf16, DType::f32};
const std::int64_t kHeadDims[] = {8, 24, 64, 80, 128, 256};

/// float32 sums in another order, and in bf16 a rounding that falls the other way here and there.
double bound(DType type) { return type == DType::bf16 ? 4e-6 : 1e-11; }

void check_close(const std::pair<Tensor, Tensor>& r, std::int64_t columns, double limit) {
  const auto want = r.first.values(), got = r.second.values();
  INFO(first_bad(got, want, static_cast<std::size_t>(columns), 100 * std::sqrt(limit)));
  CHECK(nmse(got, want) <= limit);
}

bool same_bits(const std::pair<Tensor, Tensor>& r) { return r.first.bytes == r.second.bytes; }

/// Few tokens and many, odd widths, with and without the residual.
void check_linear(Rig& cuda, DType act) {
  Random random(6);
  struct Shape {
    std::int64_t tokens, in, out;
  };
  for (Shape s : {Shape{0, 64, 40},
                  {1, 64, 40},
                  {3, 200, 77},
                  {8, 515, 130},
                  {65, 48, 24},
                  {77, 328, 300},
                  {17, 72, 128},
                  {600, 72, 264},
                  {1, 4096, 512}})
    for (DType out_type : kTypes)
      for (bool accumulate : {false, true}) {
        const Tensor x = random.normal(act, s.tokens * s.in), w = random.normal(DType::bf16, s.out * s.in, 0.1);
        const bool biased = act == out_type && s.out % 8 == 0;
        const Tensor bias = random.normal(DType::bf16, s.out);
        const Tensor old =
            accumulate ? random.normal(out_type, s.tokens * s.out, 2) : Tensor(out_type, s.tokens * s.out);
        // cuBLASLt rounds a short sum to bf16 before it adds the residual, too (H100: in = 64 twice, in = 4096 once).
        const double limit = (accumulate && act == DType::bf16 ? 5 : 1) * bound(out_type);
        CAPTURE(s.tokens, s.in, s.out, name_of(act), name_of(out_type), accumulate);
        check_close(on_both(cuda,
                            [&](Rig& rig) {
                              std::byte* out = rig.put(old);
                              rig.stream->launch(LinearArgs{rig.put(x), reinterpret_cast<bf16*>(rig.put(w)),
                                                            biased ? reinterpret_cast<bf16*>(rig.put(bias)) : nullptr,
                                                            out, act, out_type, accumulate, s.tokens, s.in, s.out});
                              return rig.get(out, out_type, s.tokens * s.out);
                            }),
                    s.out, limit);
      }
}

}  // namespace

TEST_CASE("cuda: embed", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(1);
  for (std::int64_t hidden : {72, 20})
    for (DType act : kTypes) {
      const Tensor table = random.normal(DType::bf16, 50 * hidden);
      CHECK(same_bits(on_both(*cuda, [&](Rig& rig) {
        std::byte* out = rig.put(Tensor(act, 5 * hidden));
        rig.stream->launch(EmbedArgs{rig.put(std::vector<std::int32_t>{0, 49, 7, 7, 31}),
                                     reinterpret_cast<bf16*>(rig.put(table)), out, act, 5, hidden, 50});
        return rig.get(out, act, 5 * hidden);
      })));
    }
}

TEST_CASE("cuda: a token outside the vocabulary is told at the next host wait, and ever after", "[cuda]") {
  if (cuda_rig() == nullptr) return;
  for (std::int32_t bad : {-1, 50}) {
    Rig rig(make_cuda_device(0, std::int64_t{1} << 30));
    std::byte* out = rig.put(Tensor(DType::f32, 8));
    auto* table = reinterpret_cast<bf16*>(rig.put(Tensor(DType::bf16, 400)));
    rig.stream->launch(EmbedArgs{rig.put(std::vector<std::int32_t>{bad}), table, out, DType::f32, 1, 8, 50});
    rig.stream->record(*rig.done);
    CHECK_THROWS_AS(rig.device->host_wait(*rig.done, {"test"}), DeviceError);
    CHECK_THROWS_AS(rig.stream->record(*rig.done), DeviceError);
    CHECK_THROWS_AS(rig.device->make_stream("next"), DeviceError);
  }
}

TEST_CASE("cuda: rms_norm", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(2);
  for (DType act : kTypes)
    for (std::int64_t hidden : {8, 20, 72, 576, 4096, 10240})
      for (std::int64_t tokens : {0, 1, 7}) {
        const Tensor x = random.normal(act, tokens * hidden, 3), gain = random.normal(DType::bf16, hidden);
        check_close(on_both(*cuda,
                            [&](Rig& rig) {
                              std::byte* out = rig.put(Tensor(act, tokens * hidden));
                              rig.stream->launch(RmsNormArgs{rig.put(x), reinterpret_cast<bf16*>(rig.put(gain)), out,
                                                             act, tokens, hidden, 1e-5f});
                              return rig.get(out, act, tokens * hidden);
                            }),
                    hidden, bound(act));
      }
}

TEST_CASE("cuda: head_norm", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(12);
  for (DType act : kTypes)
    for (std::int64_t d : kHeadDims)
      for (std::int64_t kv_heads : {0, 2})
        for (std::int64_t tokens : {0, 1, 70}) {
          const std::int64_t width = (4 + 2 * kv_heads) * d;
          const Tensor x = random.normal(act, tokens * width, 3), q_gain = random.normal(DType::bf16, d),
                       k_gain = random.normal(DType::bf16, d);
          CAPTURE(name_of(act), d, kv_heads, tokens);
          check_close(on_both(*cuda,
                              [&](Rig& rig) {
                                std::byte* qkv = rig.put(x);
                                rig.stream->launch(HeadNormArgs{qkv, reinterpret_cast<bf16*>(rig.put(q_gain)),
                                                                reinterpret_cast<bf16*>(rig.put(k_gain)), act, tokens,
                                                                4, kv_heads, d, 1e-6f});
                                return rig.get(qkv, act, tokens * width);
                              }),
                      d, bound(act));
        }
}

TEST_CASE("cuda: silu_mul, out to where exp overflows", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(3);
  for (DType act : kTypes)
    for (std::int64_t inter : {8, 20, 88, 1376}) {
      Tensor x = random.normal(act, 5 * 2 * inter, 5);
      x.set(0, -200), x.set(1, 200), x.set(2, -88.5), x.set(3, -1e38), x.set(4, 0);
      check_close(on_both(*cuda,
                          [&](Rig& rig) {
                            std::byte* out = rig.put(Tensor(act, 5 * inter));
                            rig.stream->launch(SiluMulArgs{rig.put(x), out, act, 5, inter});
                            return rig.get(out, act, 5 * inter);
                          }),
                  inter, bound(act));
    }
}

TEST_CASE("cuda: rope, at the first and the millionth position", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(4);
  for (DType act : kTypes)
    for (std::int64_t d : kHeadDims)
      for (int i = 0; i < 4; ++i) {
        const bool per_token = i % 2 != 0;
        const std::int64_t tokens = i < 2 ? 4 : 70;  // few and many
        const std::int64_t q_heads = 6, kv_heads = 2, width = (q_heads + 2 * kv_heads) * d;
        std::vector<std::int32_t> positions{0, 1, 4711, 1048575};
        while (std::ssize(positions) < tokens) positions.push_back(positions[positions.size() - 4] / 2 + 3);
        std::vector<float> inv_freq(static_cast<std::size_t>(tokens * d / 2));
        for (std::size_t f = 0; f < inv_freq.size(); ++f)
          inv_freq[f] = std::pow(1e4f, -2.0f * (f % (d / 2)) / d) / (1 + f / (d / 2));
        const Tensor x = random.normal(act, tokens * width);
        check_close(
            on_both(*cuda,
                    [&](Rig& rig) {
                      std::byte* qkv = rig.put(x);
                      rig.stream->launch(RopeArgs{qkv, rig.put(positions), rig.put(inv_freq), per_token ? d / 2 : 0,
                                                  act, tokens, q_heads, kv_heads, d, 1.5f});
                      return rig.get(qkv, act, tokens * width);
                    }),
            width, bound(act));
      }
}

TEST_CASE("cuda: rope in chunks, with a query's older forms and a scale per token", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(13);
  for (DType act : kTypes)
    for (std::int64_t d : kHeadDims)
      for (std::int64_t chunk : {256, 512, 1024})
        for (std::int64_t tokens : {9, 70}) {
          const std::int64_t q_heads = 6, kv_heads = 2, width = (q_heads + 2 * kv_heads) * d;
          const std::int64_t form_stride = tokens * q_heads * d + 24, reach = random.integer(chunk, 2 * chunk + 10);
          std::vector<std::int32_t> positions{0, 1, static_cast<std::int32_t>(chunk - 1),
                                              static_cast<std::int32_t>(chunk), 1048575};
          while (std::ssize(positions) < tokens)
            positions.push_back(static_cast<std::int32_t>(random.integer(0, 5000)));
          std::vector<float> inv_freq(static_cast<std::size_t>(d / 2)), scales(static_cast<std::size_t>(tokens));
          for (std::size_t f = 0; f < inv_freq.size(); ++f) inv_freq[f] = std::pow(1e4f, -2.0f * f / d);
          for (float& s : scales) s = 1 + static_cast<float>(random.integer(0, 8)) / 16;
          const Tensor x = random.normal(act, tokens * width);
          for (bool scaled : {false, true}) {
            const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
              std::byte *qkv = rig.put(x), *older = rig.put(Tensor(act, 2 * form_stride, 7));
              rig.stream->launch(RopeArgs{.qkv = qkv,
                                          .positions = rig.put(positions),
                                          .inv_freq = rig.put(inv_freq),
                                          .freq_stride = 0,
                                          .act = act,
                                          .tokens = tokens,
                                          .q_heads = q_heads,
                                          .kv_heads = kv_heads,
                                          .head_dim = d,
                                          .scale = 1.5f,
                                          .scales = scaled ? rig.put(scales) : nullptr,
                                          .chunk = chunk,
                                          .reach = reach,
                                          .older = older,
                                          .form_stride = form_stride});
              return std::pair(rig.get(qkv, act, tokens * width), rig.get(older, act, 2 * form_stride));
            });
            CAPTURE(name_of(act), d, chunk, reach, tokens, scaled);
            check_close({want.first, got.first}, width, bound(act));
            check_close({want.second, got.second}, q_heads * d, bound(act));
            for (std::int64_t i = form_stride - 24; i < form_stride; ++i) CHECK(got.second.get(i) == 7);
          }
        }
}

TEST_CASE("cuda: append writes K | V rows into the tile and nothing else", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(5);
  for (DType act : kTypes)
    for (std::int64_t d : kHeadDims)
      for (std::int64_t tokens : {0, 1, 37}) {
        const std::int64_t q_heads = 6, kv_heads = 3, width = (q_heads + 2 * kv_heads) * d;
        const std::int64_t stride = (tokens + 4) * 2 * d;
        const Tensor qkv = random.normal(act, tokens * width);
        CHECK(same_bits(on_both(*cuda, [&](Rig& rig) {
          std::byte* store = rig.put(Tensor(act, kv_heads * stride, 9));
          const KvTile dst{store + 4 * d * size_of(act), stride * size_of(act), 64, tokens};
          rig.stream->launch(AppendArgs{rig.put(qkv), dst, act, tokens, q_heads, kv_heads, d});
          return rig.get(store, act, kv_heads * stride);
        })));
      }
}

TEST_CASE("cuda: linear in float32", "[cuda][shared]") {
  if (Rig* cuda = cuda_rig()) check_linear(*cuda, DType::f32);
}

TEST_CASE("cuda: linear in bf16", "[cuda]") {
  if (Rig* cuda = cuda_rig()) check_linear(*cuda, DType::bf16);
}

TEST_CASE("cuda: linear gives a token the same bits whatever other tokens are there", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(9);
  struct Shape {
    std::int64_t in, out;
  };
  for (Shape s : {Shape{4096, 300}, {14336, 72}, {1000, 4097}, {8, 16}})
    for (DType out_type : kTypes) {
      const Tensor x = random.normal(DType::bf16, kDecodeTokens * s.in);
      const Tensor w = random.normal(DType::bf16, s.out * s.in, 0.1);
      const Tensor old = random.normal(out_type, kDecodeTokens * s.out);
      auto first = [&](Rig& rig, std::int64_t tokens) {
        std::byte* out = rig.put(old);
        rig.stream->launch(LinearArgs{rig.put(x), reinterpret_cast<bf16*>(rig.put(w)), nullptr, out, DType::bf16,
                                      out_type, true, tokens, s.in, s.out});
        return rig.get(out, out_type, kDecodeTokens * s.out);
      };
      const auto all = on_both(*cuda, [&](Rig& rig) { return first(rig, kDecodeTokens); });
      CAPTURE(s.in, s.out, name_of(out_type));
      check_close(all, s.out, 5 * bound(out_type));
      for (std::int64_t tokens : {1, 2, 7, 8, 9, 16, 17, 31, 33, 63}) {
        Tensor want = old;  // those that are not in the call keep what they had
        const std::size_t bytes = static_cast<std::size_t>(tokens * s.out * size_of(out_type));
        std::copy_n(all.second.bytes.begin(), bytes, want.bytes.begin());
        CAPTURE(tokens);
        CHECK(first(*cuda, tokens).bytes == want.bytes);
        cuda->clear();
      }
    }
}

TEST_CASE("cuda: two streams share the matrix-product workspace in turn", "[cuda][partials]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(7);
  const std::int64_t in = 8192, out_dim = 96,
                     tokens = kDecodeTokens + 16;  // few outputs, long sums: split over the workspace
  const Tensor x = random.normal(DType::bf16, tokens * in), w = random.normal(DType::bf16, out_dim * in, 0.1);
  const auto r = on_both(*cuda, [&](Rig& rig) {
    auto other = rig.device->make_stream("other");
    const std::byte* dx = rig.put(x);
    auto* dw = reinterpret_cast<bf16*>(rig.put(w));
    std::byte* out = rig.put(Tensor(DType::f32, 40 * tokens * out_dim));
    for (std::int64_t i = 0; i < 40; ++i)
      (i % 2 ? *other : *rig.stream)
          .launch(LinearArgs{dx, dw, nullptr, out + i * tokens * out_dim * 4, DType::bf16, DType::f32, false, tokens,
                             in, out_dim});
    other->record(*rig.done);
    rig.device->host_wait(*rig.done, {"test"});
    return rig.get(out, DType::f32, 40 * tokens * out_dim);
  });
  check_close(r, out_dim, bound(DType::f32));
}

TEST_CASE("cuda: finish, the empty state among them", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(8);
  const std::int64_t tokens = 4, heads = 3, states = tokens * heads;
  for (std::int64_t d : kHeadDims) {
    Tensor o = random.normal(DType::f32, states * d), m = random.normal(DType::f32, states, 9),
           l(DType::f32, states, 3);
    m.set(2, -std::numeric_limits<double>::infinity()), l.set(2, 0);
    for (std::int64_t j = 0; j < d; ++j) o.set(2 * d + j, 0);
    for (DType act : kTypes)
      check_close(on_both(*cuda,
                          [&](Rig& rig) {
                            auto up = [&](const Tensor& t) { return reinterpret_cast<float*>(rig.put(t)); };
                            const AttnState state{up(o), up(m), up(l)};
                            std::byte* out = rig.put(Tensor(act, states * d));
                            rig.stream->launch(FinishArgs{state, out, act, tokens, heads, d});
                            return rig.get(out, act, states * d);
                          }),
                  d, bound(act));
  }
}
