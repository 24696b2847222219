#!/usr/bin/env python3
"""A picture of what bench/timeline.cc has written.

Of one stretch in the middle, from one KERNEL over COUNT of them to the next: when each kernel begins and how long it
takes in us, its stream, blocks, threads, shared memory and registers. Then each kernel's time, for one KERNEL.
"""
import argparse
import collections
import re
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("file")
parser.add_argument("kernel", nargs="?", default="score_units", help="part of a kernel's name (%(default)s)")
parser.add_argument("count", nargs="?", type=int, default=1)
given = parser.parse_args()

rows = [line.rstrip("\n").split("\t", 7) for line in open(given.file)]
plain = subprocess.run(["c++filt"], input="\n".join(r[7] for r in rows), capture_output=True, text=True).stdout
unwanted = re.compile(r"longhaul::cuda::|\(anonymous namespace\)::|^void |\(longhaul.*|\(.*\)$")
rows = [[int(x) for x in r[:7]] + [unwanted.sub("", name)] for r, name in zip(rows, plain.split("\n"))]
marks = [i for i, r in enumerate(rows) if given.kernel in r[7]]
if len(marks) < 3:
    sys.exit(f"timeline.py: {given.file}: {len(marks)} of {given.kernel}, needs at least 3")
streams = {s: i for i, s in enumerate(sorted({r[2] for r in rows}))}
first, last = marks[len(marks) // 2], marks[min(len(marks) // 2 + given.count, len(marks) - 1)]
for r in rows[first:last]:
    print(f"{(r[0] - rows[first][0]) / 1e3:9.1f} {(r[1] - r[0]) / 1e3:8.1f}  stream {streams[r[2]]}  {r[3]:6} x {r[4]:4}"
          f" {r[5] / 1024:6.1f} KiB {r[6]:4}  {r[7][:70]}")
total = collections.Counter()
for r in rows[marks[0] : marks[-1]]:
    total[r[7]] += r[1] - r[0]
spans = len(marks) - 1
print(f"one of {spans}: {(rows[marks[-1]][0] - rows[marks[0]][0]) / spans / 1e3:.1f} us")
for name, ns in total.most_common(30):
    print(f"{ns / 1e3 / spans:9.2f} us  {name[:100]}")
