#include "kernels/select_probe.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/base/error.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/select.h"

namespace longhaul {
namespace cuda {
namespace {

/// Seconds of a graph of what `enqueue` puts on a stream.
double seconds_of(const std::function<void(cudaStream_t)>& enqueue) {
  const StreamHandle stream;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  cudaEvent_t start, end;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  enqueue(stream.get());
  check(cudaStreamEndCapture(stream.get(), &graph));
  check(cudaGraphInstantiate(&replay, graph, 0));
  check(cudaEventCreate(&start));
  check(cudaEventCreate(&end));
  std::vector<double> seconds;
  for (int i = 0; i < 12; ++i) {
    float ms = 0;
    check(cudaEventRecord(start, stream.get()));
    check(cudaGraphLaunch(replay, stream.get()));
    check(cudaEventRecord(end, stream.get()));
    check(cudaEventSynchronize(end));
    check(cudaEventElapsedTime(&ms, start, end));
    if (i >= 3) seconds.push_back(1e-3 * ms);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

}  // namespace
}  // namespace cuda

SelectSeconds seconds_to_select(std::span<const SelectArgs> layers) {
  using namespace cuda;
  auto each = [&](void (*step)(const SelectArgs&, cudaStream_t)) {
    return seconds_of([&](cudaStream_t stream) {
             for (const SelectArgs& a : layers) step(a, stream);
           }) /
           static_cast<double>(layers.size());
  };
  for (const SelectArgs& a : layers)
    longhaul::check(a.by == SelectBy::labels && scores_fast(Selection(a)), "the probe is of labels of 4 bits");
  const double scores = each([](const SelectArgs& a, cudaStream_t stream) { score_codes(Selection(a), stream); });
  const double top = each([](const SelectArgs& a, cudaStream_t stream) { top_rows(Selection(a), stream); });
  return {scores, top, each([](const SelectArgs& a, cudaStream_t stream) { select(a, 0, stream); })};
}

}  // namespace longhaul
