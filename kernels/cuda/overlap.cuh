// Programmatic dependent launch: a kernel launched with Launch::overlap may start while the kernel before it in the
// stream still runs. It must call wait_for_previous() before it reads what earlier kernels wrote, or writes anything;
// every thread of it calls that, for the next kernel waits for this one alone. Device code only.
#pragma once
#include <nv/target>

namespace longhaul::cuda {

/// All kernels before this one are through and their writes are visible.
__device__ inline void wait_for_previous() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("griddepcontrol.wait;" ::: "memory");))
}

/// The next kernel may take the places that this one leaves free.
__device__ inline void let_next_start() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("griddepcontrol.launch_dependents;" ::: "memory");))
}

}  // namespace longhaul::cuda
