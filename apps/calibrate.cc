// longhaul calibrate: texts in, one channel file for a model out.
#include "runtime/labels/calibrate.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>

#include "apps/options.h"
#include "apps/verbs.h"
#include "runtime/batch/input.h"
#include "runtime/batch/output_file.h"
#include "runtime/batch/progress.h"

namespace longhaul {
namespace {

constexpr std::int64_t kDefaultLength = 16384;  // a basis is as good as the positions it was fitted for

struct CalibrateOptions : Options {
  CalibrateOptions() { policy = "stream"; }  // attends every row; how many of them are on the device changes nothing

  std::vector<std::string> text;
  std::string output;
  bool published = false;
};

std::vector<CalibrationDocument> read_documents(const CalibrateOptions& o, const ModelFiles& model,
                                                Progress& progress) {
  const std::int64_t most =
      o.max_model_len ? context(o, model.config) : std::min(kDefaultLength, model.config.max_position);
  std::vector<CalibrationDocument> documents;
  for (const std::string& file : o.text) {
    progress.tokenizing(static_cast<std::int64_t>(documents.size()) + 1);
    // Not the path: the same texts give the same file wherever they lie.
    const std::string name = std::filesystem::path(file).filename().string();
    try {
      documents.push_back(calibration_document(model, name, read_document(file), most));
    } catch (const DocumentError& e) {
      if (e.code != "invalid_utf8") throw;  // the others name the file
      throw UserError(Exit::io, "{}: {}", file, e.what());
    }
  }
  progress.clear();
  check_calibration(documents);
  return documents;
}

ChannelFile run_texts(const CalibrateOptions& o, const ModelFiles& model,
                      const std::vector<CalibrationDocument>& documents, Progress& progress) {
  std::int64_t longest = 0;
  for (const CalibrationDocument& document : documents)
    longest = std::max(longest, static_cast<std::int64_t>(document.ids.size()));
  const Budget limits = budget(o);
  const EngineOptions options = engine_options(o, model, limits, longest + 1, 1, Probes{.moments = true});
  std::unique_ptr<Device> device = open_device(o, limits.device);
  Engine engine(*device, model.config, model.weights, options);
  spdlog::info("{}; {} texts of up to {} tokens", device->describe(), documents.size(), with_commas(longest));
  return calibrate(engine, model, documents, [&](const CalibrationDocument& document, double share) {
    const auto tokens = static_cast<std::int64_t>(document.ids.size());
    progress.prefill(document.name, tokens, share);
    if (share == 1) progress.document_done(document.name, with_commas(tokens) + " tokens");
  });
}

void calibrate_model(const CalibrateOptions& o) {
  if (o.text.empty()) throw UserError(Exit::usage, "--text is required; see longhaul calibrate --help");
  Progress progress({stderr, ::isatty(STDERR_FILENO) == 1, static_cast<std::int64_t>(o.text.size())});
  std::unique_ptr<OutputFile> output;  // made first: minutes of work should not end at a name that is taken
  if (!o.output.empty()) output = std::make_unique<OutputFile>(o.output);
  if (output && output->size() > 0) output->refuse_taken();
  const ModelFiles model(o.model, ChatOptions{.none = true});
  const ChannelFile file = run_texts(o, model, read_documents(o, model, progress), progress);
  progress.clear();
  const std::string text = o.published ? print_published(file) : print_channels(file);
  if (!output) return say(text + "\n");
  if (!append_for_good(system_disk(), "channels", output->fd(), text + "\n", 0)) fail_write(output->name(), "");
  output->keep();
}

}  // namespace

void register_calibrate(CLI::App& app) {
  auto o = std::make_shared<CalibrateOptions>();
  CLI::App* verb = app.add_subcommand("calibrate", "Find the channels and the basis that a model's labels need");
  verb->add_option("--text", o->text, "text files, like what the model will read; each is one document")
      ->type_name("FILE");
  verb->add_option("-o,--output", o->output, "where the channel file goes, must not exist; stdout unless given")
      ->type_name("FILE");
  verb->add_flag("--published", o->published, "write Double Sparsity's published format: q, k and qk rankings only");
  add_model_options(*verb, *o, "most tokens read of each text; 16K, or the model's context, unless given");
  verb->footer(
      "A channel file is used where a policy's labels are fitted, q, k, qk, abs, rms or pairs: the one of --channels,\n"
      "else channels.json in the model's folder, else a shipped one that was made for these weights. Texts should be "
      "as\n"
      "long as what will be read: a basis is as good as the positions it was fitted for.\n\n"
      "Examples:\n"
      "  longhaul calibrate --model apps/demo/demo-7m --text book.txt -o apps/demo/demo-7m/channels.json\n"
      "  longhaul calibrate --model apps/demo/demo-7m --text a.txt b.txt --max-model-len 8K --published > "
      "channels.json");
  verb->callback([verb, o] {
    try {
      if (finish_options(*verb, *o)) calibrate_model(*o);
    } catch (const DocumentError& e) {
      throw UserError(Exit::io, "{}", e.what());
    }
  });
}

}  // namespace longhaul
