// One warp's and block's way through the labels: which units are theirs, the ring that brings them and keeps their
// scores, and the keys. label_softmax.cuh has the rest of it. Device code only.
#pragma once
#include <climits>

#include "kernels/cuda/label_team.cuh"
#include "kernels/cuda/overlap.cuh"

namespace longhaul::cuda::labels {

template <int K, int Quads, Keys Kind, bool Forms>
class Scorer {
 public:
  using S = Shape<K, Quads>;
  static constexpr int kWarps = Team<Kind>::kWarps, kThreads = Team<Kind>::kThreads;
  static constexpr int kSlots = Team<Kind>::kSlots, kHeads = Team<Kind>::kHeads;
  static constexpr bool kSoftmax = Kind != Keys::scores && Kind != Keys::hint_scores;
  static constexpr bool kTwice = Kind == Keys::softmax || Kind == Keys::shares;  // units are visited twice
  using Space = Shared<K, Quads, Kind, Forms>;
  static constexpr int kUnitRows = S::kUnitRows, kQueries = S::kQueries;
  /// Of a block, in units of 1 / factor, 16 times that in the upper half of lanes, which have the high halves of bytes:
  /// of a lane two neighbouring rows.
  using Scores = float[2][kQueries];

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
    weigh();
    if (Kind == Keys::scores) arrive(), wait_for_all();  // for tallies; those of a hint are cleared before
#pragma unroll 1
    for (int walk = kTwice ? 0 : 1; walk < 2; ++walk) {
      const bool keys = walk == 1;
      const int batch = keys ? kHeads : INT_MAX / 2;
      if (kTwice && keys) {
        start(last_head_ - first_head_ < kHeads ? min(units_, kSlots + 1) : 0);
        reuse_filled();
        load_first(0, kSlots, true, true);
      }
#pragma unroll 1
      for (int first = first_head_; first <= last_head_; first += batch) {
        if (keys) begin_batch(first);
        each_unit(first + batch, keys, first);
        if (keys) flush(first);
      }
      if (keys) return;
      arrive();
      wait_for_all();
    }
  }

 private:
  /// Which units are the warp's: a run of those of all sessions and heads.
  __device__ void divide() {
    const int t = static_cast<int>(threadIdx.x), count = static_cast<int>(a_.batch.count);
    if (t < kWarps * kSlots) init_fill(&shared_.filled[0][0] + t);
    if (t < count) shared_.places[t] = competition(a_, t), shared_.slots[t] = a_.batch.spans[t].slot;
    if (Forms && t < count) shared_.borders[t] = form_borders(a_.forms, a_.batch.spans[t].rows - 1);
    __syncthreads();
    if (t == 0) {
      int next = 0;
      for (int p = 0; p < count; ++p) {
        shared_.first_unit[p] = next;
        if (shared_.places[p].open()) next += kv_heads_ * units_of_head(p);
      }
      shared_.first_unit[count] = next;
    }
    __syncthreads();
    const auto all = static_cast<unsigned>(shared_.first_unit[count]), each = all / gridDim.x, more = all % gridDim.x;
    first_unit_ = static_cast<int>(each * blockIdx.x + min(blockIdx.x, more));
    block_units_ = static_cast<int>(each + (blockIdx.x < more));
    const int begin = block_units_ * warp_ / kWarps;
    units_ = block_units_ * (warp_ + 1) / kWarps - begin;
    first_head_ = 0, last_head_ = -1;
    if (block_units_ == 0) return;
    first_head_ = head_of(search(first_unit_));
    last_head_ = head_of(search(first_unit_ + block_units_ - 1));
    const Unit first = search(first_unit_ + begin);
    if (lane_ == 0) shared_.begin[warp_] = first;
    __syncwarp();
  }

  __device__ int units_of_head(int place) const { return (shared_.places[place].tail + kUnitRows - 1) / kUnitRows; }
  __device__ int head_of(const Unit& u) const { return u.place * kv_heads_ + u.head; }
  /// A unit's rows are of one chunk.
  __device__ int form_of(const Unit& u) const {
    static_assert(kChunkUnit % kUnitRows == 0);
    return Forms ? shared_.borders[u.place].form_of(u.index * kUnitRows) : 0;
  }
  /// That compete or come before those that do, of the unit on.
  __device__ int rows_from(const Unit& u) const { return shared_.places[u.place].tail - u.index * kUnitRows; }

  __device__ __noinline__ Unit search(int unit) const {
    int low = 0, high = static_cast<int>(a_.batch.count) - 1;  // the last place that starts at or before it
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (shared_.first_unit[middle] <= unit) low = middle;
      else high = middle - 1;
    }
    const int per_head = units_of_head(low), at = unit - shared_.first_unit[low];
    return {low, at / per_head, at % per_head};
  }
  __device__ void advance(Unit& u) const {
    if (++u.index < units_of_head(u.place)) return;
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
    const Unit first = shared_.begin[warp_];
    at_ = kept > 0 ? shared_.kept[warp_] : first;
    slot_ = kept > kSlots ? units_ % kSlots : 0;
    ahead_ = first;
  }
  __device__ bool held() const { return kTwice && visit_ == 0 && kept_ > kSlots; }
  /// The first units of a walk that keeps nothing, of slots [from, to): those without a newest row, and those with one.
  __device__ void load_first(int from, int to, bool older, bool newest) {
    if (kept_ > 0) return;
    Unit u = shared_.begin[warp_];
#pragma unroll 1
    for (int v = 0; v < to && v < units_; ++v, advance(u)) {
      const bool has_newest = (u.index + 1) * kUnitRows >= shared_.places[u.place].rows;
      if (v >= from && (has_newest ? newest : older)) load(u, v);
      ahead_ = u;
    }
    if (units_ > 0) advance(ahead_);
  }
  __device__ void load(const Unit& u, int slot) const {
    const int blocks = min(S::kUnitBlocks, (rows_from(u) + kBlockRows - 1) / kBlockRows);
    const LabelTile& l = a_.labels;
    const std::byte* from = l.codes + shared_.slots[u.place] * l.session_stride + u.head * l.head_stride +
                            std::int64_t{u.index} * S::kUnitBlocks * code_bytes_;
    const bool once = !kTwice || kept_ > 0 || units_ <= kSlots + 1;
    fill(ring_ + slot * kSlotBytes, block_bytes_, from, code_bytes_, blocks, once, &shared_.filled[warp_][slot]);
  }

  /// Asks for the first labels, too. What earlier kernels left is waited for here: maps and all labels but those of the
  /// newest rows are older than whatever may still run. Also clears what is counted of keys.
  __device__ void weigh() {
    constexpr int kAhead = 2, kEarly = kSlots > 2 ? kSlots - 1 : kSlots;
    MapPart<K, kThreads> maps[kAhead];
    auto load_map = [&](MapPart<K, kThreads>& map, int head) {
      if (head <= last_head_) map.load(a_, shared_.slots[head / kv_heads_], head % kv_heads_);
    };
#pragma unroll
    for (int i = 0; i < kAhead; ++i) load_map(maps[i], first_head_ + i);
    start(0);
    load_first(0, kEarly, true, false);
    wait_for_previous();
    QueryPart<Quads, kThreads> queries;
    auto load_queries = [&](int head, int form) {
      if (head <= last_head_) queries.load(s_, head / kv_heads_, head % kv_heads_, form);
    };
    load_queries(first_head_, first_form(first_head_));
    load_first(0, kEarly, false, true);
    constexpr int kPieces = kDigitBins / 4;
    const int pieces = is_hint(Kind) ? 0 : static_cast<int>(s_.heads()) * kPieces;
#pragma unroll 1
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < pieces; i += gridDim.x * kThreads) {
      HeadTally& tally = s_.tallies[i / kPieces];
      reinterpret_cast<uint4*>(tally.counts)[i % kPieces] = {0, 0, 0, 0};
      if (i % kPieces == 0) tally.listed_parts = tally.written_parts = 0;
    }
#pragma unroll 1
    for (int head = first_head_; head <= last_head_; ++head) {
#pragma unroll 1
      for (int form = first_form(head); form <= last_form(head); ++form)
        weigh_queries<K, Quads, kThreads, Forms>(s_, head / kv_heads_, head % kv_heads_, form, maps[0], queries,
                                                 shared_.weighing, weights_of(head, form), [&] {
                                                   if (form < last_form(head)) load_queries(head, form + 1);
                                                   else if (head < last_head_)
                                                     load_queries(head + 1, first_form(head + 1));
                                                 });
      maps[0] = maps[1];
      if (head > first_head_) load_map(maps[0], head + 1);
    }
    if (kEarly < kSlots) load_first(kEarly, kSlots, true, true);
  }
  __device__ HeadWeights& weights_of(int head, int form) const {
    HeadWeights* const beyond = Forms ? s_.tallies[head].forms + form : s_.weights + head;
    return head - first_head_ < kHeads ? shared_.weights[head - first_head_][form] : *beyond;
  }
  /// The forms that the head's units of this block ask with: those of its last row and of its first.
  __device__ int first_form(int head) const {
    if (!Forms) return 0;
    const int place = head / kv_heads_;
    const int end = head == last_head_ ? (search(first_unit_ + block_units_ - 1).index + 1) * kUnitRows : INT_MAX;
    return shared_.borders[place].form_of(max(0, min(end, shared_.places[place].tail) - 1));
  }
  __device__ int last_form(int head) const {
    if (!Forms) return 0;
    const int row = head == first_head_ ? search(first_unit_).index * kUnitRows : 0;
    return shared_.borders[head / kv_heads_].form_of(row);
  }

  /// The warp's next units as long as they are of the batch: their keys, or their part of the sums.
  __device__ void each_unit(int past_head, bool keys, int first) {
#pragma unroll 1
    for (; visit_ < units_; ++visit_) {
      if (head_of(at_) >= past_head) return;
      const bool in_ring = !held();
      if (visit_ >= kept_) {
        wait_filled(&shared_.filled[warp_][slot_], parity_ >> slot_ & 1);
        parity_ ^= 1u << slot_;
        score(!keys);
      }
      if (!keys) {
        if (visit_ == units_ - kSlots - 1) hold();
      } else if (kSoftmax && a_.combine == Combine::max) {
        write_keys<true>(first, in_ring);
      } else {
        write_keys<false>(first, in_ring);
      }
      if (kept_ == 0 && visit_ == max(0, units_ - kSlots - 1) && lane_ == 0) shared_.kept[warp_] = at_;
      if (visit_ + kSlots >= kept_ && visit_ + kSlots < units_) {
        reuse_filled();
        load(ahead_, slot_);
        advance(ahead_);
      }
      advance(at_);
      if (visit_ + 1 == kept_) at_ = shared_.begin[warp_];
      if (in_ring) slot_ = slot_ + 1 == kSlots ? 0 : slot_ + 1;
    }
  }
  /// The unit's scores in place of its codes, or their powers of 2 over the base; if `sum`, those of the softmax.
  __device__ void score(bool sum) {
    if (const int query = head_of(at_) * (Forms ? kForms : 1) + form_of(at_); query != weighed_) take_weights(query);
    std::byte* block = ring_ + slot_ * kSlotBytes;
    const int rows = rows_from(at_);
    Codes<K> codes[2];
    load_codes(codes[0], block);
    begin_sums();
#pragma unroll
    for (int b = 0; b < S::kUnitBlocks; ++b, block += block_bytes_) {
      // A block's codes are read while the one before is worked on.
      if (b + 1 < S::kUnitBlocks) load_codes(codes[(b + 1) % 2], block + block_bytes_);
      Products<Quads> x;
      score_block<K, Quads>(codes[b % 2], weights_, x);
      if constexpr (kTwice) {
        if (rows < (b + 1) * kBlockRows) leave_out(x, rows - b * kBlockRows);
        add_powers(x);
      }
      __syncwarp();  // all have read the block's codes
      keep_scores<Quads>(block, x);
    }
    if (kTwice && sum) put_sums();
    __syncwarp();
  }
  __device__ void take_weights(int query) {
    const HeadWeights& from = Forms ? weights_of(query / kForms, query % kForms) : weights_of(query, 0);
    weighed_ = query;
#pragma unroll
    for (int n = 0; n < Quads; ++n) {
      factor_[n] = from.factor[n * 4 + lane_ % 4];
      base_[n] = from.base[n * 4 + lane_ % 4];
      if constexpr (Forms) offset_[n] = from.offset[n * 4 + lane_ % 4];
#pragma unroll
      for (int k = 0; k < K; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i) weights_.b[n][k][i] = from.b[lane_ * S::kWords + (n * K + k) * 2 + i];
    }
    bool far = false;
#pragma unroll
    for (int n = 0; n < Quads; ++n) far = far || base_[n] == INFINITY;
    far_ = __any_sync(~0u, far);
  }
  __device__ void read(Scores& x, const std::byte* block) const {
#pragma unroll
    for (int g = 0; g < kQueries; g += 2) {
      const auto y = *reinterpret_cast<const float4*>(block + g / 4 * 1024 + score_place(lane_, g / 2 % 2));
      x[0][g] = y.x, x[1][g] = y.y, x[0][g + 1] = y.z, x[1][g + 1] = y.w;
    }
  }
  __device__ void hold() {
#pragma unroll
    for (int b = 0; b < S::kUnitBlocks; ++b) read(held_[b], ring_ + slot_ * kSlotBytes + b * block_bytes_);
  }

  // label_softmax.cuh
  /// Of rows and a query head: the maximum of their scores or the base, and the sum of 2 to the distance from it.
  struct Sum {
    float m, l;
  };
  template <int N>
  __device__ static void add_all(Sum& sum, const float2 (&parts)[N]) {
    float most = sum.m;
#pragma unroll
    for (int i = 0; i < N; ++i) most = fmaxf(most, parts[i].x);
    sum.l *= exp2_fast(sum.m - most), sum.m = most;
#pragma unroll
    for (int i = 0; i < N; ++i) sum.l += parts[i].y * exp2_fast(parts[i].x - most);
  }
  __device__ float2* unit_parts(int head, int g) const {
    return reinterpret_cast<float2*>(s_.work + (static_cast<std::int64_t>(head) * group_ + g) * s_.stride);
  }
  __device__ void leave_out(Products<Quads>& x, int from) const;
  __device__ void begin_sums();
  __device__ void add_powers(Products<Quads>& x);
  __device__ void put_sums() const;
  __device__ void arrive() const;
  __device__ void wait_for_all() const;
  /// log2 of each query head's sum.
  __device__ void add_up(int first);
  __device__ float* kept_sums(int head) const;
  __device__ void take_sums(int first) const;

  __device__ void begin_batch(int first) {
    __syncthreads();
    for (int i = threadIdx.x; i < kHeads * kDigitBins / 4; i += kThreads)
      reinterpret_cast<uint4*>(shared_.counts)[i] = {0, 0, 0, 0};
    if constexpr (kTwice) add_up(first);
    else if constexpr (kSoftmax) take_sums(first);
    __syncthreads();
  }
  // label_keys.cuh
  template <bool Highest>
  __device__ void write_keys(int first, bool in_ring);
  __device__ static float sum_of(const float (&x)[kQueries]) {
    float sum[Quads];
#pragma unroll
    for (int n = 0; n < Quads; ++n) sum[n] = (x[4 * n] + x[4 * n + 1]) + (x[4 * n + 2] + x[4 * n + 3]);
    return Quads == 1 ? sum[0] : sum[0] + sum[Quads - 1];
  }
  __device__ static float most_of(const float (&x)[kQueries]) {
    float most = x[0];
#pragma unroll
    for (int g = 1; g < kQueries; ++g) most = fmaxf(most, x[g]);
    return most;
  }
  /// What each query head has of the rows' keys.
  __device__ void write_shares(std::uint32_t* shares, const std::uint32_t (&keys)[2], const Scores& x) const;
  /// The block's counts, to those of all.
  __device__ void flush(int first) const;

  const Selection& s_;
  const SelectArgs& a_;
  Space& shared_;
  int warp_, lane_, kv_heads_, group_, code_bytes_, block_bytes_;
  std::byte* ring_;
  int first_unit_, block_units_;
  int first_head_, last_head_;  // of the block; over all places
  int units_;                   // of the warp
  int kept_, visit_, slot_;     // of the walk
  Unit at_, ahead_;             // where it is, and what it loads next
  unsigned parity_ = 0;         // of the next fill of each slot
  int weighed_ = -1;            // head and form
  Weights<K, Quads> weights_;
  float factor_[Quads], offset_[Quads], base_[Quads];  // of its query heads
  bool far_ = false;                                   // there is no base for some of them: scores are kept
  Sum sums_[Quads];                                    // of the lane's rows of a unit
  Scores held_[S::kUnitBlocks];
};

}  // namespace longhaul::cuda::labels
