#!/usr/bin/env bash
# A batch on a real disk that is too small: it ends with exit code 5 and one line, and goes on once there is room. Needs
# leave to mount in a user namespace, and is skipped (77) without.
#   tests/full_disk.sh      LONGHAUL is the command, build/longhaul unless set
set -euo pipefail
if [[ ${1:-} != mounted ]]; then
  if ! unshare --user --map-root-user --mount mount -t tmpfs -o size=16k tmpfs /mnt 2> /dev/null; then
    echo "full disk: mounting one takes rights that this user lacks"
    exit 77  # a skip
  fi
  exec unshare --user --map-root-user --mount "$0" mounted
fi
here=$(cd "$(dirname "$0")/.." && pwd)
longhaul=${LONGHAUL:-$here/build/longhaul}
dir=$(mktemp -d)
trap 'umount "$dir/disk"; rm -rf "$dir"' EXIT
mkdir "$dir/disk" "$dir/docs"
mount -t tmpfs -o size=16k tmpfs "$dir/disk"
cd "$dir"
for i in $(seq -w 40); do printf 'The Road %s\nIt went over the hill.\n' "$i" > "docs/$i.txt"; done
job() {
  "$longhaul" batch --device cpu --model "$here/apps/demo/demo-7m" --input docs --output "$1" --max-tokens 6 \
    --log-level warn 2> err
}
job whole
code=0
job disk/out || code=$?
line=$(tail -n 1 err)
[[ $code == 5 && $line == longhaul:*"No space left on device"*"the same command goes on"* ]] || { echo "exit $code: $line" >&2; exit 1; }
[[ $(grep -c '^longhaul:' err) == 1 ]]
kept=$(wc -l < disk/out)
((kept >= 1 && kept < 40))
mount -o remount,size=1m "$dir/disk"
job disk/out
cmp <(sed -E 's/"created":[0-9]+/"created":0/' whole) <(sed -E 's/"created":[0-9]+/"created":0/' disk/out)
echo "full after $kept of 40 records, exit 5: $line"
echo "and whole once there was room"
