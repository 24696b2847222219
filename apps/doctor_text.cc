#include "apps/doctor_text.h"

#include "kernels/base/bytes.h"
#include "kernels/base/error.h"

namespace longhaul {
namespace {

using Json = nlohmann::ordered_json;

std::string cuda_version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

std::string node_list(const SystemFacts& system) {
  std::string text;
  for (const NumaNode& node : system.nodes)
    text += fmt::format("{}node {} {}{}", text.empty() ? "" : ", ", node.id, format_bytes(node.total),
                        node.ours ? " (this process)" : "");
  return text.empty() ? "not told" : text;
}

std::string link_text(const PcieLink& link) {
  if (!link.known()) return "PCIe link not told";
  std::string text = fmt::format("PCIe gen {} x{}", link.gen, link.width);
  if (link.max_gen > 0) text += fmt::format(" of gen {} x{}", link.max_gen, link.max_width);
  return text;
}

std::string rows_text(const LinkProfile& link) {
  auto million = [](double rows) {
    return rows > 0 ? fmt::format("{:.1f}", rows * 1e-6) : std::string("not measured");
  };
  return fmt::format("in a run {}, scattered {}; by host threads {}, both ways {}", million(link.zero_copy_run),
                     million(link.zero_copy_scattered), million(link.host_scattered), million(link.both_scattered));
}

const char* route_text(GatherRoute route) {
  switch (route) {
    case GatherRoute::zero_copy:
      return "the device reads them";
    case GatherRoute::host:
      return "host threads gather them";
    case GatherRoute::both:
      return "the device and host threads, together";
  }
  return "";
}

/// A number, or null where it means "not told".
Json told(int value, int untold = 0) { return value == untold ? Json() : Json(value); }
Json told(const std::string& text) { return text.empty() ? Json() : Json(text); }

Json system_json(const SystemFacts& s) {
  Json nodes = Json::array();
  for (const NumaNode& n : s.nodes)
    nodes.push_back({{"node", n.id}, {"total_bytes", n.total}, {"free_bytes", n.free}, {"this_process", n.ours}});
  return {{"processor", told(s.processor)},
          {"cores", s.cores},
          {"memory_total_bytes", s.memory_total},
          {"memory_free_bytes", s.memory_free},
          {"memlock_bytes", s.memlock ? Json(*s.memlock) : Json()},
          {"cgroup",
           s.group ? Json{{"version", s.group->version}, {"limit_bytes", s.group->limit}, {"used_bytes", s.group->used}}
                   : Json()},
          {"wsl", s.wsl},
          {"transparent_hugepage", told(s.huge_pages)},
          {"numa_nodes", nodes},
          {"nvidia_module", told(s.nvidia_module)}};
}

Json gpu_json(const CudaFacts& g) {
  return {{"name", g.name},
          {"pci_id", g.pci_id},
          {"compute_capability", fmt::format("{}.{}", g.major, g.minor)},
          {"processors", g.processors},
          {"memory_total_bytes", g.total_bytes},
          {"memory_free_bytes", g.free_bytes},
          {"driver", told(g.driver)},
          {"driver_cuda", cuda_version(g.driver_cuda)},
          {"runtime_cuda", cuda_version(g.runtime_cuda)},
          {"numa_node", told(g.numa_node, -1)},
          {"pcie",
           {{"gen", told(g.link.gen)},
            {"width", told(g.link.width)},
            {"max_gen", told(g.link.max_gen)},
            {"max_width", told(g.link.max_width)}}}};
}

}  // namespace

std::string doctor_text(const MachineReport& report, const std::string& profile_file) {
  const SystemFacts& s = report.system;
  std::string text;
  auto line = [&](const std::string& topic, const std::string& what) {
    text += fmt::format("{:<15}{}\n", topic, what);
  };
  line("processor", fmt::format("{}, {} cores", s.processor.empty() ? "not told" : s.processor, s.cores));
  line("host memory", fmt::format("{} free of {}", format_bytes(s.memory_free), format_bytes(s.memory_total)));
  line("numa", node_list(s));
  line("limits", fmt::format("memlock {}; control group {}{}", s.memlock ? format_bytes(*s.memlock) : "unlimited",
                             s.group ? fmt::format("v{} {}, {} used", s.group->version, format_bytes(s.group->limit),
                                                   format_bytes(s.group->used))
                                     : std::string("unlimited"),
                             s.wsl ? "; WSL" : ""));
  line("huge pages", s.huge_pages.empty() ? "not told" : s.huge_pages);
  for (std::size_t i = 0; i < report.gpus.size(); ++i) {
    const CudaFacts& g = report.gpus[i];
    line(fmt::format("gpu {}", i),
         fmt::format("{}, compute capability {}.{}, {} of {} free, {}{}", g.name, g.major, g.minor,
                     format_bytes(g.free_bytes), format_bytes(g.total_bytes), link_text(g.link),
                     g.numa_node < 0 ? std::string() : fmt::format(", NUMA node {}", g.numa_node)));
  }
  if (!report.gpus.empty())
    line("cuda", fmt::format("driver {} (CUDA {}), runtime {}",
                             report.gpus[0].driver.empty() ? "not told" : report.gpus[0].driver,
                             cuda_version(report.gpus[0].driver_cuda), cuda_version(report.gpus[0].runtime_cuda)));
  if (!report.no_cuda.empty()) line("gpu", fmt::format("no CUDA device: {}", report.no_cuda));
  line("device", report.device);
  line("test", report.failure.empty() ? std::string("bytes to the device and back: all the same")
                                      : fmt::format("FAILED: {}", report.failure));
  if (report.profile) {
    const LinkProfile& link = report.profile->link;
    const DeviceRates& rates = report.profile->rates;
    line("link",
         fmt::format("{:.1f} GB/s to the device, {:.1f} GB/s to the host, pinned", link.h2d_GBps, link.d2h_GBps));
    line("rows", fmt::format("of 512 bytes, millions a second: {}", rows_text(link)));
    if (report.gpu) line("", fmt::format("fastest: {}", route_text(link.gather.route)));
    line("device copy", fmt::format("{:.0f} GB/s read and written", rates.copy_GBps));
    line("arithmetic", fmt::format("bf16 products {:.3g} TFLOP/s, prefill attention {:.3g} TFLOP/s",
                                   rates.product_TFLOPs, rates.attention_TFLOPs));
    line("pinning", fmt::format("{:.1f} GiB/s", rates.pin_GiBps));
    line("profile", profile_file.empty() ? std::string("not written") : fmt::format("written to {}", profile_file));
  }
  const auto lines = advice(report);
  text += lines.empty() ? "\nNothing is amiss.\n" : "\n";
  for (const std::string& one : lines) text += fmt::format("- {}\n", one);
  return text;
}

Json doctor_json(const MachineReport& report, const std::string& profile_file) {
  Json gpus = Json::array();
  for (const CudaFacts& gpu : report.gpus) gpus.push_back(gpu_json(gpu));
  return {{"system", system_json(report.system)},
          {"gpus", gpus},
          {"no_cuda", told(report.no_cuda)},
          {"device", report.device},
          {"failure", told(report.failure)},
          {"profile", report.profile ? to_json(*report.profile) : Json()},
          {"profile_file", report.profile ? told(profile_file) : Json()},
          {"advice", advice(report)}};
}

}  // namespace longhaul
