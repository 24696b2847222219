// Evaluation sets in the formats they are published in: CSV and JSON lines. Every fault is one line that names the
// place.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul::eval {

/// Rows of a CSV text (RFC 4180: quoted fields may hold commas, line ends and doubled quotes). Throws UserError{io}.
std::vector<std::vector<std::string>> parse_csv(std::string_view text, const std::string& where);

/// A text file, without its byte order mark. Throws UserError{io}; says what to do with a gzip file.
std::string read_data(const std::string& file);

/// Calls `each` with every line's object and its "FILE:LINE"; blank lines are left out. Throws UserError{io} for a line
/// that is not a JSON object and for a file without any.
void read_json_lines(const std::string& file,
                     const std::function<void(const nlohmann::json& line, const std::string& where)>& each);

/// Fields of a line; UserError{io} names what is missing or of another kind.
std::string text_field(const nlohmann::json& line, const char* key, const std::string& where);
std::vector<std::string> texts_field(const nlohmann::json& line, const char* key, const std::string& where);

}  // namespace longhaul::eval
