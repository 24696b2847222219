#include "runtime/jinja/runtime.h"

#include <algorithm>

#include "runtime/jinja/text.h"

namespace longhaul::jinja {
namespace {

constexpr std::int64_t kBytesOfAStep = 256;
constexpr int kDeepestValue = 100, kDeepestRun = 1200;

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

void mistake(std::string what) { throw Mistake{std::move(what)}; }

void check_hashable(const Value& key) {
  const bool tuple = key.sequence() && key.sequence()->kind == Sequence::tuple;
  if (tuple)
    for (const Value& element : key.sequence()->elements) check_hashable(element);
  if (key.dict() || (key.sequence() && !tuple && key.sequence()->kind != Sequence::range))
    mistake(fmt::format("unhashable type: '{}'", key.type()));
}

std::optional<Value> Arguments::take(std::string_view name) {
  std::optional<Value> taken;
  const auto found = std::find_if(named.begin(), named.end(), [&](const auto& one) { return one.first == name; });
  if (found != named.end()) {
    taken = std::move(found->second);
    named.erase(found);
  }
  return taken;
}

std::optional<Value> Arguments::get(std::size_t index, std::string_view name) {
  taken_ = std::max(taken_, index + 1);
  auto by_name = take(name);
  if (index >= positional.size()) return by_name;
  if (by_name) mistake(fmt::format("the argument {} appears twice", name));
  return positional[index];
}

Value Arguments::required(std::size_t index, std::string_view name) {
  auto value = get(index, name);
  if (!value) mistake(fmt::format("the argument {} is missing", name));
  return *std::move(value);
}

std::optional<std::int64_t> Arguments::whole(std::size_t index, std::string_view name) {
  const auto value = get(index, name);
  if (!value || value->none()) return std::nullopt;
  const auto whole = value->whole();
  if (!whole) mistake(fmt::format("the argument {} must be an integer, not {}", name, value->type()));
  return whole;
}

bool Arguments::flag(std::size_t index, std::string_view name, bool otherwise) {
  const auto value = get(index, name);
  return value ? value->truth() : otherwise;
}

std::optional<std::string> Arguments::text(std::size_t index, std::string_view name) {
  const auto value = get(index, name);
  if (!value || value->none()) return std::nullopt;
  if (!value->text()) mistake(fmt::format("the argument {} must be a string, not {}", name, value->type()));
  return *value->text();
}

void Arguments::finish(std::string_view callee) const {
  if (!named.empty()) mistake(fmt::format("{} has no argument {}", callee, named[0].first));
  if (positional.size() > taken_)
    mistake(fmt::format("{} takes {} arguments, not {}", callee, taken_, positional.size()));
}

// A large document may be walked through and copied some sixty times.
Runtime::Runtime(std::size_t input_bytes, std::optional<std::tm> now, const Limits& limits)
    : most_steps_(limits.steps + 64 * static_cast<std::int64_t>(input_bytes) / kBytesOfAStep),
      most_bytes_(limits.bytes + 64 * static_cast<std::int64_t>(input_bytes)),
      most_elements_(limits.elements),
      last_second_(thread_seconds() + limits.seconds + 2e-8 * static_cast<double>(input_bytes)),
      now_(now) {}

void Runtime::step(std::size_t bytes) {
  const std::int64_t before = steps_;
  steps_ += 1 + static_cast<std::int64_t>(bytes) / kBytesOfAStep;
  if (steps_ > most_steps_ || (before / 64 != steps_ / 64 && thread_seconds() > last_second_))
    mistake("the template runs too long");
}

void Runtime::take(std::size_t bytes) {
  taken_ += static_cast<std::int64_t>(bytes);
  if (taken_ > most_bytes_) mistake("the template makes too much text");
}

Value Runtime::text(std::string text) {
  step(text.size());
  take(text.size() + 48);
  return text;
}

Value Runtime::sequence(Sequence::Kind kind, List elements) {
  take(64 + elements.size() * sizeof(Value));
  step(16 * elements.size());
  Value made = make_sequence(kind, std::move(elements));
  const Value::Extent extent = made.extent();
  if (extent.depth > kDeepestValue) mistake("lists are nested too deeply");
  if (extent.weight > most_elements_) mistake("the template makes too large a list");
  return made;
}

Value Runtime::dict(Dict dict) {
  take(64 + dict.items.size() * 2 * sizeof(Value));
  if (dict.extent.depth > kDeepestValue) mistake("dicts are nested too deeply");
  if (dict.extent.weight > most_elements_) mistake("the template makes too large a dict");
  return dict;
}

void Runtime::enter() {
  if (++depth_ > kDeepestRun) mistake("nested too deeply");
}

List Runtime::elements(const Value& of) {
  step();
  List list;
  if (of.sequence()) {
    if (of.sequence()->kind == Sequence::generator && std::exchange(of.sequence()->consumed, true)) return {};
    list = of.sequence()->elements;
  } else if (of.dict()) {
    for (const auto& [key, value] : of.dict()->items) list.push_back(key);
  } else if (of.text()) {
    const auto characters = characters_of(*of.text());
    take(characters.size() * 64);
    for (const std::string_view character : characters) list.emplace_back(std::string(character));
  } else if (!of.undefined()) {
    mistake(fmt::format("'{}' object is not iterable", of.type()));
  }
  take(list.size() * sizeof(Value));
  step(list.size() * 16);
  return list;
}

std::int64_t Runtime::length(const Value& of) {
  if (of.text()) {
    step(of.text()->size());
    return text_length(*of.text());
  }
  if (of.dict()) return static_cast<std::int64_t>(of.dict()->items.size());
  if (of.undefined()) return 0;
  if (!of.sequence() || of.sequence()->kind == Sequence::generator)
    mistake(fmt::format("object of type '{}' has no len()", of.type()));
  return static_cast<std::int64_t>(of.sequence()->elements.size());
}

bool Runtime::same(const Value& a, const Value& b) {
  step(std::min(a.extent().size(), b.extent().size()) / 4);
  return equal(a, b);
}

bool Runtime::before(const Value& a, const Value& b) {
  step(std::min(a.extent().size(), b.extent().size()) / 4);
  const auto order = less(a, b);
  if (!order) mistake(fmt::format("'<' not supported between instances of '{}' and '{}'", a.type(), b.type()));
  return *order;
}

std::tm Runtime::now() const {
  if (now_) return *now_;
  const std::time_t time = std::time(nullptr);
  std::tm local{};
  localtime_r(&time, &local);
  return local;
}

Value Runtime::call(const Value& callee, Arguments& arguments) {
  auto* function = dynamic_cast<Function*>(callee.object());
  if (!function) mistake(fmt::format("'{}' object is not callable", callee.type()));
  return function->call(*this, arguments);
}

}  // namespace longhaul::jinja
