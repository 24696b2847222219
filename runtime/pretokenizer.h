// Cuts text into the pieces that byte-pair encoding may not cross.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/regex.h"
#include "runtime/tokenizer_json.h"

namespace longhaul {

class PreTokenizer {
 public:
  /// From the pre_tokenizer of tokenizer.json: Split and Digits in any order, then one ByteLevel.
  explicit PreTokenizer(const JsonRef& json);

  using Sink = std::function<void(std::string_view)>;
  /// The state of cutting, for one thread. Does not outlive its PreTokenizer.
  class Splitter {
   public:
    explicit Splitter(const PreTokenizer& owner);
    /// Gives the pieces of `text` in order; each view lives until the sink returns.
    void split(std::string_view text, const Sink& sink) { run(0, text, sink); }

   private:
    void run(std::size_t stage, std::string_view text, const Sink& sink);
    void cut(std::size_t stage, std::string_view text, const Sink& sink);
    const PreTokenizer& owner_;
    std::vector<Regex::Matcher> matchers_;  // one per stage
  };

 private:
  enum class Behavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };
  struct Stage {
    Regex regex;
    Behavior behavior;
    bool invert = false;  // the gaps count as matches and the matches as gaps
  };
  void add(const JsonRef& json);
  void add_split(const JsonRef& json);

  std::vector<Stage> stages_;
  bool byte_level_ = false, prefix_space_ = false;
  std::size_t before_byte_level_ = 0;  // stages that run before the prefix space is put
};

}  // namespace longhaul
