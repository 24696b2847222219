#!/usr/bin/env bash
# usage: control_group.sh LONGHAUL SOURCE. A run in a control group with little memory plans within it, finishes and is not
# killed; in one with next to none it is refused in a line. Version 1 or 2, where this user may make a group.
set -euo pipefail
command=$1 model=$2/apps/demo/demo-7m
scratch=$(mktemp -d)
fail() { echo "control group: $*" >&2; exit 1; }

mib=$((1 << 20)) group=/sys/fs/cgroup/memory/longhaul-test-$$ limit=memory.limit_in_bytes killed=memory.oom_control
if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
  group=/sys/fs/cgroup/longhaul-test-$$ limit=memory.max killed=memory.events
fi
trap 'rm -rf "$scratch"; if [[ -d $group ]]; then rmdir "$group"; fi' EXIT
if ! mkdir "$group" 2> /dev/null || ! echo $((256 * mib)) 2> /dev/null > "$group/$limit"; then
  echo "control group: making one takes rights that this user lacks"
  exit 77  # a skip
fi

inside() {  # inside LIMIT ARGS...: the command's output in $scratch/log
  echo "$1" > "$group/$limit"
  shift
  (echo "$BASHPID" > "$group/cgroup.procs" && exec "$command" "$@") < /dev/null > "$scratch/log" 2>&1
}
kills() { awk '$1 == "oom_kill" { print $2 }' "$group/$killed"; }

head -c 40000 "$2/apps/demo/documents/four-weird-tales.txt" > "$scratch/text.txt"
for mebibytes in 256 512; do
  inside $((mebibytes * mib)) batch --model "$model" --device cpu --profile none --input "$scratch/text.txt" \
    --output "$scratch/$mebibytes.jsonl" --max-tokens 8 || fail "in $mebibytes MiB: $(cat "$scratch/log")"
  [[ $(wc -l < "$scratch/$mebibytes.jsonl") == 1 ]] || fail "no record"
done
status=0
inside $((48 * mib)) run --model "$model" --device cpu --profile none --prompt x || status=$?
((status == 4)) || fail "in 48 MiB: exit $status, not 4: $(cat "$scratch/log")"
(($(wc -l < "$scratch/log") == 1)) || fail "more than a line: $(cat "$scratch/log")"
[[ $(kills) == 0 ]] || fail "a run was killed for memory"
echo "control group: planned within 256 and 512 MiB, refused in 48"
