// The machine as the layers above see it: Device, Stream, Event, Buffer. kernels/cpu and kernels/cuda implement it.
// All work is asynchronous; order comes from streams and events alone.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "kernels/ops.h"
#include "kernels/sparse_ops.h"
#include "kernels/synthetic_ops.h"

namespace longhaul {

/// The name of an ordering edge between streams; offload/edges.h lists them all. Tests drop edges by name.
struct Edge {
  std::string_view name;
};

/// A point in a stream's work. Waiting refers to the latest record() made before the wait; an event never recorded is
/// already passed.
class Event {
 public:
  virtual ~Event() = default;
};

enum class CopyKind { host_to_device, device_to_host, device_to_device };

/// A strided copy: `height` pieces of `width` bytes. With height 1 the pitches do not matter.
struct CopyArgs {
  void* dst;
  const void* src;
  std::int64_t width;
  std::int64_t height = 1;
  std::int64_t dst_pitch = 0;  // bytes between pieces
  std::int64_t src_pitch = 0;
  CopyKind kind = CopyKind::device_to_device;
};

/// Work in order. Every call enqueues and returns; arguments are copied, what they point to must stay until it has run.
/// An operator's failure surfaces as an exception at the next host_wait of the device.
class Stream {
 public:
  virtual ~Stream() = default;

  virtual void copy(const CopyArgs&) = 0;
  virtual void record(Event&) = 0;
  virtual void wait(const Event&, Edge) = 0;

  virtual void launch(const EmbedArgs&) = 0;
  virtual void launch(const RmsNormArgs&) = 0;
  virtual void launch(const LinearArgs&) = 0;
  virtual void launch(const ExpandArgs&) = 0;
  virtual void launch(const HeadNormArgs&) = 0;
  virtual void launch(const RopeArgs&) = 0;
  virtual void launch(const SiluMulArgs&) = 0;
  virtual void launch(const RouteArgs&) = 0;
  virtual void launch(const ExpertLinearArgs&) = 0;
  virtual void launch(const MixArgs&) = 0;
  virtual void launch(const AppendArgs&) = 0;
  virtual void launch(const AttendArgs&) = 0;
  virtual void launch(const AppendStepArgs&) = 0;
  virtual void launch(const AttendStepArgs&) = 0;
  virtual void launch(const FinishArgs&) = 0;
  virtual void launch(const SampleArgs&) = 0;

  // Label selection (sparse_ops.h).
  virtual void launch(const FitLabelsArgs&) = 0;
  virtual void launch(const LabelRowsArgs&) = 0;
  virtual void launch(const SelectArgs&) = 0;
  virtual void launch(const LocateArgs&) = 0;
  virtual void launch(const GatherArgs&) = 0;
  virtual void launch(const ScoreListArgs&) = 0;
  virtual void launch(const FinishListArgs&) = 0;
  virtual void launch(const RetainArgs&) = 0;
  virtual void launch(const FillArgs&) = 0;
  virtual void launch(const AddListMassArgs&) = 0;
  virtual void launch(const AddMassArgs&) = 0;
  virtual void launch(const StoreRowsArgs&) = 0;
  virtual void launch(const JudgeArgs&) = 0;
  virtual void launch(const MomentsArgs&) = 0;
  virtual void launch(const MeanValuesArgs&) = 0;

  // Synthetic runs (synthetic_ops.h).
  virtual void launch(const RandomFillArgs&) = 0;
  virtual void launch(const ReplayArgs&) = 0;
  virtual void launch(const ChecksumArgs&) = 0;
};

/// What a device has done since it was made.
struct DeviceCounters {
  std::int64_t h2d_bytes = 0, d2h_bytes = 0;
  std::int64_t launches = 0, copies = 0;
  std::int64_t host_waits = 0;                  // times the host blocked on the device
  std::map<std::string, double> busy_seconds;   // by stream name: running copies and operators, where measured
  std::map<std::string, double> stall_seconds;  // by edge name: the host, or a measured stream, standing at that wait
};

/// Bytes pinned so far and in all; from any thread, never two at a time.
using PinReport = std::function<void(std::int64_t done, std::int64_t total)>;

/// Work on several streams that was enqueued once and can be enqueued again by one call. Memory that it reads may
/// change in between; addresses and shapes may not.
class Recording {
 public:
  virtual ~Recording() = default;
  /// After all that is enqueued on the recording's streams; what is enqueued on them later comes after it.
  virtual void replay() = 0;
};

class Device;

/// Device memory, given back in the destructor. Moves; never copies; has no default state.
class Buffer {
 public:
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer();
  std::byte* data() const { return data_; }
  std::int64_t size() const { return size_; }

 private:
  friend class Device;
  Buffer(Device& device, std::byte* data, std::int64_t size) : device_(&device), data_(data), size_(size) {}
  Device* device_;
  std::byte* data_;
  std::int64_t size_;
};

class Device {
 public:
  explicit Device(std::int64_t budget) : budget_(budget) {}
  Device(const Device&) = delete;
  virtual ~Device() = default;

  virtual std::string describe() const = 0;
  virtual std::unique_ptr<Stream> make_stream(std::string_view name) = 0;
  virtual std::unique_ptr<Event> make_event() = 0;

  /// Blocks the calling thread until `event` has passed; rethrows what failed on any stream before it.
  virtual void host_wait(const Event& event, Edge edge) = 0;
  /// Makes [data, data + bytes) reachable by DMA; nothing stays pinned when it throws.
  virtual void pin(std::byte* data, std::int64_t bytes, const PinReport& report = {}) = 0;
  virtual void unpin(std::byte* data) noexcept = 0;
  /// Keeps what `enqueue` enqueues on these streams, without running it. Waits for events that were recorded before are
  /// left out: a replay comes after all that. Null, and nothing is enqueued: this device cannot.
  virtual std::unique_ptr<Recording> record(std::span<Stream* const> streams, const std::function<void()>& enqueue);
  /// Whether streams measure what their copies take and how long they stand at waits. That slows them a little, and
  /// what is recorded is not measured. The CPU device measures always, and operators too.
  virtual void measure_streams(bool /*on*/) {}
  virtual DeviceCounters counters() const = 0;
  /// NUMA node of the host's memory next to it, where host memory is best; -1: one node, or not told.
  virtual int host_node() const { return -1; }

  /// Debits the budget. Throws OutOfMemory{what, bytes, left}.
  Buffer allocate(std::int64_t bytes, std::string_view what);
  std::int64_t budget() const { return budget_; }
  std::int64_t used_bytes() const { return used_; }
  std::int64_t peak_bytes() const { return peak_; }

 protected:
  virtual std::byte* raw_allocate(std::int64_t bytes) = 0;           // null when the machine refuses
  virtual std::int64_t raw_left() const { return budget_ - used_; }  // what the machine has left
  virtual void raw_free(std::byte* data, std::int64_t bytes) noexcept = 0;

 private:
  friend class Buffer;
  std::int64_t budget_, used_ = 0, peak_ = 0;
};

}  // namespace longhaul
