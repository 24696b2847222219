#!/usr/bin/env bash
# User time that a book of 4 MB takes with each tokenizer, best of five, loading it and reading JSON included.
# usage: bench/tokenize.sh TEXTS MODEL...   (TEXTS: a folder of text files; MODEL: a folder with a tokenizer; DESIGN.md's:
# tests/data/sentencepiece ../shared/tokenizers/* apps/demo/demo-7m ../shared/models/longbook-27m)
set -euo pipefail
cd "$(dirname "$0")/.."
texts=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 - "$texts" > "$work/book.jsonl" <<'PY'
import json, pathlib, sys
text = "".join(file.read_text(encoding="utf-8") for file in sorted(pathlib.Path(sys.argv[1]).glob("*.txt")))
print(json.dumps({"text": (text * (1 + 4_000_000 // len(text)))[:4_000_000]}))
PY
TIMEFORMAT=%U
for model in "$@"; do
  best=$(for _ in 1 2 3 4 5; do
    { time build/longhaul tokenize --model "$model" --no-special --input "$work/book.jsonl" > "$work/ids" 2> "$work/log"; } 2>&1 ||
      exit 1
  done | sort -n | head -1) || { cat "$work/log" >&2; exit 1; }
  echo "$model: $best s, $(tr -cd , < "$work/ids" | wc -c) ids"
done
