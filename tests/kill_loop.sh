#!/usr/bin/env bash
# Kills a batch at random moments, round after round, and checks what is left: every record that was acknowledged is
# there exactly once, and the finished file is that of an uninterrupted run, but for when its answers were made.
#   tests/kill_loop.sh [ROUNDS [SEED]]      100 rounds unless given; LONGHAUL is the command, build/longhaul unless set
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
longhaul=${LONGHAUL:-$here/build/longhaul}
rounds=${1:-100}
RANDOM=${2:-1}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

mkdir docs
for ((i = 1; i <= 9; ++i)); do
  {
    printf 'The Road %d\nby A. Writer\n\n' "$i"
    for ((j = 0; j < 1 + 2 * (i % 4); ++j)); do printf 'The road went over hill %d and down to the river again. ' "$j"; done
    printf '\n\nNote: the copper lantern is kept under the stairs.\n'
  } > "docs/$i.txt"
done
cp docs/9.txt docs/again.txt  # the same document twice
: > docs/empty.txt
total=$(find docs -type f | wc -l)

job() {  # job OUT: the command, which must be the same in every run
  exec "$longhaul" batch --device cpu --model "$here/apps/demo/demo-7m" --input docs --output "$1" --max-tokens 10 \
    --log-level warn --batch-size 3 2> "$1.err"
}
fail() {
  echo "round $round: $*" >&2
  tail -n 3 out.err >&2
  exit 1
}
timeless() { sed -E 's/"created":[0-9]+/"created":0/' "$1"; }
# What a run has acknowledged: a line on stderr for each record that is on disk.
acknowledged() { sed -nE 's/^[0-9]+\/[0-9]+ documents, ([a-z0-9]+\.txt): .*/\1/p' out.err; }

start=$(date +%s%N)
(job whole) || (($? == 1))
took=$((($(date +%s%N) - start) / 1000000))
timeless whole > expected

kills=0 early=0 early_done=0
for ((round = 1; round <= rounds; ++round)); do
  rm -f out out.*
  : > promised
  : > out.err
  for ((kill = 0; kill < 1 + RANDOM % 3; ++kill)); do
    wait_ms=$((RANDOM % (took + took / 4)))
    (job out) &
    pid=$!
    sleep "$(printf '%d.%03d' $((wait_ms / 1000)) $((wait_ms % 1000)))"
    if ! kill -KILL "$pid" 2> /dev/null; then wait "$pid" || true; fi
    wait "$pid" 2> /dev/null || true
    kills=$((kills + 1))
    acknowledged >> promised
    if [[ -f out ]]; then
      # A line without its end is no record yet.
      if [[ -s out && -n $(tail -c 1 out) ]]; then sed '$d' out > torn && records_file=torn; else records_file=out; fi
      while read -r name; do
        count=$(grep -cF "\"custom_id\":\"$name\"" "$records_file" || true)
        ((count == 1)) || fail "$name was acknowledged and is there $count times"
      done < promised
      [[ -z $(grep -oE '"custom_id":"[^"]*"' "$records_file" | sort | uniq -d) ]] || fail "a record is there twice"
    elif [[ -s promised ]]; then
      fail "the output is gone"
    fi
    if ((kill == 0 && wait_ms * 100 >= took * 15)); then
      early=$((early + 1))
      if [[ -s promised ]]; then early_done=$((early_done + 1)); fi
    fi
  done
  (job out) || (($? == 1)) || fail "the last run ended with exit code $?"
  (($(wc -l < out) == total)) || fail "$(wc -l < out) records of $total"
  timeless out | cmp - expected || fail "the finished file differs from an uninterrupted run's"
done
echo "$rounds rounds, $kills kills of a job of $took ms, $total documents: every acknowledged record once, every file as expected;"
echo "of $early first runs killed after 15 % of the time or later, $early_done had acknowledged a document"
