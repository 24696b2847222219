// longhaul doctor: what this machine is, whether its device works, what it can do; the last is kept for runs and plans.
#include <memory>

#include "apps/doctor_text.h"
#include "apps/options.h"
#include "apps/verbs.h"
#include "kernels/base/bytes.h"
#include "runtime/plan/measure_machine.h"

namespace longhaul {
namespace {

struct DoctorOptions {
  std::string device = "auto", profile;
  bool quick = false, json = false;
};

std::vector<CudaFacts> all_gpus() {
  std::vector<CudaFacts> gpus;
  for (int i = 0; i < cuda_device_count(); ++i) gpus.push_back(cuda_facts(i));
  return gpus;
}

/// Tests the device, then measures it.
void examine(const DoctorOptions& o, MachineReport& report) try {
  report.gpus = all_gpus();
  constexpr std::int64_t kEnough = std::int64_t{4} << 30;  // of device memory, for the largest measurements
  const Budget has = available_budget(o.device);
  const auto device = open_device(o.device, std::min(kEnough, has.device), 0);
  if (const std::int64_t changed = bytes_changed(*device); changed > 0) {
    report.failure = fmt::format("{}: {} of the bytes sent there and back had changed", report.device, changed);
    return;
  }
  report.profile = measure_machine(*device, report.device, {.cuda = report.gpu, .quick = o.quick});
  for (int i = 0; i < std::ssize(report.gpus); ++i)  // again: at rest a GPU takes its link down
    report.gpus[static_cast<std::size_t>(i)].link = cuda_facts(i).link;
} catch (const DeviceError& e) {
  report.failure = fmt::format("{}: {}", report.device, e.what());
} catch (const OutOfMemory& e) {
  report.failure = fmt::format("{}: {}", report.device, e.what());
}

void write_profile(const std::filesystem::path& file, bool of_the_user, const MachineProfile& profile) {
  std::error_code failed;
  if (of_the_user) std::filesystem::create_directories(file.parent_path(), failed);
  write_machine_profile(file, profile);
}

void doctor(const DoctorOptions& o) {
  MachineReport report{.system = system_facts()};
  report.gpu = cuda_ordinal(o.device);
  report.device = device_name(report.gpu);
  const std::filesystem::path file = profile_file(o.profile);
  if (!o.json) fmt::print(stderr, "testing and measuring {}: some seconds\n", report.device);
  examine(o, report);
  report.no_cuda = cuda_absence();
  if (report.profile && !file.empty()) write_profile(file, o.profile.empty(), *report.profile);
  say(o.json ? doctor_json(report, file.string()).dump(2) + "\n" : doctor_text(report, file.string()));
  if (!report.failure.empty()) throw DeviceError(report.failure);
}

}  // namespace

void register_doctor(CLI::App& app) {
  auto o = std::make_shared<DoctorOptions>();
  CLI::App* verb = app.add_subcommand("doctor", "Test and measure this machine, and say what slows it down");
  verb->add_option("--device", o->device, "auto, cpu or cuda[:INDEX]")->capture_default_str();
  verb->add_option("--profile", o->profile,
                   "where the measurements go, for runs and plans; ~/.config/longhaul/machine.json unless given; "
                   "\"none\": nowhere")
      ->type_name("FILE");
  verb->add_flag("--quick", o->quick, "measure once and with less memory: about three seconds instead of ten");
  verb->add_flag("--json", o->json, "the report as JSON");
  verb->footer(
      "A device that is there and fails its test ends with exit code 7; that there is no GPU is no failure.\n\n"
      "Examples:\n"
      "  longhaul doctor\n"
      "  longhaul doctor --quick --json --profile none");
  verb->callback([o] { doctor(*o); });
}

}  // namespace longhaul
