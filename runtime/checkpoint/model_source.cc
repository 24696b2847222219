#include "runtime/checkpoint/model_source.h"

#include <algorithm>
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
    gguf_path_ = model;
  } else {
    check_links(model);
    const auto ggufs = ggufs_in(model);
    if (!fs::exists(fs::path(model) / "config.json") && !ggufs.empty()) {
      if (ggufs.size() > 1)
        throw UserError(Exit::bad_model, "--model {}: holds {} GGUF files; name the one that is meant", model,
                        ggufs.size());
      gguf_path_ = ggufs.front();
    }
  }
  if (!gguf_path_) return;
  where_ = gguf_path_->string();
  name_ = gguf_path_->stem();
  gguf_.emplace(Gguf::open_file(*gguf_path_));
}

ModelConfig ModelSource::config() const {
  return gguf_ ? parse_model_config(gguf_config(*gguf_), where_) : load_model_config(where_);
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
  return gguf_ ? Checkpoint(Gguf::open_file(*gguf_path_)) : Checkpoint::open(where_);
}

}  // namespace longhaul
