#!/usr/bin/env python3
"""Makes digest documents with a known answer: excerpts of books with notes and headings put between their paragraphs.

Writes OUT/documents/*.txt (a folder for `longhaul batch`) and OUT/truth.json (for score_digests.py), in the style that the
two small models were trained on. The same arguments give the same documents.

  bench/make_documents.py --texts ../shared/texts --tokens 4096,8192,16384 --count 8 --seed 1 --out /tmp/digests

The demo documents: --tokens 8192,12288,20480,29696 --seed 68 --out apps/demo --longhaul build/longhaul
--model apps/demo/demo-7m --books a-house-of-pomegranates,anecdotes-of-the-habits-and-instinct-of-animals,\
cashel-byron-s-profession,four-weird-tales
"""
import argparse
import json
import pathlib
import random
import re
import subprocess
import sys

CHARS_PER_TOKEN = 3.5  # English prose by demo-7m's tokenizer; longbook-27m's gives 3.85

# Words that the models were trained to copy: those they themselves expect after `Note: the`, `is kept` and `Section 1.`.
# Others are copied less surely, which would measure the vocabulary and not the runtime.
ADJECTIVES = """acid ancient aqua bitter bold brave brisk broad calm clever crisp damp deep deft dizzy eager fancy faint fresh
frosty fuzzy gentle giant glad gloomy golden grand gray hollow humble icy jolly keen lazy lively lofty lonely lucid mellow mild
misty modest narrow neat noble odd pale plain proud quaint quick quiet rapid rare rigid rough royal rusty shady sharp shiny silent
sleek slim smooth snug solar steep stiff sturdy sunny swift tame tender thin tidy tiny tough vague vast vivid warm wary weary wild
windy wise young""".split()
NOUNS = """acorn anchor apron arrow atlas badge barn basin basket bell bench birch boat bottle branch brick bridge brush bucket
button candle canoe carpet chain chair chest clock cloud copper cottage cradle creek crown drum feather fork fossil fountain goat
harbor harp helmet jacket jug kettle ladder lake lantern ledge log magnet map mask meadow medal mirror needle olive orchid otter
paddle pail palace pebble piano pigeon pine pitcher plow pond quilt raft raven ribbon ring robin rocket saddle sail satchel scarf
shell sleeve spark spoon statue straw tail torch train trumpet tunnel valley vase village violin wagon wheel whistle""".split()
PLACES = """above the stable door;among the winter coats;at the end of the pier;behind the north wall;below the chapel floor;
beneath the walnut tree;beside the frozen lake;by the ruined mill;in the captain's cabin;in the merchant's cellar;
inside the broken piano;inside the clock tower;near the western gate;on the highest shelf;under the old bridge;
within the sealed well""".replace("\n", "").split(";")
JOINTS = "and in of without".split()


def prose(book):
    """Title, author and the paragraphs of a book that are one line of prose each, front and back matter left out."""
    first, *paragraphs = book.read_text(encoding="utf-8").strip().split("\n\n")
    title, author = first.split("\n")
    assert author.startswith("by "), book
    paragraphs = paragraphs[len(paragraphs) // 10 : -max(1, len(paragraphs) // 20)]
    return title, author[3:], [p for p in paragraphs if is_prose(p)]


def is_prose(paragraph):
    if "\n" in paragraph or paragraph[0] in " [{*":  # verse, pictures, rulers
        return False
    if paragraph.startswith(("Note", "Section")):  # would look like ours
        return False
    return re.search("[a-z]{2}", paragraph) is not None


def token_counter(longhaul, model):
    """Tokens of each of many texts: by the command where it is given, else by CHARS_PER_TOKEN."""
    if not longhaul:
        return lambda texts: [len(text) / CHARS_PER_TOKEN for text in texts]

    def count(texts):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        command = [longhaul, "tokenize", "--model", model, "--no-special"]
        done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, check=True, encoding="utf-8")
        return [len(json.loads(line)["ids"]) for line in done.stdout.splitlines()]

    return count


def excerpt(sizes, tokens, rng):
    """A random run of consecutive paragraphs that fills `tokens`, or None where the book is too short for it."""
    last, left = len(sizes), tokens
    while last > 0 and left > 0:
        last -= 1
        left -= sizes[last]
    if left > 0:
        return None
    begin = end = rng.randrange(last + 1)
    while end < len(sizes) and tokens >= sizes[end]:
        tokens -= sizes[end]
        end += 1
    return begin, end


def make_notes(count, rng):
    pairs = rng.sample([(a, n) for a in ADJECTIVES for n in NOUNS], count)
    return [f"the {a} {n} is kept {place}" for (a, n), place in zip(pairs, rng.sample(PLACES, count))]


def make_heading(rng):
    adjectives, nouns = rng.sample(ADJECTIVES, 2), rng.sample(NOUNS, 2)
    return f"{adjectives[0].capitalize()} {nouns[0]}s {rng.choice(JOINTS)} {adjectives[1]} {nouns[1]}s"


def make_document(book, tokens, rng, count_tokens):
    """(text, truth) of one document, or None where the book has too little prose."""
    title, author, paragraphs = prose(book)
    notes = make_notes(rng.randint(2, 6), rng)
    headings = [make_heading(rng) for _ in range(rng.randint(2, 5))]
    inserts = [f"Note: {note}." for note in notes] + [f"Section {i}. {h}" for i, h in enumerate(headings, 1)]
    head = f"{title}\nby {author}"

    sizes = count_tokens([p + "\n\n" for p in [head, *inserts, *paragraphs]])
    fixed = 1 + len(inserts)
    span = excerpt(sizes[fixed:], tokens - sum(sizes[:fixed]), rng)
    if not span or span[1] - span[0] <= len(inserts):
        return None
    body = paragraphs[span[0] : span[1]]

    # Which gaps take an insert, and which of them a note: both kinds stay in their own order.
    gaps = sorted(rng.sample(range(1, len(body)), len(inserts)))
    is_note = [True] * len(notes) + [False] * len(headings)
    rng.shuffle(is_note)
    waiting = {True: iter(inserts[: len(notes)]), False: iter(inserts[len(notes) :])}
    for gap, note in reversed(list(zip(gaps, [next(waiting[kind]) for kind in is_note]))):
        body.insert(gap, note)

    measured = round(sum(sizes[:fixed]) + sum(sizes[fixed + span[0] : fixed + span[1]]))
    truth = {"length": tokens, "tokens": measured, "title": title, "author": author, "sections": headings, "notes": notes}
    return "\n\n".join([head, *body]) + "\n", truth


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", required=True, type=pathlib.Path, help="folder of books, each `TITLE\\nby AUTHOR\\n\\n...`")
    parser.add_argument("--tokens", required=True, help="lengths of the documents, for example 4096,8192")
    parser.add_argument("--count", type=int, default=1, help="documents of each length (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--books", help="stems of the books to take, in this order (default: any that is long enough)")
    parser.add_argument("--longhaul", help="the longhaul command, to count tokens exactly; needs --model")
    parser.add_argument("--model", help="model folder whose tokenizer counts")
    args = parser.parse_args()
    if bool(args.longhaul) != bool(args.model):
        parser.error("--longhaul and --model go together")
    lengths = [int(n) for n in args.tokens.split(",")]
    books = sorted(args.texts.glob("*.txt"))
    if args.books:
        books = [args.texts / f"{stem}.txt" for stem in args.books.split(",")]
    if not books:
        parser.error(f"{args.texts} holds no .txt files")

    count_tokens = token_counter(args.longhaul, args.model)
    rng = random.Random(args.seed)
    (args.out / "documents").mkdir(parents=True, exist_ok=True)
    truths = {}
    for tokens in lengths:
        order = books if args.books else rng.sample(books, len(books))
        made = tried = 0
        while made < args.count:
            if tried >= len(order) * (args.count + 1):
                sys.exit(f"{args.texts}: no book is long enough for {tokens} tokens")
            book = order[(len(truths) if args.books else tried) % len(order)]
            tried += 1
            document = make_document(book, tokens, rng, count_tokens)
            if document is None:
                continue
            made += 1
            name = f"{tokens // 1024:02d}k-{made}-{book.stem}.txt" if args.count > 1 else f"{book.stem}.txt"
            (args.out / "documents" / name).write_text(document[0], encoding="utf-8")
            truths[name] = document[1]
    (args.out / "truth.json").write_text(json.dumps(truths, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
