// parallel_for over oneTBB. LONGHAUL_SERIAL builds the serial twin, for the thread sanitizer.
#pragma once
#include <cstdint>

#ifndef LONGHAUL_SERIAL
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>
#endif

namespace longhaul {

/// Calls body(begin, end) on disjoint pieces of [0, count), each of at least `grain` but for the last; returns when all
/// are done. Which thread runs a piece, and how [0, count) is cut, may differ between calls: a body must not depend on
/// it.
template <class Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  if (count <= 0) return;
#ifdef LONGHAUL_SERIAL
  (void)grain;
  body(std::int64_t{0}, count);
#else
  tbb::parallel_for(tbb::blocked_range<std::int64_t>(0, count, grain < 1 ? 1 : grain),
                    [&](const tbb::blocked_range<std::int64_t>& r) { body(r.begin(), r.end()); });
#endif
}

}  // namespace longhaul
