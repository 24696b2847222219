// The CUDA device behind the Device's interface: copies, pinning, budget, counters; and the engine on it.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "kernels/base/error.h"
#include "kernels/base/host_memory.h"
#include "tests/support/compare.h"
#include "tests/support/cuda_rig.h"
#include "tests/support/tiny_model.h"

using namespace longhaul;
using namespace longhaul::test;

namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20, kGiB = kMiB << 10;

std::vector<double> doubles(const std::vector<float>& v) { return {v.begin(), v.end()}; }

}  // namespace

TEST_CASE("cuda: the budget is a hard total, the workspace in it", "[cuda]") {
  if (cuda_rig() == nullptr) return;
  auto device = make_cuda_device(0, 256 * kMiB);
  const std::int64_t reserved = device->used_bytes();
  CHECK(reserved > 0);
  {
    Buffer all = device->allocate(256 * kMiB - reserved, "all");
    CHECK_THROWS_AS(device->allocate(1, "one more"), OutOfMemory);
  }
  CHECK(device->used_bytes() == reserved);
  CHECK(device->describe().find("compute capability") != std::string::npos);
  auto endless = make_cuda_device(0, std::int64_t{1} << 50);
  CHECK_THROWS_AS(endless->allocate(std::int64_t{1} << 49, "more than any machine has"), OutOfMemory);
  Buffer after = endless->allocate(kMiB, "and the device goes on");
  CHECK_THROWS_AS(make_cuda_device(0, 1), OutOfMemory);
  CHECK_THROWS_AS(make_cuda_device(-1, kGiB), DeviceError);
  CHECK_THROWS_AS(make_cuda_device(cuda_device_count(), kGiB), DeviceError);
}

TEST_CASE("cuda: strided copies both ways, counted", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  Random random(40);
  const std::int64_t height = 7, width = 96, from = 160, to = 128;
  Tensor source = random.normal(DType::f32, height * from / 4), back(DType::f32, height * from / 4, 5);
  const DeviceCounters before = cuda->device->counters();
  Buffer there = cuda->device->allocate(height * to, "test");
  cuda->stream->copy({there.data(), source.data(), width, height, to, from, CopyKind::host_to_device});
  cuda->stream->copy({back.data(), there.data(), width, height, from, to, CopyKind::device_to_host});
  cuda->stream->copy({nullptr, nullptr, 0, 3, 8, 8, CopyKind::device_to_device});
  cuda->wait();
  for (std::int64_t i = 0; i < back.size; ++i) REQUIRE(back.get(i) == (i % (from / 4) < width / 4 ? source.get(i) : 5));
  const DeviceCounters after = cuda->device->counters();
  CHECK(after.h2d_bytes - before.h2d_bytes == width * height);
  CHECK(after.d2h_bytes - before.d2h_bytes == width * height);
  CHECK(after.copies - before.copies == 3);
  CHECK(after.host_waits - before.host_waits == 1);
}

TEST_CASE("cuda: pinned memory, also past a refusal, and pitches past 2 GiB", "[cuda][large]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  const std::int64_t bytes = kGiB + 64 * kMiB, piece = 8 * kMiB;
  HostMemory host(bytes, "test");
  Device& device = *cuda->device;
  mprotect(host.data() + kGiB, 64 * kMiB, PROT_NONE);
  CHECK_THROWS(device.pin(host.data(), bytes));  // and nothing stays pinned:
  mprotect(host.data() + kGiB, 64 * kMiB, PROT_READ | PROT_WRITE);
  device.pin(host.data(), bytes);
  const std::unique_ptr<std::byte, std::function<void(std::byte*)>> pinned(host.data(),
                                                                           [&](auto* p) { device.unpin(p); });
  CHECK_THROWS(device.pin(host.data(), bytes));
  std::byte* middle = host.data() + kGiB - piece / 2;
  for (std::int64_t i = 0; i < piece; ++i) middle[i] = static_cast<std::byte>(i * 7 + (i >> 12));
  const std::vector<std::byte> kept(middle, middle + piece);
  Buffer there = device.allocate(piece, "test");
  cuda->stream->copy({.dst = there.data(), .src = middle, .width = piece, .kind = CopyKind::host_to_device});
  cuda->wait();
  std::memset(middle, 0, static_cast<std::size_t>(piece));
  cuda->stream->copy({middle, there.data(), piece / 4, 4, piece / 4, piece / 4, CopyKind::device_to_host});
  cuda->wait();
  CHECK(std::memcmp(middle, kept.data(), kept.size()) == 0);

  const std::int64_t pitch = 2 * kGiB + kMiB;
  Buffer wide = cuda->device->allocate(pitch + kMiB, "test"), two = cuda->device->allocate(2 * kMiB, "test");
  std::vector<std::byte> text(2 * kMiB);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<std::byte>(i * 31 + (i >> 10));
  cuda->stream->copy({wide.data(), text.data(), kMiB, 2, pitch, kMiB, CopyKind::host_to_device});
  cuda->stream->copy({two.data(), wide.data(), kMiB, 2, kMiB, pitch, CopyKind::device_to_device});
  std::vector<std::byte> back(text.size());
  cuda->stream->copy({.dst = back.data(), .src = two.data(), .width = 2 * kMiB, .kind = CopyKind::device_to_host});
  cuda->wait();
  CHECK(back == text);
}

TEST_CASE("cuda: streams order by events, and an event never recorded is passed", "[cuda]") {
  Rig* cuda = cuda_rig();
  if (cuda == nullptr) return;
  auto ready = cuda->device->make_event(), never = cuda->device->make_event();
  cuda->device->host_wait(*never, {"test"});
  auto other = cuda->device->make_stream("other");
  Buffer a = cuda->device->allocate(64 * kMiB, "test"), b = cuda->device->allocate(64 * kMiB, "test");
  std::vector<std::uint8_t> from(64 * kMiB), back(64 * kMiB);
  for (int round = 1; round <= 5; ++round) {
    std::fill(from.begin(), from.end(), static_cast<std::uint8_t>(round));
    cuda->stream->copy({.dst = a.data(), .src = from.data(), .width = 64 * kMiB, .kind = CopyKind::host_to_device});
    cuda->stream->record(*ready);
    other->wait(*never, {"test"});
    other->wait(*ready, {"test"});
    other->copy({.dst = b.data(), .src = a.data(), .width = 64 * kMiB});
    other->copy({.dst = back.data(), .src = b.data(), .width = 64 * kMiB, .kind = CopyKind::device_to_host});
    other->record(*cuda->done);
    cuda->device->host_wait(*cuda->done, {"test"});
    CHECK(back == from);
  }
}

TEST_CASE("cuda: the engine, dense and streamed, against the CPU device", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  for (DType act : {DType::f32, DType::bf16}) {
    RunOptions options{.policy = "dense", .activations = act, .prompts = {1, 63, 64, 150, 300}, .steps = 80};
    const RunResult want = run_tiny(options);
    for (double resident : {-1.0, 0.0, 0.4, 1.0})
      for (bool together : {true, false}) {
        options.policy = resident < 0 ? "dense" : "stream";
        options.resident = resident;
        options.together = together;
        auto device = make_cuda_device(0, kGiB);
        const RunResult got = run_tiny(*device, options, &want);
        for (std::size_t i = 0; i < options.prompts.size(); ++i) {
          CAPTURE(name_of(act), options.policy, resident, together, options.prompts[i]);
          CHECK(nmse(doubles(got.logits[i]), doubles(want.logits[i])) <= (act == DType::f32 ? 1e-10 : 1e-3));
        }
        if (act == DType::f32) CHECK(run_tiny(*device, options).tokens == want.tokens);  // its own answers, too
      }
  }
}

TEST_CASE("cuda: laws 7 and 11 hold on the device", "[cuda][engine]") {
  if (cuda_rig() == nullptr) return;
  const RunOptions options{.resident = 0.3, .prompts = {150, 90}, .steps = 30};
  const ModelConfig config = load_model_config(tiny_model_dir());
  const Checkpoint weights = Safetensors::open_model(tiny_model_dir());
  const MemoryPlan plan = plan_memory(config, engine_options(options));
  const std::int64_t reserved = make_cuda_device(0, kGiB)->used_bytes();
  auto device = make_cuda_device(0, reserved + plan.device_bytes);
  Engine engine(*device, config, weights, engine_options(options));
  CHECK(device->peak_bytes() == reserved + plan.device_bytes);
  Session a(0, random_prompt(150, 1), {}, 31, {}), b(1, random_prompt(90, 2), {}, 31, {});
  engine.prefill(a);
  engine.prefill(b);
  const std::int64_t before = device->counters().host_waits;
  Session* both[] = {&a, &b};
  for (int i = 0; i < 30; ++i) engine.step(both);
  CHECK(device->counters().host_waits - before == 30);
  CHECK(device->peak_bytes() == reserved + plan.device_bytes);
}

TEST_CASE("cuda: a recording on two streams replays with what memory holds then", "[cuda]") {
  if (cuda_rig() == nullptr) return;
  auto device = make_cuda_device(0, 256 * kMiB);
  auto compute = device->make_stream("compute"), fetch = device->make_stream("fetch");
  auto before = device->make_event(), there = device->make_event(), done = device->make_event();
  Buffer a = device->allocate(kMiB, "a"), b = device->allocate(kMiB, "b");
  std::vector<std::int32_t> out(kMiB / 4);
  fetch->launch(FillArgs{reinterpret_cast<std::int32_t*>(a.data()), 1, kMiB / 4});
  fetch->record(*before);
  const DeviceCounters counters = device->counters();
  Stream* const streams[] = {compute.get(), fetch.get()};
  auto recording = device->record(streams, [&] {
    compute->wait(*before, {"before"});  // left out: a replay comes after all that
    compute->copy({b.data(), a.data(), kMiB});
    compute->record(*there);
    fetch->wait(*there, {"there"});
    fetch->copy({out.data(), b.data(), kMiB, 1, 0, 0, CopyKind::device_to_host});
  });
  REQUIRE(recording != nullptr);
  CHECK(device->counters().copies == counters.copies);  // nothing has run
  for (std::int32_t value : {1, 7, 9}) {
    // On the other stream: the replay waits for it, and what follows waits for the replay.
    fetch->launch(FillArgs{reinterpret_cast<std::int32_t*>(a.data()), value, kMiB / 4});
    recording->replay();
    fetch->record(*done);
    device->host_wait(*done, {"test"});
    CHECK(std::ranges::all_of(out, [&](std::int32_t x) { return x == value; }));
  }
  CHECK(device->counters().copies == counters.copies + 6);
  CHECK(device->counters().d2h_bytes == counters.d2h_bytes + 3 * kMiB);
}
