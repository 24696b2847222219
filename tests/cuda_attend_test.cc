// Law 8 for attend and sample: CPU and CUDA over types, head sizes, groups and tiles.
#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

struct AttendCase {
  DType act;
  std::int64_t tokens, kv_heads, group, head_dim, q_pos;
  std::int64_t first, rows;  // of the tile
  std::int64_t window = 0, chunk = 0;
};

/// Elements from the one older form of a token to its other.
std::int64_t form_stride(const AttendCase& c) { return c.tokens * c.kv_heads * c.group * c.head_dim + 8; }

/// Finished outputs, then m, then l * exp(m) as a logarithm would be compared: by m + log l.
std::vector<Tensor> attend(Rig& rig, const AttendCase& c, const Tensor& qkv, const Tensor& older, const Tensor& store) {
  const std::int64_t q_heads = c.kv_heads * c.group, width = (q_heads + 2 * c.kv_heads) * c.head_dim;
  const std::int64_t states = c.tokens * q_heads, row_bytes = 2 * c.head_dim * size_of(c.act);
  auto poisoned = [&](std::int64_t size) { return reinterpret_cast<float*>(rig.put(Tensor(DType::f32, size))); };
  const AttnState state{poisoned(states * c.head_dim), poisoned(states), poisoned(states)};
  std::byte *data = rig.put(store), *q = rig.put(qkv), *out = rig.put(Tensor(c.act, states * c.head_dim));
  rig.stream->launch(AttendArgs{.q = q,
                                .q_stride = width,
                                .kv = {data, (c.rows + 3) * row_bytes, c.first, c.rows},
                                .state = state,
                                .out = out,
                                .act = c.act,
                                .tokens = c.tokens,
                                .q_heads = q_heads,
                                .kv_heads = c.kv_heads,
                                .head_dim = c.head_dim,
                                .q_pos = c.q_pos,
                                .scale = 1 / std::sqrt(static_cast<float>(c.head_dim)),
                                .window = c.window,
                                .forms = {c.chunk, rig.put(older), form_stride(c)}});
  const Tensor m = rig.get(state.m, DType::f32, states), l = rig.get(state.l, DType::f32, states);
  Tensor mass(DType::f32, states);
  for (std::int64_t i = 0; i < states; ++i) mass.set(i, l.get(i) == 0 ? 0 : m.get(i) + std::log(l.get(i)));
  return {rig.get(out, c.act, states * c.head_dim), mass};
}

void check_case(Rig& cuda, Random& random, const AttendCase& c) {
  const std::int64_t q_heads = c.kv_heads * c.group, width = (q_heads + 2 * c.kv_heads) * c.head_dim;
  const std::int64_t rows = c.rows;
  const Tensor qkv = random.normal(c.act, c.tokens * width, 2);
  Tensor store = random.normal(c.act, c.kv_heads * (rows + 3) * 2 * c.head_dim);
  for (std::int64_t i = 0; i < store.size; ++i)  // rows past the tile's of a head are nobody's
    if (i / (2 * c.head_dim) % (rows + 3) >= rows) store.set(i, std::numeric_limits<double>::quiet_NaN());
  Tensor older(c.act, 2 * form_stride(c));
  if (c.chunk > 0) older = random.normal(c.act, older.size, 2);
  auto body = [&](Rig& rig) { return attend(rig, c, qkv, older, store); };
  const auto [want, got] = on_both(cuda, body);
  CAPTURE(name_of(c.act), c.tokens, c.kv_heads, c.group, c.head_dim, c.q_pos, c.first, rows, c.window, c.chunk);
  // The CPU rounds the weights of a bf16 prefill to bf16; both round the result, and where queries have forms that of
  // each.
  const double limit = c.act == DType::bf16 ? (c.chunk > 0 ? 2e-5 : 1e-5) : 1e-11;
  INFO(first_bad(got[0].values(), want[0].values(), static_cast<std::size_t>(c.head_dim), 100 * std::sqrt(limit)));
  CHECK(nmse(got[0].values(), want[0].values()) <= limit);
  CHECK(nmse(got[1].values(), want[1].values()) <= (c.act == DType::bf16 ? 1e-6 : 1e-11));
  const auto again = body(cuda);
  cuda.clear();
  CHECK(again[0].bytes == got[0].bytes);  // a second run, the same bits
}

/// With forms that are all alike, against plain attention; the same bits where only the first form has rows.
void check_alike(Rig& cuda, Random& random, const AttendCase& c) {
  const std::int64_t asked = c.kv_heads * c.group * c.head_dim, width = asked + 2 * c.kv_heads * c.head_dim;
  const Tensor qkv = random.normal(c.act, c.tokens * width, 2);
  const Tensor store = random.normal(c.act, c.kv_heads * (c.rows + 3) * 2 * c.head_dim);
  Tensor older(c.act, 2 * form_stride(c));
  for (std::int64_t form = 0; form < 2; ++form)
    for (std::int64_t i = 0; i < c.tokens * asked; ++i)
      older.set(form * form_stride(c) + i, qkv.get(i / asked * width + i % asked));
  AttendCase plain = c;
  plain.chunk = 0;
  const auto want = attend(cuda, plain, qkv, older, store), got = attend(cuda, c, qkv, older, store);
  cuda.clear();
  CAPTURE(name_of(c.act), c.tokens, c.kv_heads, c.group, c.head_dim, c.q_pos, c.chunk);
  if (c.q_pos + c.tokens <= c.chunk) {
    CHECK(got[0].bytes == want[0].bytes);
    CHECK(got[1].bytes == want[1].bytes);
  }
  CHECK(nmse(got[0].values(), want[0].values()) <= (c.act == DType::bf16 ? 2e-5 : 1e-11));
  CHECK(nmse(got[1].values(), want[1].values()) <= (c.act == DType::bf16 ? 1e-9 : 1e-11));
}

void check_sample(Rig& cuda, Random& random, std::int64_t vocab, std::int64_t rows) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Tensor logits = random.normal(DType::f32, rows * vocab, 3);
  for (std::int64_t i = 0; i < rows * vocab; ++i)
    if (i / vocab % 5 == 1) logits.set(i, std::round(logits.get(i)));  // rows of equals
  std::vector<SampleParams> params;
  for (std::int64_t i = 0; i < rows; ++i)
    params.push_back(
        {.temperature = static_cast<float>(i % 4) * 0.6f,
         .top_p = std::vector{1.0f, 0.9f, 0.5f, 0.0f, 0.999f}[static_cast<std::size_t>(i / 2 % 5)],
         .top_k = static_cast<std::int32_t>(std::vector{0, 1, 40, 1000}[static_cast<std::size_t>(i / 3 % 4)]),
         .repetition_penalty = std::vector{1.0f, 1.05f, 0.7f}[static_cast<std::size_t>(i % 3)],
         .seed = static_cast<std::uint64_t>(random.integer(0, 1 << 30)),
         .step = static_cast<std::uint64_t>(i),
         .slot = static_cast<std::int32_t>(rows - 1 - i),
         .newest = static_cast<std::int32_t>(random.integer(0, vocab - 1))});
  const std::int64_t words = seen_words(vocab);
  std::vector<std::uint32_t> seen(static_cast<std::size_t>(rows * words));
  for (std::int64_t i = 0; i < rows * vocab; ++i)
    if (random.integer(0, 7) < i / vocab % 4)
      seen[static_cast<std::size_t>(i / vocab * words + i % vocab / 32)] |= 1u << i % vocab % 32;
  auto row = [&](std::int64_t r, std::int64_t at, float value) { logits.set(r * vocab + at % vocab, value); };
  row(4, 3, std::numeric_limits<float>::quiet_NaN());
  row(5, vocab - 1, std::numeric_limits<float>::quiet_NaN());
  row(6, 2, kInf), row(7, 1, kInf), row(7, 3, kInf);
  for (std::int64_t i = 0; i < vocab; ++i)
    row(8, i, -kInf), row(9, i, i == 2 ? 1 : -kInf), row(10, i, 2), row(11, i, 2);
  const auto [want, got] = on_both(cuda, [&](Rig& rig) {
    auto* out = rig.put(std::vector<std::int32_t>(static_cast<std::size_t>(rows), -7));
    auto* bits = rig.put(seen);
    rig.stream->launch(SampleArgs{reinterpret_cast<float*>(rig.put(logits)), rig.put(params), out, rows, vocab, bits});
    return std::pair(rig.ints(out, rows), rig.ints(bits, rows * words));
  });
  CAPTURE(vocab);
  CHECK(got.first == want.first);
  CHECK(got.second == want.second);
  CHECK((want.first[4] == -1 && want.first[5] == -1 && want.first[8] == -1));
}

}  // namespace

TEST_CASE("cuda: attend, a window that begins in one block or in several", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(22);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t head_dim : {24, 64, 128, 256})
      for (std::int64_t group : {1, 4})
        for (std::int64_t tokens : {1, 17, 300})
          for (std::int64_t window : {1, 48, 64, 200})
            for (std::int64_t first : {0, 64})
              check_case(*cuda, random, {act, tokens, 2, group, head_dim, 600 - tokens, first, 600 - first, window});
}

TEST_CASE("cuda: attend, a window in each kernel, small enough for a race checker", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(24);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t head_dim : {64, 80, 256})
      for (std::int64_t tokens : {2, 17})
        check_case(*cuda, random, {act, tokens, 1, 4, head_dim, 140 - tokens, 0, 140, 70});
}

TEST_CASE("cuda: attend, over head sizes, groups and numbers of tokens", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(20);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t head_dim : {8, 24, 64, 80, 128, 256})
      for (std::int64_t group : {1, 2, 3, 4, 8, 12})
        for (std::int64_t tokens : {1, 16, 17, 90})
          check_case(*cuda, random, {act, tokens, 2, group, head_dim, 200 - tokens, 0, 200});
}

TEST_CASE("cuda: attend, each kernel, small enough for a race checker", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(23);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t head_dim : {64, 80, 256})
      for (std::int64_t tokens : {2, 17}) {
        for (std::int64_t group : {1, 4, 8})
          if (tokens == 2 || group == 1)
            check_case(*cuda, random, {act, tokens, 1, group, head_dim, 70 - tokens, 0, 70});
      }
}

TEST_CASE("cuda: attend, a tile that is empty, hidden, short, or begins later", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(21);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t tokens : {0, 1, 16, 17, 100}) {
      check_case(*cuda, random, {act, tokens, 2, 4, 64, 0, 0, 0});    // nothing at all: zeros
      check_case(*cuda, random, {act, tokens, 2, 4, 64, 0, 64, 40});  // begins after what most see
      check_case(*cuda, random, {act, tokens, 1, 2, 128, 0, 0, 1});
      check_case(*cuda, random, {act, tokens, 3, 1, 24, 1000, 704, 264});
      check_case(*cuda, random, {act, tokens, 1, 8, 128, 3000 - tokens, 0, 3000});
    }
}

TEST_CASE("cuda: attend, queries in three forms, tokens in the first chunk, later, and on both sides of borders",
          "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(26);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t head_dim : {24, 64, 128, 256})
      for (std::int64_t chunk : {256, 512, 1024})
        for (std::int64_t tokens : {1, 17, 300})
          for (std::int64_t q_pos : {std::int64_t{0}, chunk - 1, chunk, 2 * chunk - 9, 3 * chunk + 100}) {
            AttendCase c{act, tokens, 2, chunk == 256 ? 4 : 1, head_dim, q_pos, 0, q_pos + tokens};
            c.chunk = chunk;
            check_case(*cuda, random, c);
            check_alike(*cuda, random, c);
          }
}

TEST_CASE("cuda: attend, three forms over a tile that is empty, short, or begins later, and a window", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(27);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t head_dim : {64, 256})
      for (AttendCase c : {AttendCase{act, 0, 2, 4, head_dim, 600, 0, 600},
                           {act, 20, 2, 4, head_dim, 600, 0, 0},
                           {act, 20, 2, 4, head_dim, 600, 640, 40},
                           {act, 700, 1, 2, head_dim, 500, 320, 880},
                           {act, 700, 1, 2, head_dim, 500, 0, 530},
                           {act, 30, 2, 3, head_dim, 800, 448, 64},
                           {act, 700, 1, 2, head_dim, 500, 0, 1200, 300},
                           {act, 90, 2, 2, head_dim, 760, 64, 786, 40}}) {
        c.chunk = 256;
        check_case(*cuda, random, c);
      }
}

TEST_CASE("cuda: attend, three forms, runs of rows large enough for the library", "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(28);
  AttendCase c{DType::bf16, 2048, 2, 12, 128, 2 * 16384 + 4096, 0, 2 * 16384 + 6144};
  c.chunk = 16384;
  check_case(*cuda, random, c);
  check_alike(*cuda, random, c);
}

TEST_CASE("cuda: attend, chunks large enough for the library, at the start, later, ragged, and seeing all",
          "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(25);
  check_case(*cuda, random, {DType::bf16, 8192, 2, 12, 128, 0, 0, 8192});
  check_case(*cuda, random, {DType::bf16, 8192, 2, 12, 128, 0, 0, 8192 + 77});        // rows that nobody sees
  check_case(*cuda, random, {DType::bf16, 2048, 4, 4, 128, 18432, 0, 20480});         // a later chunk
  check_case(*cuda, random, {DType::bf16, 1237, 4, 8, 128, 18001, 0, 18001 + 1237});  // a ragged last one
  check_case(*cuda, random, {DType::bf16, 1237, 4, 12, 96, 24576 + 18001, 24576, 24000 + 1237});
  check_case(*cuda, random, {DType::bf16, 2048, 16, 1, 64, 40960, 128, 38000});  // all before the first token
  check_case(*cuda, random, {DType::bf16, 2000, 4, 4, 128, 20000, 0, 21001});    // the tile ends before the last token
}

TEST_CASE("cuda: no tokens, no state: every operator takes an empty call", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  const std::int64_t before = cuda->device->counters().launches;
  cuda->stream->launch(FinishArgs{{}, nullptr, DType::bf16, 0, 4, 64});
  cuda->stream->launch(SampleArgs{nullptr, nullptr, nullptr, 0, 100});
  cuda->wait();
  CHECK(cuda->device->counters().launches - before == 2);
}

TEST_CASE("cuda: sample draws the CPU's token", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(22);
  for (std::int64_t vocab : {1, 5, 513, 1000}) check_sample(*cuda, random, vocab, 60);
}

TEST_CASE("cuda: sample draws the CPU's token from large vocabularies", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(24);
  for (std::int64_t vocab : {32000, 151936, 262144}) check_sample(*cuda, random, vocab, 40);
}
