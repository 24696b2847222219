#include "runtime/engine/engine_setup.h"

#include <random>

#include "kernels/base/error.h"
#include "runtime/labels/label_bases.h"

namespace longhaul {
namespace {

/// The maps of labels that are not fitted to the document, the same for every slot. Null: there are none. What is
/// returned is still to be copied from.
std::shared_ptr<const LabelBases> send_bases(Stream& compute, const ModelConfig& c, const EngineOptions& options,
                                             const KvBuffers& kv) {
  const SelectionBuffers& selection = kv.selection;
  const Labels labels = options.policy.labels;
  if (options.policy.select != Select::labels || !selection.given_bases()) return nullptr;
  const std::int64_t d = c.head_dim, dims = options.policy.dims(d), maps = 2 * dims * d;
  auto bases = labels == Labels::exact ? std::make_shared<const LabelBases>(exact_bases(c)) : options.bases;
  check(bases->dims == dims && std::ssize(bases->maps) == c.layers * c.kv_heads * maps,
        "the bases belong to the model and the policy");
  for (std::int64_t slot = 0; slot < options.max_sessions; ++slot)
    for (std::int64_t l = 0; l < c.layers; ++l) {
      if (kv.shape.is_windowed(l)) continue;
      compute.copy({.dst = selection.labels(slot, l).basis,
                    .src = bases->maps.data() + l * c.kv_heads * maps,
                    .width = maps * 4,
                    .height = c.kv_heads,
                    .dst_pitch = label_basis_floats(dims, d) * 4,
                    .src_pitch = maps * 4,
                    .kind = CopyKind::host_to_device});
    }
  return bases;
}

std::vector<std::byte> noise(std::int64_t count, DType act) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<std::byte> noise(static_cast<std::size_t>(count * size_of(act)));
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = normal(random);
    if (act == DType::f32) reinterpret_cast<float*>(noise.data())[i] = x;
    else reinterpret_cast<bf16*>(noise.data())[i] = to_bf16(x);
  }
  return noise;
}

}  // namespace

void set_up(Device& device, Stream& compute, const ModelConfig& c, const EngineOptions& options,
            const EngineMemory& memory, bool random_weights) {
  if (random_weights) memory.weights.randomize(device, compute);
  const auto bases = send_bases(compute, c, options, memory.kv);
  if (options.probes.moments)
    compute.launch(FillArgs{reinterpret_cast<std::int32_t*>(memory.probes.moments), 0,
                            c.layers * c.kv_heads * moment_doubles(c.head_dim) * 2});
  std::vector<std::byte> sent;
  if (options.probes.noise) {
    sent = noise(options.max_sessions * c.q_heads * c.head_dim, memory.act.act);
    compute.copy(
        {.dst = memory.act.noise, .src = sent.data(), .width = std::ssize(sent), .kind = CopyKind::host_to_device});
  }
  auto done = device.make_event();
  compute.record(*done);
  device.host_wait(*done, {"engine_set_up"});
}

}  // namespace longhaul
