// Law 8 for what stands for the rows that are not attended: the tail, the mean value, and attention with both.
#include "tests/support/batch.h"
#include "tests/support/coded_rows.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"
#include "tests/support/labels.h"
#include "tests/support/select_case.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

struct Case {
  DType act;
  std::int64_t kv_heads, group, d, rows, dims, bits;
  Combine combine = Combine::mean;
  RowType type = RowType::act;  // of what the list reads
  std::int64_t chunk = 0;       // of queries in three forms
};

struct Input {
  Labels labels;
  Tensor q, older, kv;
  StepSpan span;
};

Input input_of(const Case& c, Random& random) {
  Input in{.labels = {c.kv_heads, c.d, c.rows, c.dims, c.bits},
           .q = random.normal(c.act, c.kv_heads * c.group * c.d, 2),
           .older = random.normal(c.act, 2 * c.kv_heads * c.group * c.d, 2),
           .kv = random.normal(c.act, c.kv_heads * c.rows * 2 * c.d),
           .span = {}};
  in.labels.random_basis(random);
  in.labels.random_tail(random, c.kv_heads * c.group);
  const auto rows = static_cast<std::int32_t>(c.rows);
  in.span = {0, rows, rows, std::max(rows / 8, 40), 4, 32};
  return in;
}

/// The tail, then the attention's output with it, then without.
std::vector<Tensor> run(Rig& rig, const Case& c, const Input& in) {
  const std::int64_t q_heads = c.kv_heads * c.group, states = q_heads, stride = c.rows;
  auto floats = [&](std::int64_t n) { return reinterpret_cast<float*>(rig.put(Tensor(DType::f32, n))); };
  Labels labels = in.labels;
  LabelTile tile = labels.tile();
  tile.codes = rig.put(labels.codes), tile.basis = rig.put(labels.basis);
  const KvTile kv{rig.put(in.kv), c.rows * 2 * c.d * size_of(c.act), 0, c.rows};
  rig.stream->launch(LabelRowsArgs{kv, tile, c.act, c.kv_heads, c.d});
  float* mean = floats(c.kv_heads * c.d);
  rig.stream->launch(MeanValuesArgs{kv, mean, c.act, c.kv_heads, c.d});
  const StepBatch batch{rig.put(std::vector<StepSpan>{in.span}), 1, c.rows};
  RowList list{rig.put(std::vector<std::int32_t>(c.kv_heads * stride, -1)),
               rig.put(std::vector<std::int32_t>(c.kv_heads, -1)), stride, floats(q_heads)};
  std::byte* q = rig.put(in.q);
  const QueryForms forms{c.chunk, rig.put(in.older), q_heads * c.d};
  const float scale = 1 / std::sqrt(static_cast<float>(c.d));
  rig.stream->launch(SelectArgs{.q = q,
                                .q_stride = q_heads * c.d,
                                .batch = batch,
                                .act = c.act,
                                .q_heads = q_heads,
                                .kv_heads = c.kv_heads,
                                .head_dim = c.d,
                                .scale = scale,
                                .by = SelectBy::labels,
                                .combine = c.combine,
                                .labels = tile,
                                .mass = nullptr,
                                .mass_stride = 0,
                                .mass_session_stride = 0,
                                .top_p = 1,
                                .scratch = floats(select_floats(1, q_heads, c.kv_heads, c.rows)),
                                .out = list,
                                .forms = forms});
  std::vector<Tensor> results{rig.get(list.tail, DType::f32, q_heads), rig.get(mean, DType::f32, c.kv_heads * c.d)};
  for (bool with_mean : {true, false}) {
    std::byte* out = rig.put(Tensor(c.act, states * c.d));
    const AttendListArgs args{.q = q,
                              .q_stride = q_heads * c.d,
                              .batch = batch,
                              .rows = list,
                              .regions = {.prefix = {rig.put(encode_rows(c.type, in.kv, c.d)),
                                                     c.rows * row_bytes(c.type, c.d, c.act), 0, c.rows, 0, c.type}},
                              .scores = floats(q_heads * stride),
                              .keep_scores = false,
                              .state = {floats(states * c.d), floats(states), floats(states)},
                              .splits = floats(split_floats(1, q_heads, c.kv_heads, c.d)),
                              .act = c.act,
                              .q_heads = q_heads,
                              .kv_heads = c.kv_heads,
                              .head_dim = c.d,
                              .scale = scale,
                              .forms = forms};
    rig.stream->launch(FinishListArgs{args, false, out, with_mean ? mean : nullptr, 0});
    results.push_back(rig.get(out, c.act, states * c.d));
  }
  return results;
}

std::vector<double> doubles(const Tensor& t) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < t.size; ++i) out.push_back(t.get(i));
  return out;
}

}  // namespace

TEST_CASE("cuda: the tail of a list and attention with the mean value", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(95);
  for (const Case& c : {Case{DType::bf16, 8, 4, 128, 5000, 32, 4}, Case{DType::bf16, 2, 1, 128, 700, 32, 4},
                        Case{DType::bf16, 2, 8, 64, 1500, 16, 4}, Case{DType::bf16, 3, 2, 64, 900, 48, 4},
                        Case{DType::f32, 2, 3, 80, 600, 24, 8}, Case{DType::bf16, 2, 4, 128, 800, 128, 16},
                        Case{DType::bf16, 2, 4, 128, 801, 32, 4, Combine::max},
                        Case{DType::bf16, 2, 4, 128, 900, 32, 4, Combine::mean, RowType::int8},
                        Case{DType::bf16, 2, 4, 64, 900, 32, 4, Combine::mean, RowType::fp8},
                        Case{DType::f32, 2, 4, 64, 900, 32, 4, Combine::mean, RowType::int4},
                        Case{DType::bf16, 8, 4, 128, 5000, 32, 4, Combine::mean, RowType::act, 1024},
                        Case{DType::bf16, 2, 8, 64, 1500, 16, 4, Combine::max, RowType::act, 256},
                        Case{DType::bf16, 2, 1, 128, 700, 48, 4, Combine::mean, RowType::int8, 256},
                        Case{DType::f32, 2, 3, 80, 600, 24, 8, Combine::mean, RowType::act, 512}}) {
    const Input in = input_of(c, random);
    const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return run(rig, c, in); });
    CAPTURE(name_of(c.act), int(c.type), c.kv_heads, c.group, c.d, c.rows, c.dims, c.bits, c.chunk);
    // Rows at the threshold may fall to either side, and codes at a rounding tie: a tail moves by their shares.
    for (std::int64_t i = 0; i < want[0].size; ++i) CHECK(std::abs(got[0].get(i) - want[0].get(i)) < 0.02);
    CHECK(nmse(doubles(got[1]), doubles(want[1])) < 1e-10);
    CHECK(nmse(doubles(got[2]), doubles(want[2])) < 2e-4);
    CHECK(nmse(doubles(got[3]), doubles(want[3])) < 2e-4);
    CHECK(nmse(doubles(got[2]), doubles(got[3])) > 1e-5);
  }
}

TEST_CASE("cuda: where all rows are listed, or none competes, there is no tail, as on the CPU", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(96);
  const Case c{DType::bf16, 2, 4, 128, 300, 32, 4};
  Input in = input_of(c, random);
  for (const std::int32_t budget : {300, in.span.sinks + in.span.window}) {
    in.span.budget = budget;
    const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return run(rig, c, in); });
    CAPTURE(budget);
    for (const std::vector<Tensor>* results : {&want, &got}) {
      for (const double x : results->front().values()) CHECK(static_cast<float>(x) == kNoTail);
      CHECK((*results)[2].bytes == (*results)[3].bytes);
    }
  }
}

TEST_CASE("cuda: tails of a batch are those of its sessions, and as the CPU has them, whether sums are kept or not",
          "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Rig cpu(make_cpu_device());
  Random random(97);
  for (const std::int64_t group : {1, 4, 8})
    for (const std::int64_t chunk : {0, 256})
      for (const bool keeps_sums : {false, true}) {
        selecting::Case c{4, 2, group, 64, 1500, 32, 4};
        for (const std::int64_t slot : {2, 0, 3, 1}) {
          const std::int64_t rows = random.integer(200, c.capacity);
          c.add(slot, rows, random.integer(40, slot == 3 ? rows : rows / 4), slot, 32);
        }
        c.fill(random, 1);
        c.fill_forms(random, chunk, false, 1);
        const std::int64_t fit = std::ssize(c.tails) / c.slots;  // what labels lack, then weights
        for (std::int64_t i = 0; i < std::ssize(c.tails); ++i)
          if (i % fit >= c.kv_heads * c.d) c.tails[i] = static_cast<float>(random.integer(1, 40)) / 20;
        auto tails = [&](Rig& rig, const selecting::Case& some) {
          const std::int64_t heads = some.count() * c.q_heads;
          SelectArgs a = some.args(rig, rig.put(Tensor(DType::f32, some.scratch_floats())));
          auto floats = [&](std::int64_t n) { return reinterpret_cast<float*>(rig.put(Tensor(DType::f32, n))); };
          a.out.tail = floats(heads);
          if (keeps_sums) a.sums = floats(c.slots * c.q_heads), a.sums_stride = c.q_heads;
          rig.stream->launch(a);
          return rig.get(a.out.tail, DType::f32, heads).values();
        };
        selecting::Case wide = c;  // one row is listed of those that compete: its tail is as good as all of them
        for (StepSpan& s : wide.spans) s.budget = s.sinks + s.window + 1;
        const auto [want, got] = on_both(*cuda, [&](Rig& rig) { return tails(rig, c); });
        const std::vector<double> all = tails(cpu, wide);
        cpu.clear();
        CAPTURE(group, chunk, keeps_sums);
        // A listed row's shares are bytes, right to a 256th of what the group's heads have of it together (share_unit()
        // of the device). Of hundreds of rows these errors do not add up: a quarter of the most that they could. They
        // are of the whole, and show in a tail where a list holds nearly all.
        const double bytes = group == 1 ? 0 : static_cast<double>(group) / 256 / 4;
        for (std::size_t i = 0; i < want.size(); ++i) {
          const double of_whole = std::abs(std::exp(got[i] - all[i]) - std::exp(want[i] - all[i]));
          CHECK((std::abs(got[i] - want[i]) < 0.02 || of_whole < bytes));
        }
        for (std::int64_t t = 0; t < c.count(); ++t) {
          selecting::Case one = c;
          one.spans = {c.spans[t]};
          one.q = Tensor(c.act, c.q_stride);
          std::copy_n(c.q.bytes.begin() + t * c.q_stride * 4, c.q_stride * 4, one.q.bytes.begin());
          for (const std::int64_t form : {0, 1})  // as they lie for one place
            std::copy_n(c.older.bytes.begin() + (form * c.form_stride + t * c.q_heads * c.d) * 4, c.q_heads * c.d * 4,
                        one.older.bytes.begin() + form * c.form_stride * 4);
          const std::vector<double> alone = tails(*cuda, one);
          for (std::int64_t i = 0; i < c.q_heads; ++i)  // parts of other sizes are added up in another order
            CHECK(alone[i] == Approx(got[t * c.q_heads + i]).margin(1e-4));
          cuda->clear();
        }
      }
}
