// Cuts text into the pieces that byte-pair encoding may not cross.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/tokenizer_json.h"

namespace longhaul {

class PreTokenizer {
 public:
  /// From the pre_tokenizer of tokenizer.json: Split, Digits and Metaspace in any order, then perhaps one ByteLevel.
  explicit PreTokenizer(const JsonRef& json);

  /// Pieces are to be read as bytes and not as characters.
  bool byte_level() const { return byte_level_; }

  using Sink = std::function<void(std::string_view)>;
  /// The state of cutting, for one thread. Does not outlive its PreTokenizer.
  class Splitter {
   public:
    explicit Splitter(const PreTokenizer& owner);
    /// Gives the pieces of `text` in order; each view lives until the sink returns. `first`: nothing stands before it.
    void split(std::string_view text, bool first, const Sink& sink) { run(0, text, first, sink); }

   private:
    void run(std::size_t stage, std::string_view text, bool first, const Sink& sink);
    void cut(std::size_t stage, std::string_view text, bool first, const Sink& sink);
    const PreTokenizer& owner_;
    std::vector<Regex::Matcher> matchers_;  // one per stage
  };

 private:
  enum class Behavior { isolated, removed, contiguous, merged_with_previous, merged_with_next };
  enum class Prefix { none, space, always, first };  // the last two are Metaspace's
  struct Stage {
    Regex regex;
    Behavior behavior;
    bool invert = false;  // the gaps count as matches and the matches as gaps
    bool cuts = true;     // false: the text stays whole
    Prefix prefix = Prefix::none;
    std::string metaspace;  // what takes the place of spaces, and the prefix; empty: nothing does
  };
  void add(const JsonRef& json);
  void add_split(const JsonRef& json);
  void add_metaspace(const JsonRef& json);

  std::vector<Stage> stages_;
  bool byte_level_ = false;
};

}  // namespace longhaul
