#include "runtime/jinja/value.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "kernels/base/error.h"
#include "runtime/jinja/text.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace longhaul::jinja {
namespace {

template <class T>
const T* held(const std::shared_ptr<const T>* pointer) {
  return pointer ? pointer->get() : nullptr;
}

void contain(Value::Extent& whole, const Value& part) {
  const Value::Extent extent = part.extent();
  whole.depth = std::max(whole.depth, extent.depth + 1);
  constexpr std::int64_t kMost = std::int64_t{1} << 50;  // so that no sum of two overflows
  whole.weight = std::min(whole.weight + extent.weight, kMost);
  whole.bytes = std::min(whole.bytes + extent.bytes, kMost);
}

bool equal_numbers(const Value& a, const Value& b) {
  const auto x = a.whole(), y = b.whole();
  if (x && y) return *x == *y;
  // A long double holds every integer and every double.
  const long double p = x ? static_cast<long double>(*x) : *a.real();
  const long double q = y ? static_cast<long double>(*y) : *b.real();
  return p == q;
}

bool is_list_like(const Sequence& s) { return s.kind == Sequence::list || s.kind == Sequence::tuple; }

}  // namespace

Value::Value(Sequence sequence) : held_(std::make_shared<const Sequence>(std::move(sequence))) {}
Value::Value(List list) : Value(make_sequence(Sequence::list, std::move(list))) {}
Value::Value(Dict dict) : held_(std::make_shared<const Dict>(std::move(dict))) {}
Value::Value(const Map& map) {
  Dict dict;
  for (const auto& [key, value] : map) dict.put(key, value);
  *this = std::move(dict);
}

const std::string* Value::text() const { return held(std::get_if<std::shared_ptr<const std::string>>(&held_)); }
const Sequence* Value::sequence() const { return held(std::get_if<std::shared_ptr<const Sequence>>(&held_)); }
const Dict* Value::dict() const { return held(std::get_if<std::shared_ptr<const Dict>>(&held_)); }
Object* Value::object() const {
  Object* const* pointer = std::get_if<Object*>(&held_);
  return pointer ? *pointer : nullptr;
}

std::optional<std::int64_t> Value::whole() const {
  if (integer()) return *integer();
  return boolean() ? std::optional<std::int64_t>(*boolean()) : std::nullopt;
}

std::optional<double> Value::number() const {
  if (real()) return *real();
  const auto value = whole();
  return value ? std::optional(static_cast<double>(*value)) : std::nullopt;
}

bool Value::truth() const {
  if (const auto value = number()) return *value != 0;
  if (text()) return text_length(*text()) > 0;
  if (sequence()) return sequence()->kind == Sequence::generator || !sequence()->elements.empty();
  if (dict()) return !dict()->items.empty();
  return object() != nullptr;
}

std::string Value::type() const {
  constexpr const char* kTypes[] = {"Undefined", "NoneType", "bool", "int", "float", "str", "list", "dict"};
  constexpr const char* kSequences[] = {"list",        "tuple",      "range",    "dict_keys",
                                        "dict_values", "dict_items", "generator"};
  if (sequence()) return kSequences[sequence()->kind];
  return object() ? object()->type() : kTypes[held_.index()];
}

Value::Extent Value::extent() const {
  if (text()) return {0, 1, static_cast<std::int64_t>(text()->size())};
  return sequence() ? sequence()->extent : dict() ? dict()->extent : Extent{};
}

const Value* Dict::find(const Value& key) const {
  if (key.text()) return find(std::string_view(*key.text()));
  const auto found = std::find_if(items.begin(), items.end(), [&](const auto& item) { return equal(item.first, key); });
  return found == items.end() ? nullptr : &found->second;
}

const Value* Dict::find(std::string_view key) const {
  const auto found = std::find_if(items.begin(), items.end(), [&](const auto& item) {
    return item.first.text() && text_equal(*item.first.text(), key);
  });
  return found == items.end() ? nullptr : &found->second;
}

void Dict::put(Value key, Value value) {
  if (const Value* known = find(key)) {
    contain(extent, value);
    const_cast<Value&>(*known) = std::move(value);
  } else {
    append(std::move(key), std::move(value));
  }
}

void Dict::append(Value key, Value value) {
  contain(extent, key);
  contain(extent, value);
  items.emplace_back(std::move(key), std::move(value));
}

Value make_sequence(Sequence::Kind kind, List elements) {
  Sequence made{.kind = kind};
  for (const Value& element : elements) contain(made.extent, element);
  made.elements = std::move(elements);
  return made;
}

bool equal(const Value& a, const Value& b) {
  if (a.number() && b.number()) return equal_numbers(a, b);
  if (a.text() && b.text()) return text_equal(*a.text(), *b.text());
  if (a.sequence() && b.sequence()) {
    const Sequence &x = *a.sequence(), &y = *b.sequence();
    if (&x == &y) return true;
    const bool comparable = x.kind == y.kind && (is_list_like(x) || x.kind == Sequence::range);
    return comparable && std::equal(x.elements.begin(), x.elements.end(), y.elements.begin(), y.elements.end(), equal);
  }
  if (a.dict() && b.dict())
    return a.dict()->items.size() == b.dict()->items.size() &&
           std::all_of(a.dict()->items.begin(), a.dict()->items.end(), [&](const auto& item) {
             const Value* other = b.dict()->find(item.first);
             return other && equal(item.second, *other);
           });
  if (a.object() || b.object()) return a.object() == b.object();
  return (a.none() && b.none()) || (a.undefined() && b.undefined());
}

std::optional<bool> less(const Value& a, const Value& b) {
  const auto x = a.whole(), y = b.whole();
  if (x && y) return *x < *y;
  if (a.number() && b.number()) {
    const long double p = x ? static_cast<long double>(*x) : *a.real();
    const long double q = y ? static_cast<long double>(*y) : *b.real();
    return p < q;
  }
  if (a.text() && b.text()) return text_compare(*a.text(), *b.text()) < 0;
  if (a.sequence() && b.sequence() && a.sequence()->kind == b.sequence()->kind && is_list_like(*a.sequence())) {
    const List &p = a.sequence()->elements, &q = b.sequence()->elements;
    for (std::size_t i = 0; i < std::min(p.size(), q.size()); ++i)
      if (!equal(p[i], q[i])) return less(p[i], q[i]);
    return p.size() < q.size();
  }
  return std::nullopt;
}

std::string float_text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  const std::size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), end, exponent);
  const bool negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e))
    if (c >= '0' && c <= '9') digits += c;
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) (out += '.').append(digits, 1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out.append("0.").append(static_cast<std::size_t>(-exponent - 1), '0').append(digits);
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() < whole) digits.append(whole - digits.size(), '0');
  out.append(digits, 0, whole) += '.';
  return digits.size() > whole ? out.append(digits, whole) : out + '0';
}

std::string quoted_text(std::string_view text) {
  const std::string bare = unguarded(text);
  const bool single = bare.find('\'') != std::string::npos, both = single && bare.find('"') != std::string::npos;
  const char quote = single && !both ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == Tokenizer::kSpecialGuard) {
      out += text[at++];
      continue;
    }
    const std::string_view character = character_at(text, at);
    at += character.size();
    const char32_t code = utf8_code_point(character);
    const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
    const bool printable = code == ' ' || (category != UTF8PROC_CATEGORY_CN && category < UTF8PROC_CATEGORY_ZS);
    const auto number = static_cast<std::uint32_t>(code);
    if (code == static_cast<unsigned char>(quote) || code == '\\') (out += '\\') += character;
    else if (code == '\n') out += "\\n";
    else if (code == '\r') out += "\\r";
    else if (code == '\t') out += "\\t";
    else if (printable) out += character;
    else if (code < 0x100) out += fmt::format("\\x{:02x}", number);
    else if (code < 0x10000) out += fmt::format("\\u{:04x}", number);
    else out += fmt::format("\\U{:08x}", number);
  }
  return out += quote;
}

}  // namespace longhaul::jinja
