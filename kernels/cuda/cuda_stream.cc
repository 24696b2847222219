#include "kernels/cuda/cuda_stream.h"

#include <limits>

#include "kernels/base/error.h"
#include "kernels/cuda/ops.h"

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

}  // namespace

CudaStream::~CudaStream() {
  cudaStreamSynchronize(stream_.get());
  machine_.matmul.forget(stream_.get());
  machine_.attention.forget(stream_.get());
}

void CudaStream::copy(const CopyArgs& a) {
  machine_.enter();
  ++machine_.counters.copies;
  if (a.width == 0 || a.height == 0) return;
  const auto width = static_cast<std::size_t>(a.width), height = static_cast<std::size_t>(a.height);
  const cudaMemcpyKind kind = kind_of(a.kind);
  if (a.height > 1 && a.dst_pitch <= kMostPitch && a.src_pitch <= kMostPitch) {
    longhaul::check(a.dst_pitch >= a.width && a.src_pitch >= a.width, "the pieces of a copy do not overlap");
    check(cudaMemcpy2DAsync(a.dst, static_cast<std::size_t>(a.dst_pitch), a.src, static_cast<std::size_t>(a.src_pitch),
                            width, height, kind, stream_.get()));
  } else {
    for (std::int64_t i = 0; i < a.height; ++i)
      check(cudaMemcpyAsync(static_cast<std::byte*>(a.dst) + i * a.dst_pitch,
                            static_cast<const std::byte*>(a.src) + i * a.src_pitch, width, kind, stream_.get()));
  }
  if (a.kind == CopyKind::host_to_device) machine_.counters.h2d_bytes += a.width * a.height;
  if (a.kind == CopyKind::device_to_host) machine_.counters.d2h_bytes += a.width * a.height;
}

void CudaStream::record(Event& event) {
  machine_.enter();
  check(cudaEventRecord(static_cast<CudaEvent&>(event).get(), stream_.get()));
}

void CudaStream::wait(const Event& event, Edge) {
  machine_.enter();
  check(cudaStreamWaitEvent(stream_.get(), static_cast<const CudaEvent&>(event).get()));
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
void CudaStream::launch(const RopeArgs& a) { begin_launch(), rope(a, stream_.get()); }
void CudaStream::launch(const SiluMulArgs& a) { begin_launch(), silu_mul(a, stream_.get()); }
void CudaStream::launch(const AppendArgs& a) {
  longhaul::check(a.dst.rows == a.tokens, "append: as many rows as tokens");
  begin_launch(), append(a, stream_.get());
}
void CudaStream::launch(const AttendArgs& a) {
  longhaul::check(a.kv.first % kAttendBlock == 0, "attend: a tile starts on an attend block");
  longhaul::check(a.head_dim % 8 == 0 && a.head_dim <= 256, "attend: head_dim is a multiple of 8 up to 256");
  begin_launch();
  if (!machine_.attention.run(a, stream_.get())) attend(a, stream_.get());
}
void CudaStream::launch(const AppendStepArgs&) { throw DeviceError("this device has no operator append_step yet"); }
void CudaStream::launch(const AttendStepArgs&) { throw DeviceError("this device has no operator attend_step yet"); }
void CudaStream::launch(const FinishArgs& a) { begin_launch(), finish(a, stream_.get()); }
void CudaStream::launch(const SampleArgs& a) { begin_launch(), sample(a, stream_.get()); }

}  // namespace longhaul::cuda
