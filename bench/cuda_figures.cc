// The figures that the project is held to, each beside its bound measured in the same run: bench/results/DEVICE.jsonl.
#include <CLI/CLI.hpp>
#include <iostream>

#include "bench/commit.h"  // generated
#include "bench/figure_sections.h"
#include "kernels/base/bytes.h"
#include "kernels/base/error.h"

using namespace longhaul;
using namespace longhaul::bench;

namespace {

struct Section {
  std::string_view name;
  void (*run)(Figures&, const SectionFlags&);
  bool by_default = true;
};
constexpr Section kSections[] = {
    {"pin", pin_figures},         {"select", select_figures},      {"attend", attend_figures},
    {"dense", dense_figures},     {"gather", gather_figures},      {"decode", decode_figures},
    {"prefill", prefill_figures}, {"batch", batch_figures, false}, {"step", step_figure, false}};

struct Flags {
  SectionFlags section;
  std::string geometry = "llama-3.1-8b", results = "bench/results", weights = "auto", hidden_states = "auto",
              weight_format = "auto", kv_dtype;
  std::vector<std::string> sections, figures, sets;
  bool brief = false;
};

/// A flag whose text `parse` reads; its UserError becomes CLI11's.
template <class T, class Parse>
void add_parsed(CLI::App& app, const std::string& name, T& to, const Parse& parse, const std::string& help) {
  app.add_option_function<std::string>(
      name,
      [&to, parse](const std::string& text) {
        try {
          to = parse(text);
        } catch (const UserError& e) {
          throw CLI::ValidationError(e.what());
        }
      },
      help);
}

void add_flags(CLI::App& app, Flags& f) {
  SyntheticSetting& s = f.section.setting;
  app.add_option("--geometry", f.geometry, "a shipped shape's name, or a TOML file")->capture_default_str();
  app.add_option("--device", s.device, "cuda[:INDEX] or cpu")->capture_default_str();
  app.add_option("--policy", s.policy, "of `step` and `prefill`")->capture_default_str();
  app.add_option("--set", f.sets, "policy.KEY=VALUE; may be repeated")->allow_extra_args(false);
  app.add_option("--kv-dtype", f.kv_dtype, "type that KV rows are kept in; the policy's unless given")
      ->check(CLI::IsMember({"bf16", "int8", "fp8", "int4"}));
  add_parsed(app, "--context", s.context, parse_tokens, "rows of each session; 256K unless given");
  app.add_option("--batch", s.batch, "sessions that decode together")->capture_default_str();
  app.add_option("--prefill-chunk", s.prefill_chunk, "tokens that go through a layer at a time")->capture_default_str();
  add_parsed(
      app, "--gpu-memory", s.gpu_memory, parse_bytes,
      "budget of device memory; what is free unless given; with it decode gives decode_offload_vs_stream_same_memory");
  add_parsed(app, "--host-memory", s.host_memory, parse_bytes, "budget of host memory");
  app.add_option("--weights", f.weights, "auto, resident, stream or stream:LAYERS")->capture_default_str();
  app.add_option("--weight-format", f.weight_format, "auto, packed or bf16")->capture_default_str();
  app.add_option("--hidden-states", f.hidden_states, "auto, device or host")->capture_default_str();
  app.add_option("--trace", f.section.trace,
                 "rows to replay at 1/16 of the rows, or at the policy's for `step` and `batch`");
  app.add_option("--trace-k", f.section.trace_k, "rows to replay at --k rows");
  app.add_option("--k", f.section.k, "rows of the figures at a fixed number of rows")->capture_default_str();
  app.add_option("--recall", f.section.recall, "look-ahead's share of right rows, as measured with the traces")
      ->capture_default_str();
  app.add_option("--accuracy", f.section.accuracy, "of the traced model with --trace's rows, for figures' settings");
  app.add_option("--accuracy-k", f.section.accuracy_k, "the same with --trace-k's rows");
  app.add_option("--steps", f.section.steps, "timed steps of each run")->capture_default_str();
  app.add_option("--results", f.results, "folder of the results")->capture_default_str();
  std::string known;
  for (const Section& section : kSections) known += std::string(section.name) + ", ";
  app.add_option("--sections", f.sections, known + "comma-separated; all but batch and step unless given")
      ->delimiter(',');
  app.add_option("--figures", f.figures, "names; all of the sections' unless given")->delimiter(',');
  app.add_flag("--short", f.brief, "a short form: less memory to pin, fewer steps");
  app.footer(
      "Examples:\n"
      "  bench_cuda_figures --figures prefill_256k_s\n"
      "  bench_cuda_figures --sections batch --context 64K --batch 8 --gpu-memory 24GiB\n"
      "  bench_cuda_figures --sections step --geometry llama-2-70b --context 128K --set policy.rows=2048");
}

Exit figures_main(int argc, char** argv) {
  CLI::App app{"Measures the figures in bench/results."};
  Flags f;
  add_flags(app, f);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? Exit::ok : Exit::usage;
  }
  SectionFlags& section = f.section;
  section.setting.geometry = load_geometry(f.geometry);
  section.setting.sets = policy_sets(f.sets);
  section.setting.wanted = parse_placement(f.weights, f.hidden_states, f.weight_format);
  if (!f.kv_dtype.empty()) section.setting.sets.push_back("kv_dtype=" + f.kv_dtype);
  if (f.brief) section.pin_bytes = std::int64_t{8} << 30, section.steps = 8, section.warm = 3;
  const std::string device = open_device(section.setting.device, std::int64_t{1} << 30, 0)->describe();
  Figures figures(f.results, {command_line({argv, static_cast<std::size_t>(argc)}), kCommit, device}, f.figures);
  fmt::print("{}, commit {}\n", device, kCommit);
  for (const Section& known : kSections)
    if (f.sections.empty() ? known.by_default : std::ranges::find(f.sections, known.name) != f.sections.end())
      known.run(figures, section);
  if (const auto missing = figures.missing(); !missing.empty())
    throw UserError(Exit::usage, "not measured, or not figures of these sections: {}", fmt::join(missing, ", "));
  return Exit::ok;
}

}  // namespace

int main(int argc, char** argv) {
  auto end = [](Exit code, const char* message) {
    fmt::print(stderr, "bench_cuda_figures: {}\n", message);
    return static_cast<int>(code);
  };
  try {
    return static_cast<int>(figures_main(argc, argv));
  } catch (const UserError& e) {
    return end(e.code, e.what());
  } catch (const OutOfMemory& e) {
    return end(Exit::out_of_memory, e.what());
  } catch (const DeviceError& e) {
    return end(Exit::device, e.what());
  } catch (const std::exception& e) {
    return end(Exit::internal, e.what());
  }
}
