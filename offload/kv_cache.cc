#include "offload/kv_cache.h"

#include "offload/decode_pass.h"
#include "offload/prefill_pass.h"

namespace longhaul {

KvCache::KvCache(Device& device, const Streams& streams, const KvBuffers& buffers)
    : slots_(static_cast<std::size_t>(buffers.layout.sessions)) {
  for (SlotState& slot : slots_) {
    slot.prefilled = device.make_event();
    for (std::int64_t i = 0; i < buffers.layout.ring_rows / kAttendBlock; ++i)
      slot.flushed.push_back(device.make_event());
  }
  prefill_ = std::make_unique<PrefillPass>(device, streams, buffers, slots_);
  decode_ = std::make_unique<DecodePass>(device, streams, buffers, slots_);
}

KvCache::~KvCache() = default;

KvPass& KvCache::begin_prefill(std::int64_t slot, std::int64_t rows) {
  prefill_->begin(slot, rows);
  return *prefill_;
}

KvPass& KvCache::begin_decode(std::span<const Span> spans) {
  decode_->begin(spans);
  return *decode_;
}

AppendArgs append_args(const KvShape& shape, const Span& span, const void* qkv, const KvTile& dst) {
  return {.qkv = qkv,
          .dst = dst,
          .act = shape.act,
          .tokens = span.tokens,
          .q_heads = shape.q_heads,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim};
}

AttendArgs attend_args(const KvBuffers& buffers, const Span& span, const void* qkv, const KvTile& tile, bool fresh) {
  const KvShape& shape = buffers.shape;
  return {.q = qkv,
          .q_stride = shape.qkv_width(),
          .kv = tile,
          .state = buffers.state,
          .fresh = fresh,
          .act = shape.act,
          .tokens = span.tokens,
          .q_heads = shape.q_heads,
          .kv_heads = shape.kv_heads,
          .head_dim = shape.head_dim,
          .q_pos = span.pos,
          .scale = shape.scale()};
}

FinishArgs finish_args(const KvBuffers& buffers, const Span& span, void* out) {
  return {.state = buffers.state,
          .out = out,
          .act = buffers.shape.act,
          .tokens = span.tokens,
          .heads = buffers.shape.q_heads,
          .head_dim = buffers.shape.head_dim};
}

}  // namespace longhaul
