#include "kernels/device.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "kernels/cpu/cpu_device.h"
#include "kernels/cpu/cpu_machine.h"
#include "tests/support/catch.h"
#include "tests/support/sanitizer.h"

using namespace longhaul;

namespace {

constexpr Edge kReady{"test.ready"}, kFree{"test.free"}, kDone{"test.done"}, kEnd{"test.end"};

void put(Stream& stream, void* dst, const void* src, std::int64_t bytes, CopyKind kind = CopyKind::device_to_device) {
  stream.copy({.dst = dst, .src = src, .width = bytes, .kind = kind});
}

/// Rows go host -> one of two slots -> its place on the device -> host, on three streams: the shape of every pipeline
/// above. Returns what came back.
std::vector<std::int32_t> through_two_slots(Device& device, const std::vector<std::int32_t>& rows, std::int64_t width) {
  std::int64_t bytes = width * 4, count = static_cast<std::int64_t>(rows.size()) / width;
  std::vector<std::int32_t> back(rows.size(), -1);
  Buffer slots = device.allocate(2 * bytes, "slots"), work = device.allocate(2 * bytes, "work");
  auto fetch = device.make_stream("fetch"), compute = device.make_stream("compute"),
       store = device.make_stream("store");
  std::unique_ptr<Event> ready[2], free[2], done[2], stored[2], end = device.make_event();
  for (int s = 0; s < 2; ++s)
    for (auto* event : {&ready[s], &free[s], &done[s], &stored[s]}) *event = device.make_event();

  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t s = i % 2;
    fetch->wait(*free[s], kFree);
    put(*fetch, slots.data() + s * bytes, &rows[i * width], bytes, CopyKind::host_to_device);
    fetch->record(*ready[s]);

    compute->wait(*ready[s], kReady);
    compute->wait(*stored[s], kFree);
    put(*compute, work.data() + s * bytes, slots.data() + s * bytes, bytes);
    compute->record(*free[s]);
    compute->record(*done[s]);

    store->wait(*done[s], kDone);
    put(*store, &back[i * width], work.data() + s * bytes, bytes, CopyKind::device_to_host);
    store->record(*stored[s]);
  }
  store->record(*end);
  device.host_wait(*end, kEnd);
  auto result = back;  // as the host sees it now
  fetch.reset(), compute.reset(), store.reset();
  return result;
}

std::vector<std::int32_t> numbered(std::int64_t count) {
  std::vector<std::int32_t> rows(count);
  std::iota(rows.begin(), rows.end(), 1);
  return rows;
}

}  // namespace

TEST_CASE("waits order work across streams under random delays", "[device]") {
  auto seed = GENERATE(range(0, 6));
  auto device = make_cpu_device({.delays = {{.stream = "", .microseconds = 300, .every = 2, .random = true},
                                            {.stream = "store", .microseconds = 900, .every = 5, .random = true}},
                                 .poison = true,
                                 .seed = static_cast<std::uint64_t>(seed)});
  auto rows = numbered(40 * 64);
  CHECK(through_two_slots(*device, rows, 64) == rows);
  auto c = device->counters();
  CHECK(c.copies == 120);
  CHECK(c.launches == 0);
  CHECK(c.h2d_bytes == 40 * 256);
  CHECK(c.d2h_bytes == 40 * 256);
  CHECK(c.host_waits == 1);
  CHECK(c.busy_seconds.size() == 3);
  CHECK(c.stall_seconds.size() == 4);
}

TEST_CASE("a stall is counted under its edge's name", "[device]") {
  auto device = make_cpu_device({.delays = {{.stream = "slow", .microseconds = 2000}}});
  std::int32_t from = 1, to;
  auto slow = device->make_stream("slow"), quick = device->make_stream("quick");
  auto event = device->make_event(), end = device->make_event();
  // Who is first at a wait is the scheduler's business; in a hundred rounds the slow one is late once.
  for (int i = 0; i < 100 && device->counters().stall_seconds["test.ready"] == 0; ++i) {
    put(*slow, &to, &from, 4);
    slow->record(*event);
    quick->wait(*event, kReady);
    quick->record(*end);
    device->host_wait(*end, kEnd);
  }
  CHECK(device->counters().stall_seconds["test.ready"] > 0);
}

TEST_CASE("dropping any one wait makes the outcome wrong", "[device]") {
  if (test::kThreadSanitizer) return;
  auto [edge, late] = GENERATE(table<std::string, std::string>({{"test.ready", "fetch"},
                                                                {"test.free", "compute"},
                                                                {"test.free", "store"},
                                                                {"test.done", "compute"},
                                                                {"test.end", "store"}}));
  auto rows = numbered(6 * 64);
  CpuDeviceOptions options{.delays = {{.stream = late, .microseconds = 5000}}, .poison = true};
  CHECK(through_two_slots(*make_cpu_device(options), rows, 64) == rows);
  options.drop_wait = edge;
  CHECK(through_two_slots(*make_cpu_device(options), rows, 64) != rows);
}

TEST_CASE("an event never recorded has passed, and a wait does not see later records", "[device]") {
  auto device = make_cpu_device();
  auto a = device->make_stream("a"), b = device->make_stream("b");
  auto event = device->make_event(), turn = device->make_event();
  device->host_wait(*event, kEnd);
  // Each record of `event` on b stands behind a's wait for the record before it. A wait that took in the later record
  // would stand for ever, and one that took in an earlier one would see an older number.
  const std::vector<std::int32_t> numbers = numbered(3);
  std::vector<std::int32_t> seen(3, -1);
  std::int32_t newest = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    a->wait(*event, kReady);
    put(*a, &seen[i], &newest, 4);
    a->record(*turn);
    b->wait(*turn, kDone);
    put(*b, &newest, &numbers[i], 4);
    b->record(*event);
  }
  device->host_wait(*event, kEnd);
  CHECK(seen == std::vector<std::int32_t>{0, 1, 2});
  CHECK(newest == 3);
}

TEST_CASE("a wait refers to the latest record before it", "[device]") {
  auto device = make_cpu_device({.delays = {{.stream = "slow", .microseconds = 5000}}});
  std::int32_t from[2] = {1, 2}, value = 0, seen = 0;
  auto slow = device->make_stream("slow"), quick = device->make_stream("quick"), third = device->make_stream("third");
  auto event = device->make_event(), end = device->make_event();
  SECTION("and not to an earlier one that has passed") {
    slow->record(*event);
    put(*slow, &value, &from[0], 4);
    put(*slow, &value, &from[1], 4);
    slow->record(*event);
    quick->wait(*event, kReady);
    put(*quick, &seen, &value, 4);
    quick->record(*end);
    device->host_wait(*end, kEnd);
    CHECK(seen == 2);
  }
  SECTION("even when a later record on another stream passes first") {
    put(*slow, &value, &from[0], 4);
    slow->record(*event);
    third->wait(*event, kReady);
    put(*third, &seen, &value, 4);
    third->record(*end);
    quick->record(*event);
    device->host_wait(*event, kEnd);
    device->host_wait(*end, kEnd);
    CHECK(seen == 1);
  }
}

TEST_CASE("events may go before what waits for them, and a stream runs dry before it goes", "[device]") {
  auto device = make_cpu_device({.delays = {{.stream = "slow", .microseconds = 3000}}});
  std::int32_t from = 5, value = 0, seen = 0;
  auto slow = device->make_stream("slow"), quick = device->make_stream("quick");
  auto event = device->make_event();
  put(*slow, &value, &from, 4);
  slow->record(*event);
  quick->wait(*event, kReady);
  put(*quick, &seen, &value, 4);
  event.reset();
  quick.reset();
  CHECK(seen == 5);
}

TEST_CASE("a strided copy moves its pieces and nothing between them", "[device]") {
  auto device = make_cpu_device();
  std::vector<std::int32_t> from = numbered(24), to(24, 0);
  auto stream = device->make_stream("copy");
  stream->copy({.dst = to.data() + 1, .src = from.data(), .width = 8, .height = 3, .dst_pitch = 16, .src_pitch = 24});
  stream->copy({.dst = to.data() + 16, .src = from.data(), .width = 8, .height = 2, .dst_pitch = 8, .src_pitch = 8});
  stream->copy({.dst = to.data() + 23, .src = from.data() + 23, .width = 4});
  stream->copy({.dst = nullptr, .src = nullptr, .width = 0});
  stream.reset();
  CHECK(to == std::vector<std::int32_t>{0, 1, 2, 0, 0, 7, 8, 0, 0, 13, 14, 0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 24});
}

TEST_CASE("the budget is hard to the byte and given back", "[device]") {
  auto device = make_cpu_device({.budget = 1000});
  {
    Buffer first = device->allocate(600, "first");
    Buffer second = device->allocate(400, "second");
    CHECK(device->used_bytes() == 1000);
    try {
      device->allocate(1, "third");
      FAIL("given more than the budget");
    } catch (const OutOfMemory& error) {
      CHECK(error.where == "third");
      CHECK(error.asked == 1);
      CHECK(error.left == 0);
    }
    Buffer moved(std::move(first));
    CHECK(moved.size() == 600);
    CHECK(device->used_bytes() == 1000);
  }
  CHECK(device->used_bytes() == 0);
  CHECK(device->peak_bytes() == 1000);
  CHECK_THROWS_AS(device->allocate(1001, "all"), OutOfMemory);
  CHECK(device->peak_bytes() == 1000);
  CHECK(device->allocate(1000, "all").size() == 1000);
  CHECK(device->allocate(0, "none").size() == 0);
}

TEST_CASE("a refusal by the machine debits nothing", "[device]") {
  auto device = make_cpu_device({.fail_alloc_at = 2});
  Buffer first = device->allocate(64, "first");
  CHECK_THROWS_AS(device->allocate(64, "second"), OutOfMemory);
  CHECK(device->used_bytes() == 64);
  CHECK_NOTHROW(device->allocate(64, "third"));
  CHECK_THROWS_AS(device->allocate(std::int64_t{1} << 60, "beyond any machine"), OutOfMemory);
  CHECK(device->used_bytes() == 64);
}

TEST_CASE("poisoned memory reads as NaN in bf16 and float", "[device]") {
  auto device = make_cpu_device({.poison = true});
  Buffer buffer = device->allocate(6, "poison");
  float value;
  bf16 half;
  std::memcpy(&value, buffer.data(), 4);
  std::memcpy(&half, buffer.data() + 4, 2);
  CHECK(std::isnan(value));
  CHECK(std::isnan(to_float(half)));
}

TEST_CASE("a buffer goes only when the work in it is done", "[device]") {
  auto device = make_cpu_device({.delays = {{.stream = "slow", .microseconds = 5000}}});
  std::int32_t from = 3, back = 0;
  auto slow = device->make_stream("slow");
  {
    Buffer buffer = device->allocate(4, "gone early");
    put(*slow, buffer.data(), &from, 4);
    put(*slow, &back, buffer.data(), 4);
  }
  CHECK(back == 3);
}

TEST_CASE("failed work surfaces at every later host wait, and nothing hangs or runs after it", "[device]") {
  auto device = make_cpu_device({.fail_work_at = 2});
  std::int32_t from = 9, first = 0, second = 0, third = 0;
  auto a = device->make_stream("a"), b = device->make_stream("b");
  auto turn = device->make_event(), end = device->make_event();
  put(*a, &first, &from, 4);
  put(*a, &second, &from, 4);
  a->record(*turn);
  b->wait(*turn, kReady);
  put(*b, &third, &from, 4);
  b->record(*end);
  CHECK_THROWS_AS(device->host_wait(*end, kEnd), DeviceError);
  put(*a, &third, &from, 4);
  a->record(*end);
  CHECK_THROWS_AS(device->host_wait(*end, kEnd), DeviceError);
  CHECK((first == 9 && second == 0 && third == 0));
  CHECK(device->counters().copies == 1);
}

TEST_CASE("a broken promise on a stream is a device error that names the stream", "[device]") {
  auto device = make_cpu_device();
  std::int32_t value = 0;
  auto stream = device->make_stream("fetch");
  auto end = device->make_event();
  put(*stream, &value, &value, -4);
  stream->record(*end);
  try {
    device->host_wait(*end, kEnd);
    FAIL("passed");
  } catch (const DeviceError& error) {
    CHECK_THAT(error.what(), test::contains("fetch") && test::contains("not negative"));
  }
}

TEST_CASE("errors that say more than 'device' stay what they are, and the first is kept", "[device]") {
  CpuMachine machine({});
  CHECK_NOTHROW(machine.rethrow_failure());
  auto fail_with = [&](auto error) {
    try {
      throw error;
    } catch (...) {
      machine.fail("compute");
    }
  };
  SECTION("out of memory") {
    fail_with(OutOfMemory("scratch", 2, 1));
    fail_with(DeviceError("later"));
    CHECK_THROWS_AS(machine.rethrow_failure(), OutOfMemory);
  }
  SECTION("user error") {
    fail_with(UserError(Exit::bad_model, "x"));
    CHECK_THROWS_AS(machine.rethrow_failure(), UserError);
  }
  SECTION("not an exception of ours") {
    fail_with(std::out_of_range("x"));
    CHECK_THROWS_AS(machine.rethrow_failure(), DeviceError);
  }
}

TEST_CASE("copies of one direction share the link's speed", "[device]") {
  auto device = make_cpu_device({.link_bytes_per_second = 10e6});
  std::vector<std::byte> from(100'000), to(400'000);
  auto a = device->make_stream("a"), b = device->make_stream("b"), c = device->make_stream("c");
  auto start = std::chrono::steady_clock::now();
  put(*a, to.data(), from.data(), 100'000, CopyKind::host_to_device);
  put(*b, to.data() + 100'000, from.data(), 100'000, CopyKind::host_to_device);
  put(*c, to.data() + 200'000, from.data(), 100'000, CopyKind::device_to_host);
  a.reset(), b.reset(), c.reset();
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(20));
  auto counters = device->counters();
  CHECK(counters.h2d_bytes == 200'000);
  CHECK(counters.d2h_bytes == 100'000);
  CHECK(counters.busy_seconds["c"] >= 0.01);
}

TEST_CASE("pinning is counted, by page, once, and all or nothing", "[device]") {
  HostMemory memory(16384, "test");
  auto device = make_cpu_device({.pin_limit = 12288});
  device->pin(memory.data(), 8192);
  CHECK_THROWS_AS(device->pin(memory.data(), 8192), std::logic_error);
  CHECK_THROWS_AS(device->pin(memory.data() + 4096, 100), std::logic_error);
  CHECK_THROWS_AS(device->pin(memory.data() + 8192 + 64, 100), std::logic_error);
  CHECK_THROWS_AS(device->pin(memory.data() + 8192, 4097), OutOfMemory);
  device->unpin(memory.data());
  CHECK_THROWS_AS(device->pin(memory.data(), 12289), OutOfMemory);
  CHECK_NOTHROW(device->pin(memory.data() + 4096, 12288));
  CHECK_NOTHROW(device->pin(nullptr, 0));
}

TEST_CASE("drop_wait drops the host's waits too, and still counts them", "[device]") {
  auto device = make_cpu_device({.drop_wait = "test.end"});
  auto stream = device->make_stream("a");
  auto turn = device->make_event(), end = device->make_event();
  stream->record(*end);
  device->host_wait(*end, kEnd);
  device->host_wait(*turn, kDone);
  CHECK(device->counters().host_waits == 2);
}
