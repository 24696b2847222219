// Brings the host store's tiles over in the order that a step will attend them, one ahead of the one being attended:
// the next tile, and at a layer's last tile the next layer's first. Runs on the fetch stream.
#pragma once
#include <vector>

#include "offload/kv_buffers.h"
#include "offload/staging_ring.h"
#include "offload/streams.h"

namespace longhaul {

struct TileFetch {
  std::int64_t host_first, layer;  // of the session's places in the host store
  std::int64_t first, rows;
};

class Prefetcher {
 public:
  Prefetcher(Device& device, const Streams& streams, const KvBuffers& buffers)
      : streams_(streams), buffers_(buffers), ring_(device) {}

  /// The tiles of one step in attend order. Starts the first two. Every tile of the step before must have been
  /// released.
  void begin(std::vector<TileFetch> tiles);
  /// The next tile; compute waits for it.
  KvTile acquire();
  /// The acquired tile has been enqueued for attention: its slot takes the next tile that is not yet on its way.
  void release();

 private:
  void fetch_next();

  Streams streams_;
  const KvBuffers& buffers_;
  StagingRing ring_;
  std::vector<TileFetch> tiles_;
  std::size_t issued_ = 0, taken_ = 0;
  std::int64_t staged_ = 0;  // tiles of all steps before this one
};

}  // namespace longhaul
