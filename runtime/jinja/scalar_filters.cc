// Filters of one text, number or other value; those of sequences are in filters.cc.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "runtime/jinja/filters.h"
#include "runtime/jinja/text.h"

namespace longhaul::jinja {
namespace {

Value method(Runtime& runtime, const Value& of, std::string_view name, Arguments& arguments) {
  return (*method_of(runtime.text(runtime.str(of)), name))(runtime, arguments);
}

template <char const* name>
Value as_method(Runtime& runtime, const Value& of, Arguments& arguments) {
  return method(runtime, of, name, arguments);
}
constexpr char kStrip[] = "strip", kUpper[] = "upper", kLower[] = "lower", kCapitalize[] = "capitalize";

Value default_filter(Runtime&, const Value& of, Arguments& arguments) {
  const Value otherwise = arguments.get(0, "default_value").value_or("");
  const bool truth = arguments.flag(1, "boolean", false);
  arguments.finish("default");
  return of.undefined() || (truth && !of.truth()) ? otherwise : of;
}

Value string(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("string");
  return runtime.text(runtime.str(of));
}

Value replace(Runtime& runtime, const Value& of, Arguments& arguments) {
  Arguments inner;
  inner.positional = {runtime.text(runtime.str(arguments.required(0, "old"))),
                      runtime.text(runtime.str(arguments.required(1, "new")))};
  if (const auto count = arguments.get(2, "count"); count && !count->none()) inner.positional.push_back(*count);
  arguments.finish("replace");
  return method(runtime, of, "replace", inner);
}

// Jinja2's own: words begin after blanks, brackets and -.
Value title(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("title");
  const std::string text = runtime.str(of);
  std::string out;
  bool inside = false;
  for (const std::string_view character : characters_of(text)) {
    Arguments none;
    const bool between =
        std::string_view("-({[<").find(character[0]) != std::string_view::npos || is_text(character, TextClass::space);
    out += *method(runtime, std::string(character), inside && !between ? "lower" : "upper", none).text();
    inside = !between;
  }
  return runtime.text(std::move(out));
}

Value indent(Runtime& runtime, const Value& of, Arguments& arguments) {
  const Value width = arguments.get(0, "width").value_or(std::int64_t{4});
  const bool also_first = arguments.flag(1, "first", false), blank = arguments.flag(2, "blank", false);
  arguments.finish("indent");
  if (!of.text()) mistake(fmt::format("indent needs a string, not {}", of.type()));
  if (width.whole() && *width.whole() > 1000) mistake("an indent of more than 1000 is not supported");
  const std::string by = width.text() ? *width.text()
                         : width.whole()
                             ? std::string(static_cast<std::size_t>(std::max<std::int64_t>(*width.whole(), 0)), ' ')
                             : (mistake("the argument width must be a number or a string"), "");
  const std::string whole = *of.text() + "\n";
  runtime.step(whole.size());
  std::string out = also_first ? by : "";
  bool some = false;
  for (const std::string_view line : split_lines(whole, false)) {
    runtime.take(line.size() + by.size() + 1);
    if (some) {
      out += '\n';
      if (blank || !line.empty()) out += by;
    }
    out += line;
    some = true;
  }
  return runtime.text(std::move(out));
}

Value truncate(Runtime& runtime, const Value& of, Arguments& arguments) {
  const std::int64_t most = arguments.whole(0, "length").value_or(255);
  const bool kill = arguments.flag(1, "killwords", false);
  const std::string end = arguments.text(2, "end").value_or("...");
  const std::int64_t leeway = arguments.whole(3, "leeway").value_or(5);
  arguments.finish("truncate");
  if (!of.text()) mistake(fmt::format("truncate of a {} is not supported", of.type()));
  const std::string& text = *of.text();
  constexpr std::int64_t kMost = std::int64_t{1} << 40;
  if (std::abs(most) > kMost || std::abs(leeway) > kMost) mistake("truncate: a length out of range");
  const std::int64_t keep = most - text_length(end);
  if (keep < 0 || leeway < 0) mistake("truncate is too short for its end");
  runtime.step(text.size());
  const auto characters = characters_of(text);
  if (static_cast<std::int64_t>(characters.size()) <= most + leeway) return runtime.text(text);
  std::string_view head(text.data(),
                        static_cast<std::size_t>(characters[static_cast<std::size_t>(keep)].data() - text.data()));
  if (!kill)
    if (const auto space = find_last_text(head, " ")) head = head.substr(0, space->begin);
  return runtime.text(std::string(head) + end);
}

// A text that Python's float() reads; none for another.
std::optional<double> real_of(std::string_view text) {
  text = strip_text(text, {}, true, true);
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool read = !text.empty() && error == std::errc() && end == text.data() + text.size();
  return read ? std::optional(value) : std::nullopt;
}

Value to_int(Runtime&, const Value& of, Arguments& arguments) {
  const Value otherwise = arguments.get(0, "default").value_or(std::int64_t{0});
  const std::int64_t base = arguments.whole(1, "base").value_or(10);
  arguments.finish("int");
  if (of.undefined()) mistake("int of something undefined");
  if (base != 10) mistake("int with another base than 10 is not supported");
  if (of.whole()) return *of.whole();
  std::optional<double> value = of.number();
  if (of.text()) {
    std::string text(strip_text(unguarded(*of.text()), {}, true, true));
    std::erase(text, '_');
    const std::string_view digits = std::string_view(text).substr(text.starts_with('+'));
    std::int64_t whole = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), whole);
    if (error == std::errc::result_out_of_range && end == digits.data() + digits.size()) mistake("a number too large");
    if (error == std::errc() && end == digits.data() + digits.size()) return whole;
    value = real_of(unguarded(*of.text()));
  }
  if (!value || std::isnan(*value)) return otherwise;
  if (std::isinf(*value)) mistake("cannot convert float infinity to integer");
  if (std::fabs(*value) > 9e18) mistake("a number too large");
  return static_cast<std::int64_t>(*value);
}

Value to_float(Runtime&, const Value& of, Arguments& arguments) {
  const Value otherwise = arguments.get(0, "default").value_or(0.0);
  arguments.finish("float");
  if (of.undefined()) mistake("float of something undefined");
  const auto value = of.text() ? real_of(unguarded(*of.text())) : of.number();
  return value ? Value(*value) : otherwise;
}

Value absolute(Runtime& runtime, const Value& of, Arguments& arguments) {
  arguments.finish("abs");
  if (!of.number()) mistake(fmt::format("bad operand type for abs(): '{}'", of.type()));
  if (of.real()) return std::fabs(*of.real());
  return *of.whole() < 0 ? runtime.binary("-", std::int64_t{0}, of) : Value(*of.whole());
}

Value round_filter(Runtime&, const Value& of, Arguments& arguments) {
  const std::int64_t precision = arguments.whole(0, "precision").value_or(0);
  const std::string how = arguments.text(1, "method").value_or("common");
  arguments.finish("round");
  if (how != "common" && how != "ceil" && how != "floor") mistake("method must be common, ceil or floor");
  if (!of.number()) mistake(fmt::format("type {} doesn't define __round__ method", of.type()));
  if (precision < 0 || precision > 15) mistake("round with a precision below 0 or above 15 is not supported");
  if (how == "common") {
    if (of.whole()) return *of.whole();
    if (std::isnan(*of.real()) || std::isinf(*of.real())) return of;
    // As Python: to the nearest decimal number of this length, ties to even, by way of the exact digits.
    return std::stod(fmt::format("{:.{}f}", *of.real(), precision));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision)), scaled = *of.number() * scale;
  return (how == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value format(Runtime& runtime, const Value& of, Arguments& arguments) {
  if (!arguments.named.empty() && !arguments.positional.empty())
    mistake("can't handle positional and keyword arguments at the same time");
  if (arguments.named.empty())
    return runtime.text(
        percent_format(runtime, runtime.str(of), runtime.sequence(Sequence::tuple, std::move(arguments.positional))));
  return runtime.text(percent_format(runtime, runtime.str(of), Value(arguments.named)));
}

Value center(Runtime& runtime, const Value& of, Arguments& arguments) {
  Arguments inner;
  inner.positional = {arguments.get(0, "width").value_or(std::int64_t{80})};
  arguments.finish("center");
  return method(runtime, of, "center", inner);
}

// Of Python's attributes, not of items.
Value attr(Runtime& runtime, const Value& of, Arguments& arguments) {
  const Value name = arguments.required(0, "name");
  arguments.finish("attr");
  if (!name.text() || of.dict()) mistake("attr of a dict is not supported");
  return runtime.attribute(of, *name.text());
}

}  // namespace

const Filters& scalar_filters() {
  static const Filters all = {
      {"abs", absolute},
      {"attr", attr},
      {"capitalize", as_method<kCapitalize>},
      {"center", center},
      {"d", default_filter},
      {"default", default_filter},
      {"float", to_float},
      {"format", format},
      {"indent", indent},
      {"int", to_int},
      {"lower", as_method<kLower>},
      {"replace", replace},
      {"round", round_filter},
      {"string", string},
      {"title", title},
      {"tojson", to_json},
      {"trim", as_method<kStrip>},
      {"truncate", truncate},
      {"upper", as_method<kUpper>},
  };
  return all;
}

}  // namespace longhaul::jinja
