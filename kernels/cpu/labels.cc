// label_rows: keys to codes, block by block; a row's codes depend on the row alone, however the rows arrive.
#include "kernels/cpu/labels.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/parallel.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/scratch.h"

namespace longhaul::cpu {
namespace {

/// Puts the codes of a block's rows [begin, end) in one dimension where they belong; other rows keep theirs.
void put_codes(const std::uint8_t* codes, std::int64_t begin, std::int64_t end, std::int64_t bits, std::byte* out) {
  if (bits == 8) {
    std::memcpy(out + begin, codes + begin, end - begin);
  } else if (begin == 0 && end == kAttendBlock) {
    for (std::int64_t r = 0; r < kAttendBlock / 2; ++r)
      out[r] = static_cast<std::byte>(codes[r] | codes[r + kAttendBlock / 2] << 4);
  } else {
    for (std::int64_t r = begin; r < end; ++r) {
      std::byte& both = out[r % (kAttendBlock / 2)];
      const auto code = static_cast<std::byte>(codes[r]);
      both = r < kAttendBlock / 2 ? (both & std::byte{0xf0}) | code : (both & std::byte{0x0f}) | code << 4;
    }
  }
}

/// Rows [begin, end) of one block.
void label_block_rows(const LabelRowsArgs& a, std::int64_t head, std::int64_t begin, std::int64_t end) {
  thread_local Scratch scratch;
  const LabelTile& l = a.labels;
  const std::int64_t block = begin / kAttendBlock, first = begin - block * kAttendBlock;
  float* labels = scratch.get<float>(l.dims * kAttendBlock);
  const std::byte* rows = at(a.kv.data + head * a.kv.head_stride, a.act, (begin - a.kv.first) * 2 * a.head_dim);
  const Basis basis = basis_of(l, head, a.head_dim);
  const ProjectArgs project{rows, 2 * a.head_dim, basis.key_map, labels + first, end - begin, l.dims, a.head_dim};
  a.act == DType::bf16 ? simd().project_bf16(project) : simd().project_f32(project);
  std::byte* out = label_block(l, head, block);
  const std::int64_t width = label_block_bytes(1, l.bits), last = first + end - begin;
  for (std::int64_t j = 0; j < l.dims; ++j) {
    float* x = labels + j * kAttendBlock;
    if (l.bits == 16) {
      simd().narrow(x + first, reinterpret_cast<bf16*>(out + j * width) + first, last - first);
      continue;
    }
    std::fill(x, x + first, 0.0f);
    std::fill(x + last, x + kAttendBlock, 0.0f);
    std::uint8_t codes[kAttendBlock];
    simd().encode(x, basis.zero[j], basis.step[j], static_cast<float>((1 << l.bits) - 1), codes);
    put_codes(codes, first, last, l.bits, out + j * width);
  }
}

}  // namespace

void label_rows(const LabelRowsArgs& a) {
  check_labels(a.labels, a.head_dim);
  if (a.kv.rows == 0) return;
  const std::int64_t end = a.kv.first + a.kv.rows, first = a.kv.first / kAttendBlock;
  const std::int64_t blocks = ceil_div(end, kAttendBlock) - first;
  parallel_for(a.kv_heads * blocks, 4, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; ++i) {
      const std::int64_t row = (first + i % blocks) * kAttendBlock;
      label_block_rows(a, i / blocks, std::max(row, a.kv.first), std::min(row + kAttendBlock, end));
    }
  });
}

}  // namespace longhaul::cpu
