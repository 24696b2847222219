// The operators that write and read KV rows of fewer bits, on the CPU: what attends them has the bits of attending
// what they stand for.
#include <cmath>

#include "kernels/base/error.h"
#include "kernels/cpu/ops.h"
#include "runtime/model/geometry.h"
#include "tests/support/batch.h"
#include "tests/support/catch.h"
#include "tests/support/coded_rows.h"
#include "tests/support/isa.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

using Ints = std::vector<std::int32_t>;

/// Rows of a batch's sessions, [slots, kv_heads, rows], as codes and as what those stand for in float32.
struct Rows {
  RowType type;
  std::int64_t kv_heads, d, rows;
  std::vector<std::byte> coded;
  Tensor plain;

  Rows(Random& random, RowType type_, std::int64_t slots, std::int64_t kv_heads_, std::int64_t d_, std::int64_t rows_)
      : type(type_),
        kv_heads(kv_heads_),
        d(d_),
        rows(rows_),
        coded(encode_rows(type, random.normal(DType::f32, slots * kv_heads * rows * 2 * d), d)),
        plain(decode_rows(type, coded, d)) {}

  /// From place `first` of each run on.
  KvTile tile(bool codes, std::int64_t first = 0) {
    const RowType as = codes ? type : RowType::act;
    const std::int64_t bytes = row_bytes(as, d, DType::f32), run = rows * bytes;
    return {(codes ? coded.data() : plain.bytes.data()) + first * bytes, run, first, rows - first, kv_heads * run, as};
  }
};

/// What an attention leaves; everything NaN before.
struct Result {
  Tensor o, m, l, scores, out;
  Result(std::int64_t heads, std::int64_t d, std::int64_t stride)
      : o(DType::f32, heads * d),
        m(DType::f32, heads),
        l(DType::f32, heads),
        scores(DType::f32, heads * stride),
        out(DType::f32, heads * d) {}
  AttnState state() { return {o.floats(), m.floats(), l.floats()}; }
  bool operator==(const Result& other) const {
    return m.bytes == other.m.bytes && l.bytes == other.l.bytes && out.bytes == other.out.bytes;
  }
};

struct Shape {
  RowType type;
  std::int64_t d, group, kv_heads = 2;
  std::int64_t q_heads = group * kv_heads, q_stride = q_heads * d + 8;
  float scale = 1 / std::sqrt(static_cast<float>(d));
};

template <class Body>
void for_each_shape(const Body& body) {
  for (RowType type : kCodedTypes)
    for (std::int64_t d : {32, 64, 96, 128})
      for (std::int64_t group : {1, 3, 4})
        for_each_isa([&] {
          CAPTURE(int(type), d, group);
          body(Shape{type, d, group});
        });
}

}  // namespace

TEST_CASE("row types: attend_step, a prefix, a tile and a ring", "[numbers]") {
  Random random(210);
  for_each_shape([&](const Shape& s) {
    Batch batch(random, random.integer(1, 3), 400);
    for (StepSpan& span : batch.spans) {
      span.rows = static_cast<std::int32_t>(random.integer(1, 300));
      span.ring_first = static_cast<std::int32_t>(std::max<std::int64_t>(0, span.rows - random.integer(1, 100)));
    }
    Rows prefix(random, s.type, batch.slots, s.kv_heads, s.d, 200),
        ring(random, s.type, batch.slots, s.kv_heads, s.d, 128);
    Tensor q = random.normal(DType::f32, batch.count * s.q_stride, 2);
    auto run = [&](bool codes) {
      Result r(batch.count * s.q_heads, s.d, 0);
      auto attend = [&](const KvTile& kv, StepRows from, bool fresh) {
        cpu::attend_step({q.data(), s.q_stride, batch.view(), kv, from, r.state(), nullptr, fresh, DType::f32,
                          s.q_heads, s.kv_heads, s.d, s.scale});
      };
      KvTile first = prefix.tile(codes);
      first.rows = 64;
      attend(first, StepRows::tile, true);
      attend(prefix.tile(codes, 64), StepRows::tile, false);
      attend(ring.tile(codes), StepRows::ring, false);
      cpu::finish({r.state(), r.out.data(), DType::f32, batch.count, s.q_heads, s.d});
      return r;
    };
    const Result got = run(true);
    CHECK(got == run(false));
    CHECK(std::isfinite(got.out.get(0)));
  });
}

TEST_CASE("row types: score_list and finish_list, rows in all regions, and bf16 queries", "[numbers]") {
  Random random(211);
  for_each_shape([&](const Shape& s) {
    const std::int64_t rows = random.integer(1, 200), stride = rows + 3;
    Batch batch(random, random.integer(1, 3), rows);
    for (StepSpan& span : batch.spans) span.rows = static_cast<std::int32_t>(rows), span.window = 8;
    const std::int64_t lists = batch.count * s.kv_heads;
    std::vector<Rows> regions;
    for (int i = 0; i < 4; ++i) regions.emplace_back(random, s.type, batch.slots, s.kv_heads, s.d, rows);
    Ints list(lists * stride), places(lists * stride), count(lists), landed(lists);
    for (std::int64_t n = 0; n < lists; ++n) {
      std::int64_t used[4] = {};
      for (std::int64_t r = 0; r < rows; ++r) {
        if (random.integer(0, 2) == 0) continue;
        const auto region = static_cast<Region>(random.integer(0, 3));
        list[n * stride + count[n]] = static_cast<std::int32_t>(r);
        places[n * stride + count[n]++] = row_place(region, used[static_cast<int>(region)]++);
      }
      landed[n] = static_cast<std::int32_t>(random.integer(0, used[3]));
    }
    Tensor half = random.normal(DType::bf16, batch.count * s.q_stride, 2), q(DType::f32, half.size);
    for (std::int64_t i = 0; i < q.size; ++i) q.set(i, half.get(i));
    auto run = [&](bool codes, bool halves, Tensor& queries) {
      Result r(batch.count * s.q_heads, s.d, stride);
      if (queries.type == DType::bf16) r.out = Tensor(DType::bf16, r.out.size);
      AttendListArgs a{
          .q = queries.data(),
          .q_stride = s.q_stride,
          .batch = batch.view(),
          .rows = {list.data(), count.data(), stride},
          .places = places.data(),
          .regions = {regions[0].tile(codes), regions[1].tile(codes), regions[2].tile(codes), regions[3].tile(codes)},
          .landed = landed.data(),
          .scores = r.scores.floats(),
          .keep_scores = true,
          .state = r.state(),
          .act = queries.type,
          .q_heads = s.q_heads,
          .kv_heads = s.kv_heads,
          .head_dim = s.d,
          .scale = s.scale};
      if (halves) cpu::score_list({a});
      cpu::finish_list({a, halves, r.out.data()});
      return r;
    };
    const Result want = run(false, false, q);
    CHECK(run(true, false, q) == want);
    CHECK(run(true, true, q) == want);
    const Result narrow = run(true, true, half);  // the same sums, a rounded output
    CHECK(narrow.m.bytes == want.m.bytes);
    CHECK(narrow.o.bytes == want.o.bytes);
  });
}

TEST_CASE("row types: judge") {
  Random random(212);
  for_each_shape([&](const Shape& s) {
    const std::int64_t rows = random.integer(20, 200), count = rows / 4;
    Batch batch(random, 2, rows);
    for (StepSpan& span : batch.spans) span.rows = static_cast<std::int32_t>(rows);
    Rows kv(random, s.type, batch.slots, s.kv_heads, s.d, rows);
    Tensor q = random.normal(DType::f32, 2 * s.q_stride, 2);
    Ints list, counts(2 * s.kv_heads, static_cast<std::int32_t>(count));
    for (std::int64_t n = 0; n < 2 * s.kv_heads; ++n)
      for (std::int64_t i = 0; i < count; ++i) list.push_back(static_cast<std::int32_t>(i * 3));
    auto run = [&](bool codes) {
      std::vector<SelectionQuality> out(2 * s.kv_heads);
      cpu::judge({q.data(),
                  s.q_stride,
                  batch.view(),
                  kv.tile(codes),
                  {list.data(), counts.data(), count},
                  out.data(),
                  s.kv_heads,
                  DType::f32,
                  s.q_heads,
                  s.kv_heads,
                  s.d,
                  s.scale});
      return out;
    };
    const auto got = run(true), want = run(false);
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i].mass == want[i].mass);
      CHECK(got[i].best == want[i].best);
      CHECK(got[i].recall == want[i].recall);
    }
  });
}

TEST_CASE("row types: 256K tokens of a model of 512 KiB a token fit a host of 125 GiB") {
  const ModelConfig config = load_geometry("llama-2-7b").config;
  auto host_bytes = [&](const char* type) {
    const KvPolicy policy = load_policy("offload", {std::string("kv_dtype=") + type, "resident=0.0"});
    return plan_memory(config, {.policy = policy, .max_len = 256 << 10}).host_bytes;
  };
  const std::int64_t host = std::int64_t{125} << 30;
  CHECK(host_bytes("bf16") > host);
  CHECK(host_bytes("int8") < host * 6 / 10);
  CHECK(host_bytes("fp8") == host_bytes("int8"));
  CHECK(host_bytes("int4") < host * 4 / 10);
}

TEST_CASE("row types: a model whose heads have no whole groups is refused") {
  const ModelConfig narrow = load_model_config(tiny_model_dir()),
                    wide = load_model_config(tiny_model_dir(RowType::int8));
  for (const char* type : {"int8", "fp8", "int4"}) {
    const KvPolicy policy = load_policy("stream", {std::string("kv_dtype=") + type});
    CHECK_NOTHROW(check_policy(policy, wide));
    try {
      check_policy(policy, narrow);
      FAIL("accepted");
    } catch (const UserError& e) {
      CHECK(e.code == Exit::usage);
      CHECK(std::string(e.what()) == "policy 'stream': kv_dtype = \"" + std::string(type) +
                                         "\" scales groups of 32 values, and the model's head_dim of 16 is not a "
                                         "multiple of that; use \"bf16\"");
    }
  }
  CHECK_NOTHROW(check_policy(load_policy("stream"), narrow));
}

TEST_CASE("store_rows: every type, rows in order and rows by number") {
  Random random(213);
  for (DType act : {DType::bf16, DType::f32})
    for (RowType type : kRowTypes)
      for (std::int64_t d : {32, 64, 128}) {
        const std::int64_t kv_heads = 2, from_rows = 30, to_rows = 17, first = 100, width = 2 * d;
        const std::int64_t bytes = row_bytes(type, d, act), stride = (to_rows + 2) * bytes;
        Tensor from = random.normal(act, kv_heads * from_rows * width);
        const std::vector<std::byte> want = encode_rows(type, from, d), poison(kv_heads * stride, std::byte{0xee});
        Ints rows;
        for (std::int64_t i = 0; i < kv_heads * to_rows; ++i)
          rows.push_back(static_cast<std::int32_t>(i % 5 == 0 ? -1 : random.integer(first, first + from_rows - 1)));
        for (bool listed : {false, true}) {
          std::vector<std::byte> to = poison;
          cpu::store_rows({.src = {from.bytes.data(), from_rows * row_bytes(RowType::act, d, act), first, from_rows},
                           .dst = {to.data(), stride, 0, to_rows, 0, type},
                           .rows = listed ? rows.data() : nullptr,
                           .act = act,
                           .kv_heads = kv_heads,
                           .head_dim = d});
          CAPTURE(name_of(act), int(type), d, listed);
          for (std::int64_t h = 0; h < kv_heads; ++h)
            for (std::int64_t i = 0; i < to_rows + 2; ++i) {
              const std::int64_t row = i >= to_rows ? -1 : listed ? rows[h * to_rows + i] - first : i;
              const std::byte* got = to.data() + h * stride + i * bytes;
              const std::byte* wanted = row < 0 ? poison.data() : want.data() + (h * from_rows + row) * bytes;
              CHECK(std::equal(got, got + bytes, wanted));
            }
        }
      }
}

TEST_CASE("append_step: codes as store_rows writes them, and labels of the key as it was computed") {
  Random random(214);
  for (DType act : {DType::bf16, DType::f32})
    for (std::int64_t d : {32, 64, 128}) {
      const std::int64_t kv_heads = 2, q_heads = 4, width = (q_heads + 2 * kv_heads) * d, dims = 8, prefix = 64,
                         ring = 64;
      Batch batch(random, 3, 192);
      for (std::int64_t t = 0; t < 3; ++t) batch.spans[t].rows = static_cast<std::int32_t>(10 + 60 * t);
      Tensor qkv = random.normal(act, batch.count * width);
      std::vector<float> basis(batch.slots * kv_heads * label_basis_floats(dims, d));
      for (std::size_t i = 0; i < basis.size(); ++i) basis[i] = 0.1f + 0.01f * static_cast<float>(i % 37);
      auto run = [&](RowType type, std::vector<std::byte>& rows) {
        const std::int64_t run = 64 * row_bytes(type, d, act), all = batch.slots * kv_heads * run;
        rows.assign(2 * all, std::byte{0xee});
        std::vector<std::byte> codes(batch.slots * kv_heads * 3 * label_block_bytes(dims, 8), std::byte{0});
        cpu::append_step({qkv.data(),
                          act,
                          batch.view(),
                          {rows.data(), run, 0, prefix, kv_heads * run, type},
                          {rows.data() + all, run, 0, ring, kv_heads * run, type},
                          {codes.data(), 3 * label_block_bytes(dims, 8), basis.data(), dims, 8,
                           kv_heads * 3 * label_block_bytes(dims, 8), kv_heads * label_basis_floats(dims, d)},
                          q_heads,
                          kv_heads,
                          d});
        return codes;
      };
      std::vector<std::byte> plain, coded;
      const auto labels = run(RowType::act, plain);
      for (RowType type : kCodedTypes) {
        CAPTURE(name_of(act), int(type), d);
        CHECK(run(type, coded) == labels);
        const std::int64_t bytes = row_bytes(type, d, act), from_bytes = row_bytes(RowType::act, d, act);
        std::int64_t written = 0;
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(plain.size()) / from_bytes; ++i) {
          const std::vector<std::byte> got(coded.begin() + i * bytes, coded.begin() + (i + 1) * bytes);
          if (std::all_of(got.begin(), got.end(), [](std::byte b) { return b == std::byte{0xee}; })) continue;
          Tensor row(act, 2 * d);
          std::copy_n(plain.begin() + i * from_bytes, from_bytes, row.bytes.begin());
          CHECK(got == encode_rows(type, row, d));
          ++written;
        }
        CHECK(written == batch.count * kv_heads);
      }
    }
}
