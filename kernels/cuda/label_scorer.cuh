// One warp's and block's way through the labels: which units are theirs, the ring that brings them and keeps their
// scores, and the keys. label_softmax.cuh has the rest of it. Device code only.
#pragma once
#include <climits>

#include "kernels/cuda/label_products.cuh"
#include "kernels/cuda/overlap.cuh"

namespace longhaul::cuda::labels {

constexpr int kWarps = 16, kThreads = kWarps * 32;
constexpr int kSlots = 3;            // units in a warp's ring
constexpr int kSlotBytes = 4 << 10;  // of a unit: its codes, and its scores in their place
constexpr int kHeads = 2;            // KV heads that a block has counts of at once

/// What keys are: scores as they are, the group's softmax, or that and the softmax of each head beside it.
enum class Keys : std::uint8_t { scores, softmax, shares };

template <int Queries>
struct alignas(16) Shared {
  std::uint32_t counts[kHeads][kDigitBins];
  float log_sum[kHeads][Queries];
  FillBarrier filled[kWarps][kSlots];
  Competition places[kDecodeTokens];
  int slots[kDecodeTokens];            // of the sessions
  int first_group[kDecodeTokens + 1];  // of each place
};

struct Unit {
  int place, head, index;  // head: of the session; index: of the head's units
};

template <int K, int Quads, Keys Kind>
class Scorer {
 public:
  using S = Shape<K, Quads>;
  static constexpr bool kSoftmax = Kind != Keys::scores;
  using Space = Shared<S::kQueries>;
  static constexpr int kUnitRows = S::kUnitRows, kQueries = S::kQueries, kPerLane = S::kPerLane;
  /// Of a lane: row r of a unit is with lane r % 32.
  using Scores = float[kPerLane][kQueries];

  __device__ Scorer(const Selection& s, Space& shared, std::byte* rings)
      : s_(s),
        a_(s.a),
        shared_(shared),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32),
        kv_heads_(static_cast<int>(a_.kv_heads)),
        group_(static_cast<int>(s.group)),
        code_bytes_(static_cast<int>(a_.labels.dims) * 32),
        block_bytes_(max(code_bytes_, S::kScoreBytes)),
        ring_(rings + warp_ * kSlots * kSlotBytes) {}

  __device__ void run() {
    divide();
#pragma unroll 1
    for (bool keys : {false, true}) {
      if (!keys && !kSoftmax) continue;
      const bool again = kSoftmax && keys, one_batch = last_head_ - first_head_ < kHeads;
      start(again && one_batch ? min(units_, kSlots + 1) : 0);
#pragma unroll 1
      for (bool newest : {false, true}) {
        // All labels but those of the newest rows are older than whatever may still run.
        if (newest && !again) wait_for_previous();
        load_first(newest);
      }
      const int batch = keys ? kHeads : INT_MAX / 2;
#pragma unroll 1
      for (int first = first_head_; first <= last_head_; first += batch) {
        if (keys) begin_batch(first);
        each_unit(first + batch, [&](Scores& x) { keys ? write_keys(x, first) : sum_up(x); });
        if (keys) flush(first);
      }
      if (!keys) join_groups(), wait_for_all();
    }
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
    const int units = groups_ * S::kGroupUnits, begin = units * warp_ / kWarps;
    units_ = units * (warp_ + 1) / kWarps - begin;
    first_head_ = 0, last_head_ = -1;
    if (groups_ == 0) return;
    first_head_ = head_of(search(first_group_ * S::kGroupUnits));
    last_head_ = head_of(search((first_group_ + groups_ - 1) * S::kGroupUnits));
    begin_ = search(first_group_ * S::kGroupUnits + begin);
  }

  __device__ int groups_of_head(int place) const { return (shared_.places[place].tail + kGroupRows - 1) / kGroupRows; }
  __device__ int head_of(const Unit& u) const { return u.place * kv_heads_ + u.head; }
  /// That compete or come before those that do, of the unit on; 0 or less where a head's last group is not full.
  __device__ int rows_from(const Unit& u) const { return shared_.places[u.place].tail - u.index * kUnitRows; }

  __device__ __noinline__ Unit search(int unit) const {
    int low = 0, high = static_cast<int>(a_.batch.count) - 1;  // the last place that starts at or before it
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (shared_.first_group[middle] * S::kGroupUnits <= unit) low = middle;
      else high = middle - 1;
    }
    const int per_head = groups_of_head(low) * S::kGroupUnits, at = unit - shared_.first_group[low] * S::kGroupUnits;
    return {low, at / per_head, at % per_head};
  }
  __device__ void advance(Unit& u) const {
    if (++u.index < groups_of_head(u.place) * S::kGroupUnits) return;
    u.index = 0;
    if (++u.head < kv_heads_) return;
    u.head = 0;
    do ++u.place;
    while (u.place < static_cast<int>(a_.batch.count) && !shared_.places[u.place].open());
  }

  // A walk visits the warp's units, those that `kept_` says first: their scores are there since the walk before, of the
  // first of them in registers where the ring has no room, of the others in the ring. A visit past them takes the
  // ring's next slot, and leaves it to a later one.
  __device__ void start(int kept) {
    kept_ = kept, visit_ = 0;
    at_ = kept > 0 ? kept_unit_ : begin_;
    slot_ = kept > kSlots ? units_ % kSlots : 0;
    ahead_ = begin_;
  }
  __device__ bool held() const { return visit_ == 0 && kept_ > kSlots; }
  /// The first units of a walk that keeps nothing: those with a newest row, or the others.
  __device__ void load_first(bool newest) {
    if (kept_ > 0) return;
    reuse_filled();
    Unit u = begin_;
#pragma unroll 1
    for (int v = 0; v < kSlots && v < units_; ++v, advance(u)) {
      const bool has_newest = (u.index + 1) * kUnitRows >= shared_.places[u.place].rows;
      if (has_newest == newest) load(u, v);
      if (newest) ahead_ = u;
    }
    if (newest && units_ > 0) advance(ahead_);
  }
  __device__ void load(const Unit& u, int slot) const {
    const int blocks = min(S::kUnitBlocks, (rows_from(u) + kBlockRows - 1) / kBlockRows);
    if (blocks <= 0) return;
    const LabelTile& l = a_.labels;
    const std::byte* from = l.codes + shared_.slots[u.place] * l.session_stride + u.head * l.head_stride +
                            std::int64_t{u.index} * S::kUnitBlocks * code_bytes_;
    const bool once = !kSoftmax || kept_ > 0 || units_ <= kSlots + 1;
    fill(ring_ + slot * kSlotBytes, block_bytes_, from, code_bytes_, blocks, once, &shared_.filled[warp_][slot]);
  }

  /// body(scores) for the warp's next units as long as they are of the batch.
  template <class Body>
  __device__ void each_unit(int past_head, const Body& body) {
#pragma unroll 1
    for (; visit_ < units_; ++visit_) {
      if (head_of(at_) >= past_head) return;
      const bool fresh = visit_ >= kept_, in_ring = !held();
      if (rows_from(at_) > 0) {
        if (fresh) {
          wait_filled(&shared_.filled[warp_][slot_], parity_ >> slot_ & 1);
          parity_ ^= 1u << slot_;
          score();
        }
        Scores x;
        read(x, in_ring);
        body(x);
      }
      if (kept_ == 0 && visit_ <= max(0, units_ - kSlots - 1)) kept_unit_ = at_;
      if (visit_ + kSlots >= kept_ && visit_ + kSlots < units_) {
        reuse_filled();
        load(ahead_, slot_);
        advance(ahead_);
      }
      advance(at_);
      if (visit_ + 1 == kept_) at_ = begin_;
      if (in_ring) slot_ = slot_ + 1 == kSlots ? 0 : slot_ + 1;
    }
  }
  /// The unit's scores, in place of its codes.
  __device__ void score() {
    if (head_of(at_) != weighed_) weigh(head_of(at_));
    std::byte* block = ring_ + slot_ * kSlotBytes;
#pragma unroll 2
    for (int b = 0; b < S::kUnitBlocks; ++b, block += block_bytes_) score_block<K, Quads>(block, weights_);
    __syncwarp();
  }
  __device__ void weigh(int head) {
    const HeadWeights& from = s_.weights[head];
    weighed_ = head;
#pragma unroll
    for (int n = 0; n < Quads; ++n) {
      weights_.factor[n] = from.factor[n * 4 + lane_ % 4];
#pragma unroll
      for (int i = 0; i < S::kSteps; i += 2) {
        const uint4 x = reinterpret_cast<const uint4*>(from.b)[(lane_ * S::kWords + (n * S::kSteps + i) * 2) / 4];
        weights_.b[n][i][0] = x.x, weights_.b[n][i][1] = x.y, weights_.b[n][i + 1][0] = x.z,
        weights_.b[n][i + 1][1] = x.w;
      }
    }
  }
  __device__ void read(Scores& x, bool in_ring) const {
    const std::byte* from = ring_ + slot_ * kSlotBytes + score_place(lane_) * 16;
#pragma unroll
    for (int r = 0; r < kPerLane; ++r)
#pragma unroll
      for (int n = 0; n < Quads; ++n) {
        float4 y = {held_[r][n * 4], held_[r][n * 4 + 1], held_[r][n * 4 + 2], held_[r][n * 4 + 3]};
        if (in_ring) y = *reinterpret_cast<const float4*>(from + r / 2 * block_bytes_ + n * 1024 + r % 2 * 512);
        x[r][n * 4] = y.x, x[r][n * 4 + 1] = y.y, x[r][n * 4 + 2] = y.z, x[r][n * 4 + 3] = y.w;
      }
  }
  __device__ void hold(const Scores& x) {
#pragma unroll
    for (int r = 0; r < kPerLane; ++r)
#pragma unroll
      for (int g = 0; g < kQueries; ++g) held_[r][g] = x[r][g];
  }

  // label_softmax.cuh
  /// Of a unit and query head: the maximum of its rows' scores, and the sum of 2 to their distance from it.
  struct Sum {
    float m, l;
    __device__ void add(const Sum& y) {
      const float to = fmaxf(m, y.m);
      l = l * exp2_fast(m - to) + y.l * exp2_fast(y.m - to);
      m = to;
    }
  };
  /// A float as an integer in the order of floats, and back.
  __device__ static int turned(float x) {
    const int bits = __float_as_int(x);
    return bits ^ (bits >> 31 & INT_MAX);
  }
  __device__ static float turned(int x) { return __int_as_float(x ^ (x >> 31 & INT_MAX)); }
  __device__ float2* unit_parts(int head, int g) const {
    return reinterpret_cast<float2*>(s_.work + (static_cast<std::int64_t>(head) * group_ + g) * s_.stride);
  }
  __device__ float2* group_parts(int head, int g) const {
    return unit_parts(head, g) + (s_.stride + kUnitRows - 1) / kUnitRows;
  }
  __device__ void sum_up(const Scores& x);
  __device__ void join_groups() const;
  __device__ void wait_for_all() const;
  /// log2 of each query head's sum.
  __device__ void add_up(int first);

  __device__ void begin_batch(int first) {
    __syncthreads();
    for (int i = threadIdx.x; i < kHeads * kDigitBins / 4; i += kThreads)
      reinterpret_cast<uint4*>(shared_.counts)[i] = {0, 0, 0, 0};
    if constexpr (kSoftmax) add_up(first);
    __syncthreads();
  }
  __device__ void write_keys(Scores& x, int first) {
    const bool highest = a_.combine == Combine::max;
    const int head = head_of(at_), row = at_.index * kUnitRows + lane_;
    const Competition c = shared_.places[at_.place];
    std::uint32_t* counts = shared_.counts[head - first];
    std::uint32_t* keys = s_.keys + head * s_.stride + row;
    float log_sum[kQueries];
#pragma unroll
    for (int g = 0; g < kQueries; ++g) log_sum[g] = kSoftmax ? shared_.log_sum[head - first][g] : 0;
#pragma unroll
    for (int r = 0; r < kPerLane; ++r) {
      std::uint32_t key = 0;
      if constexpr (kSoftmax) {
#pragma unroll
        for (int g = 0; g < kQueries; ++g) x[r][g] = exp2_fast(x[r][g] - log_sum[g]);
        float some[Quads];
#pragma unroll
        for (int n = 0; n < Quads; ++n) {
          const float *y = x[r] + n * 4, sum = (y[0] + y[1]) + (y[2] + y[3]);
          some[n] = highest ? fmaxf(fmaxf(y[0], y[1]), fmaxf(y[2], y[3])) : sum;
        }
        if constexpr (Quads == 2) some[0] = highest ? fmaxf(some[0], some[1]) : some[0] + some[1];
        key = __float_as_uint(fmaxf(some[0], 0.0f)) | 0x80000000u;
      } else {
        key = ordered(x[r][0]);
      }
      if (row + r * 32 < c.tail) keys[r * 32] = key;
      if (c.competes(row + r * 32)) atomicAdd(&counts[key >> s_.digit_shift & (kDigitBins - 1)], 1u);
    }
    if constexpr (Kind == Keys::shares) write_shares(head, row, x);
  }
  /// Of the softmax, as bf16, two rows in a word.
  __device__ void write_shares(int head, int row, const Scores& x) const {
    std::uint32_t* shares = s_.shares + (head * s_.stride + row) / 2 * group_;
#pragma unroll
    for (int g = 0; g < kQueries; ++g)
#pragma unroll
      for (int r = 0; r < kPerLane; ++r) {
        const float next = __shfl_down_sync(~0u, x[r][g], 1);
        const __nv_bfloat162 pair = __floats2bfloat162_rn(x[r][g], next);
        if (g < group_ && lane_ % 2 == 0 && row + r * 32 < s_.stride)
          shares[r * 16 * group_ + g] = *reinterpret_cast<const std::uint32_t*>(&pair);
      }
  }

  __device__ void flush(int first) const {
    __syncthreads();
    const int bins = min(kHeads, last_head_ - first + 1) * kDigitBins;
#pragma unroll 1
    for (int i = threadIdx.x; i < bins; i += kThreads) {
      const std::uint32_t n = (&shared_.counts[0][0])[i];
      if (n > 0) atomicAdd(&s_.tallies[first + i / kDigitBins].counts[i % kDigitBins], n);
    }
  }

  const Selection& s_;
  const SelectArgs& a_;
  Space& shared_;
  int warp_, lane_, kv_heads_, group_, code_bytes_, block_bytes_;
  std::byte* ring_;
  int first_group_, groups_;    // of the block
  int first_head_, last_head_;  // of the block; over all places
  Unit begin_{};                // of the warp
  int units_;
  int kept_, visit_, slot_;  // of the walk
  Unit at_, ahead_;          // where it is, and what it loads next
  Unit kept_unit_{};         // the first whose scores are kept
  unsigned parity_ = 0;      // of the next fill of each slot
  int weighed_ = -1;
  Weights<K, Quads> weights_;
  Scores held_;
};

}  // namespace longhaul::cuda::labels
