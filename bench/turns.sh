#!/usr/bin/env bash
# What decoding by turns with prefills costs and brings (DESIGN.md, "Order"): ten documents of 1K to 15K tokens answered in
# input order under `stream`, with --prefill-share 1 and 0.75. usage: bench/turns.sh TEXTS MODEL [FLAGS of longhaul batch]
# TEXTS: a folder of books, see make_documents.py.
set -euo pipefail
cd "$(dirname "$0")/.."
texts=$1 model=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 bench/make_documents.py --texts "$texts" --tokens 1024,2048,4096,8192,15360 --count 2 --seed 1 --out "$work" \
  --longhaul build/longhaul --model "$model"
for share in 1 0.75; do
  build/longhaul batch --model "$model" --input "$work/documents" --output "$work/$share.jsonl" --policy stream --order input \
    --max-tokens 64 --prefill-share "$share" --progress jsonl "$@" 2> "$work/$share.log" || { tail -1 "$work/$share.log" >&2; exit 1; }
  python3 - "$share" "$work/$share.log" <<'PY'
import json, sys
end = json.loads(open(sys.argv[2]).readlines()[-1])
print(json.dumps({"prefill_share": float(sys.argv[1])} | {key: value for key, value in end.items() if "memory" not in key}))
PY
done
