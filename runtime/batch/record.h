// One record of a batch: what the OpenAI batch API calls a line of its output, and the key that ties it to its input.
#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace longhaul {

/// The error of one record: `code` is for programs, `message` for people.
struct Failure {
  std::string code, message;
};

/// What one request was answered.
struct Answer {
  std::string text, model, finish_reason;
  std::int64_t prompt_tokens, completion_tokens;
  nlohmann::ordered_json notes = {};  // what was done to the document to make it fit; null: nothing
};

/// Which input a record belongs to, wherever in the job that stands and whatever it is called there.
struct InputKey {
  std::string content;    // content_key() of what is asked
  std::string custom_id;  // tells inputs with the same content apart
};

/// 32 hex digits that are the same for the same bytes. `kind` keeps the keys of unlike things apart.
std::string content_key(std::string_view kind, std::string_view bytes);

/// `occurrence`: which of the inputs with this content.
std::string record_id(const std::string& content, std::int64_t occurrence);
/// The content key in a record's id; empty where that is none of ours.
std::string content_of_id(std::string_view id);

/// `id` is record_id's.
nlohmann::ordered_json answer_record(const std::string& id, const std::string& custom_id, const Answer& answer);
nlohmann::ordered_json failure_record(const std::string& id, const std::string& custom_id, const Failure& failure);
/// One line with its end. A file name may hold bytes that are not UTF-8; JSON cannot.
std::string record_line(const nlohmann::ordered_json& record);

}  // namespace longhaul
