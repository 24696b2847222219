// Digests: the summarization job with a known answer, in the words that the two small models know
// (bench/make_documents.py makes the same kind as files).
#include <algorithm>
#include <iterator>

#include "apps/eval/make.h"
#include "apps/eval/words.h"
#include "kernels/base/error.h"

namespace longhaul::eval {
namespace {

constexpr std::int64_t kDocuments = 8;

struct Digest {
  std::string title, author;
  std::vector<std::string> notes, headings;

  std::string answer() const {
    std::string text = fmt::format("Title: {}\nAuthor: {}\nSections:\n", title, author);
    for (std::size_t i = 0; i < headings.size(); ++i) text += fmt::format("{}. {}\n", i + 1, headings[i]);
    text += "Notes:";
    for (const std::string& note : notes) text += "\n- " + note;
    return text;
  }
};

std::string make_heading(Random& random) {
  const auto a = random.sample(std::size(kAdjectives), 2), n = random.sample(std::size(kNouns), 2);
  std::string heading =
      fmt::format("{} {}s {} {} {}s", kAdjectives[a[0]], kNouns[n[0]],
                  random.pick(std::span<const std::string_view>(kJoints)), kAdjectives[a[1]], kNouns[n[1]]);
  heading[0] = static_cast<char>(heading[0] - 'a' + 'A');
  return heading;
}

Digest make_digest(const Library::Text& text, Random& random) {
  Digest digest{.title = text.title, .author = text.author};
  const std::int64_t notes = random.between(2, 6), headings = random.between(2, 5);
  constexpr auto nouns = static_cast<std::int64_t>(std::size(kNouns));
  const auto pairs = random.sample(static_cast<std::int64_t>(std::size(kAdjectives)) * nouns, notes);
  const auto places = random.sample(std::size(kPlaces), notes);
  for (std::size_t i = 0; i < pairs.size(); ++i)
    digest.notes.push_back(fmt::format("the {} {} is kept {}", kAdjectives[pairs[i] / nouns], kNouns[pairs[i] % nouns],
                                       kPlaces[places[i]]));
  for (std::int64_t i = 0; i < headings; ++i) digest.headings.push_back(make_heading(random));
  return digest;
}

/// Notes and headings in random gaps, no two in one; each kind in its own order.
std::vector<std::string> mix(const Digest& digest, std::vector<std::string> body, Random& random) {
  std::vector<char> is_note(digest.notes.size(), 1);
  is_note.insert(is_note.end(), digest.headings.size(), 0);
  const auto inserts = static_cast<std::int64_t>(is_note.size()), gaps = static_cast<std::int64_t>(body.size()) - 1;
  if (gaps < inserts) return {};
  auto places = random.sample(gaps, inserts);
  std::ranges::sort(places);
  random.shuffle(is_note);
  std::vector<std::string> all;
  std::size_t next = 0, notes = 0, headings = 0;
  for (std::size_t i = 0; i < body.size(); ++i) {
    all.push_back(std::move(body[i]));
    if (next == places.size() || places[next] != static_cast<std::int64_t>(i)) continue;
    if (is_note[next++]) {
      all.push_back(fmt::format("Note: {}.", digest.notes[notes++]));
    } else {
      all.push_back(fmt::format("Section {}. {}", headings + 1, digest.headings[headings]));
      ++headings;
    }
  }
  return all;
}

/// Cuts the answer's tokens at its line ends; a token with a line end in it belongs to the line that it ends.
std::vector<Part> parts_of(const Tokenizer& tokenizer, const std::vector<std::int32_t>& answer) {
  std::vector<Part> parts;
  std::string line;
  std::int64_t begin = 0;
  auto close = [&](std::int64_t end) {
    const char* name = line.starts_with("Title: ")               ? "title"
                       : line.starts_with("Author: ")            ? "author"
                       : line.starts_with("- ")                  ? "note"
                       : line == "Sections:" || line == "Notes:" ? ""
                                                                 : "section";
    parts.push_back({begin, end, name, *name != '\0'});
    begin = end;
  };
  const auto size = static_cast<std::int64_t>(answer.size());
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int32_t id = answer[static_cast<std::size_t>(i)];
    const std::string bytes(tokenizer.is_special(id) ? "" : tokenizer.token_bytes(id));
    const std::size_t end = bytes.find('\n');
    line += bytes.substr(0, end);
    if (end == std::string::npos && i + 1 < size) continue;
    close(i + 1);
    line = end == std::string::npos ? "" : bytes.substr(bytes.rfind('\n') + 1);
  }
  return parts;
}

Document make_one(const TaskInput& input, std::int64_t index, std::int64_t body) {
  Random random(input.seed, fmt::format("digest {} {}", input.length, index));
  Digest digest;
  std::string name;
  // Gaps enough for the inserts: where the excerpt's paragraphs are too few and long, another book is drawn.
  std::vector<std::string> paragraphs;
  for (int attempt = 0; attempt < 20 && paragraphs.empty(); ++attempt) {
    const std::int64_t book = input.texts.pick(input.length, true, random);
    const Library::Text& text = input.texts.with_prose(book);
    name = text.name;
    digest = make_digest(text, random);
    paragraphs = mix(digest, input.texts.excerpt(book, body, random), random);
  }
  if (paragraphs.empty())
    throw UserError(Exit::usage, "--lengths {}: the texts have too few paragraphs for a digest of that length",
                    input.length);
  const std::string head = fmt::format("{}\nby {}", digest.title, digest.author);
  const std::string answer = digest.answer();
  Document document =
      exact_document(input, head + "\n\n" + join(paragraphs, "\n\n"), {"\n\nSummarize the document."}, {answer});
  document.questions[0].parts = parts_of(input.model.tokenizer, document.questions[0].answer);
  document.name = name;
  return document;
}

}  // namespace

std::vector<Document> make_digests(const TaskInput& input) {
  need_length(input, "digest");
  std::vector<Document> documents;
  for (std::int64_t i = 0; i < wanted_documents(input, kDocuments); ++i)
    documents.push_back(fit_document(input.length, [&](std::int64_t body) { return make_one(input, i, body); }));
  return documents;
}

}  // namespace longhaul::eval
