#include "runtime/batch/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "kernels/base/hash.h"

namespace longhaul {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::string_view kIdPrefix = "batch_req_";
constexpr std::size_t kKeyDigits = 32;

std::string_view without_prefix(std::string_view id) { return id.substr(std::min(kIdPrefix.size(), id.size())); }

}  // namespace

std::string content_key(std::string_view kind, std::string_view bytes) {
  // Two hashes of 64 bits: of the kind, then the bytes; and of the bytes, then the kind and their number.
  const std::uint64_t first = hash64(bytes, hash64(kind));
  const std::uint64_t second = hash64(fmt::format("{}:{}", kind, bytes.size()), hash64(bytes));
  return fmt::format("{:016x}{:016x}", first, second);
}

std::string record_id(const std::string& content, std::int64_t occurrence) {
  std::string id = std::string(kIdPrefix) + content;
  if (occurrence > 0) id += fmt::format("-{}", occurrence + 1);
  return id;
}

std::string content_of_id(std::string_view id) {
  const std::string_view key = without_prefix(id);
  if (!id.starts_with(kIdPrefix) || key.size() < kKeyDigits) return "";
  if (key.size() > kKeyDigits && key[kKeyDigits] != '-') return "";
  return std::string(key.substr(0, kKeyDigits));
}

Json answer_record(const std::string& id, const std::string& custom_id, const Answer& answer) {
  const std::string bare(without_prefix(id));
  Json message{{"role", "assistant"}, {"content", answer.text}};
  Json choice{{"index", 0}, {"message", message}, {"finish_reason", answer.finish_reason}, {"logprobs", nullptr}};
  Json usage{{"prompt_tokens", answer.prompt_tokens},
             {"completion_tokens", answer.completion_tokens},
             {"total_tokens", answer.prompt_tokens + answer.completion_tokens}};
  Json body{{"id", "chatcmpl-" + bare}, {"object", "chat.completion"},      {"created", std::time(nullptr)},
            {"model", answer.model},    {"choices", Json::array({choice})}, {"usage", usage}};
  if (!answer.notes.is_null()) body["longhaul"] = answer.notes;
  return {{"id", id},
          {"custom_id", custom_id},
          {"response", {{"status_code", 200}, {"request_id", "req_" + bare}, {"body", body}}},
          {"error", nullptr}};
}

Json failure_record(const std::string& id, const std::string& custom_id, const Failure& failure) {
  return {{"id", id},
          {"custom_id", custom_id},
          {"response", nullptr},
          {"error", {{"code", failure.code}, {"message", failure.message}}}};
}

std::string record_line(const Json& record) {
  return record.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
}

}  // namespace longhaul
