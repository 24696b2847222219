// Strict reading of tokenizer.json: every key is known and of the right type, or the user is told which is not.
#pragma once
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace longhaul {

/// A value with the words that name it in messages, "DIR/tokenizer.json: pre_tokenizer". Does not own the value.
class JsonRef {
 public:
  JsonRef(const nlohmann::json& value, std::string where) : value_(&value), where_(std::move(where)) {}
  const nlohmann::json& value() const { return *value_; }
  const std::string& where() const { return where_; }
  bool is_null() const { return value_->is_null(); }

  /// A member of an object; null when absent.
  JsonRef operator[](std::string_view key) const;
  JsonRef element(std::size_t index) const;  // of an array

  // Each throws UserError{bad_model} when the value is of another type (or absent, but for the `or` forms).
  std::string string() const;
  bool boolean_or(bool otherwise) const;
  std::int32_t id() const;
  std::size_t array_size() const;
  const nlohmann::json& object() const;

  /// Throws unless this is an object with no other keys: a key that we ignore could change the outcome.
  void only(std::initializer_list<std::string_view> keys) const;
  [[noreturn]] void refuse(std::string_view what) const;

 private:
  const nlohmann::json* value_;
  std::string where_;
};

/// DIR/tokenizer_config.json; an empty object where there is none.
nlohmann::json read_tokenizer_config(const std::filesystem::path& dir);

}  // namespace longhaul
