// Scores by labels of 4 bits, on the tensor cores and in integers: codes times weights that are cut into signed bytes.
// A sum of integers is the same in any order, so rows with the same codes have the same score wherever they are.
//
// One persistent launch. A unit is 256 rows of one head; a warp has a run of units and a ring of them in shared memory.
// The softmax of a group needs its sum over all rows before the first key: the labels are walked twice, with a wait of
// the whole grid between, and what the ring still holds is not loaded again. Sums are kept by unit and added up in one
// order, so a key depends on nothing but its session.
#include <algorithm>

#include "kernels/cuda/fill.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kBlockRows = kAttendBlock, kUnitBlocks = 4, kUnitRows = kUnitBlocks * kBlockRows;
constexpr int kGroupUnits = 4;  // units whose sums are joined before others see them; a block has whole groups
constexpr int kSlots = 3;       // units in a warp's ring
constexpr int kHeads = 2;       // KV heads that a block has weights and counts of at once
constexpr int kSlices = 4;      // bytes of a weight
constexpr int kTiles = kSlices / 2;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding a small integer to its bits adds it
constexpr float kEmpty = -1e30f;       // the maximum of no scores

template <int K, int Quads>
struct alignas(16) Shared {
  static constexpr int kWarps = 16 / K, kDims = 32 * K, kQueries = 4 * Quads;
  union {
    std::uint32_t counts[kHeads][kDigitBins];
    float q[kHeads][kQueries][256];
  };
  float weights[kHeads][kQueries][kDims];
  std::uint32_t slices[kHeads][kQueries][kDims];  // a byte each, the highest in the highest
  float factor[kHeads][kQueries];                 // from a sum to a score; in base 2 where there is a softmax
  float log_sum[kHeads][kQueries];
  FillBarrier filled[kWarps][kSlots];
  Competition places[kDecodeTokens];
  int slots[kDecodeTokens];            // of the sessions
  int first_group[kDecodeTokens + 1];  // of each place
};

struct Unit {
  int place, head, index;  // index: of the head's units
};

/// One KV head's weights as a warp's operand B, and what its lane's query heads need.
template <int K, int Quads>
struct Weights {
  std::uint32_t b[Quads][kTiles][K][2];
  float factor[Quads][2];  // of rows in the low halves of bytes, and in the high
  float log_sum[Quads];
};

/// d = c + a * b of whole numbers.
__device__ inline void multiply(int (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                                const int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}

/// Four 8 x 8 tiles of 16-bit elements, transposed: lane 4 i + j gets of tile t the elements (2 j, i) and (2 j + 1, i).
__device__ inline void load_tiles(std::uint32_t (&r)[4], const void* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at))
               : "memory");
}

/// The sums of a block's rows for the lane's query head of each quad. Lane 4 i + j has head j and the rows
/// 2 i + (v & 1) + 16 (v >> 2) + 32 (v >> 1 & 1) for v = 0 .. 7; those with v & 2 are 16 times what they stand for.
template <int K, int Quads>
__device__ inline void sum_block(const std::byte* codes, const Weights<K, Quads>& w, float (&sum)[Quads][8]) {
  const int lane = threadIdx.x % 32, magic = __float_as_int(kMagic);
#pragma unroll
  for (int half = 0; half < 2; ++half) {                 // bytes 16 half .. 16 half + 15 of a dimension
    int low[Quads][kTiles][4], whole[Quads][kTiles][4];  // of the low halves of bytes, and of bytes
#pragma unroll
    for (int n = 0; n < Quads; ++n)
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) low[n][t][i] = whole[n][t][i] = magic;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      std::uint32_t r[4];
      load_tiles(r, codes + (k * 32 + lane) * 32 + half * 16);
      // Bytes of four dimensions of one row together; even bytes, then odd ones.
      const std::uint32_t both[4] = {__byte_perm(r[0], r[1], 0x6420), __byte_perm(r[0], r[1], 0x7531),
                                     __byte_perm(r[2], r[3], 0x6420), __byte_perm(r[2], r[3], 0x7531)};
      const std::uint32_t some[4] = {both[0] & 0x0f0f0f0fu, both[1] & 0x0f0f0f0fu, both[2] & 0x0f0f0f0fu,
                                     both[3] & 0x0f0f0f0fu};
#pragma unroll
      for (int n = 0; n < Quads; ++n)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          multiply(low[n][t], some, w.b[n][t][k], low[n][t]);
          multiply(whole[n][t], both, w.b[n][t][k], whole[n][t]);
        }
    }
#pragma unroll
    for (int n = 0; n < Quads; ++n)
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        float& of_low = sum[n][half * 4 + odd];
        float& of_high = sum[n][half * 4 + 2 + odd];
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          const float x = __int_as_float(low[n][t][2 * odd]), y = __int_as_float(low[n][t][2 * odd + 1]);
          const float l = fmaf(x - kMagic, 256.0f, y - kMagic);
          const float h =
              fmaf(__int_as_float(whole[n][t][2 * odd]) - x, 256.0f, __int_as_float(whole[n][t][2 * odd + 1]) - y);
          of_low = t == 0 ? l : fmaf(of_low, 65536.0f, l);
          of_high = t == 0 ? h : fmaf(of_high, 65536.0f, h);
        }
      }
  }
}

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

  /// The queries of the batch's heads in the basis, times the steps, as integers. A query that is not finite has no
  /// scores.
  __device__ void weigh(int first) {
    const int d = static_cast<int>(a_.head_dim), dims = static_cast<int>(a_.labels.dims);
    const int heads = min(kHeads, last_head_ - first + 1), rows = heads * dims;
    __syncthreads();
#pragma unroll 2
    for (int i = threadIdx.x; i < heads * kQueries * d; i += kThreads) {
      const int h = i / (kQueries * d), g = i / d % kQueries, c = i % d, head = first + h;
      const std::int64_t at = head / kv_heads_ * a_.q_stride + (head % kv_heads_ * group_ + g) * d + c;
      float x = 0;
      if (g < group_)
        x = a_.act == DType::bf16 ? widen(static_cast<const bf16*>(a_.q)[at]) : static_cast<const float*>(a_.q)[at];
      shared_.q[h][g][c] = x * a_.scale;
    }
    __syncthreads();
    constexpr int kLanes = 8, kAtOnce = 32 / kLanes;  // of a map's row; rows of a warp
#pragma unroll 1
    for (int from = warp_ * kAtOnce; from < rows; from += kWarps * kAtOnce) {
      const int row = min(from + lane_ / kLanes, rows - 1), h = row / dims, j = row % dims;
      const float* basis = basis_of(first + h);
      const float* map = basis + (dims + j) * d;
      const float step = basis[2 * dims * d + dims + j];
      float sum[kQueries] = {};
#pragma unroll 4
      for (int c = lane_ % kLanes * 2; c < d; c += kLanes * 2) {
        const float2 m = *reinterpret_cast<const float2*>(map + c);
#pragma unroll
        for (int g = 0; g < kQueries; ++g) {
          const float2 q = *reinterpret_cast<const float2*>(&shared_.q[h][g][c]);
          sum[g] += m.x * q.x + m.y * q.y;
        }
      }
#pragma unroll
      for (int g = 0; g < kQueries; ++g) {
#pragma unroll
        for (int o = kLanes / 2; o > 0; o /= 2) sum[g] += __shfl_xor_sync(~0u, sum[g], o);
        if (lane_ % kLanes == 0) shared_.weights[h][g][j] = sum[g] * step;
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = warp_; i < heads * kQueries; i += kWarps) slice(i / kQueries, i % kQueries);
    __syncthreads();
  }

  __device__ const float* basis_of(int head) const {
    return a_.labels.basis + shared_.slots[head / kv_heads_] * a_.labels.basis_stride +
           head % kv_heads_ * label_basis_floats(a_.labels.dims, a_.head_dim);
  }

  /// Weights to integers: the largest gets all the bits that signed bytes have but one, in units of a power of two.
  __device__ void slice(int h, int g) {
    const int dims = static_cast<int>(a_.labels.dims);
    float w[K], top = 0;
    bool finite = true;
    for (int k = 0; k < K; ++k) {
      const int j = k * 32 + lane_;
      w[k] = j < dims && g < group_ ? shared_.weights[h][g][j] : 0.0f;
      top = fmaxf(top, fabsf(w[k]));
      finite = finite && isfinite(w[k]);
    }
#pragma unroll
    for (int o = 16; o > 0; o /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
    finite = __all_sync(~0u, finite);
    const int exponent = finite && top > 0 ? ilogbf(top) + 1 : 0;  // top < 2^exponent
    const int bits = 8 * kSlices - 2;
    for (int k = 0; k < K; ++k) {
      int rest = finite ? static_cast<int>(rintf(ldexpf(w[k], bits - exponent))) : 0;
      std::uint32_t bytes = 0;
#pragma unroll
      for (int i = 0; i < kSlices; ++i) {
        const int digit = static_cast<std::int8_t>(rest & 255);
        bytes |= static_cast<std::uint32_t>(digit & 255) << (8 * i);
        rest = (rest - digit) >> 8;
      }
      shared_.slices[h][g][k * 32 + lane_] = bytes;
    }
    const float unit = ldexpf(1, exponent - bits);
    if (lane_ == 0) shared_.factor[h][g] = !finite ? NAN : s_.softmax ? unit * kLog2e : unit;
  }

  __device__ Weights<K, Quads> weights_of(int h) const {
    Weights<K, Quads> w;
    const int column = lane_ / 4, j = lane_ % 4;
#pragma unroll
    for (int n = 0; n < Quads; ++n) {
      w.factor[n][0] = shared_.factor[h][n * 4 + j];
      w.factor[n][1] = w.factor[n][0] * 0.0625f;
      w.log_sum[n] = shared_.log_sum[h][n * 4 + j];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const int shift = 8 * (kSlices - 1 - 2 * t - column % 2);
#pragma unroll
        for (int k = 0; k < K; ++k)
#pragma unroll
          for (int part = 0; part < 2; ++part) {
            const std::uint32_t* from = &shared_.slices[h][n * 4 + column / 2][k * 32 + part * 16 + 2 * j];
            w.b[n][t][k][part] = (from[0] >> shift & 255) | (from[1] >> shift & 255) << 8 |
                                 (from[8] >> shift & 255) << 16 | (from[9] >> shift & 255) << 24;
          }
      }
    }
    return w;
  }

  /// The softmax's maximum, or a number that is about it, and its sum, by query head of the lane.
  struct Sums {
    float m[Quads], l[Quads];
  };

  __device__ void sum_up(int first) {
    Weights<K, Quads> w{};
    int current = -1;
    each_unit(first, [&](const Unit& u, const std::byte* codes) {
      const int head = head_of(u), tail = shared_.places[u.place].tail;
      if (head != current) w = weights_of(head - first), current = head;
      Sums sums;
      bool careful = (u.index + 1) * kUnitRows > tail;
      if (!careful) {
        sums = sum_unit(codes, w);
        bool fine = true;  // no sum is beyond float's range, or not a number
#pragma unroll
        for (int n = 0; n < Quads; ++n) fine = fine && sums.l[n] < 0x1p100f;
        careful = !__all_sync(~0u, fine);
      }
      if (careful) sums = sum_unit_carefully(codes, w, tail - u.index * kUnitRows);
#pragma unroll
      for (int n = 0; n < Quads; ++n) {
        float m = sums.m[n], l = sums.l[n];
#pragma unroll
        for (int o = 4; o < 32; o *= 2) add(m, l, __shfl_xor_sync(~0u, m, o), __shfl_xor_sync(~0u, l, o));
        const int g = n * 4 + lane_ % 4;
        if (lane_ < 4 && g < group_) unit_parts(head, g)[u.index] = {m, l};
      }
    });
  }

  /// Against the maximum of the first block: there is room for others that are far above it.
  __device__ Sums sum_unit(const std::byte* codes, const Weights<K, Quads>& w) const {
    Sums s;
    float more[Quads];
#pragma unroll 1
    for (int b = 0; b < kUnitBlocks; ++b) {
      float sum[Quads][8];
      sum_block<K, Quads>(codes + b * block_bytes_, w, sum);
#pragma unroll
      for (int n = 0; n < Quads; ++n) {
        if (b == 0) {
          s.m[n] = kEmpty, s.l[n] = more[n] = 0;
#pragma unroll
          for (int v = 0; v < 8; ++v) s.m[n] = fmaxf(s.m[n], sum[n][v] * w.factor[n][v / 2 % 2]);
        }
#pragma unroll
        for (int v = 0; v < 8; v += 2) {
          s.l[n] += exp2_fast(fmaf(sum[n][v], w.factor[n][v / 2 % 2], -s.m[n]));
          more[n] += exp2_fast(fmaf(sum[n][v + 1], w.factor[n][v / 2 % 2], -s.m[n]));
        }
      }
    }
#pragma unroll
    for (int n = 0; n < Quads; ++n) s.l[n] += more[n];
    return s;
  }

  /// Of the unit's first `rows` rows.
  __device__ Sums sum_unit_carefully(const std::byte* codes, const Weights<K, Quads>& w, int rows) const {
    Sums s;
#pragma unroll
    for (int n = 0; n < Quads; ++n) s.m[n] = kEmpty, s.l[n] = 0;
#pragma unroll 1
    for (int b = 0; b < kUnitBlocks && b * kBlockRows < rows; ++b) {
      float sum[Quads][8];
      sum_block<K, Quads>(codes + b * block_bytes_, w, sum);
#pragma unroll
      for (int n = 0; n < Quads; ++n) {
        float to = s.m[n], l = 0;
#pragma unroll
        for (int v = 0; v < 8; ++v) {
          sum[n][v] = b * kBlockRows + row_in_block(v) < rows ? sum[n][v] * w.factor[n][v / 2 % 2] : -INFINITY;
          to = fmaxf(to, sum[n][v]);
        }
#pragma unroll
        for (int v = 0; v < 8; ++v) l += exp2_fast(sum[n][v] - to);
        s.l[n] = s.l[n] * exp2_fast(s.m[n] - to) + l;
        s.m[n] = to;
      }
    }
    return s;
  }

  __device__ static void add(float& m, float& l, float their_m, float their_l) {
    const float to = fmaxf(m, their_m);
    l = l * exp2_fast(m - to) + their_l * exp2_fast(their_m - to);
    m = to;
  }

  __device__ float2* unit_parts(int head, int g) const {
    return reinterpret_cast<float2*>(s_.work + (static_cast<std::int64_t>(head) * group_ + g) * s_.stride);
  }
  __device__ float2* group_parts(int head, int g) const {
    return unit_parts(head, g) + (s_.stride + kUnitRows - 1) / kUnitRows;
  }

  __device__ void join_groups() const {
    __syncthreads();
    for (int i = threadIdx.x; i < groups_ * group_; i += kThreads) {
      const Unit u = locate((first_group_ + i / group_) * kGroupUnits);
      const float2* parts = unit_parts(head_of(u), i % group_) + u.index;
      float2 part[kGroupUnits];
#pragma unroll
      for (int j = 0; j < kGroupUnits; ++j)
        part[j] = u.index + j < units_of_head(u.place) ? __ldcg(parts + j) : make_float2(kEmpty, 0);
      float m = kEmpty, l = 0;
#pragma unroll
      for (int j = 0; j < kGroupUnits; ++j) add(m, l, part[j].x, part[j].y);
      group_parts(head_of(u), i % group_)[u.index / kGroupUnits] = {m, l};
    }
  }

  /// log2 of each query head's sum.
  __device__ void add_up(int first) {
    constexpr int kInFlight = 8;
    const int all = min(kHeads, last_head_ - first + 1) * kQueries;
#pragma unroll 1
    for (int i = warp_; i < all; i += kWarps) {
      const int head = first + i / kQueries, g = i % kQueries, place = head / kv_heads_;
      const int n = shared_.places[place].open() && g < group_ ? groups_of_head(place) : 0;
      const float2* parts = group_parts(head, g);
      float m = kEmpty, l = 0;
#pragma unroll 1
      for (int from = lane_; from < n; from += 32 * kInFlight) {
        float2 part[kInFlight];
#pragma unroll
        for (int j = 0; j < kInFlight; ++j)
          part[j] = from + j * 32 < n ? __ldcg(parts + from + j * 32) : make_float2(kEmpty, 0);
        float to = m, sum = 0;
#pragma unroll
        for (int j = 0; j < kInFlight; ++j) to = fmaxf(to, part[j].x);
#pragma unroll
        for (int j = 0; j < kInFlight; ++j) sum += part[j].y * exp2_fast(part[j].x - to);
        l = l * exp2_fast(m - to) + sum;
        m = to;
      }
      float top = m;
#pragma unroll
      for (int o = 1; o < 32; o *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
      l *= exp2_fast(m - top);
#pragma unroll
      for (int o = 1; o < 32; o *= 2) l += __shfl_xor_sync(~0u, l, o);
      const float share = a_.combine == Combine::mean ? static_cast<float>(group_) : 1.0f;
      if (lane_ == 0)  // a head that there is not has no probability
        shared_.log_sum[i / kQueries][g] = g < group_ ? top + log2f(l * share) : INFINITY;
    }
  }

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

template <int K, int Quads>
__global__ void __launch_bounds__(512 / K, 1) score_units(const __grid_constant__ Selection s) {
  extern __shared__ uint4 space[];
  auto& shared = *reinterpret_cast<Shared<K, Quads>*>(space);
  let_next_start();
  Scorer<K, Quads>(s, shared, reinterpret_cast<std::byte*>(&shared + 1)).run();
}

template <int K, int Quads>
void launch_units(const Selection& s, cudaStream_t stream) {
  using Space = Shared<K, Quads>;
  const std::int64_t unit = kUnitBlocks * label_block_bytes(s.a.labels.dims, s.a.labels.bits);
  const std::int64_t beyond = label_block_bytes(32 * K, 4);  // tiles are read whole, whatever lies there
  Launch{.grid = static_cast<unsigned>(multiprocessors()),
         .block = Space::kWarps * 32,
         .shared_bytes = static_cast<std::size_t>(static_cast<std::int64_t>(sizeof(Space)) +
                                                  Space::kWarps * kSlots * unit + beyond),
         .stream = stream,
         .cooperative = true}(score_units<K, Quads>, s);
}

}  // namespace

bool scores_fast(const Selection& s) { return s.a.labels.bits == 4 && s.a.labels.dims <= 64 && s.group <= 8; }

void score_codes(const Selection& s, cudaStream_t stream) {
  const bool wide = s.a.labels.dims > 32, many = s.group > 4;
  if (wide) many ? launch_units<2, 2>(s, stream) : launch_units<2, 1>(s, stream);
  else many ? launch_units<1, 2>(s, stream) : launch_units<1, 1>(s, stream);
}

}  // namespace longhaul::cuda
