// fit_labels: the small linear algebra is the CPU's (kernels/cpu/fit_labels.cc), run by the stream on a thread of the
// host, from queries and a sample of the rows in pinned memory. The basis comes back by a copy.
#include <memory>

#include "kernels/base/error.h"
#include "kernels/cpu/ops.h"
#include "kernels/cuda/machine.h"
#include "kernels/cuda/ops.h"

namespace longhaul::cuda {
namespace {

/// The parts of FitLabelsArgs::host.
struct FitHost {
  std::byte* queries;  // [queries, q_heads * head_dim] act
  std::byte* rows;     // [kv_heads, keys + queries, 2 * head_dim] act: those that stand for all, those of the queries
  float* basis;        // [kv_heads, label_basis_floats], tail_fit
  float* inv_freq;     // [head_dim / 2]

  explicit FitHost(const FitLabelsArgs& a)
      : queries(a.host),
        rows(queries + a.queries * a.q_heads * a.head_dim * size_of(a.act)),
        basis(reinterpret_cast<float*>(rows + (kFitKeys + a.queries) * 2 * a.kv_heads * a.head_dim * size_of(a.act))),
        inv_freq(basis + basis_floats(a)) {}
  static std::int64_t basis_floats(const FitLabelsArgs& a) {
    return a.kv_heads * label_basis_floats(a.labels.dims, a.head_dim) +
           (a.weighs_tail || a.chunk > 0 ? tail_fit_floats(a.q_heads, a.kv_heads, a.head_dim) : 0);
  }
};

/// What the stream runs on the host. It is deleted when it has run; a lost device runs nothing more.
struct Fit {
  FitLabelsArgs sample;
  KvTile at_queries;
  std::int64_t rows;
  Machine& machine;

  static void CUDART_CB run(void* data) {
    const std::unique_ptr<Fit> fit(static_cast<Fit*>(data));
    try {
      cpu::fit_labels(fit->sample, fit->at_queries, fit->rows);
    } catch (...) {
      fit->machine.fail(std::current_exception());
    }
  }
};

std::unique_ptr<Fit> fit_of_sample(const FitLabelsArgs& a, const FitHost& host, Machine& machine) {
  const std::int64_t count = fit_keys(a.kv.rows), row_bytes = 2 * a.head_dim * size_of(a.act);
  const std::int64_t head_bytes = (count + a.queries) * row_bytes;
  auto fit =
      std::make_unique<Fit>(Fit{a, {host.rows + count * row_bytes, head_bytes, 0, a.queries}, a.kv.rows, machine});
  fit->sample.kv = {host.rows, head_bytes, 0, count};
  fit->sample.q = host.queries;
  fit->sample.inv_freq = host.inv_freq;
  fit->sample.labels.codes = nullptr;
  fit->sample.labels.basis = host.basis;
  return fit;
}

void copy(void* to, const void* from, std::int64_t bytes, cudaStream_t stream) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream));
}

}  // namespace

void fit_labels(const FitLabelsArgs& a, Machine& machine, cudaStream_t stream) {
  longhaul::check(a.host != nullptr, "fit_labels: this device fits on the host and needs memory there");
  longhaul::check(a.queries <= kFitKeys, "fit_labels: no more queries than keys that stand for all");
  const FitHost host(a);
  const std::int64_t basis_bytes = FitHost::basis_floats(a) * 4;
  if (a.fit == LabelFit::given) {
    copy(host.basis, a.labels.basis, basis_bytes, stream);
  } else {
    copy(host.queries, a.q, a.queries * a.q_heads * a.head_dim * size_of(a.act), stream);
    copy(host.inv_freq, a.inv_freq, a.head_dim / 2 * 4, stream);
  }
  pack_rows(a, host.rows, stream);
  auto fit = fit_of_sample(a, host, machine);
  check(cudaLaunchHostFunc(stream, Fit::run, fit.get()));
  fit.release();
  copy(a.labels.basis, host.basis, basis_bytes, stream);
}

}  // namespace longhaul::cuda
