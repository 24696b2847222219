// The tests of Jinja2: `x is NAME`.
#include <map>

#include "runtime/jinja/runtime.h"
#include "runtime/jinja/text.h"

namespace longhaul::jinja {
namespace {

using Test = bool (*)(Runtime&, const Value&, Arguments&);

std::int64_t remainder(Runtime& runtime, const Value& of, const Value& by) {
  const Value rest = runtime.binary("%", of, by);
  return rest.whole() ? *rest.whole() : *rest.number() == 0 ? 0 : *rest.number() == 1 ? 1 : 2;
}

bool same(Runtime& runtime, const Value& of, Arguments& arguments) {
  return runtime.same(of, arguments.required(0, "other"));
}

bool sameas(Runtime&, const Value& of, Arguments& arguments) {
  const Value other = arguments.required(0, "other");
  if (of.none() || other.none()) return of.none() && other.none();
  if (of.boolean() && other.boolean()) return *of.boolean() == *other.boolean();
  if (of.type() != other.type()) return false;
  mistake(fmt::format("sameas is not supported for {}", of.type()));
}

template <TextClass which>
bool is_class(Runtime& runtime, const Value& of, Arguments&) {
  return is_text(runtime.str(of), which);
}

const std::map<std::string_view, Test>& tests() {
  using R = Runtime;
  using V = Value;
  using A = Arguments;
  static const Test before = [](R& r, const V& v, A& a) { return r.before(v, a.required(0, "other")); };
  static const Test after = [](R& r, const V& v, A& a) { return r.before(a.required(0, "other"), v); };
  static const Test up_to = [](R& r, const V& v, A& a) {
    const Value other = a.required(0, "other");
    return r.before(v, other) || r.same(v, other);
  };
  static const Test at_least = [](R& r, const V& v, A& a) {
    const Value other = a.required(0, "other");
    return r.before(other, v) || r.same(v, other);
  };
  static const Test differs = [](R& r, const V& v, A& a) { return !r.same(v, a.required(0, "other")); };
  static const std::map<std::string_view, Test> all = {
      {"boolean", [](R&, const V& v, A&) { return v.boolean() != nullptr; }},
      {"callable", [](R&, const V& v, A&) { return v.undefined() || dynamic_cast<Function*>(v.object()) != nullptr; }},
      {"defined", [](R&, const V& v, A&) { return !v.undefined(); }},
      {"divisibleby", [](R& r, const V& v, A& a) { return remainder(r, v, a.required(0, "num")) == 0; }},
      {"eq", same},
      {"equalto", same},
      {"even", [](R& r, const V& v, A&) { return remainder(r, v, std::int64_t{2}) == 0; }},
      {"false", [](R&, const V& v, A&) { return v.boolean() && !*v.boolean(); }},
      {"float", [](R&, const V& v, A&) { return v.real() != nullptr; }},
      {"ge", at_least},
      {"greaterthan", after},
      {"gt", after},
      {"in", [](R& r, const V& v, A& a) { return r.contains(a.required(0, "seq"), v); }},
      {"integer", [](R&, const V& v, A&) { return v.integer() != nullptr; }},
      {"iterable", [](R&, const V& v, A&) { return v.undefined() || v.text() || v.sequence() || v.dict(); }},
      {"le", up_to},
      {"lessthan", before},
      {"lower", is_class<TextClass::lower>},
      {"lt", before},
      {"mapping", [](R&, const V& v, A&) { return v.dict() != nullptr; }},
      {"ne", differs},
      {"none", [](R&, const V& v, A&) { return v.none(); }},
      {"number", [](R&, const V& v, A&) { return v.number().has_value(); }},
      {"odd", [](R& r, const V& v, A&) { return remainder(r, v, std::int64_t{2}) == 1; }},
      {"sameas", sameas},
      {"sequence",
       [](R&, const V& v, A&) {
         return v.undefined() || v.text() || v.dict() || (v.sequence() && v.sequence()->indexable());
       }},
      {"string", [](R&, const V& v, A&) { return v.text() != nullptr; }},
      {"true", [](R&, const V& v, A&) { return v.boolean() && *v.boolean(); }},
      {"undefined", [](R&, const V& v, A&) { return v.undefined(); }},
      {"upper", is_class<TextClass::upper>},
  };
  return all;
}

}  // namespace

bool is_test(std::string_view name) { return tests().contains(name); }

bool Runtime::test(const std::string& name, const Value& of, Arguments& arguments) {
  step();
  const bool result = tests().find(name)->second(*this, of, arguments);
  arguments.finish(fmt::format("the test {}", name));
  return result;
}

void check_test(const std::string& name, const Cursor& at) {
  if (!is_test(name)) at.unsupported(fmt::format("the test {}", name));
}

}  // namespace longhaul::jinja
