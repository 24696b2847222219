// Every ordering edge between streams, named once. Each wait in the project carries one of these; the mutation test
// drops them one at a time and expects wrong output (design law 6).
#pragma once
#include <array>

#include "kernels/device.h"

namespace longhaul::edge {

// Decode: tiles through the staging ring.
inline constexpr Edge kTileReady{"tile_ready"};  // compute waits for fetch: the tile has landed in its slot
inline constexpr Edge kTileFree{"tile_free"};    // fetch waits for compute: the slot's last tile has been attended
inline constexpr Edge kRowsStored{
    "rows_stored"};  // fetch waits for store: rows that left the window are in the host store
// Decode: the recent window's ring.
inline constexpr Edge kRowWritten{"row_written"};  // store waits for compute: the block's last rows have been appended
inline constexpr Edge kRingFree{
    "ring_free"};  // compute waits for store, when a step begins: the block that a new row overwrites is on the host
// Decode: listed rows. No edge guards a staging place against being overwritten too early: what is fetched for a layer
// was listed after compute had attended the layer before last, which used the same places, and fetch itself has kept
// its rows. Nor does kRowsStored: compute lists rows after it has itself waited for the store (kPrefillStored,
// kRingFree), and aside after compute (kForeseen).

// aside waits for compute: what look-ahead begins with is written, and selection's scratch is free
inline constexpr Edge kForeseen{"foreseen"};
// compute waits for aside, before a layer appends and at a step's end: lists, labels and scratch have been left
inline constexpr Edge kAsideDone{"aside_done"};
inline constexpr Edge kRowsAttended{"rows_attended"};  // fetch waits for compute: rows are kept after they are attended
// compute waits for fetch, before a layer appends and at a step's end: lists have been left, the resident set is whole
inline constexpr Edge kRowsRetained{"rows_retained"};
inline constexpr Edge kPredictionListed{"prediction_listed"};  // fetch waits for aside: what to prefetch is written
inline constexpr Edge kPrefetchLanded{"prefetch_landed"};      // compute waits for fetch: the prefetched rows are there
inline constexpr Edge kMissesListed{"misses_listed"};          // fetch waits for compute: what was missed is written
inline constexpr Edge kMissesLanded{"misses_landed"};          // compute waits for fetch: the missed rows are there
// Prefill: one layer's rows in one buffer.
inline constexpr Edge kChunkWritten{"chunk_written"};  // store waits for compute: the chunk's rows have been appended
inline constexpr Edge kLayerFree{"layer_free"};  // compute waits for store: the layer before has left the rows' places
inline constexpr Edge kPrefillStored{"prefill_stored"};  // compute waits for store: prefix and window rows are in place
// Prefill: labels, on a stream of their own. labels waits for compute: a layer's rows and recent queries are all there
inline constexpr Edge kLayerAppended{"layer_appended"};
// compute waits for labels: they have been made of the rows and queries that a layer overwrites
inline constexpr Edge kLayerLabelled{"layer_labelled"};
// compute waits for labels, when a session's first step or another prompt begins: they are there
inline constexpr Edge kLabelsMade{"labels_made"};
// Prefill: hidden states that live in host memory, a chunk at a time through two slots.
inline constexpr Edge kHiddenFree{"hidden_free"};      // compute waits for store, in layer 0: the slot has been left
inline constexpr Edge kHiddenStored{"hidden_stored"};  // fetch waits for store: the chunk is on the host, the slot free
inline constexpr Edge kHiddenLanded{"hidden_landed"};  // compute waits for fetch: the chunk is in its slot
inline constexpr Edge kHiddenWritten{"hidden_written"};  // store waits for compute: the layer is done with the chunk
// Streamed weights, two slots. No edge guards a walk's first loads: the host has waited for the last walk's tokens, or
// for it to pause.
inline constexpr Edge kWeightsLanded{"weights_landed"};  // compute waits for weights: a part of its layer is there
// compute waits for weights: what look-ahead uses of the next layer is there
inline constexpr Edge kNextWeightsLanded{"next_weights_landed"};
inline constexpr Edge kWeightsFree{"weights_free"};  // weights waits for compute: it has left what is overwritten
// The host.
inline constexpr Edge kTokenReady{"token_ready"};  // the one wait of a step: the sampled tokens are in host memory
// host waits for compute: a prefill's chunks so far are done before a step of other sessions takes the weights' slots
inline constexpr Edge kPrefillPaused{"prefill_paused"};
// host waits for store: a prompt's rows are in place before another engine, on streams of its own, reads them
inline constexpr Edge kRowsAdopted{"rows_adopted"};
inline constexpr Edge kPrefillPaced{"prefill_paced"};  // bounds what the host enqueues ahead in prefill; orders no data

/// The edges that order data within an engine: dropping any of them must change the output.
inline constexpr std::array kAll{kTileReady,    kTileFree,      kRowsStored,    kRowWritten,       kRingFree,
                                 kChunkWritten, kLayerFree,     kPrefillStored, kPredictionListed, kPrefetchLanded,
                                 kMissesListed, kMissesLanded,  kForeseen,      kRowsAttended,     kAsideDone,
                                 kRowsRetained, kLayerAppended, kLayerLabelled, kLabelsMade,       kHiddenFree,
                                 kHiddenStored, kHiddenLanded,  kHiddenWritten, kWeightsLanded,    kNextWeightsLanded,
                                 kWeightsFree,  kTokenReady,    kPrefillPaused};

}  // namespace longhaul::edge
