// What a batch is asked: folders, text files and OpenAI batch JSONL become requests. What cannot be asked becomes a
// request that carries its failure, so that every input has a record.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/batch/convert.h"
#include "runtime/batch/record.h"
#include "runtime/jinja/chat_template.h"

namespace longhaul {

/// One document's failure; the batch goes on.
class DocumentError : public std::runtime_error {
 public:
  DocumentError(std::string code, const std::string& message) : std::runtime_error(message), code(std::move(code)) {}
  std::string code;
};

struct BatchRequest {
  std::string custom_id;
  std::string where;                   // the file, or FILE:LINE, for messages
  std::filesystem::path document;      // a file; empty for a JSONL request and for stdin
  std::optional<Converter> converter;  // that turns the file into text
  std::string text;                    // of the document once it is read
  std::vector<Message> messages;       // of a JSONL request
  std::string unread;                  // what the journal calls a file until it is read
  std::string content;  // content_key() of a JSONL line without its custom_id; a document's when it is read
  // What a JSONL request sets for itself; the job's values otherwise.
  std::optional<std::int64_t> max_tokens;
  std::optional<double> temperature, top_p, repetition_penalty;
  std::optional<std::int64_t> top_k, seed;
  std::vector<std::string> stop;  // texts that end the answer, and are no part of it
  std::optional<Failure> failure;

  /// Frees what only a prompt is made of.
  void let_go() { text = {}, messages = {}; }
};

/// The requests of `paths`, in order. A folder gives its files, at any depth, by sorted relative path, which is the
/// custom_id; names that begin with a dot are left out, and a link to a folder is a failure. A pattern (*, ?, [...]; **
/// for folders at any depth) gives the files that match, sorted. A file whose name ends in .jsonl gives a request a
/// line; any other file is a document whose custom_id is the path as given. "-" is what `standard_input` holds: JSONL
/// when its first line is a request, else a document. Throws UserError{io} for a path that is not there or holds
/// nothing, UserError{usage} when two inputs have one custom_id, or a file takes a program that is not there. A
/// folder's files in `left_out` (absolute, without links) are no documents: the job's own output.
std::vector<BatchRequest> list_requests(const std::vector<std::string>& paths,
                                        const std::set<std::filesystem::path>& left_out = {}, int standard_input = 0);

/// Reads the document of `request`, or says why not in its failure; sets its content.
void read_request(BatchRequest& request);

/// White space only, or nothing.
bool is_blank(std::string_view text);

/// A document's text without its byte order mark and trailing whitespace; `where` is for messages. Throws
/// DocumentError: invalid_utf8, empty_document.
std::string clean_document(std::string text, const std::string& where);
/// A text file without its byte order mark and trailing whitespace. Throws DocumentError: file_unreadable,
/// invalid_utf8, empty_document.
std::string read_document(const std::filesystem::path& file);

/// One line of an OpenAI batch file. Throws DocumentError{invalid_request} or {invalid_utf8} or {empty_document}.
BatchRequest parse_request(const std::string& line, const std::string& where);

}  // namespace longhaul
