// The dense parts: attention of prefill against a large product's rate, products of few tokens against a large device
// copy (which reads as much as it writes), sampling and the small operators against what they are meant to take.
#include <cmath>
#include <span>

#include "bench/figure_sections.h"
#include "kernels/base/error.h"
#include "kernels/cuda_device.h"
#include "runtime/plan/peaks.h"

namespace longhaul::bench {
namespace {

constexpr std::int64_t kGiB = std::int64_t{1} << 30;

struct Product {
  std::int64_t in, out;
  bool accumulate;
};
constexpr Product kLayer[] = {{4096, 6144, false}, {4096, 4096, true}, {4096, 28672, false}, {14336, 4096, true}};

class Bench {
 public:
  explicit Bench(Figures& figures)
      : figures_(figures),
        device_(make_cuda_device(0, std::int64_t{12} << 30)),
        memory_(device_->allocate(6 * kGiB, "bench")) {
    seconds_on(
        *device_,
        [&](Stream& stream) {
          stream.launch(RandomFillArgs{memory_.data(), DType::bf16, memory_.size() / 2, 1});
        },
        1);
  }

  /// The last `tokens` of `rows` rows, or all of them.
  void attention(const std::string& name, std::int64_t tokens, std::int64_t rows) {
    if (!figures_.wants(name)) return;
    constexpr std::int64_t kHeads = 32, kKvHeads = 8, kHeadDim = 128, kWidth = (kHeads + 2 * kKvHeads) * kHeadDim;
    std::byte *q = memory_.data(), *kv = q + kGiB, *out = q + 2 * kGiB, *state = q + 3 * kGiB;
    const std::int64_t states = tokens * kHeads;
    const AttendArgs args{.q = q,
                          .q_stride = kWidth,
                          .kv = {kv, rows * 2 * kHeadDim * 2, 0, rows},
                          .state = {reinterpret_cast<float*>(q + 4 * kGiB), reinterpret_cast<float*>(state),
                                    reinterpret_cast<float*>(state) + states},
                          .out = out,
                          .act = DType::bf16,
                          .tokens = tokens,
                          .q_heads = kHeads,
                          .kv_heads = kKvHeads,
                          .head_dim = kHeadDim,
                          .q_pos = rows - tokens,
                          .scale = 1 / std::sqrt(static_cast<float>(kHeadDim))};
    constexpr int kCalls = 4;
    const double seconds = seconds_on(
        *device_,
        [&](Stream& stream) {
          for (int i = 0; i < kCalls; ++i) stream.launch(args);
        },
        5);
    const double n = static_cast<double>(tokens), pairs = n * (static_cast<double>(rows) - (n - 1) / 2);
    if (product_rate_ == 0) product_rate_ = product_rate(*device_);
    figures_.add(
        figure(name, kCalls * 4 * pairs * kHeads * kHeadDim / seconds / 1e12, "TFLOP/s", product_rate_ / 1e12,
               fmt::format("{} tokens, the last of {} rows, causal, {} heads, {} KV heads, head_dim {}, bf16; 4 "
                           "* head_dim a visible pair; {}; bound: an 8192^3 bf16 product",
                           tokens, rows, kHeads, kKvHeads, kHeadDim, device_->describe())));
  }

  /// The products of a layer one after the other, and of other layers, so that no weight is in a cache.
  void products(std::int64_t tokens) {
    run("linear_" + std::to_string(tokens) + "_vs_bandwidth", tokens, kLayer, "a layer of llama-3.1-8b");
  }
  void head(std::int64_t tokens) {
    constexpr Product kHead[] = {{4096, 128256, false}};
    run("head_" + std::to_string(tokens) + "_vs_bandwidth", tokens, kHead, "the head of llama-3.1-8b", DType::f32);
  }

  void sampling(const std::string& name, std::int64_t rows, const SampleParams& params, double target_us) {
    constexpr std::int64_t kVocab = 128256;
    auto* logits = reinterpret_cast<float*>(memory_.data());
    auto* on_device = reinterpret_cast<SampleParams*>(memory_.data() + kGiB);
    const std::vector<SampleParams> all(static_cast<std::size_t>(rows), params);
    time(
        name, target_us,
        [&](Stream& stream) {
          stream.launch(RandomFillArgs{logits, DType::f32, rows * kVocab, 7, 0, 3});
          stream.copy({.dst = on_device,
                       .src = all.data(),
                       .width = rows * static_cast<std::int64_t>(sizeof(SampleParams)),
                       .kind = CopyKind::host_to_device});
        },
        [&](Stream& stream) {
          stream.launch(SampleArgs{logits, on_device, reinterpret_cast<std::int32_t*>(on_device + rows), rows, kVocab});
        },
        fmt::format("{} rows of {} logits, temperature {}, top_k {}, top_p {}", rows, kVocab, params.temperature,
                    params.top_k, params.top_p));
  }

  /// The mean of the small operators of a layer.
  void small(const std::string& name, std::int64_t tokens, double target_us) {
    constexpr std::int64_t kHidden = 4096, kInter = 14336, kHeads = 32, kKvHeads = 8, kHeadDim = 128;
    std::byte *x = memory_.data(), *y = x + kGiB, *tables = x + 2 * kGiB;
    auto* gain = reinterpret_cast<bf16*>(tables);
    auto* positions = reinterpret_cast<std::int32_t*>(tables + kGiB);
    const std::vector<std::int32_t> at(static_cast<std::size_t>(tokens), 262143);
    time(
        name, target_us,
        [&](Stream& stream) {
          stream.copy({.dst = positions, .src = at.data(), .width = tokens * 4, .kind = CopyKind::host_to_device});
        },
        [&](Stream& stream) {
          stream.launch(RmsNormArgs{x, gain, y, DType::bf16, tokens, kHidden, 1e-5f});
          stream.launch(RopeArgs{y, positions, reinterpret_cast<float*>(tables), 0, DType::bf16, tokens, kHeads,
                                 kKvHeads, kHeadDim, 1});
          stream.launch(RmsNormArgs{x, gain, y, DType::bf16, tokens, kHidden, 1e-5f});
          stream.launch(SiluMulArgs{x, y, DType::bf16, tokens, kInter});
        },
        fmt::format("{} tokens; mean of rms_norm, rope, rms_norm, silu_mul as in a layer of llama-3.1-8b, in a stream",
                    tokens),
        4);
  }

 private:
  void run(const std::string& name, std::int64_t tokens, std::span<const Product> products, std::string_view what,
           DType out_type = DType::bf16) {
    if (!figures_.wants(name)) return;
    const std::byte* x = memory_.data();
    std::byte* out = memory_.data() + kGiB;
    const std::int64_t first = 2 * kGiB, bytes = [&] {
      std::int64_t sum = 0;
      for (const Product& p : products) sum += p.in * p.out * 2;
      return sum;
    }();
    const std::int64_t layers = (memory_.size() - first) / bytes;
    const double seconds = seconds_on(
        *device_,
        [&](Stream& stream) {
          for (std::int64_t layer = 0; layer < layers; ++layer) {
            std::int64_t at = first + layer * bytes;
            for (const Product& p : products) {
              stream.launch(LinearArgs{x, reinterpret_cast<bf16*>(memory_.data() + at), nullptr, out, DType::bf16,
                                       out_type, p.accumulate, tokens, p.in, p.out});
              at += p.in * p.out * 2;
            }
          }
        },
        7);
    if (copy_ == 0) copy_ = copy_bandwidth(*device_);
    figures_.add(figure(name, static_cast<double>(layers * bytes) / seconds / 1e9, "GB/s", copy_ / 1e9,
                        fmt::format("{} tokens, {}, bf16, {:.1f} us; bytes: the weights once; bound: a device copy, "
                                    "bytes read and written",
                                    tokens, what, seconds / static_cast<double>(layers) * 1e6)));
  }

  void time(const std::string& name, double target_us, const std::function<void(Stream&)>& before,
            const std::function<void(Stream&)>& work, const std::string& setting, int operators = 1) {
    if (!figures_.wants(name)) return;
    constexpr int kCalls = 64;
    seconds_on(*device_, before, 1);
    const double seconds = seconds_on(
        *device_,
        [&](Stream& stream) {
          for (int i = 0; i < kCalls; ++i) work(stream);
        },
        7);
    figures_.add(figure(name, seconds / kCalls / operators * 1e6, "us", target_us, setting + "; bound: the aim"));
  }

  Figures& figures_;
  std::unique_ptr<Device> device_;
  Buffer memory_;
  double product_rate_ = 0, copy_ = 0;
};

}  // namespace

void dense_figures(Figures& figures, const SectionFlags&) {
  Bench bench(figures);
  bench.attention("prefill_attention_tflops", 65536, 65536);
  bench.attention("prefill_attention_chunk_tflops", 8192, 65536);
  for (std::int64_t tokens : {1, 4, 8, 16, 64}) bench.products(tokens);
  for (std::int64_t tokens : {1, 8}) bench.head(tokens);
  bench.sampling("sample_greedy_us", 1, {}, 12);
  bench.sampling("sample_top_us", 1, {.temperature = 0.6f, .top_p = 0.9f, .top_k = 40}, 100);
  bench.sampling("sample_top_8_us", 8, {.temperature = 0.6f, .top_p = 0.9f, .top_k = 40}, 100);
  bench.small("small_ops_us", 1, 2.5);
}

}  // namespace longhaul::bench
