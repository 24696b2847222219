#include "runtime/tokenizer/post_processor.h"

#include "kernels/base/error.h"

namespace longhaul {
namespace {

// TemplateProcessing: the tokens before and after the text (its "single" form; "pair" is for two texts).
void read_template(const JsonRef& json, TokensAround& around) {
  json.only({"type", "single", "pair", "special_tokens"});
  const JsonRef parts = json["single"];
  bool after_text = false;
  for (std::size_t i = 0; i < parts.array_size(); ++i) {
    const JsonRef part = parts.element(i);
    part.only({"SpecialToken", "Sequence"});
    if (const JsonRef sequence = part["Sequence"]; !sequence.is_null()) {
      if (after_text || sequence["id"].string() != "A") part.refuse("must hold the text (A) once");
      after_text = true;
      continue;
    }
    const JsonRef token = json["special_tokens"][part["SpecialToken"]["id"].string()];
    const JsonRef ids = token["ids"];
    for (std::size_t k = 0; k < ids.array_size(); ++k)
      (after_text ? around.suffix : around.prefix).push_back(ids.element(k).id());
  }
  if (!after_text) parts.refuse("leaves the text out");
}

void read(const JsonRef& json, TokensAround& around) {
  const std::string type = json["type"].string();
  if (type == "ByteLevel") return;  // it changes offsets only
  if (type == "TemplateProcessing") {
    if (!around.prefix.empty() || !around.suffix.empty()) json.refuse("a second TemplateProcessing is not supported");
    return read_template(json, around);
  }
  if (type != "Sequence")
    json.refuse(fmt::format("post-processor {} is not supported (TemplateProcessing and ByteLevel are)", type));
  json.only({"type", "processors"});
  const JsonRef list = json["processors"];
  for (std::size_t i = 0; i < list.array_size(); ++i) read(list.element(i), around);
}

}  // namespace

TokensAround read_post_processor(const JsonRef& json) {
  TokensAround around;
  if (!json.is_null()) read(json, around);
  return around;
}

}  // namespace longhaul
