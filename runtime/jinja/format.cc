// Python's format strings: '%d of %s' % (...) and '{} of {name}'.format(...).
#include <algorithm>
#include <cmath>

#include "runtime/jinja/runtime.h"
#include "runtime/jinja/text.h"

namespace longhaul::jinja {
namespace {

constexpr std::int64_t kWidest = 1000;

struct Spec {
  bool left = false, center = false, zero = false, plus = false, space = false, alternate = false, comma = false;
  std::string fill = " ";
  bool aligned_inside = false;  // fill between the sign and the digits
  bool aligned = false;
  std::int64_t width = 0, precision = -1;
  char type = 0;
};

std::string padded(const std::string& text, const Spec& spec, bool number) {
  const std::int64_t missing = spec.width - text_length(text);
  if (missing <= 0) return text;
  std::string fill;
  for (std::int64_t i = 0; i < missing; ++i) fill += spec.fill;
  if (spec.center) {
    const std::size_t before = static_cast<std::size_t>(missing / 2) * spec.fill.size();
    return fill.substr(0, before) + text + fill.substr(before);
  }
  if (spec.left || (!spec.aligned && !number)) return text + fill;
  if (spec.aligned_inside && number && !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == ' '))
    return text[0] + fill + text.substr(1);
  return fill + text;
}

std::string with_commas(const std::string& digits) {
  const std::size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string out;
  for (std::size_t i = 0; i < whole; ++i) {
    if (i > 0 && (whole - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out + digits.substr(whole);
}

std::string signed_text(bool negative, std::string digits, const Spec& spec) {
  if (spec.comma) digits = with_commas(digits);
  return (negative ? "-" : spec.plus ? "+" : spec.space ? " " : "") + digits;
}

std::string whole_digits(std::uint64_t magnitude, const Spec& spec) {
  switch (spec.type) {
    case 'x':
      return fmt::format("{}{:x}", spec.alternate ? "0x" : "", magnitude);
    case 'X':
      return fmt::format("{}{:X}", spec.alternate ? "0X" : "", magnitude);
    case 'o':
      return fmt::format("{}{:o}", spec.alternate ? "0o" : "", magnitude);
    case 'b':
      return fmt::format("{}{:b}", spec.alternate ? "0b" : "", magnitude);
    default:
      return std::to_string(magnitude);
  }
}

std::string format_whole(std::int64_t value, const Spec& spec) {
  const std::uint64_t magnitude = value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  std::string digits = whole_digits(magnitude, spec);
  if (spec.precision > static_cast<std::int64_t>(digits.size()))
    digits.insert(0, static_cast<std::size_t>(spec.precision) - digits.size(), '0');
  return signed_text(value < 0, std::move(digits), spec);
}

std::string format_real(double value, const Spec& spec) {
  if (spec.alternate) mistake("# in a float's format is not supported");
  const double magnitude = std::fabs(value);
  const auto precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
  std::string digits;
  if (std::isnan(value) || std::isinf(value)) digits = std::isnan(value) ? "nan" : "inf";
  else if (spec.type == 'f' || spec.type == 'F') digits = fmt::format("{:.{}f}", magnitude, precision);
  else if (spec.type == 'e') digits = fmt::format("{:.{}e}", magnitude, precision);
  else if (spec.type == 'E') digits = fmt::format("{:.{}E}", magnitude, precision);
  else if (spec.type == 'G') digits = fmt::format("{:.{}G}", magnitude, precision);
  else if (spec.type == '%') digits = fmt::format("{:.{}f}%", magnitude * 100, precision);
  else digits = fmt::format("{:.{}g}", magnitude, precision);
  return signed_text(std::signbit(value) && !std::isnan(value), std::move(digits), spec);
}

std::string cut(const std::string& text, std::int64_t precision) {
  if (precision < 0 || text_length(text) <= precision) return text;
  std::string out;
  for (const std::string_view character : characters_of(text)) {
    if (precision-- == 0) break;
    out += character;
  }
  return out;
}

// The digits at `at`, which moves past them.
std::int64_t number_at(std::string_view format, std::size_t& at) {
  std::int64_t number = 0;
  for (; at < format.size() && format[at] >= '0' && format[at] <= '9'; ++at) {
    number = number * 10 + (format[at] - '0');
    if (number > kWidest) mistake(fmt::format("a format wider than {} is not supported", kWidest));
  }
  return number;
}

// What str.format makes of one value with "{:SPEC}".
std::string format_value(Runtime& runtime, const Value& value, std::string_view text) {
  Spec spec;
  std::size_t at = 0;
  const auto alignment = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  const auto characters = characters_of(text);
  const auto align = [&](char c) {
    spec.aligned = true;
    spec.left = c == '<';
    spec.center = c == '^';
    spec.aligned_inside = c == '=';
  };
  if (characters.size() > 1 && characters[1].size() == 1 && alignment(characters[1][0])) {
    spec.fill = characters[0];
    align(characters[1][0]);
    at = characters[0].size() + 1;
  } else if (!text.empty() && alignment(text[0])) {
    align(text[at++]);
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) {
    spec.plus = text[at] == '+';
    spec.space = text[at++] == ' ';
  }
  if (at < text.size() && text[at] == '#') {
    spec.alternate = true;
    ++at;
  }
  if (at < text.size() && text[at] == '0' && !spec.aligned) {
    spec.fill.assign(1, '0');
    spec.aligned = spec.aligned_inside = true;
    ++at;
  }
  spec.width = number_at(text, at);
  if (at < text.size() && text[at] == ',') {
    spec.comma = true;
    ++at;
  }
  if (at < text.size() && text[at] == '.') spec.precision = number_at(text, ++at);
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) mistake(fmt::format("the format {:?} is not supported", text));
  constexpr std::string_view kWhole = "dxXob", kReal = "fFeEgG%";
  const bool real_type = spec.type != 0 && kReal.find(spec.type) != std::string_view::npos;
  if (value.number() && !(value.boolean() && spec.type == 0)) {
    if (value.whole() && !real_type) {
      if (spec.type != 0 && kWhole.find(spec.type) == std::string_view::npos)
        mistake(fmt::format("the format {:?} is not supported for a number", text));
      if (spec.precision >= 0) mistake("Precision not allowed in integer format specifier");
      return padded(format_whole(*value.whole(), spec), spec, true);
    }
    if (spec.type == 0 && spec.precision < 0)
      return padded(signed_text(std::signbit(*value.real()), float_text(std::fabs(*value.real())), spec), spec, true);
    if (!real_type) mistake(fmt::format("the format {:?} is not supported for a float", text));
    return padded(format_real(*value.number(), spec), spec, true);
  }
  if (!value.text() && !text.empty())
    mistake(fmt::format("unsupported format string passed to {}.__format__", value.type()));
  if ((spec.type != 0 && spec.type != 's') || spec.aligned_inside || spec.plus || spec.space || spec.comma)
    mistake(fmt::format("the format {:?} is not supported for a string", text));
  return padded(cut(runtime.str(value), spec.precision), spec, false);
}

}  // namespace

std::string percent_format(Runtime& runtime, const std::string& format, const Value& arguments) {
  const bool is_tuple = arguments.sequence() && arguments.sequence()->kind == Sequence::tuple;
  const List values = is_tuple ? arguments.sequence()->elements : List{arguments};
  std::size_t next = 0;
  std::string out;
  const auto take = [&] {
    if (next >= values.size()) mistake("not enough arguments for format string");
    return values[next++];
  };
  bool by_name = false;
  for (std::size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out += format[at++];
      continue;
    }
    if (++at == format.size()) mistake("incomplete format");
    if (format[at] == '%') {
      out += format[at++];
      continue;
    }
    std::optional<Value> named;
    if (format[at] == '(') {
      const std::size_t end = format.find(')', at);
      if (end == std::string::npos || !arguments.dict()) mistake("format requires a mapping");
      const Value* found = arguments.dict()->find(std::string_view(format).substr(at + 1, end - at - 1));
      if (!found) mistake("a key of the format is not in the mapping");
      named = *found;
      by_name = true;
      at = end + 1;
    }
    Spec spec{.aligned = true};
    for (; at < format.size() && std::string_view("-0+ #").find(format[at]) != std::string_view::npos; ++at) {
      spec.left |= format[at] == '-';
      spec.zero |= format[at] == '0';
      spec.plus |= format[at] == '+';
      spec.space |= format[at] == ' ';
      spec.alternate |= format[at] == '#';
    }
    const auto amount = [&] {
      if (at < format.size() && format[at] == '*') mistake("* in a format is not supported");
      return number_at(format, at);
    };
    spec.width = amount();
    if (at < format.size() && format[at] == '.') {
      ++at;
      spec.precision = amount();
    }
    if (at == format.size()) mistake("incomplete format");
    spec.type = format[at++];
    const Value value = named ? *named : take();
    constexpr std::string_view kWhole = "dixXou", kReal = "fFeEgG";
    if (spec.type == 's' || spec.type == 'r') {
      const std::string text = spec.type == 's' ? runtime.str(value) : runtime.repr(value);
      const std::string part = padded(cut(text, spec.precision), spec, false);
      runtime.take(part.size());
      out += part;
    } else if (kWhole.find(spec.type) != std::string_view::npos || kReal.find(spec.type) != std::string_view::npos) {
      if (!value.number()) mistake(fmt::format("%{} format: a number is required, not {}", spec.type, value.type()));
      if (spec.zero && !spec.left) {
        spec.fill.assign(1, '0');
        spec.aligned_inside = true;
      }
      const bool whole = kWhole.find(spec.type) != std::string_view::npos;
      if (whole && value.real()) {
        if (spec.type == 'x' || spec.type == 'X' || spec.type == 'o')
          mistake(fmt::format("%{} format: an integer is required, not float", spec.type));
        if (!(std::fabs(*value.real()) < 9e18)) mistake("a number too large");
        out += padded(format_whole(static_cast<std::int64_t>(*value.real()), spec), spec, true);
      } else {
        out += padded(whole ? format_whole(*value.whole(), spec) : format_real(*value.number(), spec), spec, true);
      }
    } else {
      mistake(fmt::format("unsupported format character {:?}", std::string(1, spec.type)));
    }
    runtime.step(out.size() / 64);
  }
  if (!by_name && next < values.size() &&
      !(arguments.undefined() || arguments.dict() || (arguments.sequence() && !is_tuple)))
    mistake("not all arguments converted during string formatting");
  return out;
}

std::string brace_format(Runtime& runtime, const std::string& format, Arguments& arguments) {
  std::string out;
  std::size_t next = 0;
  for (std::size_t at = 0; at < format.size();) {
    const char c = format[at++];
    if (c != '{' && c != '}') {
      out += c;
      continue;
    }
    if (at < format.size() && format[at] == c) {
      out += format[at++];
      continue;
    }
    const std::size_t end = format.find('}', at);
    if (c == '}' || end == std::string::npos) mistake("Single '{' or '}' in a format string");
    const std::string field = format.substr(at, end - at);
    at = end + 1;
    const std::string name = field.substr(0, field.find(':'));
    const std::string spec = name.size() < field.size() ? field.substr(name.size() + 1) : "";
    if (name.find_first_of(".[!{") != std::string::npos || spec.find('{') != std::string::npos)
      mistake(fmt::format("the format field {{{}}} is not supported", field));
    const Value* value = nullptr;
    if (name.find_first_not_of("0123456789") == std::string::npos) {
      if (name.size() > 3) mistake("a format field out of range");
      const std::size_t index = name.empty() ? next++ : static_cast<std::size_t>(std::stoi(name));
      if (index < arguments.positional.size()) value = &arguments.positional[index];
    } else {
      for (const auto& [key, given] : arguments.named)
        if (key == name) value = &given;
    }
    if (!value) mistake(fmt::format("the format field {{{}}} has no argument", field));
    const std::string part = format_value(runtime, *value, spec);
    runtime.take(part.size());
    out += part;
    runtime.step(out.size() / 64);
  }
  return out;
}

}  // namespace longhaul::jinja
