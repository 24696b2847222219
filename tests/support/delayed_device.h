// A device in front of another that makes streams late: before their copies and operators, sums over memory that nobody
// writes. Fresh memory reads as NaN, not as what the run before has left there. The CPU device has both of its own
// (CpuDeviceOptions); this one is for devices that have not.
#pragma once
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device.h"

namespace longhaul::test {

struct Delays {
  std::string stream = {};  // the one that is late; empty: all
  int most = 3;             // sums before a copy or an operator: any number up to it, each some 60 us of a GPU
  std::uint64_t seed = 0;
  std::string drop = {};  // name of an edge whose waits streams do not make
};

constexpr std::int64_t kIdleBytes = std::int64_t{256} << 20, kRowBytes = 1024;

class DelayedStream final : public Stream {
 public:
  DelayedStream(std::unique_ptr<Stream> inner, std::byte* idle, int most, std::uint64_t seed, std::string drop)
      : inner_(std::move(inner)), idle_(idle), sums_(0, most), random_(seed), drop_(std::move(drop)) {}
  Stream& inner() { return *inner_; }

  void copy(const CopyArgs& a) override { delay(), inner_->copy(a); }
  void record(Event& event) override { inner_->record(event); }
  void wait(const Event& event, Edge edge) override {
    if (edge.name != drop_) inner_->wait(event, edge);
  }

  void launch(const EmbedArgs& a) override { late(a); }
  void launch(const RmsNormArgs& a) override { late(a); }
  void launch(const LinearArgs& a) override { late(a); }
  void launch(const ExpandArgs& a) override { late(a); }
  void launch(const HeadNormArgs& a) override { late(a); }
  void launch(const RopeArgs& a) override { late(a); }
  void launch(const SiluMulArgs& a) override { late(a); }
  void launch(const RouteArgs& a) override { late(a); }
  void launch(const ExpertLinearArgs& a) override { late(a); }
  void launch(const MixArgs& a) override { late(a); }
  void launch(const AppendArgs& a) override { late(a); }
  void launch(const AttendArgs& a) override { late(a); }
  void launch(const AppendStepArgs& a) override { late(a); }
  void launch(const AttendStepArgs& a) override { late(a); }
  void launch(const FinishArgs& a) override { late(a); }
  void launch(const SampleArgs& a) override { late(a); }
  void launch(const FitLabelsArgs& a) override { late(a); }
  void launch(const LabelRowsArgs& a) override { late(a); }
  void launch(const SelectArgs& a) override { late(a); }
  void launch(const LocateArgs& a) override { late(a); }
  void launch(const GatherArgs& a) override { late(a); }
  void launch(const ScoreListArgs& a) override { late(a); }
  void launch(const FinishListArgs& a) override { late(a); }
  void launch(const RetainArgs& a) override { late(a); }
  void launch(const FillArgs& a) override { late(a); }
  void launch(const AddListMassArgs& a) override { late(a); }
  void launch(const AddMassArgs& a) override { late(a); }
  void launch(const StoreRowsArgs& a) override { late(a); }
  void launch(const JudgeArgs& a) override { late(a); }
  void launch(const MomentsArgs& a) override { late(a); }
  void launch(const MeanValuesArgs& a) override { late(a); }
  void launch(const RandomFillArgs& a) override { late(a); }
  void launch(const ReplayArgs& a) override { late(a); }
  void launch(const ChecksumArgs& a) override { late(a); }

 private:
  /// Few launches that take long, so that what is enqueued next elsewhere comes first.
  void delay() {
    const KvTile tile{idle_, 0, 0, kIdleBytes / kRowBytes};
    auto* sum = reinterpret_cast<std::uint64_t*>(idle_ + kIdleBytes);
    for (int n = sums_(random_); n > 0; --n)
      inner_->launch(ChecksumArgs{.kv = tile, .kv_heads = 1, .row_bytes = kRowBytes, .sum = sum});
  }
  template <class Args>
  void late(const Args& a) {
    delay();
    inner_->launch(a);
  }

  std::unique_ptr<Stream> inner_;
  std::byte* idle_;
  std::uniform_int_distribution<int> sums_;
  std::mt19937_64 random_;
  std::string drop_;
};

class DelayedDevice final : public Device {
 public:
  DelayedDevice(std::unique_ptr<Device> inner, Delays delays)
      : Device(inner->budget()),
        inner_(std::move(inner)),
        delays_(std::move(delays)),
        idle_(inner_->allocate(kIdleBytes + 8, "delays")) {}

  std::string describe() const override { return inner_->describe(); }
  std::unique_ptr<Stream> make_stream(std::string_view name) override {
    const bool late = delays_.stream.empty() || delays_.stream == name;
    return std::make_unique<DelayedStream>(inner_->make_stream(name), idle_.data(), late ? delays_.most : 0,
                                           delays_.seed * 100 + ++streams_, delays_.drop);
  }
  std::unique_ptr<Event> make_event() override { return inner_->make_event(); }
  void host_wait(const Event& event, Edge edge) override { inner_->host_wait(event, edge); }
  void pin(std::byte* data, std::int64_t bytes, const PinReport& report) override { inner_->pin(data, bytes, report); }
  void unpin(std::byte* data) noexcept override { inner_->unpin(data); }
  std::unique_ptr<Recording> record(std::span<Stream* const> streams, const std::function<void()>& enqueue) override {
    std::vector<Stream*> inner;
    for (Stream* stream : streams) inner.push_back(&static_cast<DelayedStream&>(*stream).inner());
    return inner_->record(inner, enqueue);
  }
  void measure_streams(bool on) override { inner_->measure_streams(on); }
  DeviceCounters counters() const override { return inner_->counters(); }
  int host_node() const override { return inner_->host_node(); }

 protected:
  std::byte* raw_allocate(std::int64_t bytes) override {
    Buffer buffer = inner_->allocate(bytes, "test");
    std::byte* const data = buffer.data();
    poison(data, bytes / 4);
    buffers_.emplace(data, std::move(buffer));
    return data;
  }
  void raw_free(std::byte* data, std::int64_t) noexcept override { buffers_.erase(data); }

 private:
  void poison(std::byte* data, std::int64_t words) {
    const auto stream = inner_->make_stream("poison");
    const auto done = inner_->make_event();
    stream->launch(FillArgs{.out = reinterpret_cast<std::int32_t*>(data), .value = -1, .count = words});
    stream->record(*done);
    inner_->host_wait(*done, {"test"});
  }

  std::unique_ptr<Device> inner_;
  Delays delays_;
  Buffer idle_;
  std::uint64_t streams_ = 0;
  std::map<std::byte*, Buffer> buffers_;
};

}  // namespace longhaul::test
