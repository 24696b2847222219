#!/usr/bin/env bash
# usage: package.sh BUILD. Packs the build as `./dev package` does, unpacks that in another folder, and runs the command
# there: with no library but the C library's taken from elsewhere, and, where this user may change the root, in a root that
# holds nothing else.
set -euo pipefail
command -v dpkg > /dev/null || { echo "package: skipped: it asks dpkg for licences"; exit 77; }
build=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fail() { echo "package: $*" >&2; exit 1; }

"$(dirname "$0")/../cmake/pack.sh" "$build" "$scratch" > /dev/null
mkdir "$scratch/root"
tar -C "$scratch/root" -xzf "$scratch"/longhaul-*.tar.gz
mv "$scratch"/root/longhaul-* "$scratch/root/moved"
ls "$scratch"/root/moved/share/doc/longhaul/LICENSE.* > /dev/null || fail "no licences of the libraries"
command=$scratch/root/moved/bin/longhaul

libraries=$(LD_TRACE_LOADED_OBJECTS=1 "$command")
if grep -q 'not found' <<< "$libraries"; then fail "$libraries"; fi
of_c='linux-vdso|/ld-linux|lib(c|m|dl|rt|pthread)\.so|libcu(blas|dnn|da)'
others=$(grep -vE "$of_c" <<< "$libraries" | grep -v "=> $scratch/root/moved/" || true)
if [[ -n $others ]]; then fail "taken from outside the package: $others"; fi

demo=/moved/share/longhaul/demo
try() {  # try PREFIX-COMMAND...: PREFIX of paths is the first argument
  local at=$1
  shift
  "$@" "$at/moved/bin/longhaul" --version | grep -q longhaul || fail "no version"
  "$@" "$at/moved/bin/longhaul" plan --geometry llama-3.1-8b --max-model-len 64K --gpu-memory 80GiB --host-memory 80GiB \
    --device cuda --profile none > /dev/null || fail "no plan"
  "$@" "$at/moved/bin/longhaul" run --device cpu --gpu-memory 60MiB --host-memory 160MiB --profile none \
    --model "$at$demo/demo-7m" --prompt "A short text." --max-tokens 4 > "$scratch/answer" || fail "no answer"
  [[ -s $scratch/answer ]] || fail "an empty answer"
}
try "$scratch/root" env -i

# The bare root: the package and the C library.
while read -r file; do
  mkdir -p "$scratch/root$(dirname "$file")"
  cp -L "$file" "$scratch/root$file"
done < <(grep -E "$of_c" <<< "$libraries" | grep -oE '/[^ ]+' )
mkdir -p "$scratch/root/proc" "$scratch/root/tmp"
cp /proc/meminfo "$scratch/root/proc/"
# Without a proc the loader cannot ask where the command is.
bare=(env -i PATH="$PATH" LD_ORIGIN_PATH=/moved/bin chroot "$scratch/root")
status=0
"${bare[@]}" /moved/bin/longhaul --version > /dev/null || status=$?
if ((status == 125)); then  # chroot's own
  echo "package: runs; a root of its own takes rights that this user lacks"
else
  try "" "${bare[@]}"
  echo "package: runs, in a root of its own too"
fi
