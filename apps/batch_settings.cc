#include "apps/batch_settings.h"

#include <fmt/format.h>

#include "apps/labels.h"
#include "kernels/base/file.h"
#include "runtime/fingerprint.h"

namespace longhaul {
namespace {

using Json = Manifest::Json;

/// Of the files beside the weights that say how text becomes tokens and tokens an answer.
std::string files_key(const std::filesystem::path& model) {
  std::string all;
  for (const char* name : {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                           "tokenizer.model", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"}) {
    std::error_code unknown;
    if (std::filesystem::is_regular_file(model / name, unknown))
      all += fmt::format("{} {}\n", name, content_key("file", read_file(model / name)));
  }
  return content_key("files", all);
}

}  // namespace

Manifest batch_manifest(const Options& o, const ModelFiles& model, const JobOptions& job,
                        const std::vector<InputKey>& inputs) {
  const KvPolicy policy = policy_of(o);
  Json about{{"name", model.name},
             {"weights", weights_fingerprint(model.config, model.weights)},
             {"files", files_key(o.model)}};
  Json options{{"prompt", job.frame.around("{document}")},
               {"on_overflow", name_of(job.overflow)},
               {"max_tokens", job.max_tokens},
               {"max_model_len", job.context},
               {"temperature", job.sampling.temperature},
               {"top_p", job.sampling.top_p},
               {"top_k", job.sampling.top_k},
               {"seed", job.sampling.seed},
               {"activations", o.activations},
               {"policy", print_policy(policy)},
               {"labels", label_fingerprint(o, policy, model)}};
  return Manifest(std::move(about), std::move(options), inputs);
}

}  // namespace longhaul
