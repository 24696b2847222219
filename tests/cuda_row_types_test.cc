// Law 8 for rows of fewer bits: the CUDA device's codes are the CPU's, and so is what an engine makes of them.
#include "tests/support/coded_rows.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("cuda: store_rows has the bytes of the CPU's", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(97);
  for (DType act : {DType::bf16, DType::f32})
    for (RowType type : kRowTypes)
      for (std::int64_t d : {32, 64, 96, 128, 256})
        for (double deviation : {1e-30, 1.0, 1e30}) {
          const std::int64_t heads = 3, from_rows = random.integer(1, 300), to_rows = random.integer(1, from_rows),
                             first = 64;
          const std::int64_t bytes = row_bytes(type, d, act), from_head = from_rows * row_bytes(RowType::act, d, act);
          Tensor from = random.normal(act, heads * from_rows * 2 * d, deviation);
          for (double special : {0.0, -0.0, 1e-38, 1e-42, double(NAN), double(INFINITY), -double(INFINITY)})
            for (int i = 0; i < 3; ++i) from.set(random.integer(0, from.size - 1), special * (i + 1));
          for (std::int64_t g = 0; g < from.size / 32; g += 7)  // groups of equal values
            for (std::int64_t i = 1; i < 32; ++i) from.set(32 * g + i, from.get(32 * g));
          std::vector<std::int32_t> rows;
          for (std::int64_t i = 0; i < heads * to_rows; ++i)
            rows.push_back(static_cast<std::int32_t>(i % 5 == 0 ? -1 : first + random.integer(0, from_rows - 1)));
          for (bool listed : {false, true}) {
            const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
              const std::vector<std::byte> stale(static_cast<std::size_t>(heads * (to_rows + 1) * bytes),
                                                 std::byte{0xee});
              std::byte* to = rig.put(stale);
              rig.stream->launch(StoreRowsArgs{.src = {rig.put(from), from_head, first, from_rows},
                                               .dst = {to, (to_rows + 1) * bytes, 0, to_rows, 0, type},
                                               .rows = listed ? rig.put(rows) : nullptr,
                                               .act = act,
                                               .kv_heads = heads,
                                               .head_dim = d});
              return rig.get(to, DType::bf16, static_cast<std::int64_t>(stale.size()) / 2).bytes;
            });
            CAPTURE(name_of(act), int(type), d, deviation, listed);
            CHECK(got == want);
          }
        }
}

TEST_CASE("cuda: the engine with rows of fewer bits, against the CPU device", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  auto doubles = [](const std::vector<float>& x) { return std::vector<double>(x.begin(), x.end()); };
  for (RowType type : kCodedTypes)
    for (DType act : {DType::f32, DType::bf16})
      for (const char* policy : {"dense", "stream", "sparse-resident", "offload"}) {
        const std::string name = policy;
        RunOptions options{
            .policy = name, .activations = act, .kv_dtype = type, .prompts = {63, 150, 300}, .steps = 80};
        // All rows are listed: which of two that score alike is taken depends on the last bit.
        if (name == "offload" || name == "sparse-resident") options.sets = {"rows=4096"}, options.cache = 0.5;
        const RunResult want = run_tiny(options);
        auto device = make_cuda_device(0, std::int64_t{1} << 30);
        const RunResult got = run_tiny(*device, options, &want);
        for (std::size_t i = 0; i < options.prompts.size(); ++i) {
          CAPTURE(name_of(act), name_of(type), name, options.prompts[i]);
          // A key off by its last bit may have the code beside: a step of 4 bits is large.
          const double limit = act == DType::bf16 ? 5e-3 : type == RowType::int4 ? 1e-4 : 1e-5;
          CHECK(nmse(doubles(got.logits[i]), doubles(want.logits[i])) <= limit);
        }
      }
}
