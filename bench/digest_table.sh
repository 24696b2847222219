#!/usr/bin/env bash
# The quality table of DESIGN.md: greedy digests of books that the models have not seen, by both policies, which must give
# the same text. usage: bench/digest_table.sh TEXTS MODEL...   (TEXTS: a folder of books, see make_documents.py)
set -euo pipefail
cd "$(dirname "$0")/.."
longhaul=build/longhaul
texts=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for model in "$@"; do
  name=$(basename "$model")
  python3 bench/make_documents.py --texts "$texts" --tokens 4096,8192,16384 --count 12 --seed 1 --out "$work/$name" \
    --longhaul "$longhaul" --model "$model"
  for policy in dense stream; do
    config=$work/$policy.toml
    cp "config/policies/$policy.toml" "$config"
    sed -i 's/^resident = "auto"/resident = 0.0/' "$config"
    "$longhaul" batch --model "$model" --input "$work/$name/documents" --output "$work/$name.$policy.jsonl" \
      --policy "$config" --max-tokens 256 --batch-size 4 2> "$work/$name.$policy.log" || { cat "$work/$name.$policy.log" >&2; exit 1; }
  done
  python3 bench/score_digests.py --label "$name" --truth "$work/$name/truth.json" "$work/$name.stream.jsonl"
  if python3 - "$work/$name".{dense,stream}.jsonl <<'PY'
import json, sys
dense, stream = ([(r["custom_id"], r["response"]["body"]["choices"][0]["message"]["content"]) for r in map(json.loads, open(f))]
                 for f in sys.argv[1:])
sys.exit(dense != stream)
PY
  then echo "$name: dense and stream gave the same text for every document"
  else echo "$name: dense and stream differ" >&2; exit 1; fi
done
