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
SlotUse slot_use(const TensorReader& reader, std::int64_t rows, bool to_host) {
  const std::int64_t out = rows * reader.cols() * 2, stored = round_up(reader.stored_bytes(rows), kAlign);
  if (reader.plain()) return {to_host ? 0 : out, 0};
  return {stored + (to_host ? 0 : out), stored};
}

/// As many rows as a slot holds.
std::int64_t rows_of_piece(const TensorReader& reader, bool to_host) {
  const std::int64_t step = reader.row_step();
  const std::int64_t least = std::max(slot_use(reader, step, to_host).bytes, step * reader.cols() * 2);
  std::int64_t rows = std::max(WeightLoader::kSlotBytes / least * step, step);
  while (rows > step && slot_use(reader, rows, to_host).bytes > WeightLoader::kSlotBytes) rows -= step;
  if (slot_use(reader, rows, to_host).bytes > WeightLoader::kSlotBytes)
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

void WeightLoader::add(const TensorReader& reader, bf16* device, bf16* host) {
  const std::int64_t rows = rows_of_piece(reader, host != nullptr);
  for (std::int64_t first = 0; first < reader.rows(); first += rows) {
    const std::int64_t count = std::min(rows, reader.rows() - first), at = first * reader.cols();
    begin({.reader = &reader,
           .rows = {first, count},
           .device = device != nullptr ? device + at : nullptr,
           .host = host != nullptr ? host + at : nullptr,
           .out_offset = slot_use(reader, count, host != nullptr).out_offset});
  }
}

void WeightLoader::begin(const Piece& piece) {
  if (begun_ - completed_ == kAhead) complete();
  Slot& s = slot(begun_++);
  device_.host_wait(*s.left, {"weights_arrived"});
  s.piece = piece;
  std::byte* to = piece.reader->plain() && piece.host != nullptr ? reinterpret_cast<std::byte*>(piece.host) : s.bytes;
  s.fetched = std::async(std::launch::async, [piece, to] { piece.reader->fetch(piece.rows, to); });
}

void WeightLoader::complete() {
  Slot& s = slot(completed_++);
  s.fetched.get();
  const auto& [reader, rows, device, host, out_offset] = s.piece;
  const std::int64_t cols = reader->cols(), step = reader->row_step();
  bf16* out = host != nullptr ? host : reinterpret_cast<bf16*>(s.bytes + out_offset);
  if (!reader->plain()) {
    const std::int64_t grain = std::max<std::int64_t>(1, (std::int64_t{64} << 10) / (cols * step));
    parallel_for(ceil_div(rows.count, step), grain, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t first = begin * step, count = std::min(end * step, rows.count) - first;
      reader->convert(s.bytes, rows, {rows.first + first, count}, out + first * cols);
    });
  }
  if (host == nullptr) {
    stream_.copy({.dst = device, .src = out, .width = rows.count * cols * 2, .kind = CopyKind::host_to_device});
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
