#include "kernels/cuda/cuda_stream.h"

#include <limits>

#include "kernels/base/error.h"
#include "kernels/cpu/labels.h"
#include "kernels/cpu/query_forms.h"
#include "kernels/cuda/attend_forms.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/synthetic_ops.h"

namespace longhaul::cuda {
namespace {

constexpr std::int64_t kMostPitch = std::numeric_limits<int>::max();  // cudaDeviceProp::memPitch

cudaMemcpyKind kind_of(CopyKind kind) {
  switch (kind) {
    case CopyKind::host_to_device:
      return cudaMemcpyHostToDevice;
    case CopyKind::device_to_host:
      return cudaMemcpyDeviceToHost;
    case CopyKind::device_to_device:
      break;
  }
  return cudaMemcpyDeviceToDevice;
}

void check_head_dim(std::int64_t head_dim) {
  longhaul::check(head_dim % 8 == 0 && head_dim <= 256, "attention: head_dim is a multiple of 8 up to 256");
}
void check_row_bytes(std::int64_t bytes) {
  longhaul::check(bytes > 0 && bytes % 4 == 0 && bytes <= kChunkBytes, "a row is of whole words, up to 32 KiB");
}

}  // namespace

CudaStream::~CudaStream() {
  cudaStreamSynchronize(stream_.get());
  machine_.matmul.forget(stream_.get());
  machine_.gatherer.forget(stream_.get());
  machine_.attention.forget(stream_.get());
}

void CudaStream::copy(const CopyArgs& a) {
  machine_.enter();
  ++machine_.counters.copies;
  if (a.width == 0 || a.height == 0) return;
  longhaul::check(a.height == 1 || (a.dst_pitch >= a.width && a.src_pitch >= a.width),
                  "the pieces of a copy do not overlap");
  clocked(StreamClock::Counts::busy, name_,
          [&] { machine_.pins.cut(a, [&](const CopyArgs& part) { copy_part(part); }); });
  if (a.kind == CopyKind::host_to_device) machine_.counters.h2d_bytes += a.width * a.height;
  if (a.kind == CopyKind::device_to_host) machine_.counters.d2h_bytes += a.width * a.height;
}

void CudaStream::copy_part(const CopyArgs& a) {
  const auto width = static_cast<std::size_t>(a.width), height = static_cast<std::size_t>(a.height);
  const cudaMemcpyKind kind = kind_of(a.kind);
  if (a.height > 1 && a.dst_pitch <= kMostPitch && a.src_pitch <= kMostPitch)
    return check(cudaMemcpy2DAsync(a.dst, static_cast<std::size_t>(a.dst_pitch), a.src,
                                   static_cast<std::size_t>(a.src_pitch), width, height, kind, stream_.get()));
  for (std::int64_t i = 0; i < a.height; ++i)
    check(cudaMemcpyAsync(static_cast<std::byte*>(a.dst) + i * a.dst_pitch,
                          static_cast<const std::byte*>(a.src) + i * a.src_pitch, width, kind, stream_.get()));
}

void CudaStream::record(Event& event) {
  machine_.enter();
  auto& mark = static_cast<CudaEvent&>(event);
  check(cudaEventRecord(mark.get(), stream_.get()));
  mark.capture_ = machine_.capture;
}

void CudaStream::wait(const Event& event, Edge edge) {
  machine_.enter();
  const auto& mark = static_cast<const CudaEvent&>(event);
  // What was recorded before a recording, or in one, is ordered by its replay: that waits for all streams, and they for
  // it.
  if (mark.capture_ != machine_.capture) return;
  clocked(StreamClock::Counts::stall, edge.name, [&] { check(cudaStreamWaitEvent(stream_.get(), mark.get())); });
}

void CudaStream::begin_launch() {
  machine_.enter();
  ++machine_.counters.launches;
}

void CudaStream::launch(const EmbedArgs& a) { begin_launch(), embed(a, machine_.fault_word(), stream_.get()); }
void CudaStream::launch(const RmsNormArgs& a) { begin_launch(), rms_norm(a, stream_.get()); }
void CudaStream::launch(const LinearArgs& a) {
  begin_launch();
  if (a.act == DType::f32) return linear_f32(a, stream_.get());
  if (!linear_few(a, machine_.processors, stream_.get())) machine_.matmul.run(a, stream_.get());
}
void CudaStream::launch(const ExpandArgs& a) {
  longhaul::check(is_packable(a.format, a.cols), "expand: rows of a packed format");
  begin_launch(), expand(a, stream_.get());
}
void CudaStream::launch(const HeadNormArgs& a) { begin_launch(), head_norm(a, stream_.get()); }
void CudaStream::launch(const RopeArgs& a) { begin_launch(), rope(a, stream_.get()); }
void CudaStream::launch(const SiluMulArgs& a) { begin_launch(), silu_mul(a, stream_.get()); }
void CudaStream::launch(const RouteArgs& a) {
  longhaul::check(a.routes.chosen >= 1 && a.routes.chosen <= a.routes.experts,
                  "route: a token has at least one expert, and none twice");
  begin_launch(), route(a, stream_.get());
}
void CudaStream::launch(const ExpertLinearArgs& a) {
  longhaul::check(a.in % 8 == 0 || a.act == DType::f32, "expert_linear: rows of whole packs");
  begin_launch(), expert_linear(a, stream_.get());
}
void CudaStream::launch(const MixArgs& a) { begin_launch(), mix(a, stream_.get()); }
void CudaStream::launch(const AppendArgs& a) {
  longhaul::check(a.dst.rows == a.tokens && a.dst.type == RowType::act,
                  "append: as many rows as tokens, of activations");
  begin_launch(), append(a, stream_.get());
}
void CudaStream::launch(const AttendArgs& a) {
  longhaul::check(a.kv.first % kAttendBlock == 0, "attend: a tile starts on an attend block");
  longhaul::check(a.kv.type == RowType::act, "attend: a prompt attends activations' rows");
  cpu::check_forms(a.forms);
  check_head_dim(a.head_dim);
  begin_launch();
  if (a.forms.chunk > 0) attend_forms(a, machine_.attention, stream_.get());
  else if (!machine_.attention.run(a, stream_.get())) attend(a, stream_.get());
}
void CudaStream::launch(const FinishArgs& a) { begin_launch(), finish(a, stream_.get()); }
void CudaStream::launch(const SampleArgs& a) { begin_launch(), sample(a, stream_.get()); }
void CudaStream::launch(const RandomFillArgs& a) { begin_launch(), random_fill(a, stream_.get()); }
void CudaStream::launch(const ReplayArgs& a) { begin_launch(), replay(a, stream_.get()); }
void CudaStream::launch(const ChecksumArgs& a) { begin_launch(), checksum(a, stream_.get()); }

void CudaStream::launch(const AppendStepArgs& a) {
  if (a.labels.codes != nullptr) cpu::check_labels(a.labels, a.head_dim);
  begin_launch(), append_step(a, stream_.get());
}
void CudaStream::launch(const FitLabelsArgs& a) {
  cpu::check_labels(a.labels, a.head_dim);
  begin_launch(), fit_labels(a, machine_, stream_.get());
}
void CudaStream::launch(const LabelRowsArgs& a) {
  cpu::check_labels(a.labels, a.head_dim);
  begin_launch(), label_rows(a, stream_.get());
}
void CudaStream::launch(const FillArgs& a) { begin_launch(), fill(a, stream_.get()); }
void CudaStream::launch(const AddListMassArgs& a) { begin_launch(), add_list_mass(a, stream_.get()); }
void CudaStream::launch(const AddMassArgs& a) {
  cpu::check_forms(a.forms);
  begin_launch(), add_mass(a, stream_.get());
}
void CudaStream::launch(const StoreRowsArgs& a) {
  longhaul::check(a.src.type == RowType::act, "store_rows: from activations' rows");
  begin_launch(), store_rows(a, stream_.get());
}
void CudaStream::launch(const JudgeArgs& a) {
  cpu::check_forms(a.forms);
  begin_launch(), judge(a, stream_.get());
}
void CudaStream::launch(const MomentsArgs& a) { begin_launch(), moments(a, stream_.get()); }
void CudaStream::launch(const MeanValuesArgs& a) { begin_launch(), mean_values(a, stream_.get()); }
void CudaStream::launch(const AttendStepArgs& a) {
  check_head_dim(a.head_dim);
  longhaul::check(a.window == 0 || (a.from == StepRows::ring && a.window <= a.kv.rows),
                  "attend_step: the ring holds the window");
  cpu::check_forms(a.forms);
  begin_launch(), attend_step(a, stream_.get());
}
void CudaStream::launch(const ScoreListArgs& a) {
  check_head_dim(a.list.head_dim);
  cpu::check_forms(a.list.forms);
  begin_launch(), score_list(a, stream_.get());
}
void CudaStream::launch(const FinishListArgs& a) {
  check_head_dim(a.list.head_dim);
  cpu::check_forms(a.list.forms);
  longhaul::check(a.list.missed == nullptr || a.list.landed != nullptr, "finish_list: rows are missed past some place");
  begin_launch(), finish_list(a, stream_.get());
}

void CudaStream::launch(const LocateArgs& a) { begin_launch(), locate(a, machine_.fault_word(), stream_.get()); }
void CudaStream::launch(const GatherArgs& a) {
  check_row_bytes(a.row_bytes);
  begin_launch();
  clocked(StreamClock::Counts::busy, name_, [&] { machine_.gatherer.run(a, machine_.fault_word(), stream_.get()); });
}
void CudaStream::launch(const RetainArgs& a) {
  if (a.row_bytes != 0) check_row_bytes(a.row_bytes);
  begin_launch(), retain(a, stream_.get());
}
void CudaStream::launch(const SelectArgs& a) {
  cpu::check_forms(a.forms);
  longhaul::check(a.labels.basis_stride % 2 == 0, "select: bases lie on multiples of 8 bytes");
  longhaul::check(a.batch.count <= kDecodeTokens, "select: no batch is larger than a decode step's");
  longhaul::check(!a.sums_given || (a.sums != nullptr && a.out.tail == nullptr),
                  "select: given sums are there, without a tail");
  begin_launch(), select(a, machine_.gatherer.blocks(), stream_.get());
}

}  // namespace longhaul::cuda
