#include "apps/batch_settings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "apps/labels.h"
#include "kernels/base/file.h"
#include "runtime/checkpoint/fingerprint.h"

namespace longhaul {
namespace {

using Json = Manifest::Json;

/// Of what stands beside the weights and says how text becomes tokens and tokens an answer: a GGUF file's metadata, or
/// the small files of the folder.
std::string files_key(const std::filesystem::path& folder, const ModelFiles& model) {
  if (const auto* gguf = dynamic_cast<const Gguf*>(&model.weights.files()))
    return content_key("gguf", gguf->metadata().dump(-1, ' ', false, Json::error_handler_t::replace));
  std::set<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    static const std::set<std::string> kRead{".json", ".jinja", ".model", ".txt", ".tiktoken"};
    const bool index = entry.path().filename().string().ends_with(".safetensors.index.json");
    if (entry.is_regular_file() && !index && kRead.contains(entry.path().extension().string()))
      files.insert(entry.path());
  }
  std::string all;
  for (const auto& file : files)
    all += fmt::format("{} {}\n", file.filename().string(), content_key("file", read_file(file)));
  return content_key("files", all);
}

/// What the user says about the chat template.
std::string chat_key(const Options& o) {
  if (o.no_chat_template) return "none";
  const std::string file = o.chat_template.empty() ? std::string() : read_file(o.chat_template);
  return content_key("chat", fmt::format("{}\n{}", file, fmt::join(o.template_vars, "\n")));
}

}  // namespace

Manifest batch_manifest(const Options& o, const ModelFiles& model, const JobOptions& job) {
  const KvPolicy policy = policy_of(o);
  Json about{{"name", model.name},
             {"weights", weights_fingerprint(model.config, model.weights)},
             {"files", files_key(o.model, model)}};
  Json options{{"prompt", job.frame.around("{document}")},
               {"chat_template", chat_key(o)},
               {"on_overflow", name_of(job.overflow)},
               {"max_tokens", job.max_tokens},
               {"max_model_len", job.context},
               {"temperature", job.sampling.temperature},
               {"top_p", job.sampling.top_p},
               {"top_k", job.sampling.top_k},
               {"repetition_penalty", job.sampling.repetition_penalty},
               {"seed", job.sampling.seed},
               {"activations", o.activations},
               {"policy", print_policy(answering(policy))},
               {"labels", label_fingerprint(o, policy, model)}};
  return Manifest(std::move(about), std::move(options));
}

}  // namespace longhaul
