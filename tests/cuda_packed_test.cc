// Law 8 for packed weights: the CUDA device expands them to the CPU's bits, and an engine with packed layers gives
// those of one whose layers were converted when they were loaded.
#include "tests/support/cuda_rig.h"
#include "tests/support/packed_rows.h"
#include "tests/support/quantised_model.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

TEST_CASE("cuda: expand has the bits of the CPU's", "[cuda][shared]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  std::mt19937_64 random(12);
  for (const PackedFormat& format : kPackedFormats)
    for (std::int64_t cols : {8, 24, 200, 256, 768, 4096, 14336}) {
      if (!is_packable(format, cols)) continue;
      for (std::int64_t rows : {1, 3, 4, 77, 1030}) {
        const std::vector<std::byte> packed = random_packed(format, rows, cols, random);
        const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
          std::vector<bf16> out(static_cast<std::size_t>(rows * cols));
          bf16* to = rig.put(out);
          rig.stream->launch(ExpandArgs{rig.put(packed), to, format, rows, cols});
          Tensor values = rig.get(to, DType::bf16, rows * cols);
          std::memcpy(out.data(), values.data(), values.bytes.size());
          return out;
        });
        CAPTURE(name_of(format.type), format.group, cols, rows);
        CHECK(first_other(got, want) == -1);
      }
    }
}

TEST_CASE("cuda: more rows than blocks along y", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  std::mt19937_64 random(13);
  const PackedFormat format{PackedType::int4, 8};
  const std::int64_t rows = 200000, cols = 8;
  const std::vector<std::byte> packed = random_packed(format, rows, cols, random);
  const auto [want, got] = on_both(*cuda, [&](Rig& rig) {
    bf16* to = rig.put(std::vector<bf16>(static_cast<std::size_t>(rows * cols)));
    rig.stream->launch(ExpandArgs{rig.put(packed), to, format, rows, cols});
    Tensor values = rig.get(to, DType::bf16, rows * cols);
    return std::vector<bf16>(values.halves(), values.halves() + rows * cols);
  });
  CHECK(first_other(got, want) == -1);
}

TEST_CASE("cuda: packed weights change no bit", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  for (const Quantised kind : {Quantised::gptq, Quantised::int8_rows}) {
    const TempDir dir;
    write_quantised(tiny_model_dir(), dir.path(), kind);
    for (const DType act : {DType::f32, DType::bf16}) {
      RunOptions options{
          .model = dir.path(), .policy = "stream", .activations = act, .prompts = {1, 64, 150}, .steps = 40};
      auto plain = make_cuda_device(0, std::int64_t{1} << 30);
      const RunResult want = run_tiny(*plain, options, nullptr);
      options.packed = true;
      for (std::int64_t streamed : {0, 1, 3}) {
        options.streamed_layers = streamed;
        auto device = make_cuda_device(0, std::int64_t{1} << 30);
        CAPTURE(streamed, name_of(act));
        CHECK(same(run_tiny(*device, options, &want), want));
      }
    }
  }
}
