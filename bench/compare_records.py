#!/usr/bin/env python3
"""Compares two files of records of `longhaul eval`, question by question: of the same run on two devices, for example.

  bench/compare_records.py cpu.jsonl gpu.jsonl
"""
import json
import sys


def answers(file):
    found = {}
    for line in open(file, encoding="utf-8"):
        x = json.loads(line)
        if "policy" in x:
            cell = tuple(str(x.get(k)) for k in ("task", "length", "policy", "share", "labels", "label_dims"))
            found[cell, x["document"], x["line"]] = (x["sum"], x["weight"])
    return found


def main():
    a, b = (answers(file) for file in sys.argv[1:3])
    both = a.keys() & b.keys()
    print("task, length, policy, share, labels, dimensions: questions in both files, right in each, alike")
    for cell in sorted({key[0] for key in both}):
        keys = [key for key in both if key[0] == cell]
        right = [sum(x[key][0] for key in keys) for x in (a, b)]
        alike = sum(a[key] == b[key] for key in keys)
        print(f"{', '.join(cell)}: {len(keys)}, {right[0]:g} and {right[1]:g}, {alike}")
    print(f"in one file alone: {len(a.keys() ^ b.keys())}")
    if not both:
        sys.exit("no question is in both")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main()
