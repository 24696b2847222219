#include "offload/prefetcher.h"

#include "kernels/base/error.h"
#include "offload/edges.h"

namespace longhaul {

void Prefetcher::begin(std::vector<TileFetch> tiles) {
  check(taken_ == tiles_.size() && issued_ == tiles_.size(), "a step ended before all its tiles were attended");
  staged_ += static_cast<std::int64_t>(taken_);
  tiles_ = std::move(tiles);
  issued_ = taken_ = 0;
  for (std::int64_t i = 0; i < ring_.size(); ++i) fetch_next();
}

void Prefetcher::fetch_next() {
  if (issued_ == tiles_.size()) return;
  const TileFetch& tile = tiles_[issued_];
  StagingRing::Slot& slot = ring_.of(staged_ + static_cast<std::int64_t>(issued_++));
  streams_.fetch.wait(*slot.free, edge::kTileFree);
  copy_rows(streams_.fetch, buffers_.shape, buffers_.staging.tile(slot.index, 0, tile.first, tile.rows),
            buffers_.host_tile(tile.host_first, tile.layer, tile.first, tile.rows), CopyKind::host_to_device);
  streams_.fetch.record(*slot.ready);
}

KvTile Prefetcher::acquire() {
  check(taken_ < issued_, "no tile is on its way");
  const TileFetch& tile = tiles_[taken_];
  StagingRing::Slot& slot = ring_.of(staged_ + static_cast<std::int64_t>(taken_));
  streams_.compute.wait(*slot.ready, edge::kTileReady);
  return buffers_.staging.tile(slot.index, 0, tile.first, tile.rows);
}

void Prefetcher::release() {
  streams_.compute.record(*ring_.of(staged_ + static_cast<std::int64_t>(taken_++)).free);
  fetch_next();
}

}  // namespace longhaul
