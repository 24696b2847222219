// Brings tensors from their files to where they stay, in bf16 or packed, in pieces of rows: threads read some pieces
// while the pieces before are converted (on all cores) and the ones before those go to the device.
#pragma once
#include <array>
#include <functional>
#include <future>
#include <memory>

#include "kernels/device.h"
#include "runtime/checkpoint/tensor_reader.h"

namespace longhaul {

/// Bytes of the files that are in place, and of all.
using LoadReport = std::function<void(std::int64_t done, std::int64_t total)>;

/// Where a tensor stays, and as what.
struct WeightTarget {
  std::byte* at;
  bool on_host;  // else on the device
  bool packed;   // as its reader can; else in bf16
};

class WeightLoader {
 public:
  static constexpr std::int64_t kSlots = 4;
  static constexpr std::int64_t kSlotBytes = std::int64_t{4} << 20;
  static constexpr std::int64_t kStagingBytes = kSlots * kSlotBytes;

  /// `staging`, kStagingBytes of pinned host memory, is in use until finish() or the loader's end. `total`: stored
  /// bytes of all that will be added.
  WeightLoader(Device& device, Stream& stream, std::byte* staging, std::int64_t total, const LoadReport& report);

  /// The whole tensor. The reader must outlive the loader.
  void add(const TensorReader& reader, const WeightTarget& target);
  /// Returns when all is in place.
  void finish();

 private:
  /// What is read stands at the front of a slot, what becomes of it behind; what needs no converting, or no copy to the
  /// device, stands where it goes next at once.
  struct Piece {
    const TensorReader* reader;
    RowSpan rows;
    WeightTarget target;                 // of its first row
    std::int64_t row_bytes, out_offset;  // of what becomes of it; in the slot
  };
  struct Slot {
    std::byte* bytes;
    std::unique_ptr<Event> left;  // its copy to the device has been done
    Piece piece;
    std::future<void> fetched;
  };
  Slot& slot(std::int64_t n) { return slots_[static_cast<std::size_t>(n % kSlots)]; }
  void begin(const Piece& piece);
  void complete();

  Device& device_;
  Stream& stream_;
  std::array<Slot, kSlots> slots_;
  std::int64_t begun_ = 0, completed_ = 0;  // pieces
  std::int64_t done_ = 0, total_;           // stored bytes
  const LoadReport& report_;
};

}  // namespace longhaul
