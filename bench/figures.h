// Figures that are kept: a table on stdout, and one JSON line each in a file, where a name stands once and the newest
// run counts. Only a run writes them.
#pragma once
#include <set>
#include <span>
#include <string>
#include <vector>

namespace longhaul::bench {

struct Figure {
  std::string name;
  double value;
  std::string unit;     // "x" for a ratio of two times
  double bound;         // in the same unit, measured in the same run; of a target where nothing bounds it
  double ratio;         // value to bound
  std::string setting;  // shapes, bytes counted, policy: all that one needs to judge the value
};

/// A figure whose ratio is its value over its bound.
Figure figure(std::string name, double value, std::string unit, double bound, std::string setting);

class Figures {
 public:
  struct Origin {
    std::string command, commit, device;
  };
  /// `folder`/h200.jsonl, h100.jsonl or what else the device's name gives. `wanted`: names; empty: all.
  Figures(const std::string& folder, Origin origin, std::vector<std::string> wanted);

  bool wants(const std::string& name) const { return wanted_.empty() || wanted_.contains(name); }
  bool wants_any(const std::vector<std::string>& names) const;
  /// Prints it, and replaces the line of its name in the file. Throws UserError{io} when the file cannot be read or
  /// written, std::logic_error when value, bound or ratio is not finite.
  void add(const Figure& figure);
  const std::string& file() const { return file_; }
  /// Names that were wanted and never added: a mistyped name must not pass for a measured one.
  std::vector<std::string> missing() const;

 private:
  Origin origin_;
  std::string file_;
  std::set<std::string> wanted_, added_;
};

/// A program's arguments as a line that a POSIX shell reads as the same arguments; of the program its name alone.
std::string command_line(std::span<const char* const> arguments);

/// "h200" for "NVIDIA H200 (139.80 GiB, ...)"; of other devices all of the name, in lower case.
std::string results_name(const std::string& device);

}  // namespace longhaul::bench
