#!/usr/bin/env bash
# Records which rows each step of an answer at 256K tokens selects: what bench_cuda_figures replays (--trace, --trace-k).
# usage: bench/traces.sh DOCUMENT MODEL OUT [-- FLAGS of longhaul run]
# Writes OUT/share (a sixteenth of the rows) and OUT/rows (2,048 of them).
# DOCUMENT is one text of some 260,000 tokens; that of bench/results, of the books in ../shared/texts:
#   bench/make_documents.py --texts ../shared/texts --tokens 65000 --count 4 --seed 5 --out /tmp/documents \
#     --longhaul build/longhaul --model ../shared/models/longbook-27m
#   cat /tmp/documents/documents/*.txt > /tmp/document.txt
set -euo pipefail
if (($# < 3)); then sed -n '2,9p' "$0" >&2; exit 2; fi
document=$1 model=$2 out=$3
shift 3
[[ ${1:-} == -- ]] && shift
longhaul=${LONGHAUL:-$(dirname "$0")/../build-cuda/longhaul}
mkdir -p "$out"
record() {  # record NAME FLAGS...
  rm -f "$out/$1"  # a trace is never written over another
  "$longhaul" run --model "$model" --prompt-file "$document" --max-tokens 64 --policy offload --record-trace "$out/$1" \
    "${@:2}" > "$out/$1.txt"
}
record share "$@"
record rows --set policy.rows=2048 "$@"
