// What the makers of documents share: words, documents fitted to a length, questions with one exact answer.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "apps/eval/task.h"

namespace longhaul::eval {

/// Calls make(body tokens) until the document takes `length` rows or at most half a percent less, never more; what it
/// makes grows with the body. Throws UserError{usage} where no document is short enough.
Document fit_document(std::int64_t length, const std::function<Document(std::int64_t body)>& make);

/// `count` different words "adjective-noun".
std::vector<std::string> make_keys(std::int64_t count, Random& random);

/// `count` different numbers of [low, high], as text; the range has several times as many.
std::vector<std::string> make_numbers(std::int64_t count, std::int64_t low, std::int64_t high, Random& random);

/// Puts each insert, in order, behind a random paragraph but the last. They may come to stand side by side.
std::vector<std::string> put_between(const std::vector<std::string>& paragraphs,
                                     const std::vector<std::string>& inserts, Random& random);
std::string join(const std::vector<std::string>& parts, std::string_view between);

/// Documents that a generated task makes: --documents, or this many.
std::int64_t wanted_documents(const TaskInput& input, std::int64_t unless_given = 4);
/// Throws UserError{usage} where the task needs --lengths and has none.
void need_length(const TaskInput& input, const char* task);

/// A document whose user message is `text` and one of `questions`, the answers being known to the token.
Document exact_document(const TaskInput& input, const std::string& text, const std::vector<std::string>& questions,
                        const std::vector<std::string>& answers);

}  // namespace longhaul::eval
