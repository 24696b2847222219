// Scores of generated text as the public sets define them, in [0, 1].
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul::eval {

/// LongEval: whether the last number in the text is `wanted`.
double last_number_score(std::string_view text, std::int64_t wanted);
/// Lost in the Middle: whether the answer is in the text, whatever the case.
double contains_score(std::string_view text, std::string_view answer);
/// RULER: the share of the answers that are in the text, whatever the case.
double recall_score(std::string_view text, const std::vector<std::string>& answers);

// LongBench v1, function by function as its metrics.py computes them.
/// F1 of words without case, punctuation and articles.
double qa_f1_score(std::string_view text, std::string_view answer);
/// ROUGE-L of summaries, as the Python package rouge 1.0.1 computes it: sets of words, union over sentences.
double rouge_l_score(std::string_view text, std::string_view answer);
double classification_score(std::string_view text, std::string_view answer, const std::vector<std::string>& classes);
/// `mark`: what stands before the number in the answer ("Paragraph ", "段落").
double retrieval_score(std::string_view text, std::string_view answer, std::string_view mark);
double count_score(std::string_view text, std::string_view answer);
/// Similarity of the first line that is neither comment nor fence: 2 * longest common subsequence / both lengths, as
/// fuzzywuzzy has it with python-Levenshtein; to the percent.
double code_similarity_score(std::string_view text, std::string_view answer);

}  // namespace longhaul::eval
