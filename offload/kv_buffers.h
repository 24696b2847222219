// All KV memory, laid out once: run with counting arenas it is the plan, with carving arenas the use.
#pragma once
#include "kernels/arena.h"
#include "offload/queries.h"
#include "offload/selection_buffers.h"

namespace longhaul {

struct KvBuffers {
  /// `chunk`: most tokens appended and attended in one call.
  KvBuffers(const KvShape& shape, const KvPolicy& policy, const KvLayout& layout, const SelectionExtras& extras,
            std::int64_t chunk, Arena& device, Arena& host)
      : shape(shape),
        policy(policy),
        plan(plan_layers(policy, shape)),
        layout(layout),
        chunk(chunk),
        layers_held(extras.layers_held),
        prefix(device, "kv resident prefix", shape, layout.sessions * full(), layout.prefix_rows, full()),
        ring(device, "kv recent window", shape, layout.sessions * full(), layout.ring_rows, full()),
        window(device, "kv windowed layers", shape, layout.sessions * shape.windowed_layers(), layout.window_rows,
               shape.windowed_layers()),
        staging(device, "kv staging slots", shape, 2, layout.tile_rows),
        prefill(device, "kv prefill buffer", shape.unrounded(), layers_held, prefills_in_place() ? 0 : layout.capacity),
        codes(device, "kv row codes", shape, extras.checksums ? 2 : 1, stores_codes() ? chunk : 0),
        host(host, "kv host store", shape, full(), layout.store_rows),
        state{device.take<float>(chunk * shape.q_heads * shape.head_dim, "attention state"),
              device.take<float>(chunk * shape.q_heads, "attention state"),
              device.take<float>(chunk * shape.q_heads, "attention state")},
        splits(device.take<float>(split_floats(layout.sessions, shape.q_heads, shape.kv_heads, shape.head_dim),
                                  "attention state")),
        spans(device.take<StepSpan>(layout.sessions, "step spans")),
        host_spans(host.take<StepSpan>(layout.sessions, "step spans")),
        no_turns(device.take<float>(std::ranges::count(shape.still, true) > 0 ? shape.head_dim / 2 : 0, "rope table")),
        checksums(device.take<std::uint64_t>(extras.checksums ? shape.layers : 0, "checksums")),
        keeps_checksums(extras.checksums),
        selection(shape, layout, policy, extras, device, host) {}

  /// Whether what a decode step enqueues between its begin and end is the same whatever the lengths are.
  bool steps_alike() const { return layout.tile_rows == 0; }
  /// Whether a prompt's rows are written to their place at once: it is on the device, and keeps all rows as
  /// activations.
  bool prefills_in_place() const {
    return layout.all_resident() && shape.row_type == RowType::act && layout.window_rows == 0;
  }
  /// Whether rows become codes on their way to the host.
  bool stores_codes() const { return !layout.all_resident() && shape.row_type != RowType::act; }
  std::int64_t full() const { return shape.full_layers(); }
  std::int64_t outer(std::int64_t slot, std::int64_t layer) const { return slot * full() + shape.index(layer); }
  KvTile prefix_tile(std::int64_t slot, std::int64_t layer, std::int64_t first, std::int64_t rows) const {
    return prefix.tile(outer(slot, layer), first, first, rows);
  }
  /// Of the session whose places in the host store begin at `host_first`.
  KvTile host_tile(std::int64_t host_first, std::int64_t layer, std::int64_t first, std::int64_t rows) const {
    return host.tile(shape.index(layer), host_first + first - layout.prefix_rows, first, rows);
  }
  /// [first, first + rows) must not cross the ring's end: cut at multiples of ring_rows.
  KvTile ring_tile(std::int64_t slot, std::int64_t layer, std::int64_t first, std::int64_t rows) const {
    return ring.tile(outer(slot, layer), first % layout.ring_rows, first, rows);
  }

  /// The same of a windowed layer's ring.
  KvTile window_tile(std::int64_t slot, std::int64_t layer, std::int64_t first, std::int64_t rows) const {
    const std::int64_t run = slot * shape.windowed_layers() + shape.index(layer);
    return window.tile(run, first % layout.window_rows, first, rows);
  }

  /// The rows of a layer, of all sessions, by slot.
  KvTile prefixes(std::int64_t layer) const { return prefix_tile(0, layer, 0, layout.prefix_rows); }
  KvTile rings(std::int64_t layer) const { return ring.tile(outer(0, layer), 0, 0, layout.ring_rows); }
  KvTile windows(std::int64_t layer) const { return window.tile(shape.index(layer), 0, 0, layout.window_rows); }
  /// Those of the session that lies first in the host store; the others' are StepSpan::host_first rows on.
  KvTile host_rows(std::int64_t layer) const { return host_tile(0, layer, layout.prefix_rows, layout.host_rows()); }

  KvShape shape;
  KvPolicy policy;
  std::vector<LayerPlan> plan;
  KvLayout layout;
  std::int64_t chunk;
  std::int64_t layers_held;  // whose rows and recent queries a prefill has at a time, in turn
  RowBlock prefix, ring, window, staging, prefill,
      codes;  // device; codes: of the chunk on its way to the host, and of one to add up
  RowBlock host;
  AttnState state;
  float* splits;                 // of decode attention
  StepSpan *spans, *host_spans;  // of a decode step, [sessions]: on the device, and what is sent there
  float* no_turns;               // [head_dim / 2] zeros, the frequencies of a layer that RoPE does not turn
  std::uint64_t* checksums;      // [layers] of the last prefill's rows, from the prefix on
  bool keeps_checksums;
  SelectionBuffers selection;
};

/// A token's part in a step: of the session in `slot`, which has n rows with it, its recent window from ring_first and
/// its places in the host store from host_first.
StepSpan step_span(const KvPolicy& policy, std::int64_t slot, std::int64_t n, std::int64_t ring_first,
                   std::int64_t host_first = 0);

/// Lists the rows that the batch attends in a layer that selects; `foretold`: those that look-ahead expects it to.
/// `beside_gather`: rows may be on their way meanwhile.
void select_rows(Stream& compute, const KvBuffers& buffers, std::int64_t layer, const StepBatch& batch,
                 const Queries& q, bool foretold, RowList out, bool beside_gather = false);

/// Calls f(first, rows) for the pieces of [begin, end) cut at multiples of `step`, in order.
template <class F>
void for_each_piece(std::int64_t begin, std::int64_t end, std::int64_t step, const F& f) {
  while (begin < end) {
    std::int64_t rows = std::min(end, begin / step * step + step) - begin;
    f(begin, rows);
    begin += rows;
  }
}

}  // namespace longhaul
