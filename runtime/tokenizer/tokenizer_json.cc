#include "runtime/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <limits>

#include "kernels/base/error.h"
#include "runtime/checkpoint/json_file.h"

namespace longhaul {
namespace {
const nlohmann::json kNull;
}

JsonRef JsonRef::operator[](std::string_view key) const {
  const auto& members = object();
  const auto found = members.find(key);
  return {found == members.end() ? kNull : *found, fmt::format("{}.{}", where_, key)};
}

JsonRef JsonRef::element(std::size_t index) const { return {value_->at(index), fmt::format("{}[{}]", where_, index)}; }

void JsonRef::refuse(std::string_view what) const { throw UserError(Exit::bad_model, "{}: {}", where_, what); }

std::string JsonRef::string() const {
  if (!value_->is_string()) refuse("must be a string");
  return value_->get<std::string>();
}

bool JsonRef::boolean_or(bool otherwise) const {
  if (is_null()) return otherwise;
  if (!value_->is_boolean()) refuse("must be true or false");
  return value_->get<bool>();
}

std::int32_t JsonRef::id() const {
  constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max() - 1;
  if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() > kMost) refuse("must be a token id");
  return value_->get<std::int32_t>();
}

std::size_t JsonRef::array_size() const {
  if (!value_->is_array()) refuse("must be an array");
  return value_->size();
}

const nlohmann::json& JsonRef::object() const {
  if (!value_->is_object()) refuse("must be an object");
  return *value_;
}

void JsonRef::only(std::initializer_list<std::string_view> keys) const {
  for (const auto& [key, value] : object().items())
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) refuse(fmt::format("unknown key {:?}", key));
}

nlohmann::json read_tokenizer_config(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / "tokenizer_config.json";
  if (!std::filesystem::exists(file)) return nlohmann::json::object();
  nlohmann::json config = read_json_file(file);
  JsonRef(config, file.string()).object();
  return config;
}

}  // namespace longhaul
