#include "kernels/pinned_chunks.h"

#include <exception>
#include <iterator>
#include <limits>
#include <mutex>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/parallel.h"

namespace longhaul {
namespace {

struct Piece {
  std::byte* data;
  std::int64_t bytes;
};

std::vector<Piece> pieces_of(const Piece& whole, std::int64_t size) {
  std::vector<Piece> pieces;
  for (std::int64_t at = 0; at < whole.bytes; at += size)
    pieces.push_back({whole.data + at, std::min(size, whole.bytes - at)});
  return pieces;
}

}  // namespace

void PinnedChunks::pin(std::byte* data, std::int64_t bytes, const PinReport& report) {
  check(bytes >= 0 && !pins_.contains(data), "memory is pinned once");
  if (bytes == 0) return;
  std::mutex mutex;  // of all that follows
  std::vector<Piece> done, refused, open = pieces_of({data, bytes}, chunk_);
  std::int64_t registered = 0;
  std::exception_ptr failure;
  for (std::int64_t chunk = chunk_; !open.empty(); open = std::move(refused), refused.clear()) {
    parallel_for(std::ssize(open), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Piece& piece = open[static_cast<std::size_t>(i)];
        bool taken = false;
        std::exception_ptr thrown;
        try {
          taken = driver_.add(piece.data, piece.bytes);
        } catch (...) {
          thrown = std::current_exception();
        }
        const std::lock_guard lock(mutex);
        if (thrown) failure = thrown;
        if (!taken) {
          refused.push_back(piece);
          continue;
        }
        done.push_back(piece);
        registered += piece.bytes;
        if (report && !failure) report(registered, bytes);
      }
    });
    if (refused.empty()) continue;
    if (failure || chunk <= kLeastChunk) {
      for (const Piece& piece : done) driver_.remove(piece.data);
      if (failure) std::rethrow_exception(failure);
      throw OutOfMemory("pinned host memory (the driver refuses more; a smaller --host-memory may do)", bytes,
                        registered);
    }
    chunk = std::max(kLeastChunk, round_up(chunk / 2, kLeastChunk));
    std::vector<Piece> halves;
    for (const Piece& piece : refused) std::ranges::copy(pieces_of(piece, chunk), std::back_inserter(halves));
    refused = std::move(halves);
  }
  for (const Piece& piece : done) {
    chunks_.emplace(piece.data, piece.bytes);
    pins_[data].push_back(piece.data);
  }
}

void PinnedChunks::unpin(std::byte* data) noexcept {
  const auto pin = pins_.find(data);
  if (pin == pins_.end()) return;
  for (std::byte* chunk : pin->second) {
    driver_.remove(chunk);
    chunks_.erase(chunk);
  }
  pins_.erase(pin);
}

std::int64_t PinnedChunks::run_of(const void* at) const {
  auto* here = static_cast<std::byte*>(const_cast<void*>(at));
  const auto next = chunks_.upper_bound(here);
  const std::int64_t to_next = next == chunks_.end() ? std::numeric_limits<std::int64_t>::max() : next->first - here;
  if (next == chunks_.begin()) return to_next;
  const auto [start, bytes] = *std::prev(next);
  return here < start + bytes ? start + bytes - here : to_next;
}

}  // namespace longhaul
