// The operators of synthetic runs: the same bits on both devices.
#include "kernels/synthetic_ops.h"
#include "tests/support/cuda_rig.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("cuda: random_fill", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  for (DType type : {DType::bf16, DType::f32})
    for (std::int64_t count : {0, 1, 255, 4097, 1 << 20}) {
      const Tensor poison(type, count + 1);
      const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
        std::byte* out = rig.put(poison);
        rig.stream->launch(RandomFillArgs{out, type, count, 11, 0.5f, 0.02f});
        return rig.get(out, type, count + 1);
      });
      CAPTURE(name_of(type), count);
      CHECK(want.bytes == got.bytes);
    }
}

TEST_CASE("cuda: checksum", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(9);
  for (std::int64_t rows : {0, 1, 63, 5000})
    for (std::int64_t heads : {1, 3}) {
      const std::int64_t row = 96, capacity = rows + 7;
      const Tensor kv = random.normal(DType::bf16, std::max<std::int64_t>(1, heads * capacity * row / 2));
      const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
        auto* sum = rig.put(std::vector<std::int32_t>{5, 6});
        const KvTile tile{rig.put(kv), capacity * row, 640, rows};
        rig.stream->launch(ChecksumArgs{tile, heads, row, reinterpret_cast<std::uint64_t*>(sum)});
        return rig.ints(sum, 2);
      });
      CAPTURE(rows, heads);
      CHECK(want == got);
    }
}

TEST_CASE("cuda: replay", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  const std::int64_t steps = 5, lists = 6, stride = 300;
  std::mt19937 random(4);
  std::vector<std::int32_t> rows(static_cast<std::size_t>(steps * lists * stride)), count(steps * lists);
  for (std::size_t l = 0; l < count.size(); ++l) {
    count[l] = static_cast<std::int32_t>(random() % (stride + 1));
    std::int32_t row = -1;
    for (std::int32_t i = 0; i < count[l]; ++i)
      rows[l * stride + static_cast<std::size_t>(i)] = row += 1 + static_cast<std::int32_t>(random() % 9);
  }
  const std::vector<StepSpan> spans{{0, 1, 0, 1, 4, 32},
                                    {3, 40, 40, 64, 4, 32},
                                    {1, 1203, 1100, 300, 4, 32},
                                    {2, 70000, 69900, 300, 0, 1},
                                    {4, 900, 900, 40, 4, 36}};
  const auto sessions = static_cast<std::int64_t>(spans.size());
  for (bool recorded : {false, true})
    for (std::int64_t kv_heads : {1, 2, 8})
      for (float recall : {1.0f, 0.6f, 0.0f}) {
        const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
          const std::int64_t cells = sessions * kv_heads;
          std::int32_t* out = rig.put(std::vector<std::int32_t>(static_cast<std::size_t>(cells * stride), -9));
          std::int32_t* counts = rig.put(std::vector<std::int32_t>(static_cast<std::size_t>(cells), -9));
          ReplayArgs args{.batch = {rig.put(spans), sessions, 1 << 20},
                          .steps = steps,
                          .lists = lists,
                          .stride = stride,
                          .first_list = 2,
                          .heads = 2,
                          .shift = 3,
                          .kv_heads = kv_heads,
                          .recall = recall,
                          .out = {out, counts, stride}};
          if (recorded) args.rows = rig.put(rows), args.count = rig.put(count);
          rig.stream->launch(args);
          auto all = rig.ints(out, cells * stride);
          const auto n = rig.ints(counts, cells);
          all.insert(all.end(), n.begin(), n.end());
          return all;
        });
        CAPTURE(recorded, kv_heads, recall);
        CHECK(want == got);
      }
}
