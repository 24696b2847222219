#include "runtime/checkpoint/weight_loader.h"

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"
#include "kernels/base/parallel.h"

namespace longhaul {
namespace {

constexpr std::int64_t kAhead = WeightLoader::kSlots - 1;  // pieces that are being read; one slot is on its way out
constexpr std::int64_t kAlign = 64;

/// Bytes of a slot that so many rows take, and where in it the converted ones begin.
struct SlotUse {
  std::int64_t bytes, out_offset;
};
SlotUse slot_use(const TensorReader& reader, std::int64_t rows, std::int64_t row_bytes, bool to_host) {
  const std::int64_t out = rows * row_bytes, stored = round_up(reader.stored_bytes(rows), kAlign);
  if (reader.plain()) return {to_host ? 0 : out, 0};
  return {stored + (to_host ? 0 : out), stored};
}

/// As many rows as a slot holds.
std::int64_t rows_of_piece(const TensorReader& reader, std::int64_t row_bytes, bool to_host) {
  const auto bytes = [&](std::int64_t rows) { return slot_use(reader, rows, row_bytes, to_host).bytes; };
  const std::int64_t step = reader.row_step(), least = std::max(bytes(step), step * row_bytes);
  std::int64_t rows = std::max(WeightLoader::kSlotBytes / least * step, step);
  while (rows > step && bytes(rows) > WeightLoader::kSlotBytes) rows -= step;
  if (bytes(rows) > WeightLoader::kSlotBytes)
    throw UserError(Exit::bad_model, "{} rows of {} values take more than the {} that weights are loaded through", rows,
                    reader.cols(), format_bytes(WeightLoader::kSlotBytes));
  return rows;
}

}  // namespace

WeightLoader::WeightLoader(Device& device, Stream& stream, std::byte* staging, std::int64_t total,
                           const LoadReport& report)
    : device_(device), stream_(stream), total_(total), report_(report) {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].bytes = staging + static_cast<std::int64_t>(i) * kSlotBytes;
    slots_[i].left = device.make_event();
  }
}

void WeightLoader::add(const TensorReader& reader, const WeightTarget& target) {
  const std::int64_t row_bytes =
      packed_row_bytes(target.packed ? reader.packed_format() : PackedFormat{}, reader.cols());
  const std::int64_t rows = rows_of_piece(reader, row_bytes, target.on_host);
  for (std::int64_t first = 0; first < reader.rows(); first += rows) {
    const std::int64_t count = std::min(rows, reader.rows() - first);
    begin({.reader = &reader,
           .rows = {first, count},
           .target = {target.at + first * row_bytes, target.on_host, target.packed},
           .row_bytes = row_bytes,
           .out_offset = slot_use(reader, count, row_bytes, target.on_host).out_offset});
  }
}

void WeightLoader::begin(const Piece& piece) {
  if (begun_ - completed_ == kAhead) complete();
  Slot& s = slot(begun_++);
  device_.host_wait(*s.left, {"weights_arrived"});
  s.piece = piece;
  std::byte* to = piece.reader->plain() && piece.target.on_host ? piece.target.at : s.bytes;
  s.fetched = std::async(std::launch::async, [piece, to] { piece.reader->fetch(piece.rows, to); });
}

void WeightLoader::complete() {
  Slot& s = slot(completed_++);
  s.fetched.get();
  const auto& [reader, rows, target, row_bytes, out_offset] = s.piece;
  std::byte* out = target.on_host ? target.at : s.bytes + out_offset;
  if (!reader->plain()) {
    const std::int64_t step = reader->row_step();
    const std::int64_t grain = std::max<std::int64_t>(1, (std::int64_t{64} << 10) / (reader->cols() * step));
    parallel_for(ceil_div(rows.count, step), grain, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t first = begin * step, count = std::min(end * step, rows.count) - first;
      const RowSpan span{rows.first + first, count};
      std::byte* to = out + first * row_bytes;
      if (target.packed) reader->pack(s.bytes, rows, span, to);
      else reader->convert(s.bytes, rows, span, reinterpret_cast<bf16*>(to));
    });
  }
  if (!target.on_host) {
    stream_.copy({.dst = target.at, .src = out, .width = rows.count * row_bytes, .kind = CopyKind::host_to_device});
    stream_.record(*s.left);
  }
  done_ += reader->stored_bytes(rows.count);
  if (report_) report_(done_, total_);
}

void WeightLoader::finish() {
  while (completed_ < begun_) complete();
  for (Slot& s : slots_) device_.host_wait(*s.left, {"weights_arrived"});
}

}  // namespace longhaul
