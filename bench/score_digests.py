#!/usr/bin/env python3
"""Scores the digests that `longhaul batch` wrote against make_documents.py's truth.json, as rows of a Markdown table.

Right means: the exact line stands in its part of the answer. `wrong lines`: lines of the parts Sections and Notes that the
document does not have. A document without an answer counts as all wrong.

  bench/score_digests.py --label demo-7m --truth /tmp/digests/truth.json /tmp/digests/out.jsonl
"""
import argparse
import collections
import json
import sys

PARTS = ("notes", "sections", "titles", "authors")


def read_answers(path):
    """custom_id → answer; None for an error record."""
    answers = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            response = record.get("response")
            choice = response and response["body"]["choices"][0]
            answers[record["custom_id"]] = choice["message"]["content"] if choice else None
    return answers


def split_answer(answer):
    """Lines of the answer by part: those before any heading under '', then under 'Sections:' and 'Notes:'."""
    parts, current = collections.defaultdict(list), ""
    for line in answer.split("\n"):
        if line in ("Sections:", "Notes:"):
            current = line
        else:
            parts[current].append(line)
    return parts


def score(truth, answer):
    """Counter of right, asked and wrong lines."""
    wanted = {
        "titles": [f"Title: {truth['title']}"],
        "authors": [f"Author: {truth['author']}"],
        "sections": [f"{i}. {heading}" for i, heading in enumerate(truth["sections"], 1)],
        "notes": [f"- {note}" for note in truth["notes"]],
    }
    place = {"titles": "", "authors": "", "sections": "Sections:", "notes": "Notes:"}
    parts = split_answer(answer or "")
    result = collections.Counter(documents=1, failed=int(answer is None))
    for part in PARTS:
        result[part] = sum(line in parts[place[part]] for line in wanted[part])
        result[part, "asked"] = len(wanted[part])
    for part in ("sections", "notes"):
        extra = collections.Counter(line for line in parts[place[part]] if line) - collections.Counter(wanted[part])
        result["wrong"] += sum(extra.values())
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="OUT.jsonl of longhaul batch")
    parser.add_argument("--truth", required=True, help="truth.json of make_documents.py")
    parser.add_argument("--label", default="", help="first column: the model, the policy")
    parser.add_argument("--no-header", action="store_true", help="leave out the table's head, to add rows to a table")
    args = parser.parse_args()
    with open(args.truth, encoding="utf-8") as file:
        truths = json.load(file)
    answers = read_answers(args.output)
    for name in answers.keys() - truths.keys():
        sys.exit(f"{args.output}: {name} is not in {args.truth}")

    totals = collections.defaultdict(collections.Counter)
    for name, truth in truths.items():
        totals[truth["length"]] += score(truth, answers.get(name))
    if not args.no_header:
        print("| run | tokens | documents | " + " | ".join(PARTS) + " | wrong lines | no answer |")
        print("|---|" + "---:|" * (len(PARTS) + 4))
    for length, total in sorted(totals.items()):
        cells = [f"{total[part]} of {total[part, 'asked']}" for part in PARTS]
        print(f"| {args.label} | {length} | {total['documents']} | " + " | ".join(cells) +
              f" | {total['wrong']} | {total['failed']} |")


if __name__ == "__main__":
    main()
