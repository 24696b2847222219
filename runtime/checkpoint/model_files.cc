#include "runtime/checkpoint/model_files.h"

#include "kernels/base/error.h"

namespace longhaul {

ModelFiles::ModelFiles(const ModelSource& source, const ChatOptions& chat_options)
    : name(source.name()),
      config(source.config()),
      generation(source.generation()),
      weights(source.weights()),
      tokenizer(source.tokenizer()),
      chat(source.chat(chat_options)) {
  const std::string& where = source.where();
  if (tokenizer.vocab_size() > config.vocab)
    throw UserError(Exit::bad_model, "{}: the tokenizer has ids up to {}, but vocab_size in the config is {}", where,
                    tokenizer.vocab_size() - 1, config.vocab);
  for (std::int32_t id : generation.eos)
    if (id >= config.vocab)
      throw UserError(Exit::bad_model, "{}: generation_config.json ends answers with token {}, but vocab_size is {}",
                      where, id, config.vocab);
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
