#include "runtime/checkpoint/model_source.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "runtime/checkpoint/gguf_config.h"
#include "runtime/checkpoint/json_file.h"
#include "runtime/tokenizer/gguf_tokenizer.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

bool is_inside(const fs::path& file, const fs::path& dir) { return std::ranges::mismatch(dir, file).in1 == dir.end(); }

/// A hub's cache has snapshots/REVISION/NAME, links to files in blobs beside snapshots.
void check_links(const fs::path& dir) {
  std::error_code failed;
  const fs::path real = fs::canonical(dir, failed), blobs = real.parent_path().parent_path() / "blobs";
  const bool in_cache = real.parent_path().filename() == "snapshots";
  for (const auto& entry : fs::directory_iterator(dir, failed)) {
    if (!entry.is_symlink(failed)) continue;
    static constexpr std::string_view kRead[] = {".json",  ".jinja", ".safetensors", ".gguf",
                                                 ".model", ".txt",   ".tiktoken"};
    if (std::ranges::find(kRead, entry.path().extension().string()) == std::end(kRead)) continue;
    const fs::path target = fs::canonical(entry.path(), failed);
    if (failed)
      throw UserError(Exit::bad_model, "{}: is a link to nothing; is the download complete?", entry.path().string());
    if (!is_inside(target, real) && !(in_cache && is_inside(target, blobs)))
      throw UserError(Exit::bad_model, "{}: is a link out of the model's folder, to {}; put the file itself there",
                      entry.path().string(), target.string());
  }
}

std::vector<fs::path> ggufs_in(const fs::path& dir) {
  std::vector<fs::path> found;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(dir, failed))
    if (entry.path().extension() == ".gguf") found.push_back(entry.path());
  return found;
}

}  // namespace

ModelSource::ModelSource(const std::string& model) : where_(model) {
  std::error_code failed;
  const fs::path real = fs::canonical(model, failed);
  std::optional<fs::path> gguf;
  if (failed)
    throw UserError(Exit::bad_model,
                    "--model {}: no such folder; give a folder with config.json and safetensors, or a GGUF file",
                    model);
  name_ = real.filename();
  if (!fs::is_directory(real)) {
    if (fs::path(model).extension() != ".gguf")
      throw UserError(
          Exit::bad_model,
          "--model {}: is a file; give a folder with config.json and safetensors, or a file that ends in .gguf", model);
    gguf = model;
  } else {
    check_links(model);
    const auto ggufs = ggufs_in(model);
    if (!fs::exists(fs::path(model) / "config.json") && !ggufs.empty()) {
      if (ggufs.size() > 1)
        throw UserError(Exit::bad_model, "--model {}: holds {} GGUF files; name the one that is meant", model,
                        ggufs.size());
      gguf = ggufs.front();
    }
  }
  if (!gguf) return;
  where_ = gguf->string();
  name_ = gguf->stem();
  gguf_ = std::make_shared<const Gguf>(Gguf::open_file(*gguf));
}

const nlohmann::json& ModelSource::folder_config() const {
  if (config_.is_null()) config_ = read_model_config(where_);
  return config_;
}

ModelConfig ModelSource::config() const {
  return gguf_ ? parse_model_config(gguf_config(*gguf_), where_)
               : parse_model_config(folder_config(), (fs::path(where_) / "config.json").string());
}

GenerationDefaults ModelSource::generation() const {
  return gguf_ ? GenerationDefaults{} : load_generation_defaults(where_);
}

Tokenizer ModelSource::tokenizer() const {
  return gguf_ ? Tokenizer(gguf_tokenizer(*gguf_), where_ + ": tokenizer") : Tokenizer(where_);
}

ChatTemplate ModelSource::chat(const ChatOptions& options) const {
  return gguf_ ? ChatTemplate(gguf_tokenizer_config(*gguf_), where_, options) : ChatTemplate(fs::path(where_), options);
}

Checkpoint ModelSource::weights() const {
  if (gguf_) return Checkpoint(gguf_);
  const std::string file = (fs::path(where_) / "config.json").string();
  return {Safetensors::open_model(where_), parse_quantization(folder_config(), file)};
}

bool ModelSource::has_packed_weights() const {
  if (gguf_) return true;
  const fs::path dir(where_);
  return parse_quantization(folder_config(), (dir / "config.json").string()).method != QuantMethod::none &&
         (fs::exists(dir / "model.safetensors") || fs::exists(dir / "model.safetensors.index.json"));
}

}  // namespace longhaul
