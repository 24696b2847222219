// Decode attention beside a large device copy (bytes read and written). What is timed is enqueued ahead and cycles
// through more rows than the device's cache holds.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>

#include "bench/figure_sections.h"
#include "bench/measure.h"
#include "kernels/cuda_device.h"

namespace longhaul::bench {
namespace {

struct Shape {
  std::int64_t batch, kv_heads, group, head_dim, rows, attended;  // rows: resident, of each session
  std::int64_t q_heads() const { return kv_heads * group; }
  std::int64_t row_bytes() const { return 2 * head_dim * size_of(DType::bf16); }
  double bytes() const { return static_cast<double>(batch * kv_heads * attended * row_bytes()); }
  std::string text() const {
    return fmt::format("batch {}, {} KV heads, group {}, head_dim {}, {} of {} rows; rows * {} B * heads * batch",
                       batch, kv_heads, group, head_dim, attended, rows, row_bytes());
  }
};

class Bench {
 public:
  Bench(Figures& figures, std::int64_t kv_bytes)
      : figures_(figures),
        device_(make_cuda_device(0, kv_bytes + (std::int64_t{2} << 30))),
        stream_(device_->make_stream("compute")),
        done_(device_->make_event()),
        kv_(device_->allocate(kv_bytes, "rows")) {
    const auto some = noise<bf16>(std::int64_t{16} << 20);
    std::int64_t filled = std::min<std::int64_t>(kv_bytes, static_cast<std::int64_t>(some.size()) * 2);
    stream_->copy({.dst = kv_.data(), .src = some.data(), .width = filled, .kind = CopyKind::host_to_device});
    wait();
    for (; filled < kv_bytes; filled *= 2)
      stream_->copy({.dst = kv_.data() + filled, .src = kv_.data(), .width = std::min(filled, kv_bytes - filled)});
    const std::int64_t half = kv_bytes / 2;
    copy_ =
        static_cast<double>(2 * half) /
        seconds([&](std::int64_t) { stream_->copy({.dst = kv_.data() + half, .src = kv_.data(), .width = half}); }, 1);
  }

  /// Rows 0 .. attended, in one tile.
  void dense(const std::string& name, const Shape& s) {
    if (!figures_.wants(name)) return;
    run(name, s, [&](std::int64_t call, const Buffers& b) {
      stream_->launch(AttendStepArgs{.q = b.q,
                                     .q_stride = s.q_heads() * s.head_dim,
                                     .batch = {b.spans + call * s.batch, s.batch, s.rows},
                                     .kv = tile(s),
                                     .from = StepRows::tile,
                                     .state = b.state,
                                     .splits = b.splits,
                                     .fresh = true,
                                     .act = DType::bf16,
                                     .q_heads = s.q_heads(),
                                     .kv_heads = s.kv_heads,
                                     .head_dim = s.head_dim,
                                     .scale = 0.088f});
    });
  }

  /// Rows scattered over all resident ones, ascending; `missed` percent of them in staging, attended by the second
  /// half.
  void listed(const std::string& name, const Shape& s, std::int64_t missed) {
    if (!figures_.wants(name)) return;
    const std::int64_t lists = calls(s) * s.batch * s.kv_heads, late = s.attended * missed / 100;
    std::vector<std::int32_t> places(lists * s.attended);
    std::mt19937 engine(1);
    for (std::int64_t n = 0; n < lists; ++n) {
      std::int32_t* to = places.data() + n * s.attended;
      for (std::int64_t r = 0, found = 0; found < s.attended; ++r)  // each set of rows is as likely as any other
        if (static_cast<std::int64_t>(engine() % static_cast<std::uint64_t>(s.rows - r)) < s.attended - found)
          to[found++] = row_place(Region::cache, r);
      for (std::int64_t i = 0; i < late; ++i) to[i * s.attended / late] = row_place(Region::staging, i);
    }
    const Buffer on_device = put(places);
    const Buffer count = put(std::vector<std::int32_t>(lists, static_cast<std::int32_t>(s.attended)));
    const Buffer landed = put(std::vector<std::int32_t>(lists, 0));
    const Buffer behind = put(std::vector<std::int32_t>(lists, static_cast<std::int32_t>(late)));
    run(
        name, s,
        [&](std::int64_t call, const Buffers& b) {
          const std::int64_t first = call * s.batch * s.kv_heads;
          auto ints = [&](const Buffer& from, std::int64_t at) {
            return reinterpret_cast<std::int32_t*>(from.data()) + at;
          };
          AttendListArgs a{.q = b.q,
                           .q_stride = s.q_heads() * s.head_dim,
                           .batch = {b.spans + call * s.batch, s.batch, s.rows},
                           .rows = {ints(on_device, first * s.attended), ints(count, first), s.attended},
                           .places = ints(on_device, first * s.attended),
                           .regions = {tile(s), tile(s), tile(s), tile(s)},
                           .landed = ints(landed, first),
                           .missed = ints(behind, first),
                           .state = b.state,
                           .splits = b.splits,
                           .act = DType::bf16,
                           .q_heads = s.q_heads(),
                           .kv_heads = s.kv_heads,
                           .head_dim = s.head_dim,
                           .scale = 0.088f};
          if (missed > 0) stream_->launch(ScoreListArgs{a});
          stream_->launch(FinishListArgs{a, missed > 0, b.out});
        },
        missed > 0 ? fmt::format(", {} % missed: score_list, finish_list", missed) : ", finish_list");
  }

 private:
  struct Buffers {
    const void* q;
    const StepSpan* spans;
    AttnState state;
    float* splits;
    void* out;
  };

  std::int64_t slots(const Shape& s) const { return kv_.size() / (s.kv_heads * s.rows * s.row_bytes()); }
  /// Different ones, so that together they read a gigabyte or two.
  static std::int64_t calls(const Shape& s) {
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(2e9 / s.bytes()), 2, 64);
  }
  KvTile tile(const Shape& s) const {
    const std::int64_t head = s.rows * s.row_bytes();
    return {kv_.data(), head, 0, s.rows, s.kv_heads * head};
  }
  void wait() {
    stream_->record(*done_);
    device_->host_wait(*done_, {"bench"});
  }
  template <class T>
  Buffer put(const std::vector<T>& x) {
    const auto bytes = static_cast<std::int64_t>(x.size() * sizeof(T));
    Buffer buffer = device_->allocate(bytes, "bench");
    stream_->copy({.dst = buffer.data(), .src = x.data(), .width = bytes, .kind = CopyKind::host_to_device});
    wait();
    return buffer;
  }

  /// Of one of `calls` different calls: the median of several rounds.
  double seconds(const std::function<void(std::int64_t)>& call, std::int64_t calls) {
    std::vector<double> rounds;
    for (int round = 0; round < 8; ++round) {
      const auto start = std::chrono::steady_clock::now();
      for (std::int64_t i = 0; i < calls; ++i) call(i);
      wait();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      if (round > 0) rounds.push_back(taken.count() / static_cast<double>(calls));
    }
    std::nth_element(rounds.begin(), rounds.begin() + 3, rounds.end());
    return rounds[3];
  }

  void run(const std::string& name, const Shape& s, const std::function<void(std::int64_t, const Buffers&)>& call,
           const std::string& setting = ", attend_step") {
    const std::int64_t states = s.batch * s.q_heads(), n = calls(s);
    std::vector<StepSpan> spans;
    for (std::int64_t i = 0; i < n * s.batch; ++i) {
      const auto rows = static_cast<std::int32_t>(s.attended);
      spans.push_back({static_cast<std::int32_t>(i % slots(s)), rows, rows, 0, 0, 0});
    }
    const Buffer q = put(noise<bf16>(states * s.head_dim)), on_device = put(spans);
    const Buffer o = put(std::vector<float>(states * s.head_dim)), m = put(std::vector<float>(states));
    const Buffer l = put(std::vector<float>(states)), out = put(std::vector<bf16>(states * s.head_dim));
    const Buffer splits = put(std::vector<float>(split_floats(s.batch, s.q_heads(), s.kv_heads, s.head_dim)));
    auto floats = [](const Buffer& b) { return reinterpret_cast<float*>(b.data()); };
    const Buffers buffers{q.data(),
                          reinterpret_cast<const StepSpan*>(on_device.data()),
                          {floats(o), floats(m), floats(l)},
                          floats(splits),
                          out.data()};
    const double taken = seconds([&](std::int64_t i) { call(i, buffers); }, n), rate = s.bytes() / taken;
    const std::string text = s.text() + setting;
    if (name.ends_with("_us")) figures_.add(figure(name, taken * 1e6, "us", s.bytes() / copy_ * 1e6, text));
    else figures_.add(figure(name, rate * 1e-9, "GB/s", copy_ * 1e-9, text));
  }

  Figures& figures_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Event> done_;
  Buffer kv_;
  double copy_ = 0;
};

}  // namespace

void attend_figures(Figures& figures, const SectionFlags&) {
  const std::vector<std::string> all{"attend_vs_bandwidth",        "attend_dense_vs_bandwidth",
                                     "attend_missed_vs_bandwidth", "attend_dense_256k_vs_bandwidth",
                                     "attend_head64_vs_bandwidth", "attend_group8_vs_bandwidth",
                                     "attend_mha_vs_bandwidth",    "attend_k2048_us",
                                     "attend_k2048_missed_us"};
  if (!figures.wants_any(all)) return;
  constexpr std::int64_t kResident = 262144;
  Bench bench(figures, 8 * 8 * kResident * 512);
  bench.listed(all[0], {8, 8, 4, 128, kResident, 16384}, 0);
  bench.dense(all[1], {8, 8, 4, 128, kResident, 16384});
  bench.listed(all[2], {8, 8, 4, 128, kResident, 16384}, 10);
  bench.dense(all[3], {1, 8, 4, 128, kResident, kResident});
  bench.listed(all[4], {8, 8, 4, 64, kResident, 16384}, 0);
  bench.listed(all[5], {8, 8, 8, 128, kResident, 16384}, 0);
  bench.listed(all[6], {4, 32, 1, 128, kResident / 4, 4096}, 0);
  bench.listed(all[7], {1, 8, 4, 128, kResident, 2048}, 0);
  bench.listed(all[8], {1, 8, 4, 128, kResident, 2048}, 10);
}

}  // namespace longhaul::bench
