// Selection: labels of 32 layers in turn, so that no cache holds them, and the top rows of their scores.
#include <fmt/format.h>

#include <random>

#include "apps/options.h"
#include "bench/figure_sections.h"
#include "kernels/base/bytes.h"
#include "kernels/select_probe.h"
#include "runtime/plan/peaks.h"

namespace longhaul::bench {
namespace {

constexpr std::int64_t kLayers = 32, kRows = 262144, kKvHeads = 8, kGroup = 4, kQHeads = kKvHeads * kGroup;
constexpr std::int64_t kDim = 128, kDims = 32, kBits = 4, kMostListed = 16384;

/// Random labels and queries of a model's layers on the device.
class Layers {
 public:
  explicit Layers(Device& device)
      : device_(device),
        stream_(device.make_stream("compute")),
        codes_(device.allocate(kLayers * kLayerBytes, "labels")),
        basis_(put(noise(kKvHeads * label_basis_floats(kDims, kDim), 0.1f))),
        q_(put(noise(kQHeads * kDim, 3))),
        scratch_(device.allocate(4 * select_floats(1, kQHeads, kKvHeads, kRows), "scores")),
        rows_(device.allocate(4 * kKvHeads * kMostListed, "lists")),
        count_(device.allocate(4 * kKvHeads, "counts")) {
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> some(kLayerBytes / 8);
    for (std::uint64_t& x : some) x = random();
    for (std::int64_t l = 0; l < kLayers; ++l) {
      some[0] = static_cast<std::uint64_t>(l);
      copy(codes_.data() + l * kLayerBytes, some.data(), kLayerBytes);
    }
  }

  SelectSeconds measure(std::int32_t listed) {
    const StepSpan span{0, kRows, kRows, listed, 4, 64};
    const Buffer spans = put(std::vector<StepSpan>{span});
    std::vector<SelectArgs> layers;
    for (std::int64_t l = 0; l < kLayers; ++l)
      layers.push_back({.q = q_.data(),
                        .q_stride = kQHeads * kDim,
                        .batch = {reinterpret_cast<const StepSpan*>(spans.data()), 1, kRows},
                        .act = DType::f32,
                        .q_heads = kQHeads,
                        .kv_heads = kKvHeads,
                        .head_dim = kDim,
                        .scale = 0.088f,
                        .by = SelectBy::labels,
                        .combine = Combine::mean,
                        .labels = {.codes = codes_.data() + l * kLayerBytes,
                                   .head_stride = kLayerBytes / kKvHeads,
                                   .basis = reinterpret_cast<float*>(basis_.data()),
                                   .dims = kDims,
                                   .bits = kBits},
                        .mass = nullptr,
                        .mass_stride = 0,
                        .mass_session_stride = 0,
                        .top_p = 1,
                        .scratch = reinterpret_cast<float*>(scratch_.data()),
                        .out = {reinterpret_cast<std::int32_t*>(rows_.data()),
                                reinterpret_cast<std::int32_t*>(count_.data()), kMostListed}});
    return seconds_to_select(layers);
  }

  static constexpr std::int64_t kLayerBytes = kKvHeads * kRows / kAttendBlock * label_block_bytes(kDims, kBits);

 private:
  static std::vector<float> noise(std::int64_t n, float deviation) {
    std::mt19937 random(2);
    std::normal_distribution<float> draw(0, deviation);
    std::vector<float> x(n);
    for (float& v : x) v = draw(random);
    return x;
  }
  template <class T>
  Buffer put(const std::vector<T>& x) {
    Buffer buffer = device_.allocate(static_cast<std::int64_t>(x.size() * sizeof(T)), "bench");
    copy(buffer.data(), x.data(), buffer.size());
    return buffer;
  }
  void copy(void* to, const void* from, std::int64_t bytes) {
    const auto done = device_.make_event();
    stream_->copy({.dst = to, .src = from, .width = bytes, .kind = CopyKind::host_to_device});
    stream_->record(*done);
    device_.host_wait(*done, {"bench"});
  }

  Device& device_;
  std::unique_ptr<Stream> stream_;
  Buffer codes_, basis_, q_, scratch_, rows_, count_;
};

}  // namespace

void select_figures(Figures& figures, const SectionFlags& flags) {
  if (!figures.wants_any({"score_vs_bandwidth", "topk_2048_us", "topk_16384_us"})) return;
  const auto device = open_device(flags.setting.device, std::int64_t{8} << 30, 0);
  const double peak = copy_bandwidth(*device);
  Layers layers(*device);
  const std::string shape = fmt::format(
      "{} rows x {} KV heads of {} query heads, labels of {} dimensions x {} bits, {} layers in turn, in a graph",
      kRows, kKvHeads, kQHeads, kDims, kBits, kLayers);
  for (const std::int32_t k : {2048, 16384}) {
    const SelectSeconds s = layers.measure(k);
    const double key_bytes = 4.0 * kKvHeads * kRows;
    if (k == 2048 && figures.wants("score_vs_bandwidth"))
      figures.add(figure("score_vs_bandwidth", (Layers::kLayerBytes + 2 * key_bytes) / s.scores * 1e-9, "GB/s",
                         peak * 1e-9,
                         fmt::format("{}; {:.1f} us a layer; bytes: labels read once, a key a row written, and read "
                                     "again by the top-k; the bound is a device copy",
                                     shape, s.scores * 1e6)));
    const std::string name = fmt::format("topk_{}_us", k);
    if (figures.wants(name))
      figures.add(
          figure(name, (s.whole - s.scores) * 1e6, "us", k == 2048 ? 12 : 40,
                 fmt::format("{}; select less its scores, {:.1f} us a layer in all ({:.1f} of scores alone, {:.1f} "
                             "of the list alone); the bound is the target",
                             shape, s.whole * 1e6, s.scores * 1e6, s.top * 1e6)));
  }
}

}  // namespace longhaul::bench
