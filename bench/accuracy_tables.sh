#!/usr/bin/env bash
# The accuracy tables of DESIGN.md. usage: bench/accuracy_tables.sh TEXTS MODEL OUT PART... [-- FLAGS of longhaul eval]
# Parts, about as long on 2 cores as said for a model of 27 M parameters:
#   perplexity   a book's last 1,024 of 16K tokens, decoded; labels by size and kind (10 min)
#   grid         token and label sparsity, 4K (20 min); grid-tail: with the tail (10 min); wiki: the same diagonal on
#                WikiText-2 (10 min)
#   every        every position sparse, 4K (10 min)
#   questions    needle, lines, digest at 4K and 16K (40 min; digests: of these the last alone)
#                long: at 32K (40 min); longest: at 64K (hours)
#   context      the same at 128K and 256K, 400 questions a cell, `offload` alone: for a GPU (10 min on an H200)
#   kv           dense and offload with KV rows in every type, 16K (10 min)
#   formats      weights in int8, fp8 and 4 bits beside bf16, 2K (5 min; pip install numpy ml_dtypes gguf)
#   selection    what is kept and predicted, layer by layer, and what a resident set would hit (5 min)
# perplexity, grid, wiki, every and selection are without the tail, but for names that end in -tail.
# A part that was interrupted goes on where it was. TEXTS holds books and wikitext-2/; books that the shipped channel
# files were made from are left out.
set -euo pipefail
texts=$1 model=$2 out=$3
shift 3
parts=() flags=()
while (($#)) && [[ $1 != -- ]]; do parts+=("$1"); shift; done
if (($#)); then flags=("${@:2}"); fi
longhaul=$(dirname "$0")/../build/longhaul
mkdir -p "$out"
books=()
for book in four-weird-tales stories-of-the-days-of-king-arthur anecdotes-of-the-habits-and-instinct-of-animals a-house-of-pomegranates; do
  books+=("$texts/$book.txt")
done
few='policy.min_rows=64'  # so that 1/16 is 1/16 below 4K tokens too
none='policy.tail=none'  # the rows left out do not count, as published
evaluate() {  # evaluate NAME ARGS...
  local name=$1 log=$out/$(basename "$model")-$1.log
  shift
  echo "## $(basename "$model"): $name"
  "$longhaul" eval --model "$model" --seed 7 --output "$out/$(basename "$model")-$name.jsonl" "${flags[@]}" "$@" 2> "$log" ||
    { tail -1 "$log" >&2; exit 1; }
}
sparsities() {  # sparsities NAME LABELS ARGS...: the diagonal
  local name=$1 labels=$2 share
  shift 2
  for share in 2 4 8 16 32; do
    evaluate "$name-$share" --policies sparse-resident --labels "$labels" --shares "1/$share" --label-dims "1/$share" \
      --set "$few" --set "$none" "$@"
  done
}
for part in "${parts[@]}"; do
  case "$part" in
    perplexity)
      evaluate perplexity-16k --task perplexity --lengths 16K --texts "${books[@]}" --documents 8 \
        --policies oracle,sparse-resident --labels document,abs,qk --label-dims 8,16,32 --set "$few" --set "$none"
      evaluate perplexity-16k-tail --task perplexity --lengths 16K --texts "${books[@]}" --documents 8 \
        --policies sparse-resident --labels document --label-dims 8,16,32 --set "$few" ;;
    grid)
      evaluate grid-4k --task perplexity --lengths 4K --texts "${books[@]}" --documents 8 --policies sparse-resident \
        --labels document --shares 1/2,1/4,1/8,1/16,1/32 --label-dims 1/2,1/4,1/8,1/16,1/32 --set "$few" --set "$none"
      evaluate oracle-4k --task perplexity --lengths 4K --texts "${books[@]}" --documents 8 --policies oracle \
        --shares 1/2,1/4,1/8,1/16,1/32 --set "$few"
      sparsities diagonal-4k q,k,qk,abs,rms,pairs,document --task perplexity --lengths 4K --texts "${books[@]}" --documents 8 ;;
    grid-tail)
      evaluate grid-4k-tail --task perplexity --lengths 4K --texts "${books[@]}" --documents 8 --policies sparse-resident \
        --labels document --shares 1/2,1/4,1/8,1/16,1/32 --label-dims 1/2,1/4,1/8,1/16,1/32 --set "$few" ;;
    wiki)
      evaluate wiki-oracle-4k --task perplexity --lengths 4K --texts "$texts"/wikitext-2/*test* --documents 8 \
        --policies oracle --shares 1/2,1/4,1/8,1/16,1/32 --set "$few"
      sparsities wiki-4k q,k,qk,abs,rms,document --task perplexity --lengths 4K --texts "$texts"/wikitext-2/*test* \
        --documents 8 ;;
    every)
      evaluate every-oracle-4k --task perplexity --mode every --lengths 4K --texts "${books[@]}" --documents 4 \
        --policies oracle --shares 1/4,1/16 --set policy.min_rows=256
      evaluate every-4k --task perplexity --mode every --lengths 4K --texts "${books[@]}" --documents 4 \
        --policies sparse-resident --shares 1/4,1/16 --labels fitted,qk,abs,rms --label-dims 1/16,1/4 \
        --set policy.min_rows=256 --set "$none" ;;
    questions)
      evaluate questions --task needle,lines --lengths 4K,16K --texts "${books[@]}" --documents 4 --questions 50 \
        --policies offload,published-offload,streaming-llm,h2o
      "$0" "$texts" "$model" "$out" digests ${flags[@]:+-- "${flags[@]}"} ;;
    digests)
      evaluate digests --task digest --lengths 4K,16K --texts "${books[@]}" --documents 22 \
        --policies offload,published-offload,streaming-llm,h2o ;;
    long | longest)
      length=32K
      if [[ $part == longest ]]; then length=64K; fi
      evaluate "questions-$length" --task needle,lines --lengths "$length" --texts "${books[@]}" --documents 4 \
        --questions 50 --policies offload,published-offload,streaming-llm,h2o
      evaluate "digests-$length" --task digest --lengths "$length" --texts "${books[@]}" --documents 22 \
        --policies offload,published-offload,streaming-llm,h2o ;;
    context)
      for length in 128K 256K; do
        evaluate "questions-$length" --task needle,lines --lengths "$length" --texts "${books[@]}" --documents 4 \
          --questions 100 --policies offload
        evaluate "digests-$length" --task digest --lengths "$length" --texts "${books[@]}" --documents 42 \
          --policies offload
      done ;;
    kv)
      evaluate kv-16k --task perplexity --lengths 16K --texts "${books[@]}" --documents 8 --policies dense,offload \
        --kv-dtype bf16,int8,fp8,int4 --set "$few" ;;
    formats)
      given=$model name=$(basename "$model")
      [[ -d $out/$name-quantised ]] || python3 "$(dirname "$0")/quantise_model.py" "$model" "$out/$name-quantised"
      for model in "$given" "$out/$name-quantised"/*; do
        evaluate "formats-of-$name" --task perplexity --lengths 2K --texts "${books[@]}" --documents 8 --policies dense
      done
      model=$given ;;
    selection)
      evaluate selection-8k --task perplexity --lengths 8K --tail 128 --texts "${books[@]}" --documents 2 --stats \
        --policies oracle,offload --labels document,abs --label-dims 1/8,1/4 --shares 1/16,1/64 --set "$few" \
        --set "$none" ;;
    *) echo "unknown part '$part'" >&2; exit 2 ;;
  esac
done
