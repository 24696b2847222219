#include "kernels/cuda/fused_attention.h"

#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <list>
#include <map>

#include "kernels/base/error.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/ops.h"

void* cudnn_frontend::cudnn_dlhandle = nullptr;  // where the frontend looks for the library's functions

namespace longhaul::cuda {
namespace {

namespace fe = cudnn_frontend;
using Tensor = fe::graph::Tensor_attributes;

enum Id : std::int64_t { kQ = 1, kK, kV, kOut, kLogSumExp };

/// What a plan is made for.
struct Shape {
  std::int64_t tokens, rows, q_heads, kv_heads, head_dim, q_stride, kv_stride;  // strides in elements
  float scale;
  bool causal;  // the last token sees all rows, each before it one less; else all tokens see all rows
  auto operator<=>(const Shape&) const = default;
};

int compute_capability() {
  int device = 0, major = 0, minor = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return major * 10 + minor;
}

void check(cudnnStatus_t status, const char* what) {
  if (status != CUDNN_STATUS_SUCCESS) throw DeviceError(fmt::format("cuDNN: {}: status {}", what, int(status)));
}

}  // namespace

struct FusedAttention::Library {
  // A plan takes 50 ms to make, and a second for the first of its kind (H200, cuDNN 9.19). Our own kernels have half
  // the speed: with 32 layers to attend in the same shape, a plan pays from about here, in multiplications and
  // additions.
  static constexpr double kWorthAPlan = 3e11;
  static constexpr std::size_t kMostPlans = 512;
  struct Plan {
    std::shared_ptr<fe::graph::Graph> graph;  // null: the library refuses the shape
    std::list<Shape>::iterator use;
  };

  Library() { check(fe::detail::create_handle(&handle), "create"); }
  ~Library() {
    plans.clear();
    fe::detail::destroy_handle(handle);
  }

  fe::graph::Graph* plan(const Shape&);
  std::shared_ptr<fe::graph::Graph> make(const Shape&);

  cudnnHandle_t handle = nullptr;
  int capability = compute_capability();
  std::map<Shape, Plan> plans;
  std::list<Shape> uses;  // latest first
};

std::shared_ptr<fe::graph::Graph> FusedAttention::Library::make(const Shape& s) {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT)
      .set_sm_version(capability);
  auto tensor = [&](Id id, std::int64_t heads, std::int64_t rows, std::int64_t head_stride, std::int64_t row_stride) {
    return graph->tensor(Tensor()
                             .set_uid(id)
                             .set_dim({1, heads, rows, s.head_dim})
                             .set_stride({heads * rows * s.head_dim, head_stride, row_stride, 1}));
  };
  auto q = tensor(kQ, s.q_heads, s.tokens, s.head_dim, s.q_stride);
  auto k = tensor(kK, s.kv_heads, s.rows, s.kv_stride, 2 * s.head_dim);
  auto v = tensor(kV, s.kv_heads, s.rows, s.kv_stride, 2 * s.head_dim);
  fe::graph::SDPA_attributes options;
  options.set_generate_stats(true).set_attn_scale(s.scale);
  if (s.causal) options.set_diagonal_alignment(fe::DiagonalAlignment_t::BOTTOM_RIGHT).set_diagonal_band_right_bound(0);
  auto [out, log_sum_exp] = graph->sdpa(q, k, v, options);
  const std::int64_t states = s.tokens * s.q_heads;
  out->set_output(true)
      .set_uid(kOut)
      .set_dim({1, s.q_heads, s.tokens, s.head_dim})
      .set_stride({states * s.head_dim, s.head_dim, s.q_heads * s.head_dim, 1});
  log_sum_exp->set_output(true)
      .set_uid(kLogSumExp)
      .set_data_type(fe::DataType_t::FLOAT)
      .set_dim({1, s.q_heads, s.tokens, 1})
      .set_stride({states, 1, s.q_heads, 1});
  try {
    if (graph->validate().is_good() && graph->build_operation_graph(handle).is_good() &&
        graph->create_execution_plans({fe::HeurMode_t::A}).is_good() && graph->check_support().is_good() &&
        graph->build_plans().is_good() && graph->get_workspace_size() <= kWorkspaceBytes)
      return graph;
  } catch (const std::exception&) {  // a part of the library that is not there counts as a refusal
  }
  return nullptr;
}

fe::graph::Graph* FusedAttention::Library::plan(const Shape& s) {
  if (auto known = plans.find(s); known != plans.end()) {
    uses.splice(uses.begin(), uses, known->second.use);
    return known->second.graph.get();
  }
  const double pairs =
      static_cast<double>(s.tokens) * (static_cast<double>(s.rows) - (s.causal ? (s.tokens - 1) / 2.0 : 0));
  if (4.0 * s.head_dim * s.q_heads * pairs < kWorthAPlan) return nullptr;
  if (plans.size() == kMostPlans) {
    longhaul::cuda::check(cudaDeviceSynchronize());  // it may still be running
    plans.erase(uses.back());
    uses.pop_back();
  }
  auto graph = make(s);
  uses.push_front(s);
  return plans.emplace(s, Plan{graph, uses.begin()}).first->second.graph.get();
}

FusedAttention::FusedAttention(std::byte* workspace) : workspace_(workspace) {
  fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW);
  if (fe::cudnn_dlhandle == nullptr) why_ = "our own kernels: libcudnn.so.9 is not found";
  else try {
      library_ = std::make_unique<Library>();
    } catch (const std::exception& e) {  // half a library: one of its parts is not found
      why_ = fmt::format("our own kernels: {}", e.what());
    }
}

FusedAttention::~FusedAttention() = default;

std::string FusedAttention::describe() const {
  if (library_ == nullptr) return why_;
  const std::size_t version = fe::detail::get_backend_version();
  return fmt::format("cuDNN {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

bool FusedAttention::run(const AttendArgs& a, cudaStream_t stream) {
  constexpr std::uintptr_t kAlignment = 16;
  const std::int64_t last = a.q_pos + a.tokens - a.kv.first;  // rows that the last token sees, were the tile endless
  const bool causal = last <= a.kv.rows, all = last - a.tokens + 1 >= a.kv.rows;
  if (library_ == nullptr || a.act != DType::bf16 || a.window != 0 || last < a.tokens || !(causal || all) ||
      a.tokens == 0 || a.kv.rows == 0)
    return false;
  if (reinterpret_cast<std::uintptr_t>(a.q) % kAlignment != 0 ||
      reinterpret_cast<std::uintptr_t>(a.kv.data) % kAlignment != 0 ||
      reinterpret_cast<std::uintptr_t>(a.out) % kAlignment != 0 || a.kv.head_stride % kAlignment != 0 ||
      a.q_stride % 8 != 0)
    return false;
  fe::graph::Graph* graph = library_->plan({.tokens = a.tokens,
                                            .rows = causal ? last : a.kv.rows,
                                            .q_heads = a.q_heads,
                                            .kv_heads = a.kv_heads,
                                            .head_dim = a.head_dim,
                                            .q_stride = a.q_stride,
                                            .kv_stride = a.kv.head_stride / 2,
                                            .scale = a.scale,
                                            .causal = causal});
  if (graph == nullptr) return false;
  workspace_.enter(stream);
  check(fe::detail::set_stream(library_->handle, stream), "set the stream");
  std::unordered_map<std::int64_t, void*> tensors{{kQ, const_cast<void*>(a.q)},
                                                  {kK, a.kv.data},
                                                  {kV, a.kv.data + a.head_dim * size_of(a.act)},
                                                  {kOut, a.out},
                                                  {kLogSumExp, a.state.m}};
  if (auto error = graph->execute(library_->handle, tensors, workspace_.data()); error.is_bad())
    throw DeviceError(fmt::format("cuDNN: attention of {} tokens: {}", a.tokens, error.get_message()));
  if (a.state.l != nullptr) fill_floats(a.state.l, 1, a.tokens * a.q_heads, stream);  // m is the whole log-sum-exp
  return true;
}

}  // namespace longhaul::cuda
