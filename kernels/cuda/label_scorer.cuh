// One warp's and block's way through the labels: which units are theirs, the ring that brings them, and the keys.
// label_weights.cuh and label_softmax.cuh have the rest of it. Device code only.
#pragma once
#include <cooperative_groups.h>

#include "kernels/cuda/fill.cuh"
#include "kernels/cuda/label_products.cuh"

namespace longhaul::cuda::labels {

namespace cg = cooperative_groups;

template <int K, int Quads>
class Scorer {
 public:
  using Space = Shared<K, Quads>;
  static constexpr int kWarps = Space::kWarps, kThreads = kWarps * 32, kQueries = Space::kQueries;

  __device__ Scorer(const Selection& s, Space& shared, std::byte* rings)
      : s_(s),
        a_(s.a),
        shared_(shared),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32),
        kv_heads_(static_cast<int>(a_.kv_heads)),
        group_(static_cast<int>(s.group)),
        block_bytes_(static_cast<int>(a_.labels.dims) * 32),
        ring_(rings + warp_ * kSlots * kUnitBlocks * block_bytes_) {}

  __device__ void run() {
    divide();
    start(0, false);
    clear_tallies();
    if (s_.softmax) {
      each_batch([&](int first) {
        weigh(first);
        sum_up(first);
      });
      join_groups();
    }
    const bool one_batch = last_head_ - first_head_ < kHeads;
    if (s_.softmax && one_batch) clear_counts();
    cg::this_grid().sync();
    if (s_.softmax) start(one_batch ? min(units_, kSlots) : 0, true);
    each_batch([&](int first) {
      if (!s_.softmax || !one_batch) {
        weigh(first);
        clear_counts();
      }
      if (s_.softmax) add_up(first);
      write_keys(first);
      flush(first);
    });
  }

 private:
  /// Which units are the warp's: a run of those of all sessions and heads, as if each head had whole groups.
  __device__ void divide() {
    const int t = static_cast<int>(threadIdx.x), count = static_cast<int>(a_.batch.count);
    if (t < kWarps * kSlots) init_fill(&shared_.filled[0][0] + t);
    if (t < count) shared_.places[t] = competition(a_, t), shared_.slots[t] = a_.batch.spans[t].slot;
    __syncthreads();
    if (t == 0) {
      int next = 0;
      for (int p = 0; p < count; ++p) {
        shared_.first_group[p] = next;
        if (shared_.places[p].open()) next += kv_heads_ * groups_of_head(p);
      }
      shared_.first_group[count] = next;
    }
    __syncthreads();
    const std::int64_t all = shared_.first_group[count];
    first_group_ = static_cast<int>(all * blockIdx.x / gridDim.x);
    groups_ = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x) - first_group_;
    const int units = groups_ * kGroupUnits;
    begin_ = units * warp_ / kWarps;
    units_ = units * (warp_ + 1) / kWarps - begin_;
    begin_ += first_group_ * kGroupUnits;
    first_head_ = 0, last_head_ = -1;
    if (groups_ == 0) return;
    const Unit from = search(first_group_ * kGroupUnits);
    first_head_ = head_of(from);
    last_head_ = head_of(search((first_group_ + groups_ - 1) * kGroupUnits));
    only_ = {from.place, from.head, first_group_ * kGroupUnits - from.index};
  }

  __device__ int units_of_head(int place) const { return (shared_.places[place].tail + kUnitRows - 1) / kUnitRows; }
  __device__ int groups_of_head(int place) const { return (units_of_head(place) + kGroupUnits - 1) / kGroupUnits; }
  __device__ int head_of(const Unit& u) const { return u.place * kv_heads_ + u.head; }

  __device__ Unit locate(int unit) const {
    if (first_head_ == last_head_) return {only_.place, only_.head, unit - only_.index};
    return search(unit);
  }
  __device__ Unit search(int unit) const {
    int low = 0, high = static_cast<int>(a_.batch.count) - 1;  // the last place that starts at or before it
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (shared_.first_group[middle] * kGroupUnits <= unit) low = middle;
      else high = middle - 1;
    }
    const int per_head = groups_of_head(low) * kGroupUnits, at = unit - shared_.first_group[low] * kGroupUnits;
    return {low, at / per_head, at % per_head};
  }

  // A walk visits the warp's units in a ring. The second begins with those that the first has left there.
  __device__ void start(int kept, bool again) {
    kept_ = kept;
    base_ = again && kept > 0 && units_ > kSlots ? units_ : 0;
    visit_ = 0;
#pragma unroll 1
    for (int v = 0; v < kSlots; ++v) load(v);
  }
  __device__ int unit_of(int visit) const { return begin_ + (visit < kept_ ? units_ - kept_ + visit : visit - kept_); }
  __device__ int slot_of(int visit) const { return (base_ + visit) % kSlots; }
  __device__ std::byte* codes_in(int slot) const { return ring_ + slot * kUnitBlocks * block_bytes_; }
  __device__ int bytes_of(const Unit& u) const {
    const int blocks = (shared_.places[u.place].tail + kBlockRows - 1) / kBlockRows;
    return min(kUnitBlocks, blocks - u.index * kUnitBlocks) * block_bytes_;
  }
  __device__ void load(int visit) const {
    if (visit < kept_ || visit >= units_) return;
    const Unit u = locate(unit_of(visit));
    const int bytes = bytes_of(u), slot = slot_of(visit);
    if (bytes <= 0) return;
    const LabelTile& l = a_.labels;
    fill(codes_in(slot),
         l.codes + shared_.slots[u.place] * l.session_stride + u.head * l.head_stride +
             std::int64_t{u.index} * kUnitBlocks * block_bytes_,
         bytes, kept_ > 0 || !s_.softmax || visit >= units_ - kSlots, &shared_.filled[warp_][slot]);
  }

  __device__ void clear_tallies() const {
    const int words = static_cast<int>(s_.heads()) * kDigitBins;
    for (int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x); i < words;
         i += static_cast<int>(gridDim.x) * kThreads)
      s_.tallies[i / kDigitBins].counts[i % kDigitBins] = 0;
  }

  template <class Body>
  __device__ void each_batch(const Body& body) {
    for (int first = first_head_; first <= last_head_; first += kHeads) body(first);
  }

  /// body(unit, codes) for the warp's next units as long as they are of the batch.
  template <class Body>
  __device__ void each_unit(int first, const Body& body) {
    for (; visit_ < units_; ++visit_) {
      const Unit u = locate(unit_of(visit_));
      if (head_of(u) >= first + kHeads) return;
      const int slot = slot_of(visit_);
      if (bytes_of(u) > 0) {
        if (visit_ >= kept_) {
          wait_filled(&shared_.filled[warp_][slot], parity_ >> slot & 1);
          parity_ ^= 1u << slot;
        }
        body(u, codes_in(slot));
        __syncwarp();
      }
      load(visit_ + kSlots);
    }
  }

  // label_weights.cuh
  /// The queries of the batch's heads in the basis, times the steps, as integers. A query that is not finite has no
  /// scores.
  __device__ void weigh(int first);
  __device__ const float* basis_of(int head) const;
  /// Weights to integers: the largest gets all the bits that signed bytes have but one, in units of a power of two.
  __device__ void slice(int h, int g);
  __device__ Weights<K, Quads> weights_of(int h) const;

  // label_softmax.cuh
  /// The softmax's maximum, or a number that is about it, and its sum, by query head of the lane.
  struct Sums {
    float m[Quads], l[Quads];
  };

  __device__ float2* unit_parts(int head, int g) const {
    return reinterpret_cast<float2*>(s_.work + (static_cast<std::int64_t>(head) * group_ + g) * s_.stride);
  }
  __device__ float2* group_parts(int head, int g) const {
    return unit_parts(head, g) + (s_.stride + kUnitRows - 1) / kUnitRows;
  }
  __device__ void sum_up(int first);
  /// Against the maximum of the first block: there is room for others that are far above it.
  __device__ Sums sum_unit(const std::byte* codes, const Weights<K, Quads>& w) const;
  /// Of the unit's first `rows` rows.
  __device__ Sums sum_unit_carefully(const std::byte* codes, const Weights<K, Quads>& w, int rows) const;
  __device__ static void add(float& m, float& l, float their_m, float their_l);
  __device__ void join_groups() const;
  /// log2 of each query head's sum.
  __device__ void add_up(int first);

  __device__ void clear_counts() {
    for (int i = threadIdx.x; i < kHeads * kDigitBins; i += kThreads) (&shared_.counts[0][0])[i] = 0;
  }

  __device__ int row_in_block(int v) const { return 2 * (lane_ / 4) + v % 2 + 16 * (v / 4) + 32 * (v / 2 % 2); }

  __device__ void write_keys(int first) {
    __syncthreads();
    if (s_.softmax) a_.combine == Combine::max ? write_keys<true, true>(first) : write_keys<true, false>(first);
    else write_keys<false, false>(first);
  }

  template <bool Softmax, bool Highest>
  __device__ void write_keys(int first) {
    Weights<K, Quads> w{};
    int current = -1;
    each_unit(first, [&](const Unit& u, const std::byte* codes) {
      const int head = head_of(u), row = u.index * kUnitRows;
      if (head != current) w = weights_of(head - first), current = head;
      const Competition c = shared_.places[u.place];
      std::uint32_t* counts = shared_.counts[head - first];
      std::uint32_t* keys = s_.keys + head * s_.stride + row + row_in_block(2 * (lane_ % 4));
      std::uint32_t* shares = a_.out.tail == nullptr ? nullptr : s_.shares + (head * s_.stride + row) / 2 * s_.group;
      if (row >= c.head && row + kUnitRows <= c.tail) {
#pragma unroll 1
        for (int b = 0; b < kUnitBlocks; ++b) {
          const uint2 key = keys_of<Softmax, Highest>(codes + b * block_bytes_, w, shares, b);
          *reinterpret_cast<uint2*>(keys + b * kBlockRows) = key;
          atomicAdd(&counts[digit_of(key.x)], 1u);
          atomicAdd(&counts[digit_of(key.y)], 1u);
        }
      } else {
#pragma unroll 1
        for (int b = 0; b < kUnitBlocks && row + b * kBlockRows < c.tail; ++b) {
          const uint2 key = keys_of<Softmax, Highest>(codes + b * block_bytes_, w, shares, b);
          *reinterpret_cast<uint2*>(keys + b * kBlockRows) = key;
          const int at = row + b * kBlockRows + row_in_block(2 * (lane_ % 4));
          if (c.competes(at)) atomicAdd(&counts[digit_of(key.x)], 1u);
          if (c.competes(at + 1)) atomicAdd(&counts[digit_of(key.y)], 1u);
        }
      }
    });
  }

  __device__ std::uint32_t digit_of(std::uint32_t key) const { return key >> s_.digit_shift & (kDigitBins - 1); }

  /// The keys of the lane's two neighbouring rows of a block, the unit's b-th; shares of the softmax from the unit's
  /// first row on, where they are wanted.
  template <bool Softmax, bool Highest>
  __device__ uint2 keys_of(const std::byte* codes, const Weights<K, Quads>& w, std::uint32_t* shares, int b) const {
    const int j = lane_ % 4;
    float sum[Quads][8], value[8];
    sum_block<K, Quads>(codes, w, sum);
#pragma unroll
    for (int v = 0; v < 8; ++v)
#pragma unroll
      for (int n = 0; n < Quads; ++n) {
        const float factor = w.factor[n][v / 2 % 2];
        const float x = Softmax ? exp2_fast(fmaf(sum[n][v], factor, -w.log_sum[n])) : sum[n][v] * factor;
        sum[n][v] = x;
        value[v] = n == 0 ? x : join<Highest>(value[v], x);
      }
    if (Softmax && shares != nullptr) {
#pragma unroll
      for (int n = 0; n < Quads; ++n)
        if (n * 4 + j < group_)
#pragma unroll
          for (int v = 0; v < 8; v += 2)
            shares[(b * kBlockRows + row_in_block(v)) / 2 * group_ + n * 4 + j] = pair_of(sum[n][v], sum[n][v + 1]);
    }
    // Over the heads of four lanes; each lane is left with two rows of the eight.
    float some[4], mine[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float give = j & 2 ? value[i] : value[4 + i], keep = j & 2 ? value[4 + i] : value[i];
      some[i] = join<Highest>(keep, __shfl_xor_sync(~0u, give, 2));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float give = j & 1 ? some[i] : some[2 + i], keep = j & 1 ? some[2 + i] : some[i];
      mine[i] = join<Highest>(keep, __shfl_xor_sync(~0u, give, 1));
    }
    auto key = [](float x) { return Softmax ? __float_as_uint(fmaxf(x, 0.0f)) | 0x80000000u : ordered(x); };
    return make_uint2(key(mine[0]), key(mine[1]));
  }
  /// Two numbers as bf16, the first in the low half.
  __device__ static std::uint32_t pair_of(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const std::uint32_t*>(&pair);
  }
  template <bool Highest>
  __device__ static float join(float x, float y) {
    return Highest ? fmaxf(x, y) : x + y;
  }

  __device__ void flush(int first) const {
    __syncthreads();
    const int bins = min(kHeads, last_head_ - first + 1) * kDigitBins;
    for (int i = threadIdx.x; i < bins; i += kThreads) {
      const std::uint32_t n = (&shared_.counts[0][0])[i];
      if (n > 0) atomicAdd(&s_.tallies[first + i / kDigitBins].counts[i % kDigitBins], n);
    }
  }

  const Selection& s_;
  const SelectArgs& a_;
  Space& shared_;
  int warp_, lane_, kv_heads_, group_, block_bytes_;
  std::byte* ring_;
  int first_group_, groups_;    // of the block
  Unit only_;                   // where there is one head: it, and where its first unit would be
  int first_head_, last_head_;  // of the block; over all places
  int begin_, units_;           // of the warp
  int kept_, base_, visit_;     // of the walk
  unsigned parity_ = 0;         // of the next fill of each slot
};

}  // namespace longhaul::cuda::labels
