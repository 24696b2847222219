// Tokens are taken in pieces that end where chunks do: then each form of a piece asks a run of rows, all of which its
// tokens see but those of their own chunk. So each run is a plain attention, by the library where it serves, into the
// operator's output and a log-sum-exp; what has come so far is in float32 in the state. At 24 bytes an element in all,
// adding up is nothing beside attention over a chunk.
#include <algorithm>
#include <cmath>

#include "kernels/base/bytes.h"
#include "kernels/cuda/attend_forms.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pack.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 256;

struct AddRunArgs {
  void* out;        // [states, head_dim] act: of the run; of all of them, after the last
  AttnState state;  // o, divided by its sum, and in m the log-sum-exp of the runs before; in l that of the run
  DType act;
  std::int64_t states, head_dim;
  bool first, last;  // last: leaves m and l as attend does
};

/// A warp a query row, up to 8 elements a lane.
template <class T>
__global__ void __launch_bounds__(kThreads) add_run(const __grid_constant__ AddRunArgs a) {
  constexpr int N = 4, kPacks = 2;  // head_dim <= 256
  const std::int64_t row = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32, d = static_cast<int>(a.head_dim);
  if (row >= a.states) return;
  T* out = static_cast<T*>(a.out) + row * d;
  float* o = a.state.o + row * d;
  const float run = a.state.l[row], before = a.first ? -INFINITY : a.state.m[row], most = fmaxf(run, before);
  const float take = decay(run, most), keep = a.first ? 0.0f : decay(before, most), sum = take + keep;
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
    if (const int i = (p * 32 + lane) * N; i < d) {
      auto x = load<N>(out + i);
      const auto y = a.first ? Pack<float, N>{} : load<N>(o + i);
#pragma unroll
      for (int j = 0; j < N; ++j) x.v[j] = (x.v[j] * take + y.v[j] * keep) / sum;
      if (a.last) store<N>(out + i, x);
      else store<N>(o + i, x);
    }
  __syncwarp();  // m and l have been read
  if (lane != 0) return;
  a.state.m[row] = most + logf(sum);
  if (a.last) a.state.l[row] = most == -INFINITY ? 0.0f : 1.0f;
}

/// The rows that a form of a piece's queries asks.
struct Run {
  int form;
  std::int64_t begin, end;
};

template <class T>
T* advance(T* at, std::int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(at) + static_cast<std::uintptr_t>(bytes));
}

/// Tokens [first, first + tokens), all of one chunk.
AttendArgs piece_of(const AttendArgs& a, std::int64_t first, std::int64_t tokens) {
  AttendArgs piece = a;
  const std::int64_t states = first * a.q_heads, bytes = states * a.head_dim * size_of(a.act);
  piece.q = advance(a.q, first * a.q_stride * size_of(a.act));
  piece.out = advance(a.out, bytes);
  piece.forms.older = advance(a.forms.older, bytes);
  piece.state = {a.state.o + states * a.head_dim, a.state.m + states, a.state.l + states};
  piece.tokens = tokens;
  piece.q_pos = a.q_pos + first;
  return piece;
}

/// The attention of one form over its rows.
AttendArgs run_of(const AttendArgs& piece, const Run& run) {
  AttendArgs part = piece;
  part.forms = {};
  if (run.form > 0) {
    part.q = advance(piece.forms.older, (run.form - 1) * piece.forms.form_stride * size_of(piece.act));
    part.q_stride = piece.q_heads * piece.head_dim;
  }
  part.kv.data += (run.begin - piece.kv.first) * 2 * piece.head_dim * size_of(piece.act);
  part.kv.first = run.begin;
  part.kv.rows = run.end - run.begin;
  return part;
}

void attend_piece(const AttendArgs& piece, FusedAttention& fused, cudaStream_t stream) {
  const std::int64_t chunk = piece.forms.chunk, own = piece.q_pos / chunk * chunk, end = piece.kv.first + piece.kv.rows;
  const std::int64_t seen = piece.window == 0 ? 0 : piece.q_pos + 1 - piece.window;  // from here on, by its first token
  auto run = [&](const AttendArgs& part) {
    if (!fused.run(part, stream)) attend(part, stream);
  };
  Run runs[3];
  int count = 0;
  auto add = [&](int form, std::int64_t from, std::int64_t to) {
    from = std::max({from, piece.kv.first, round_down(std::max<std::int64_t>(0, seen), kAttendBlock)});
    to = std::min(to, end);
    if (from < to) runs[count++] = {form, from, to};
  };
  add(2, 0, own - chunk);
  add(1, own - chunk, own);
  add(0, own, end);
  if (count == 0) return run(run_of(piece, {0, piece.kv.first, piece.kv.first}));
  if (count == 1) return run(run_of(piece, runs[0]));
  for (int i = 0; i < count; ++i) {
    AttendArgs part = run_of(piece, runs[i]);
    part.state = {nullptr, piece.state.l, nullptr};
    run(part);
    const AddRunArgs added{.out = piece.out,
                           .state = piece.state,
                           .act = piece.act,
                           .states = piece.tokens * piece.q_heads,
                           .head_dim = piece.head_dim,
                           .first = i == 0,
                           .last = i == count - 1};
    with_type(piece.act, [&]<class T>(T) {
      Launch{.grid = static_cast<unsigned>(ceil_div(added.states * 32, kThreads)), .block = kThreads, .stream = stream}(
          add_run<T>, added);
    });
  }
}

}  // namespace

void attend_forms(const AttendArgs& a, FusedAttention& fused, cudaStream_t stream) {
  const std::int64_t chunk = a.forms.chunk;
  for (std::int64_t t = 0, tokens; t < a.tokens; t += tokens) {
    tokens = std::min(a.tokens - t, chunk - (a.q_pos + t) % chunk);
    attend_piece(piece_of(a, t, tokens), fused, stream);
  }
}

}  // namespace longhaul::cuda
