#!/usr/bin/env python3
"""Compares `longhaul tokenize` with the tokenizers package on random strings; not part of the test suite.

    tests/tokenizer_differential.py --command build/longhaul --model ../shared/models/demo-7m --count 200000

Needs `pip install tokenizers`. Characters that this Python's Unicode does not know are left out unless --unassigned is
given: PCRE2 and the tokenizers package may follow different versions of Unicode. Prints every kind of difference (at most --show of each) and exits with 1 if there is one.
"""
import argparse
import json
import random
import subprocess
import sys
import unicodedata

import tokenizers

WORDS = ("don't I'LL we'Ve the of and ſ K 'ſ 'S 12345 3.14 ١٢٣ Straße naïve 日本語 ที่ नमस्ते русский \U0001f468‍\U0001f469 "
         "é ﬁ x_y CamelCase --- ... ''' \"\" $100 <|user|> <|end|> <|endoftext|> <|im_start|> <| |> \x00 \x7f").split(" ")
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "\u2028", "\u180e", "\u0085",
          "\u200b", "\x0b", "\x1c", " " * 31, "\t" * 4]


def random_character(rng, characters):
    return characters[rng.randrange(min(len(characters), rng.choice((0x80, 0x80, 0x250, 0x2e00, 0xe000, 0x110000))))]


def random_text(rng, added, characters):
    parts = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        if kind < 0.3:
            parts.append(rng.choice(WORDS))
        elif kind < 0.6:
            parts.append(rng.choice(SPACES))
        elif kind < 0.65:
            parts.append(rng.choice(added))
        elif kind < 0.75:
            parts.append(random_character(rng, characters) * rng.randrange(1, 30))
        else:
            parts.append("".join(random_character(rng, characters) for _ in range(rng.randrange(1, 8))))
    return "".join(parts)


def run(command, records, *options):
    text = "".join(json.dumps(record) + "\n" for record in records)
    done = subprocess.run([command, "tokenize", *options], input=text.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=200000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=5)
    parser.add_argument("--unassigned", action="store_true")
    parser.add_argument("--every-character", action="store_true", help="also every code point, in three contexts")
    args = parser.parse_args()

    reference = tokenizers.Tokenizer.from_file(f"{args.model}/tokenizer.json")
    added = [token.content for token in reference.get_added_tokens_decoder().values()] or ["<none>"]
    rng = random.Random(args.seed)
    # Surrogates are no characters.
    characters = [c for c in map(chr, range(0x110000))
                  if unicodedata.category(c) not in (("Cs",) if args.unassigned else ("Cs", "Cn"))]
    texts = [random_text(rng, added, characters) for _ in range(args.count)]
    if args.every_character:
        texts += [text for c in characters for text in (f"a{c}b", f" {c}{c}1{c}", f"'{c} \n{c} x")]

    failed = 0

    def compare(what, ours, theirs, inputs):
        nonlocal failed
        differences = [(i, a, b) for i, a, b in zip(inputs, ours, theirs) if a != b]
        print(f"{what}: {len(differences)} of {len(inputs)} differ")
        for text, a, b in differences[: args.show]:
            print(f"  {text!r}\n    longhaul   {a}\n    tokenizers {b}")
        failed += len(differences) + (len(ours) != len(theirs))

    records = [{"text": text} for text in texts]
    for special in (True, False):
        ours = run(args.command, records, "--model", args.model, *([] if special else ["--no-special"]))
        theirs = [e.ids for e in reference.encode_batch(texts, add_special_tokens=special)]
        compare(f"encode, special={special}", [r["ids"] for r in ours], theirs, texts)
    top = reference.get_vocab_size()
    lists = theirs + [[rng.randrange(top) for _ in range(rng.randrange(1, 20))] for _ in range(args.count)]
    ours = run(args.command, [{"ids": ids} for ids in lists], "--model", args.model, "--decode")
    compare("decode", [r["text"] for r in ours], reference.decode_batch(lists, skip_special_tokens=False), lists)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
