#include "kernels/cuda/host_gather.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/base/bytes.h"
#include "kernels/base/host_memory.h"
#include "kernels/cuda/allocate.h"

namespace longhaul::cuda {
namespace {

constexpr std::int64_t kLine = 64;

void gather_job(const GatherJob& job, std::byte* out) {
  constexpr int kAhead = 8;  // rows lie anywhere: they are asked for before they are needed
  auto ask = [&](int i) {
    const std::byte* row = job.src + job.rows[i] * job.row_bytes;
    for (std::int64_t b = 0; b < job.row_bytes; b += kLine) __builtin_prefetch(row + b);
  };
  for (int i = 0; i < std::min(kAhead, job.count); ++i) ask(i);
  for (int i = 0; i < job.count; ++i) {
    if (i + kAhead < job.count) ask(i + kAhead);
    std::memcpy(out + i * job.row_bytes, job.src + job.rows[i] * job.row_bytes,
                static_cast<std::size_t>(job.row_bytes));
  }
}

}  // namespace

HostGather::HostGather(int threads, int slots, int node) : taken_(static_cast<std::size_t>(slots)) {
  const std::int64_t words = round_up(slots * 4, kLine), jobs = round_up(slots * sizeof(GatherJob), 4096);
  const std::int64_t bytes = slots * kChunkBytes + jobs + 2 * words;
  pinned_ = static_cast<std::byte*>(allocate_pinned(bytes));
  std::memset(pinned_, 0, static_cast<std::size_t>(bytes));
  ring_.slots = slots;
  ring_.data = pinned_;
  ring_.jobs = reinterpret_cast<GatherJob*>(pinned_ + slots * kChunkBytes);
  ring_.requested = reinterpret_cast<unsigned*>(pinned_ + slots * kChunkBytes + jobs);
  ring_.ready = reinterpret_cast<unsigned*>(pinned_ + slots * kChunkBytes + jobs + words);
  for (int t = 0; t < threads; ++t)
    threads_.emplace_back([this, t, threads, node] {
      run_on_node(node);
      serve(t * ring_.slots / threads);
    });
}

HostGather::~HostGather() {
  stop_ = true;
  for (std::thread& thread : threads_) thread.join();
  cudaFreeHost(pinned_);
}

void HostGather::serve(int first_slot) {
  using std::chrono::microseconds;
  constexpr int kPatience = 2000;                         // empty looks, about a millisecond; then the thread dozes,
  constexpr microseconds kLeastDoze{20}, kMostDoze{500};  // longer and longer
  microseconds doze = kLeastDoze;
  for (int empty = 0; !stop_.load(std::memory_order_relaxed);) {
    bool found = false;
    for (int i = 0; i < ring_.slots; ++i) {
      const int slot = (first_slot + i) % ring_.slots;
      auto& taken = taken_[static_cast<std::size_t>(slot)];
      unsigned latest = taken.load(std::memory_order_relaxed);
      const unsigned request = std::atomic_ref(ring_.requested[slot]).load(std::memory_order_acquire);
      // The one after the latest, or what was read of `taken` is out of date.
      if (request != latest + 1 || !taken.compare_exchange_strong(latest, request)) continue;
      gather_job(ring_.jobs[slot], ring_.data + slot * kChunkBytes);
      std::atomic_ref(ring_.ready[slot]).store(request, std::memory_order_release);
      found = true;
    }
    if (found) {
      empty = 0, doze = kLeastDoze;
    } else if (++empty < kPatience) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(doze);
      doze = std::min(2 * doze, kMostDoze);
    }
  }
}

}  // namespace longhaul::cuda
