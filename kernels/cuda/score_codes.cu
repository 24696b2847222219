// Scores by labels of 4 bits, on the tensor cores and in integers: codes times weights that are cut into signed bytes.
// A sum of integers is the same in any order, so rows with the same codes have the same score wherever they are.
//
// One persistent launch. A unit is 256 rows of one head; a warp has a run of units and a ring of them in shared memory.
// The softmax of a group needs its sum over all rows before the first key: the labels are walked twice, with a wait of
// the whole grid between, and what the ring still holds is not loaded again. Sums are kept by unit and added up in one
// order, so a key depends on nothing but its session.
#include <cuda_pipeline.h>

#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/select.cuh"

namespace longhaul::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kBlockRows = kAttendBlock, kUnitBlocks = 4, kUnitRows = kUnitBlocks * kBlockRows;
constexpr int kSlots = 3;   // units in a warp's ring
constexpr int kHeads = 2;   // KV heads that a block has weights and counts of at once
constexpr int kSlices = 4;  // bytes of a weight
constexpr int kTiles = kSlices / 2;
constexpr float kLog2e = 1.4426950408889634f;
constexpr std::int32_t kMagic = 0x4b400000;  // as a float 1.5 * 2^23: adding a small integer to the bits adds it

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
  float part_m[kWarps], part_l[kWarps];
  int first_unit[kDecodeTokens + 1];  // of each place
};

struct Unit {
  int place, head, index;  // index: of the head's units
};

/// One KV head's weights as a warp's operand B, and what its lane's query heads need.
template <int K, int Quads>
struct Weights {
  std::uint32_t b[Quads][kTiles][K][2];
  float factor[Quads], log_sum[Quads];
};

__device__ inline void multiply(int (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 tiles of 16-bit elements, transposed: lane 4 i + j gets of tile t the elements (2 j, i) and (2 j + 1, i).
__device__ inline void load_tiles(std::uint32_t (&r)[4], const void* at) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(at));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// The scores of a block's rows by the lane's query head of each quad. Lane 4 i + j has head j and the rows
/// 2 i + (v & 1) + 16 (v >> 2) + 32 (v >> 1 & 1) for v = 0 .. 7.
template <int K, int Quads>
__device__ void score_block(const std::byte* codes, const Weights<K, Quads>& w, float (&score)[Quads][8]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // bytes 16 half .. 16 half + 15 of a dimension
    int sums[2][Quads][kTiles][4];        // low and high halves of bytes
#pragma unroll
    for (int p = 0; p < 2; ++p)
#pragma unroll
      for (int n = 0; n < Quads; ++n)
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[p][n][t][i] = kMagic;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      std::uint32_t r[4];
      load_tiles(r, codes + (k * 32 + lane) * 32 + half * 16);
      // Bytes of four dimensions of one row together; even bytes, then odd ones.
      const std::uint32_t both[4] = {__byte_perm(r[0], r[1], 0x6420), __byte_perm(r[0], r[1], 0x7531),
                                     __byte_perm(r[2], r[3], 0x6420), __byte_perm(r[2], r[3], 0x7531)};
      std::uint32_t low[4], high[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) low[i] = both[i] & 0x0f0f0f0fu, high[i] = both[i] & 0xf0f0f0f0u;
#pragma unroll
      for (int n = 0; n < Quads; ++n)
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          multiply(sums[0][n][t], low, w.b[n][t][k]);
          multiply(sums[1][n][t], high, w.b[n][t][k]);
        }
    }
#pragma unroll
    for (int n = 0; n < Quads; ++n)
#pragma unroll
      for (int p = 0; p < 2; ++p)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          constexpr float kMagicFloat = 12582912.0f;
          float sum = 0;
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
            const float x = __int_as_float(sums[p][n][t][2 * odd]) - kMagicFloat;
            const float y = __int_as_float(sums[p][n][t][2 * odd + 1]) - kMagicFloat;
            const float pair = fmaf(x, 256.0f, y);
            sum = t == 0 ? pair : fmaf(sum, 65536.0f, pair);
          }
          score[n][half * 4 + p * 2 + odd] = sum * (p == 0 ? w.factor[n] : w.factor[n] * 0.0625f);
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
    }
    cg::this_grid().sync();
    const bool one_batch = last_head_ - first_head_ < kHeads;
    if (s_.softmax) start(one_batch ? min(units_, kSlots) : 0, true);
    each_batch([&](int first) {
      if (!s_.softmax || !one_batch) weigh(first);
      add_up(first);
      write_keys(first);
      flush(first);
    });
  }

 private:
  /// Which units are the warp's: a run of all sessions' and heads'.
  __device__ void divide() {
    if (threadIdx.x == 0) {
      int next = 0;
      for (int p = 0; p < a_.batch.count; ++p) {
        shared_.first_unit[p] = next;
        const Competition c = competition(a_, p);
        if (c.open()) next += static_cast<int>(a_.kv_heads) * units_of_head(c);
      }
      shared_.first_unit[a_.batch.count] = next;
    }
    __syncthreads();
    const std::int64_t all = shared_.first_unit[a_.batch.count], warps = gridDim.x * kWarps;
    auto share = [&](std::int64_t w) { return static_cast<int>(all * w / warps); };
    const std::int64_t mine = blockIdx.x * kWarps + warp_;
    begin_ = share(mine);
    units_ = share(mine + 1) - begin_;
    const int first = share(blockIdx.x * kWarps), end = share((blockIdx.x + 1) * kWarps);
    first_head_ = 0, last_head_ = -1;
    if (first == end) return;
    const Unit from = locate(first), to = locate(end - 1);
    first_head_ = from.place * static_cast<int>(a_.kv_heads) + from.head;
    last_head_ = to.place * static_cast<int>(a_.kv_heads) + to.head;
  }

  __device__ static int units_of_head(const Competition& c) { return (c.tail + kUnitRows - 1) / kUnitRows; }

  __device__ Unit locate(int unit) const {
    int low = 0, high = static_cast<int>(a_.batch.count) - 1;  // the last place that starts at or before it
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (shared_.first_unit[middle] <= unit) low = middle;
      else high = middle - 1;
    }
    const int per_head = (shared_.first_unit[low + 1] - shared_.first_unit[low]) / static_cast<int>(a_.kv_heads);
    const int at = unit - shared_.first_unit[low];
    return {low, at / per_head, at % per_head};
  }

  // A walk visits the warp's units in a ring. The second begins with those that the first has left there.
  __device__ void start(int kept, bool again) {
    kept_ = kept;
    base_ = again && kept > 0 && units_ > kSlots ? units_ : 0;
    visit_ = 0;
    for (int v = 0; v < kSlots; ++v) load(v);
  }
  __device__ int unit_of(int visit) const { return begin_ + (visit < kept_ ? units_ - kept_ + visit : visit - kept_); }
  __device__ std::byte* slot_of(int visit) const {
    return ring_ + (base_ + visit) % kSlots * kUnitBlocks * block_bytes_;
  }
  __device__ void load(int visit) {
    if (visit >= kept_ && visit < units_) {
      const Unit u = locate(unit_of(visit));
      const StepSpan span = a_.batch.spans[u.place];
      const int blocks = (span.rows - span.window + kBlockRows - 1) / kBlockRows;
      const int bytes = min(kUnitBlocks, blocks - u.index * kUnitBlocks) * block_bytes_;
      const std::byte* from = a_.labels.codes + span.slot * a_.labels.session_stride + u.head * a_.labels.head_stride +
                              std::int64_t{u.index} * kUnitBlocks * block_bytes_;
      std::byte* to = slot_of(visit);
#pragma unroll 8
      for (int i = lane_ * 16; i < bytes; i += 32 * 16) __pipeline_memcpy_async(to + i, from + i, 16);
    }
    __pipeline_commit();
  }

  __device__ void clear_tallies() const {
    const std::int64_t words = s_.heads() * kDigitBins;
    for (std::int64_t i = blockIdx.x * kThreads + threadIdx.x; i < words; i += gridDim.x * kThreads)
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
      if (u.place * static_cast<int>(a_.kv_heads) + u.head >= first + kHeads) return;
      __pipeline_wait_prior(kSlots - 1);
      __syncwarp();
      body(u, slot_of(visit_));
      __syncwarp();
      load(visit_ + kSlots);
    }
  }

  /// The queries of the batch's heads in the basis, times the steps, as integers. A query that is not finite has no
  /// scores.
  __device__ void weigh(int first) {
    const int d = static_cast<int>(a_.head_dim), dims = static_cast<int>(a_.labels.dims);
    const int group = static_cast<int>(s_.group), heads = min(kHeads, last_head_ - first + 1);
    __syncthreads();
    for (int i = threadIdx.x; i < heads * kQueries * d; i += kThreads) {
      const int h = i / (kQueries * d), g = i / d % kQueries, c = i % d,
                place = (first + h) / static_cast<int>(a_.kv_heads);
      const std::int64_t at = place * a_.q_stride + ((first + h) % a_.kv_heads * group + g) * d + c;
      float x = 0;
      if (g < group)
        x = a_.act == DType::bf16 ? widen(static_cast<const bf16*>(a_.q)[at]) : static_cast<const float*>(a_.q)[at];
      shared_.q[h][g][c] = x * a_.scale;
    }
    __syncthreads();
    for (int i = warp_; i < heads * dims; i += kWarps) {
      const int h = i / dims, j = i % dims;
      const float* basis = basis_of(first + h);
      const float* map = basis + (dims + j) * d;
      float sum[kQueries] = {};
      for (int c = lane_; c < d; c += 32) {
        const float m = map[c];
#pragma unroll
        for (int g = 0; g < kQueries; ++g) sum[g] += m * shared_.q[h][g][c];
      }
#pragma unroll
      for (int g = 0; g < kQueries; ++g)
#pragma unroll
        for (int o = 16; o > 0; o /= 2) sum[g] += __shfl_xor_sync(~0u, sum[g], o);
      const float step = basis[2 * dims * d + dims + j];
      if (lane_ == 0)
#pragma unroll
        for (int g = 0; g < kQueries; ++g) shared_.weights[h][g][j] = sum[g] * step;
    }
    __syncthreads();
    for (int i = warp_; i < heads * kQueries; i += kWarps) slice(i / kQueries, i % kQueries);
    __syncthreads();
  }

  __device__ const float* basis_of(int head) const {
    const std::int64_t slot = a_.batch.spans[head / a_.kv_heads].slot;
    return a_.labels.basis + slot * a_.labels.basis_stride +
           head % a_.kv_heads * label_basis_floats(a_.labels.dims, a_.head_dim);
  }

  /// Weights to integers: the largest gets all the bits that signed bytes have but one, in units of a power of two.
  __device__ void slice(int h, int g) {
    const int dims = static_cast<int>(a_.labels.dims);
    float w[K], top = 0;
    bool finite = true;
    for (int k = 0; k < K; ++k) {
      const int j = k * 32 + lane_;
      w[k] = j < dims && g < s_.group ? shared_.weights[h][g][j] : 0.0f;
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
      w.factor[n] = shared_.factor[h][n * 4 + j];
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

  /// A unit's part of the softmax: maximum and sum, by query head.
  __device__ void sum_up(int first) {
    Weights<K, Quads> w{};
    int current = -1;
    each_unit(first, [&](const Unit& u, const std::byte* codes) {
      const int head = u.place * static_cast<int>(a_.kv_heads) + u.head;
      if (head != current) w = weights_of(head - first), current = head;
      const int tail = competition(a_, u.place).tail;
      float m[Quads], l[Quads];
#pragma unroll
      for (int n = 0; n < Quads; ++n) m[n] = -1e30f, l[n] = 0;
      for (int b = 0; b < kUnitBlocks; ++b) {
        const int row = u.index * kUnitRows + b * kBlockRows;
        if (row >= tail) break;
        float score[Quads][8];
        score_block<K, Quads>(codes + b * block_bytes_, w, score);
        if (row + kBlockRows > tail) {
#pragma unroll
          for (int v = 0; v < 8; ++v)
            if (row + row_in_block(v) >= tail)
#pragma unroll
              for (int n = 0; n < Quads; ++n) score[n][v] = -INFINITY;
        }
#pragma unroll
        for (int n = 0; n < Quads; ++n) {
          float to = m[n], sum = 0;
#pragma unroll
          for (int v = 0; v < 8; ++v) to = fmaxf(to, score[n][v]);
#pragma unroll
          for (int v = 0; v < 8; ++v) sum += exp2_fast(score[n][v] - to);
          l[n] = l[n] * exp2_fast(m[n] - to) + sum;
          m[n] = to;
        }
      }
#pragma unroll
      for (int n = 0; n < Quads; ++n) {
#pragma unroll
        for (int o = 4; o < 32; o *= 2) add(m[n], l[n], __shfl_xor_sync(~0u, m[n], o), __shfl_xor_sync(~0u, l[n], o));
        const int g = n * 4 + lane_ % 4;
        if (lane_ < 4 && g < s_.group) *part_at(head, g, u.index) = {m[n], l[n]};
      }
    });
  }

  __device__ static void add(float& m, float& l, float their_m, float their_l) {
    const float to = fmaxf(m, their_m);
    l = l * exp2_fast(m - to) + their_l * exp2_fast(their_m - to);
    m = to;
  }

  __device__ float2* part_at(int head, int g, int unit) const {
    return reinterpret_cast<float2*>(s_.work + (head * s_.group + g) * s_.stride) + unit;
  }

  /// log2 of each query head's sum; several warps a head.
  __device__ void add_up(int first) {
    __syncthreads();
    for (int i = threadIdx.x; i < kHeads * kDigitBins; i += kThreads) (&shared_.counts[0][0])[i] = 0;
    if (!s_.softmax) return;
    constexpr int kInFlight = 16;
    const int group = static_cast<int>(s_.group), all = min(kHeads, last_head_ - first + 1) * group;
    const int share = max(1, kWarps / all), sets = kWarps / share;  // warps of a head; heads at once
    for (int set = 0; set < all; set += sets) {
      const int i = set + warp_ / share;
      float m = -1e30f, l = 0;
      if (i < all && warp_ / share < sets) {
        const int head = first + i / group, n = units_of_head(competition(a_, head / static_cast<int>(a_.kv_heads)));
        const bool open = competition(a_, head / static_cast<int>(a_.kv_heads)).open();
        const float2* parts = part_at(head, i % group, 0);
        for (int from = warp_ % share * 32 + lane_; open && from < n; from += share * 32 * kInFlight) {
          float2 part[kInFlight];
#pragma unroll
          for (int j = 0; j < kInFlight; ++j)
            part[j] = from + j * share * 32 < n ? __ldcg(parts + from + j * share * 32) : make_float2(-1e30f, 0);
#pragma unroll
          for (int j = 0; j < kInFlight; ++j) add(m, l, part[j].x, part[j].y);
        }
#pragma unroll
        for (int o = 1; o < 32; o *= 2) add(m, l, __shfl_xor_sync(~0u, m, o), __shfl_xor_sync(~0u, l, o));
      }
      if (lane_ == 0) shared_.part_m[warp_] = m, shared_.part_l[warp_] = l;
      __syncthreads();
      if (static_cast<int>(threadIdx.x) < sets && set + static_cast<int>(threadIdx.x) < all) {
        const int w = threadIdx.x * share;
        m = shared_.part_m[w], l = shared_.part_l[w];
        for (int j = 1; j < share; ++j) add(m, l, shared_.part_m[w + j], shared_.part_l[w + j]);
        const int k = set + threadIdx.x;
        shared_.log_sum[k / group][k % group] =
            m + log2f(l) + (a_.combine == Combine::mean ? log2f(static_cast<float>(group)) : 0.0f);
      }
      __syncthreads();
    }
    for (int i = threadIdx.x; i < kHeads * kQueries; i += kThreads)  // heads that there are not have no probability
      if (i % kQueries >= group) shared_.log_sum[i / kQueries][i % kQueries] = INFINITY;
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
    const int j = lane_ % 4;
    each_unit(first, [&](const Unit& u, const std::byte* codes) {
      const int head = u.place * static_cast<int>(a_.kv_heads) + u.head;
      if (head != current) w = weights_of(head - first), current = head;
      const Competition c = competition(a_, u.place);
      std::uint32_t* counts = shared_.counts[head - first];
      std::uint32_t* keys = s_.keys + head * s_.stride;
      for (int b = 0; b < kUnitBlocks; ++b) {
        const int row = u.index * kUnitRows + b * kBlockRows;
        if (row >= c.tail) break;
        float score[Quads][8], value[8];
        score_block<K, Quads>(codes + b * block_bytes_, w, score);
#pragma unroll
        for (int v = 0; v < 8; ++v) {
          value[v] = 0;
#pragma unroll
          for (int n = 0; n < Quads; ++n) {
            const float x = Softmax ? exp2_fast(score[n][v] - w.log_sum[n]) : score[n][v];
            value[v] = n == 0 ? x : join<Highest>(value[v], x);
          }
        }
        // Over the heads of four lanes; each lane is left with two neighbouring rows of the eight.
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
        std::uint32_t key[2];
#pragma unroll
        for (int i = 0; i < 2; ++i)
          key[i] = Softmax ? __float_as_uint(fmaxf(mine[i], 0.0f)) | 0x80000000u : ordered(mine[i]);
        const int at = row + row_in_block(2 * j);
        *reinterpret_cast<uint2*>(keys + at) = make_uint2(key[0], key[1]);
#pragma unroll
        for (int i = 0; i < 2; ++i)
          if (c.competes(at + i)) atomicAdd(&counts[key[i] >> s_.digit_shift & (kDigitBins - 1)], 1u);
      }
    });
  }
  template <bool Highest>
  __device__ static float join(float x, float y) {
    return Highest ? fmaxf(x, y) : x + y;
  }

  __device__ void flush(int first) const {
    __syncthreads();
    for (int i = threadIdx.x; i < kHeads * kDigitBins; i += kThreads) {
      const std::uint32_t n = (&shared_.counts[0][0])[i];
      if (n > 0) atomicAdd(&s_.tallies[first + i / kDigitBins].counts[i % kDigitBins], n);
    }
  }

  const Selection& s_;
  const SelectArgs& a_;
  Space& shared_;
  int warp_, lane_, block_bytes_;
  std::byte* ring_;
  int begin_, units_;           // of the warp
  int first_head_, last_head_;  // of the block; over all places
  int kept_, base_, visit_;     // of the walk
};

template <int K, int Quads>
__global__ void __launch_bounds__(512 / K, 1) score_units(const __grid_constant__ Selection s) {
  extern __shared__ uint4 space[];
  auto& shared = *reinterpret_cast<Shared<K, Quads>*>(space);
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
