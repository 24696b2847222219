// Python's operators, indexing and membership.
#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/jinja/runtime.h"
#include "runtime/jinja/text.h"

namespace longhaul::jinja {
namespace {

[[noreturn]] void unsupported(std::string_view op, const Value& a, const Value& b) {
  mistake(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'", op, a.type(), b.type()));
}

// By reference: the value is read after the call that made it.
std::int64_t checked(bool overflow, const std::int64_t& value) {
  if (overflow) mistake("a number too large");
  return value;
}

std::int64_t floor_divide(std::int64_t a, std::int64_t b) {
  if (a == std::numeric_limits<std::int64_t>::min() && b == -1) mistake("a number too large");
  const std::int64_t quotient = a / b;
  return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

// Python's % and // of floats.
double float_modulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest != 0 && (b < 0) != (rest < 0)) rest += b;
  return rest != 0 ? rest : std::copysign(0.0, b);
}

double float_floor_divide(double a, double b) {
  const double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (b < 0) != (rest < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floored = std::floor(quotient);
  return quotient - floored > 0.5 ? floored + 1 : floored;
}

std::int64_t power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  if (base == 0 || base == 1) return exponent == 0 ? 1 : base;
  if (base == -1) return exponent % 2 == 0 ? 1 : -1;
  for (; exponent > 0; --exponent) result = checked(__builtin_mul_overflow(result, base, &result), result);
  return result;
}

Value whole_arithmetic(std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  if (op == "+") return checked(__builtin_add_overflow(a, b, &result), result);
  if (op == "-") return checked(__builtin_sub_overflow(a, b, &result), result);
  if (op == "*") return checked(__builtin_mul_overflow(a, b, &result), result);
  if (op == "**") return b >= 0 ? Value(power(a, b)) : Value();
  if (b == 0) mistake(op == "/" ? "division by zero" : "integer division or modulo by zero");
  if (op == "/") return static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b));
  const std::int64_t quotient = floor_divide(a, b);
  return op == "//" ? quotient : a - quotient * b;
}

Value float_arithmetic(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") {
    if (a == 0 && b < 0) mistake("0.0 cannot be raised to a negative power");
    if (a < 0 && b != std::floor(b)) mistake("a complex number is not supported");
    const double result = std::pow(a, b);
    if (std::isinf(result) && !std::isinf(a) && !std::isinf(b)) mistake("a number too large");
    return result;
  }
  if (b == 0) mistake("float division by zero");
  return op == "/" ? a / b : op == "//" ? float_floor_divide(a, b) : float_modulo(a, b);
}

Value repeat(Runtime& runtime, const Value& of, std::int64_t count) {
  const auto times = static_cast<std::size_t>(std::max<std::int64_t>(count, 0));
  if (of.text()) {
    const std::string& part = *of.text();
    // Counted before there is any.
    if (times > 0 && part.size() > (std::size_t{1} << 40) / times) mistake("the template makes too much text");
    runtime.take(times * part.size());
    std::string whole;
    whole.reserve(times * part.size());
    if (!part.empty())
      for (std::size_t i = 0; i < times; ++i) whole += part;
    return runtime.text(std::move(whole));
  }
  const List& part = of.sequence()->elements;
  if (times > 0 && part.size() > (std::size_t{1} << 36) / times) mistake("the template makes too large a list");
  runtime.take(times * part.size() * sizeof(Value));
  List whole;
  if (!part.empty())
    for (std::size_t i = 0; i < times; ++i) whole.insert(whole.end(), part.begin(), part.end());
  return runtime.sequence(of.sequence()->kind, std::move(whole));
}

bool joins(const Value& a, const Value& b) {
  return a.sequence() && b.sequence() && a.sequence()->kind == b.sequence()->kind &&
         a.sequence()->kind <= Sequence::tuple;
}

bool repeats(const Value& of) { return of.text() || (of.sequence() && of.sequence()->kind <= Sequence::tuple); }

// Python's slice.indices.
struct Bounds {
  std::int64_t first, last, stride;
};

Bounds bounds(const Value& first, const Value& last, const Value& stride, std::int64_t size) {
  const auto part = [](const Value& value) -> std::optional<std::int64_t> {
    if (value.none()) return std::nullopt;
    if (!value.whole()) mistake("slice indices must be integers or None");
    return value.whole();
  };
  const std::int64_t step = part(stride).value_or(1);
  if (step == 0) mistake("slice step cannot be zero");
  const std::int64_t low = step < 0 ? -1 : 0, high = step < 0 ? size - 1 : size;
  const auto place = [&](std::optional<std::int64_t> at, std::int64_t otherwise) {
    if (!at) return otherwise;
    if (*at < 0) return std::max(*at < -size ? low : *at + size, low);
    return std::min(*at, high);
  };
  return {place(part(first), step < 0 ? high : low), place(part(last), step < 0 ? low : high), step};
}

std::size_t count_of(const Bounds& b) {
  const std::int64_t distance = b.stride > 0 ? b.last - b.first : b.first - b.last;
  if (distance <= 0) return 0;
  const auto stride = static_cast<std::uint64_t>(b.stride > 0 ? b.stride : -(b.stride + 1)) + (b.stride < 0);
  return static_cast<std::size_t>((static_cast<std::uint64_t>(distance) - 1) / stride + 1);
}

}  // namespace

Value Runtime::binary(std::string_view op, const Value& a, const Value& b) {
  for (const Value* side : {&a, &b})
    if (side->undefined() && !(op == "%" && a.text())) mistake("an operand is undefined");
  if (a.text() && op == "%") return text(percent_format(*this, *a.text(), b));
  if (op == "+" && a.text() && b.text()) return text(*a.text() + *b.text());
  if (op == "+" && joins(a, b)) {
    List both = a.sequence()->elements;
    both.insert(both.end(), b.sequence()->elements.begin(), b.sequence()->elements.end());
    return sequence(a.sequence()->kind, std::move(both));
  }
  if (op == "*" && repeats(a) && b.whole()) return repeat(*this, a, *b.whole());
  if (op == "*" && repeats(b) && a.whole()) return repeat(*this, b, *a.whole());
  if (!a.number() || !b.number()) unsupported(op, a, b);
  if (a.whole() && b.whole() && !(op == "**" && *b.whole() < 0)) return whole_arithmetic(op, *a.whole(), *b.whole());
  return float_arithmetic(op, *a.number(), *b.number());
}

bool Runtime::contains(const Value& whole, const Value& part) {
  if (whole.undefined()) return false;
  if (whole.text()) {
    if (!part.text()) mistake(fmt::format("'in <string>' requires string as left operand, not {}", part.type()));
    step(whole.text()->size());
    return find_text(*whole.text(), *part.text()).has_value();
  }
  if (whole.dict()) {
    step(16 * whole.dict()->items.size());
    check_hashable(part);
    return whole.dict()->find(part) != nullptr;
  }
  const List list = elements(whole);
  return std::any_of(list.begin(), list.end(), [&](const Value& element) { return same(element, part); });
}

Value Runtime::item(const Value& of, const Value& key) {
  if (of.undefined()) mistake("an element of something undefined");
  if (of.dict()) {
    step(16 * of.dict()->items.size());
    if (const Value* found = of.dict()->find(key)) return *found;
  }
  if (const auto index = key.whole(); index && (of.text() || (of.sequence() && of.sequence()->indexable()))) {
    const std::int64_t size = length(of), at = *index < 0 ? *index + size : *index;
    if (at < 0 || at >= size) return {};
    if (of.sequence()) return of.sequence()->elements[static_cast<std::size_t>(at)];
    return text(std::string(characters_of(*of.text())[static_cast<std::size_t>(at)]));
  }
  return key.text() ? attribute(of, *key.text()) : Value();
}

Value Runtime::slice(const Value& of, const Value& first, const Value& last, const Value& stride) {
  if (of.undefined()) mistake("a slice of something undefined");
  if (!of.text() && !(of.sequence() && of.sequence()->indexable()))
    mistake(fmt::format("a slice of a {} is not supported", of.type()));
  step(of.text() ? of.text()->size() : 16 * of.sequence()->elements.size());
  if (of.sequence()) {
    const List& all = of.sequence()->elements;
    const Bounds b = bounds(first, last, stride, static_cast<std::int64_t>(all.size()));
    List list;
    const std::size_t count = count_of(b);
    for (std::size_t i = 0; i < count; ++i)
      list.push_back(all[static_cast<std::size_t>(b.first + static_cast<std::int64_t>(i) * b.stride)]);
    if (of.sequence()->kind == Sequence::range) mistake("a slice of a range is not supported");
    return sequence(of.sequence()->kind, std::move(list));
  }
  take(sizeof(std::string_view) * of.text()->size());
  const auto characters = characters_of(*of.text());
  const Bounds b = bounds(first, last, stride, static_cast<std::int64_t>(characters.size()));
  std::string out;
  const std::size_t count = count_of(b);
  for (std::size_t i = 0; i < count; ++i)
    out += characters[static_cast<std::size_t>(b.first + static_cast<std::int64_t>(i) * b.stride)];
  return text(std::move(out));
}

Value Runtime::attribute(const Value& of, const std::string& name) {
  if (of.undefined()) mistake(fmt::format("{} of something undefined", name));
  if (const auto* space = dynamic_cast<const Namespace*>(of.object())) {
    const Value* found = space->members.find(std::string_view(name));
    return found ? *found : Value();
  }
  if (auto* function = dynamic_cast<Function*>(of.object())) return function->member(name).value_or(Value());
  if (auto method = method_of(of, name)) return own<Function>(name, *std::move(method));
  if (of.dict())
    if (const Value* found = of.dict()->find(std::string_view(name))) return *found;
  return {};
}

}  // namespace longhaul::jinja
