// MMLU: a subject's five examples are the document, each test question goes on from there; the likeliest of the four
// letters counts. No chat template, as published.
#include <algorithm>
#include <charconv>
#include <filesystem>

#include "apps/eval/data_file.h"
#include "apps/eval/make.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

namespace fs = std::filesystem;
constexpr std::int64_t kExamples = 5;
constexpr const char* kLetters[] = {"A", "B", "C", "D"};

struct Sheet {
  std::string question;
  std::vector<std::string> choices;
  std::int64_t answer;

  std::string text() const {
    std::string text = question;
    for (std::size_t i = 0; i < choices.size(); ++i) text += fmt::format("\n{}. {}", kLetters[i], choices[i]);
    return text + "\nAnswer:";
  }
};

/// Rows of question, four choices, and the answer as a letter or as 0 to 3; a head row is known by its words.
std::vector<Sheet> read_sheets(const std::string& file) {
  std::vector<Sheet> sheets;
  std::int64_t number = 0;
  for (std::vector<std::string>& row : parse_csv(read_data(file), file)) {
    ++number;
    if (row.size() == 1 && row[0].empty()) continue;
    if (row.size() != 6)
      throw UserError(Exit::io, "{}: row {} has {} fields; expected question, four choices, answer", file, number,
                      row.size());
    const std::string& answer = row[5];
    if (number == 1 && row[0] == "question" && answer == "answer") continue;
    const bool good =
        answer.size() == 1 && ((answer[0] >= 'A' && answer[0] <= 'D') || (answer[0] >= '0' && answer[0] <= '3'));
    if (!good)
      throw UserError(Exit::io, "{}: row {} has the answer '{}'; expected A to D or 0 to 3", file, number, answer);
    const std::int64_t right = answer[0] >= 'A' ? answer[0] - 'A' : answer[0] - '0';
    sheets.push_back({std::move(row[0]), {row.begin() + 1, row.begin() + 5}, right});
  }
  if (sheets.empty()) throw UserError(Exit::io, "{}: holds no questions", file);
  return sheets;
}

/// Files NAME_test.csv, whose examples are in NAME_dev.csv.
std::vector<fs::path> test_files(const TaskInput& input) {
  std::vector<fs::path> files;
  for (const std::string& path : input.data) {
    std::error_code error;
    if (!fs::exists(path, error)) throw UserError(Exit::io, "--data {}: no such file or folder", path);
    if (!fs::is_directory(path, error)) {
      files.emplace_back(path);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(path))
      if (entry.path().filename().string().ends_with("_test.csv")) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  if (files.empty()) throw UserError(Exit::io, "--data: the folder holds no SUBJECT_test.csv");
  for (const fs::path& file : files)
    if (!file.filename().string().ends_with("_test.csv"))
      throw UserError(Exit::io, "--data {}: expected a folder, or files SUBJECT_test.csv", file.string());
  return files;
}

Document make_subject(const TaskInput& input, const fs::path& file) {
  std::string subject = file.filename().string();
  subject.resize(subject.size() - std::string_view("_test.csv").size());
  std::vector<Sheet> examples = read_sheets((file.parent_path() / (subject + "_dev.csv")).string());
  examples.resize(std::min<std::size_t>(examples.size(), kExamples));
  std::vector<Sheet> sheets = read_sheets(file.string());
  if (input.questions && *input.questions < static_cast<std::int64_t>(sheets.size()))
    sheets.resize(static_cast<std::size_t>(*input.questions));

  std::string title = subject;
  std::ranges::replace(title, '_', ' ');
  std::string text = fmt::format("The following are multiple choice questions (with answers) about {}.\n\n", title);
  for (const Sheet& example : examples) text += fmt::format("{} {}\n\n", example.text(), kLetters[example.answer]);
  std::vector<std::string> asked;
  for (const Sheet& sheet : sheets) asked.push_back(sheet.text());
  SplitPrompt split = split_prompt(input.model, plain_frame(), text, asked);
  Document document{.name = subject, .prompt = std::move(split.prompt)};
  // The last token of " A" as it comes after "Answer:".
  std::vector<std::int32_t> candidates;
  for (const char* letter : kLetters)
    candidates.push_back(input.model.tokenizer.encode(fmt::format("Answer: {}", letter), false).back());
  for (std::size_t i = 0; i < sheets.size(); ++i)
    document.questions.push_back(
        {.ask = std::move(split.asks[i]), .judge = Judge::choice, .answer = candidates, .right = sheets[i].answer});
  return document;
}

}  // namespace

std::vector<Document> make_mmlu(const TaskInput& input) {
  std::vector<Document> documents;
  for (const fs::path& file : test_files(input))
    if (!input.documents || static_cast<std::int64_t>(documents.size()) < *input.documents)
      documents.push_back(make_subject(input, file));
  return documents;
}

}  // namespace longhaul::eval
