#include "runtime/model_files.h"

#include <filesystem>

#include "kernels/base/error.h"

namespace longhaul {
namespace {

std::string folder_name(const std::string& dir) {
  std::error_code error;
  std::filesystem::path real = std::filesystem::canonical(dir, error);
  if (error || !std::filesystem::is_directory(real))
    throw UserError(Exit::bad_model, "--model {}: no such folder; give a folder with config.json and safetensors", dir);
  return real.filename();
}

}  // namespace

ModelFiles::ModelFiles(const std::string& dir, const ChatOptions& chat_options)
    : name(folder_name(dir)),
      config(load_model_config(dir)),
      generation(load_generation_defaults(dir)),
      weights(Safetensors::open_model(dir)),
      tokenizer(dir),
      chat(dir, chat_options) {
  if (tokenizer.vocab_size() > config.vocab)
    throw UserError(Exit::bad_model, "{}: tokenizer.json has ids up to {}, but vocab_size in config.json is {}", dir,
                    tokenizer.vocab_size() - 1, config.vocab);
  for (std::int32_t id : generation.eos)
    if (id >= config.vocab)
      throw UserError(Exit::bad_model, "{}: generation_config.json ends answers with token {}, but vocab_size is {}",
                      dir, id, config.vocab);
}

std::vector<std::int32_t> ModelFiles::prompt_ids(std::vector<Message> messages) const {
  for (Message& message : messages) message.content = tokenizer.guard(message.content);
  return tokenizer.encode(chat.render(messages, true), !chat.exists());
}

std::string ModelFiles::answer_text(std::span<const std::int32_t> ids) const {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (std::int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

const std::vector<std::int32_t>& ModelFiles::eos() const {
  return generation.eos.empty() ? config.eos : generation.eos;
}

}  // namespace longhaul
