#!/usr/bin/env python3
"""Compares `longhaul tokenize --render` with Jinja2, as transformers sets it up, on random templates; or records what
Jinja2 makes of the templates of tests/data/jinja_templates.txt.

    tests/jinja_differential.py --command build/longhaul --count 5000
    tests/jinja_differential.py --record > tests/data/jinja_cases.json

Needs `pip install jinja2`. What longhaul refuses as not supported is counted apart. Exits with 1 if anything differs.
"""
import argparse
import collections
import copy
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

NOW = datetime.datetime(2026, 7, 26, 12, 0, 0)
CONTEXT = {
    "messages": [
        {"role": "system", "content": "  Be brief. "},
        {"role": "user", "content": "Hi é\nthere", "n": 3},
        {"role": "assistant", "content": "Yo <think>a</think> b", "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": {"x": 1.5, "y": [1, None, True], "z": "ü\"\\"}}}]},
        {"role": "user", "content": None},
    ],
    "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "tools": None,
    "s": "Hello, World", "u": "ÄÖß über  日本", "e": "", "i": 7, "j": -3, "z": 0, "f": 2.5, "g": -0.125, "big": 12345678901,
    "t": True, "n": None, "l": [3, 1, 2], "m": ["b", "A", "c", "a"], "d": {"k": 1, "b": "two", "items": 5, "a": [1, 2]},
    "nest": [{"a": 1, "b": {"c": "x"}}, {"a": 2, "b": {"c": "Y"}}, {"b": {}}], "emptyl": [], "emptyd": {},
}


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                       extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


class Random:
    """A random template; few of them mean anything, many are errors, in both."""

    NAMES = ["s", "u", "e", "i", "j", "z", "f", "g", "big", "t", "n", "l", "m", "d", "nest", "emptyl", "emptyd", "messages",
             "missing", "bos_token"]
    ATTRIBUTES = ["role", "content", "a", "b", "k", "c", "items", "missing", "tool_calls", "function", "arguments"]
    TEXTS = ["'a'", "' '", "''", "'o'", "'l'", "', '", "'Hello'", "'é\\n'", "\"it's\"", "'\\u00fc'", "'</think>'", "'12'",
             "'3.5'", "'b'", "'role'", "'x y  z'", "'%s'"]
    FILTERS = ["abs", "capitalize", "default('d')", "default('d', true)", "d(1)", "dictsort", "dictsort(true, 'value')", "first",
               "float", "indent", "indent(2, true)", "indent('>', first=true, blank=true)", "int", "int(-1)", "items|list",
               "join", "join(', ')", "join('-', 'a')", "last", "length", "count", "list", "lower", "map('upper')|list",
               "map(attribute='a')|list", "map(attribute='b.c')|list", "map(attribute='a', default=0)|list", "max", "min",
               "reject|list", "rejectattr('a')|list", "replace('l', 'L')", "replace('l', 'L', 1)", "reverse|list", "round",
               "round(1)", "round(2, 'floor')", "round(method='ceil')", "select|list", "select('string')|list",
               "select('defined')|list", "selectattr('a', 'equalto', 1)|list", "selectattr('role', 'eq', 'user')|list",
               "selectattr('a', 'defined')|list", "sort", "sort(reverse=true)", "sort(attribute='a')",
               "sort(case_sensitive=true)", "string", "sum", "sum('a')", "title", "tojson", "tojson(indent=2)",
               "tojson(ensure_ascii=true)", "tojson(sort_keys=true, separators=(',', ':'))", "trim", "trim('<>s')",
               "truncate(6)", "truncate(8, true, '~', 0)", "unique|list", "upper", "batch(2)|list", "batch(2, 'x')|list",
               "center(15)", "format(1, 2)", "attr('x')", "reverse"]
    TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "iterable",
             "sequence", "true", "false", "odd", "even", "divisibleby(3)", "divisibleby 2", "eq(7)", "ne 7", "gt(2)", "lt 2",
             "ge 3", "le(3)", "in([1, 7])", "in 'Hello'", "upper", "lower", "callable", "sameas(none)", "equalto('a')"]
    METHODS = ["strip()", "strip('<s>')", "lstrip()", "rstrip()", "lstrip('H')", "split()", "split('l')", "split('l', 1)",
               "split(none, 1)", "rsplit('l', 1)", "rsplit(None, 1)", "rsplit()", "splitlines()", "splitlines(true)",
               "startswith('He')", "startswith(('x', '<'))", "endswith('ld')", "endswith('>')", "upper()", "lower()",
               "title()", "capitalize()", "swapcase()", "replace('l', '')", "replace('o', '00', 1)", "replace('', '-')",
               "find('l')", "rfind('l')", "index('H')", "count('l')", "count(1)", "index(1)", "join(['x', 'y'])", "join(m)",
               "partition('l')", "rpartition('l')", "isdigit()", "isalpha()", "isupper()", "islower()", "isspace()",
               "istitle()", "isalnum()", "items()", "keys()", "values()", "get('k')", "get('nope')", "get('nope', 1)",
               "items()|list", "keys()|list", "values()|list", "removeprefix('He')", "removesuffix('>')", "ljust(14)",
               "rjust(14, '.')", "center(14)", "center(15, '*')", "append(1)", "pop()", "update({})", "format(1)", "copy()"]
    FORMATS = ["'%d|%s' % (i, s)", "'%5.2f|%-6s|%06d' % (f, e, j)", "'%x %X %o %+d' % (255, 255, 8, i)", "'%r %s' % (s, l)",
               "'%(k)s' % d", "'%s' % n", "'%5s|%-5s|' % ('é', 'b')", "'%e %g %G' % (f, g, big)", "'%%' % ()", "'%d' % f",
               "'{} {}'.format(i, s)", "'{1}{0}'.format(i, s)", "'{x:>8}|{y:<6}|{z:^7}'.format(x=i, y='ab', z='é')",
               "'{:.2f} {:,} {:05d} {:x} {:e}'.format(f, big, i, 255, f)", "'{:*^9}'.format(s[:3])", "'{:+} {}'.format(i, t)",
               "'{{}} {:%}'.format(0.25)", "'{:8.3}|'.format(s)"]

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def pick(self, things):
        return self.rng.choice(things)

    def atom(self):
        return self.pick([lambda: self.pick(self.NAMES), lambda: self.pick(self.NAMES), lambda: self.pick(self.TEXTS),
                          lambda: self.pick(["0", "1", "2", "3", "10", "1.5", "0.1", "1e3", "2.0", "1e20", "1_000", "5e-7"]),
                          lambda: self.pick(["true", "False", "none", "None", "True"]), lambda: self.pick(self.FORMATS),
                          lambda: f"messages[{self.pick('0123')}].{self.pick(self.ATTRIBUTES)}"])()

    def expression(self, depth):
        if depth <= 0:
            return self.atom()
        sub = lambda: self.expression(depth - 1 - self.rng.randrange(2))
        kinds = [
            lambda: f"{sub()} {self.pick(['+', '-', '*', '/', '//', '%', '~', '**'])} {sub()}",
            lambda: f"({sub()} {self.pick(['+', '-', '*', '/', '//', '%', '~'])} {sub()})",
            lambda: f"{sub()} {self.pick(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'])} {sub()}",
            lambda: f"{sub()} {self.pick(['<', '<='])} {sub()} {self.pick(['<', '!='])} {sub()}",
            lambda: f"{sub()} {self.pick(['and', 'or'])} {sub()}", lambda: f"not {sub()}", lambda: f"-{sub()}",
            lambda: f"({sub()} if {sub()} else {sub()})", lambda: f"({sub()} if {sub()})",
            lambda: f"{self.wrapped(sub())}|{self.pick(self.FILTERS)}", lambda: f"{self.wrapped(sub())}|{self.pick(self.FILTERS)}",
            lambda: f"{self.wrapped(sub())}.{self.pick(self.METHODS)}", lambda: f"{self.wrapped(sub())}.{self.pick(self.METHODS)}",
            lambda: f"{sub()} is {self.pick(['', 'not '])}{self.pick(self.TESTS)}",
            lambda: f"{self.wrapped(sub())}[{sub()}]", lambda: f"{self.wrapped(sub())}.{self.pick(self.ATTRIBUTES)}",
            lambda: f"{self.wrapped(sub())}[{self.pick(['', '1', '-2', '0', '9'])}:{self.pick(['', '2', '-1', '9'])}"
                    f"{self.pick(['', '', ':2', ':-1', ':-2'])}]",
            lambda: f"[{sub()}, {sub()}]", lambda: f"({sub()}, {sub()})", lambda: f"({sub()},)",
            lambda: "{" + f"{self.pick(self.TEXTS)}: {sub()}, 'q': {sub()}" + "}", lambda: "{" + f"{sub()}: {sub()}" + "}",
            lambda: f"range({self.pick(['3', '1, 4', '5, 0, -2', 'i', '0'])})|list", lambda: f"dict(a={sub()}, b=1)",
        ]
        return self.pick(kinds)()

    def wrapped(self, text):
        return text if self.rng.random() < 0.5 and text.isalnum() else f"({text})"

    def tag(self, inside, block=True):
        mark = lambda: self.pick(["", "", "", "-", "+" if block else ""])
        return f"{{%{mark()} {inside} {mark()}%}}" if block else f"{{{{{self.pick(['', '', '-'])} {inside} {self.pick(['', '', '-'])}}}}}"

    def statements(self, depth):
        return "".join(self.statement(depth) for _ in range(self.rng.randrange(1, 4)))

    def blank(self):
        return self.pick(["", " ", "\n", "  \n", "\n  ", "x", " x\n", "\t"])

    def statement(self, depth):
        e = lambda: self.expression(self.rng.randrange(3))
        p = lambda: self.tag(e(), block=False)
        if depth <= 0:
            return self.blank() + p()
        s = lambda: self.statements(depth - 1) + self.blank()
        loop = lambda: self.pick(["loop.index", "loop.index0", "loop.first", "loop.last", "loop.length", "loop.revindex",
                                  "loop.previtem", "loop.nextitem", "loop.cycle('a', 'b')", "loop.changed(x)", "loop.depth",
                                  "x", "x.role", "y"])
        kinds = [
            lambda: p(), lambda: self.pick(["plain ", "{# note #}", "{#- note -#}\n", "é"]),
            lambda: self.tag(f"if {e()}") + s() + self.pick(["", self.tag(f"elif {e()}") + s()]) +
            self.pick(["", self.tag("else") + s()]) + self.tag("endif"),
            lambda: self.tag(f"for x in {self.pick(['l', 'm', 'd', 'messages', 's', 'nest', 'emptyl', e()])}" +
                             self.pick(["", "", f" if {self.pick(['x', 'loop', 'x is string', e()])}"])) +
            self.tag(loop(), False) + s() + self.pick(["", self.tag(f"if {loop()}") + self.tag(self.pick(["break", "continue"])) +
                                                       self.tag("endif")]) + self.blank() +
            self.pick(["", self.tag("else") + s()]) + self.tag("endfor"),
            lambda: self.tag(f"for x, y in {self.pick(['d.items()', 'd|items', 'd|dictsort', '[(1, 2)]', e()])}") + s() +
            "{{ x }}={{ y }}" + self.tag("endfor"),
            lambda: self.tag(f"set {self.pick(['x', 's', 'v'])} = {e()}") + s() + "{{ x }}{{ v }}",
            lambda: self.tag(f"set x{self.pick(['', ' | upper', ' | trim | length'])}") + s() + self.tag("endset") + "[{{ x }}]",
            lambda: self.tag(f"set ns = namespace(a={e()}, b=0)") + self.tag("for x in l") + self.tag("set ns.b = ns.b + x") +
            s() + self.tag("endfor") + "{{ ns.a }}{{ ns.b }}{{ ns.c is defined }}",
            lambda: self.tag(f"macro f(x, y={e()}, v='w')") + s() + "{{ x }}{{ y }}{{ v }}" + self.tag("endmacro") +
            self.pick(["{{ f(1) }}", "{{ f(1, v=2) }}", "{{ f() }}", "{{ f(1, 2, 3, 4) }}", "{{ f(q=1) }}", "{{ f(s)|upper }}"]),
            lambda: self.tag("macro g(x)") + "<{{ caller(x) if caller else 'none' }}>" + self.tag("endmacro") +
            self.tag("call(q) g(7)") + "{{ q }}" + s() + self.tag("endcall"),
            lambda: self.tag("filter " + self.pick(["upper", "trim", "indent(2)", "replace(' ', '_')"])) + s() + self.tag("endfilter"),
            lambda: self.tag(f"with x = {e()}, v = 1") + s() + "{{ x }}{{ v }}" + self.tag("endwith") + "{{ v }}",
            lambda: self.tag("raw") + "{{ no {% if %} }}" + self.tag("endraw"),
            lambda: self.tag("generation") + s() + self.tag("endgeneration"),
        ]
        return self.blank() + self.pick(kinds)()

    def template(self):
        if self.rng.random() < 0.6:
            return "{{ " + self.expression(self.rng.randrange(1, 4)) + " }}"
        return self.statements(self.rng.randrange(1, 4)) + self.blank()


def rendered(env, source):
    try:
        return {"text": env.from_string(source).render(**copy.deepcopy(CONTEXT))}
    except Exception as error:  # whatever Python raises is an error of the template
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    env = environment()
    if args.record:
        sources = open(os.path.join(os.path.dirname(__file__), "data/jinja_templates.txt"), encoding="utf-8").read()
        cases = [{"template": source, **rendered(env, source)} for source in sources.split("\n====\n")]
        json.dump({"context": CONTEXT, "cases": cases}, sys.stdout, indent=1, ensure_ascii=False)
        return

    counts, shown, refused = collections.Counter(), 0, collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        context = os.path.join(folder, "context.json")
        json.dump(CONTEXT, open(context, "w"))
        template = os.path.join(folder, "t.jinja")
        for k in range(args.count):
            source = Random(args.seed * 1000003 + k).template()
            theirs = rendered(env, source)
            if " object at 0x" in theirs.get("text", "") or "<built-in" in theirs.get("text", "") or \
               "<generator" in theirs.get("text", "") or "<bound method" in theirs.get("text", ""):
                counts["addresses, left out"] += 1
                continue
            open(template, "w", encoding="utf-8").write(source)
            done = subprocess.run([args.command, "tokenize", "--model", folder, "--chat-template", template, "--render", context,
                                   "--now", NOW.isoformat()], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            message = done.stderr.decode()
            if done.returncode == 0:
                ours = {"text": done.stdout.decode()}
            elif done.returncode == 2 and message.count("\n") == 1:
                ours = {"error": message.strip()}
            else:
                ours = {"crash": f"{done.returncode} {message}"}
            if ours.get("text") == theirs.get("text") and "crash" not in ours:
                counts["equal texts" if "text" in ours else "errors in both"] += 1
            elif "error" in ours and ("not supported" in message or "too large" in message):
                counts["refused"] += 1
                refused[message.split(": ", 2)[-1].strip().split(":", 2)[-1][:70]] += 1
            else:
                counts["DIFFERENT"] += 1
                shown += 1
                if shown <= args.show:
                    print(f"{source!r}\n    longhaul {ours}\n    jinja2   {theirs}")
    print(dict(counts))
    print("refused:", refused.most_common(12))
    sys.exit(1 if counts["DIFFERENT"] else 0)


if __name__ == "__main__":
    main()
