#include "runtime/plan/doctor.h"

#include <algorithm>

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"

namespace longhaul {
namespace {

using Lines = std::vector<std::string>;

void about_memory(const SystemFacts& system, bool pins, Lines& lines) {
  const auto& group = system.group;
  if (group && group->limit < system.memory_total)
    lines.push_back(
        fmt::format("the control group allows {} of the machine's {}, {} are in use: give this job more "
                    "(docker --memory, Slurm --mem, systemd MemoryMax) if KV rows need it",
                    format_bytes(group->limit), format_bytes(system.memory_total), format_bytes(group->used)));
  if (!pins) return;
  if (system.memlock && *system.memlock < system.memory_free)
    lines.push_back(
        fmt::format("memlock is {}: where the driver counts pinned memory, no more KV rows than that can be "
                    "kept; raise it (ulimit -l unlimited, docker --ulimit memlock=-1)",
                    format_bytes(*system.memlock)));
  if (system.wsl)
    lines.push_back(
        "WSL pins about half of its memory: set memory= in .wslconfig to twice what KV rows need, or boot Linux "
        "itself");
  if (system.huge_pages == "never")
    lines.push_back(
        "transparent huge pages are off, so host memory is slower to touch and to pin: echo madvise > "
        "/sys/kernel/mm/transparent_hugepage/enabled (as root)");
}

void about_gpu(const MachineReport& report, const CudaFacts& gpu, Lines& lines) {
  constexpr double kMuchInUse = 0.1, kSlowLink = 0.6;
  if (gpu.link.reduced())
    lines.push_back(
        fmt::format("the GPU runs at PCIe gen {} x{} of gen {} x{}: try another slot, take out a riser, see "
                    "the firmware's settings; every byte of KV rows goes over this link",
                    gpu.link.gen, gpu.link.width, gpu.link.max_gen, gpu.link.max_width));
  if (report.profile && gpu.link.known() && report.profile->link.h2d_GBps < kSlowLink * gpu.link.peak_GBps())
    lines.push_back(
        fmt::format("the link gives {:.1f} GB/s to the device, and PCIe gen {} x{} could give about {:.0f}: "
                    "see whether other work shares it, or the memory is on another node",
                    report.profile->link.h2d_GBps, gpu.link.gen, gpu.link.width, 0.85 * gpu.link.peak_GBps()));
  const auto near = std::ranges::find(report.system.nodes, gpu.numa_node, &NumaNode::id);
  if (near != report.system.nodes.end() && !near->ours)
    lines.push_back(
        fmt::format("the GPU is next to NUMA node {} and this process may not run there: start it with "
                    "numactl --cpunodebind={} --preferred={}",
                    gpu.numa_node, gpu.numa_node, gpu.numa_node));
  const std::int64_t taken = gpu.total_bytes - gpu.free_bytes;
  if (static_cast<double>(taken) > kMuchInUse * static_cast<double>(gpu.total_bytes))
    lines.push_back(fmt::format("{} of the GPU's {} are in use: see nvidia-smi for who has them", format_bytes(taken),
                                format_bytes(gpu.total_bytes)));
}

}  // namespace

Lines advice(const MachineReport& report) {
  Lines lines;
  if (!report.failure.empty())
    lines.push_back(fmt::format("{}: no result of this device counts until that is mended", report.failure));
  if (!report.no_cuda.empty()) lines.push_back(fmt::format("no CUDA device: {}", report.no_cuda));
  if (!report.no_cuda.empty() && !report.system.nvidia_module.empty())
    lines.push_back(fmt::format("the NVIDIA driver {} is loaded all the same", report.system.nvidia_module));
  about_memory(report.system, report.gpu.has_value(), lines);
  if (report.gpu && *report.gpu < std::ssize(report.gpus))  // a broken driver tells nothing of its GPUs
    about_gpu(report, report.gpus[static_cast<std::size_t>(*report.gpu)], lines);
  return lines;
}

}  // namespace longhaul
