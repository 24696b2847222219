// Host memory that a driver has registered for DMA, chunk by chunk: one call for all gives no progress, and a driver
// may refuse a large piece where it takes small ones. A copy must not cross from one registration to the next (the
// CUDA driver refuses it), so copies are cut here. Owned by a device; one host thread.
#pragma once
#include <algorithm>
#include <functional>
#include <map>
#include <vector>

#include "kernels/device.h"

namespace longhaul {

class PinnedChunks {
 public:
  struct Driver {
    /// False when the driver refuses the chunk. Called from several threads at once.
    std::function<bool(std::byte* data, std::int64_t bytes)> add;
    std::function<void(std::byte* data)> remove;  // does not throw
  };
  static constexpr std::int64_t kLeastChunk = std::int64_t{64} << 20;  // a smaller one is not tried

  PinnedChunks(Driver driver, std::int64_t chunk) : driver_(std::move(driver)), chunk_(chunk) {}

  /// Registers [data, data + bytes) in chunks of `chunk`, several at a time; those that are refused are tried again in
  /// halves. When one of kLeastChunk is refused, or `add` throws, nothing stays registered: throws
  /// OutOfMemory{bytes, what could be registered}.
  void pin(std::byte* data, std::int64_t bytes, const PinReport& report);
  /// What pin() was given; anything else is let be.
  void unpin(std::byte* data) noexcept;

  /// Calls emit(CopyArgs) with copies that together are `copy`, each within one registration or outside of all.
  template <class Emit>
  void cut(const CopyArgs& copy, const Emit& emit) const;

 private:
  /// Bytes from `at` on that lie in the same chunk, or where it lies in none, before the next.
  std::int64_t run_of(const void* at) const;

  Driver driver_;
  std::int64_t chunk_;
  std::map<std::byte*, std::vector<std::byte*>> pins_;  // chunks by the start of what was pinned
  std::map<std::byte*, std::int64_t> chunks_;           // bytes by start
};

template <class Emit>
void PinnedChunks::cut(const CopyArgs& copy, const Emit& emit) const {
  if (copy.kind == CopyKind::device_to_device) return emit(copy);
  const bool down = copy.kind == CopyKind::device_to_host;
  const std::int64_t pitch = down ? copy.dst_pitch : copy.src_pitch;  // of the host's side
  auto part = [&](std::int64_t row, std::int64_t rows, std::int64_t from, std::int64_t width) {
    CopyArgs p = copy;
    p.dst = static_cast<std::byte*>(copy.dst) + row * copy.dst_pitch + from;
    p.src = static_cast<const std::byte*>(copy.src) + row * copy.src_pitch + from;
    p.height = rows, p.width = width;
    return p;
  };
  auto run = [&](std::int64_t row, std::int64_t from) {
    const CopyArgs p = part(row, 1, from, 0);
    return run_of(down ? p.dst : p.src);
  };
  for (std::int64_t row = 0; row < copy.height;) {
    const std::int64_t here = run(row, 0), left = copy.height - row;
    if (here >= copy.width) {  // as many pieces as end in this chunk
      const std::int64_t fit = left == 1 || pitch <= 0 ? left : std::min(left, (here - copy.width) / pitch + 1);
      emit(part(row, fit, 0, copy.width));
      row += fit;
      continue;
    }
    for (std::int64_t from = 0, width; from < copy.width; from += width) {
      width = std::min(copy.width - from, run(row, from));
      emit(part(row, 1, from, width));
    }
    ++row;
  }
}

}  // namespace longhaul
