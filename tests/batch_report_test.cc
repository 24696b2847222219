// What a batch's final table makes of what was counted: percentiles, the link's use, and what bound the run.
#include "offload/edges.h"
#include "runtime/batch/report.h"
#include "tests/support/catch.h"

namespace longhaul {
namespace {

using test::contains;

TEST_CASE("a percentile is the least value that so many do not exceed", "[batch]") {
  CHECK(percentile({3}, 50) == 3);
  CHECK(percentile({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 50) == 5);
  CHECK(percentile({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 90) == 9);
  CHECK(percentile({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 99) == 10);
}

JobStats stats() {
  JobStats stats;
  stats.load_seconds = 1;
  stats.prefill_seconds = 2;
  stats.decode_seconds = 3;
  stats.load_h2d_bytes = 1000;
  stats.prefill_h2d_bytes = 500;
  return stats;
}

TEST_CASE("the link's use is bytes over time over what it can do", "[batch]") {
  DeviceCounters counters;
  counters.h2d_bytes = 1000 + 500 + 600;  // the model's, prefills', steps'
  counters.d2h_bytes = 50;
  const LinkUse use = link_use(stats(), counters, {.h2d = 400, .d2h = 100});
  CHECK(use.decode_h2d_bytes == 600);
  CHECK(use.decode_h2d_rate == 200);
  CHECK(use.decoding.value() == 0.5);
  CHECK(use.h2d.value() == Approx(1100.0 / 5 / 400));
  CHECK(use.d2h.value() == Approx(0.1));
  const LinkUse unknown = link_use(stats(), counters, {});
  CHECK(unknown.decode_h2d_rate == 200);
  CHECK_FALSE((unknown.decoding || unknown.h2d || unknown.d2h));
}

TEST_CASE("what bound a run: waits where they are measured, else the link's use, else nothing is said", "[batch]") {
  DeviceCounters measured;
  measured.busy_seconds["compute"] = 4;
  measured.stall_seconds[std::string(edge::kTileReady.name)] = 2;
  measured.stall_seconds[std::string(edge::kTokenReady.name)] = 100;  // the host's wait is nobody's loss
  CHECK(find_bound(stats(), measured, 1, {}).resource == "link");
  CHECK_THAT(find_bound(stats(), measured, 1, {}).words, contains("40 % of the time"));
  measured.stall_seconds[std::string(edge::kTileReady.name)] = 0.5;
  CHECK(find_bound(stats(), measured, 1, {}).resource == "compute");

  const DeviceCounters unmeasured;
  CHECK(find_bound(stats(), unmeasured, 1, {}).resource == "unknown");
  CHECK(find_bound(stats(), unmeasured, 1, {.h2d = 0.9, .d2h = 0.1}).resource == "link");
  CHECK(find_bound(stats(), unmeasured, 1, {.h2d = 0.2, .d2h = 0.9}).resource == "link");
  CHECK(find_bound(stats(), unmeasured, 1, {.h2d = 0.2, .d2h = 0.1}).resource == "compute");

  JobStats slow_start = stats();
  slow_start.load_seconds = 6;
  CHECK(find_bound(slow_start, measured, 1, {}).resource == "load");
  slow_start.wanted_sessions = 4;
  CHECK(find_bound(slow_start, measured, 4, {}).memory == false);
  const Bound few = find_bound(slow_start, measured, 3, {});
  CHECK(few.memory);
  CHECK_THAT(few.words, contains("3 documents together, where 4 were wanted"));
}

}  // namespace
}  // namespace longhaul
