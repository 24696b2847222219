// Strict reading of JSON from files that other programs wrote: every fault is one UserError line naming the file, and
// a key that nobody asked for is a fault too.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/base/error.h"

namespace longhaul {

/// True for the first bytes of a file that Git LFS left in place of the real one.
bool is_lfs_pointer(std::string_view head);
/// True for the first bytes of HTML, which a hub sends in place of a file that asks for a login.
bool is_web_page(std::string_view head);

/// Text out of a file, fit for a message: in quotes, escaped, shortened past 120 bytes.
std::string quoted(const std::string& text);

/// Parses one JSON document. `where` (a file, a file and line) begins every message. Besides the grammar: no key twice
/// in an object, at most 64 levels deep, no number too large to hold. Throws UserError{exit}.
nlohmann::json parse_json(std::string_view text, const std::string& where, Exit exit = Exit::bad_model);

/// The whole of a small file. Throws UserError{exit} when it is missing, not a regular file, larger than `max_bytes`, a
/// Git LFS pointer or a web page, and UserError{io} when it is there but cannot be read.
std::string read_text_file(const std::filesystem::path& file, std::int64_t max_bytes, Exit exit = Exit::bad_model);

/// The same of a JSON file, which must not be empty either.
nlohmann::json read_json_file(const std::filesystem::path& file, std::int64_t max_bytes = 64 << 20,
                              Exit exit = Exit::bad_model);

/// Takes the keys of one JSON object, one by one; finish() refuses what nobody took. `null` counts as absent, as it
/// does for the programs that write these files. Messages: `WHERE: "key" is VALUE; expected ...`.
class JsonObject {
 public:
  /// `object` must outlive this. Throws UserError{exit} when it is not an object.
  JsonObject(const nlohmann::json& object, std::string where, Exit exit = Exit::bad_model);

  /// Also where it is null, and whoever took it.
  bool contains(const std::string& key) const { return object_.contains(key); }
  /// The key's value, or null where it is absent or null; marks it as taken.
  const nlohmann::json* take(const std::string& key);
  std::optional<std::int64_t> whole(const std::string& key, std::int64_t least, std::int64_t most);
  /// A finite number in [least, most]; whole numbers count.
  std::optional<double> number(const std::string& key, double least, double most);
  std::optional<std::string> text(const std::string& key);
  std::optional<bool> boolean(const std::string& key);
  /// A whole number or a list of them (empty where absent), each in [0, most].
  std::vector<std::int32_t> ids(const std::string& key, std::int32_t most = std::numeric_limits<std::int32_t>::max());
  /// The key may have any value: it does not change what we compute.
  void ignore(std::initializer_list<const char*> keys);
  /// The key may be absent or one of `accepted`: any other value would change what we compute.
  void only(const std::string& key, std::initializer_list<nlohmann::json> accepted);

  /// The value of a key that must be there.
  template <class T>
  T require(const std::string& key, std::optional<T> value) const {
    if (!value) missing(key);
    return *std::move(value);
  }
  /// Throws for the first key that was not taken.
  void finish() const;

  [[noreturn]] void missing(const std::string& key) const;
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
  Exit exit_;
  std::set<std::string, std::less<>> taken_;
};

}  // namespace longhaul
