#!/usr/bin/env bash
# All figures of bench/results that a card has, part by part, each line's command as it runs here.
# usage: bench/figures.sh PROGRAM RESULTS TRACES PART...
# PROGRAM: bench_cuda_figures. TRACES: the folder of bench/traces.sh. Parts:
#   operators   pinning, selection, attention, products, sampling, row movers
#   prefill     256K tokens, all layers
#   decode      offload, stream and sparse-resident at 256K, nothing else on the card
#   budget      the same under 24 GiB, and steps under 24 and 12 GiB
#   shapes      steps of other models, and of other policies
#   batch       eight documents of 64K tokens together under 24 GiB
# ACCURACY and ACCURACY_K: of the traced model at a sixteenth of the rows and at 2,048, for the settings of figures.
set -uo pipefail
if (($# < 4)); then sed -n '3,13p' "$0" >&2; exit 2; fi
program=$1 results=$2 traces=$3
shift 3
failed=0 accuracy=() accuracy_k=()
[ -z "${ACCURACY:-}" ] || accuracy=(--accuracy "$ACCURACY")
[ -z "${ACCURACY_K:-}" ] || accuracy_k=(--accuracy-k "$ACCURACY_K")
figures() {
  "$program" --results "$results" "$@" || { echo "failed: $*" >&2; failed=1; }
}
share=(--trace "$traces/share" --recall 0.89)
for part in "$@"; do
  case $part in
    operators) figures --sections pin,select,attend,dense,gather ;;
    prefill) figures --sections prefill --prefill-chunk 8192 ;;
    decode) figures --sections decode "${share[@]}" --trace-k "$traces/rows" "${accuracy[@]}" "${accuracy_k[@]}" ;;
    budget)
      figures --sections decode --gpu-memory 24GiB "${share[@]}" "${accuracy[@]}"
      for memory in 24GiB 12GiB; do
        figures --sections step --policy offload --gpu-memory $memory "${share[@]}"
        figures --sections step --policy stream --gpu-memory $memory
      done
      ;;
    shapes)
      figures --sections step --policy sparse-resident --set policy.rows=2048
      figures --sections step --policy on-demand --set policy.rows=2048 --set policy.resident=0.0 \
        --set policy.cache=4.0 --trace "$traces/rows" --recall 0.89
      figures --sections step --geometry llama-2-7b --context 128K --gpu-memory 40GiB
      figures --sections step --geometry llama-2-7b --context 256K --gpu-memory 40GiB --kv-dtype int8
      figures --sections step --geometry llama-2-70b --context 128K --set policy.rows=2048
      figures --sections step --geometry qwen2.5-7b-1m --context 1000K --gpu-memory 40GiB
      ;;
    batch) figures --sections batch --context 64K --batch 8 --gpu-memory 24GiB ;;
    *) echo "no part is called $part" >&2; exit 2 ;;
  esac
done
exit $failed
