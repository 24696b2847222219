#!/bin/bash
# The CUDA tests on a GPU machine that has no network and need not have our libraries.
#   tests/gpu.sh pack BUILD FOLDER   here: copies the test programs of a cuda build, stripped, and the libraries they need
#   FOLDER/gpu.sh run [FILTER]       there: runs them, then under compute-sanitizer; a table comes last
# cuBLASLt is not packed (half a gigabyte): it is looked for on the GPU machine.
set -u
here=$(cd "$(dirname "$0")" && pwd)

pack() {
  local build=$1 folder=$2
  mkdir -p "$folder/lib"
  cp "$here/gpu.sh" "$folder/"
  for program in longhaul_tests longhaul golden_check; do
    local from=$(find "$build" -maxdepth 2 -type f -name $program -perm -u+x | head -1)
    [ -n "$from" ] && strip -o "$folder/$program" "$from"
  done
  for program in "$folder"/longhaul_tests "$folder"/longhaul; do [ -f "$program" ] && ldd "$program"; done |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libcuda|libcublas|libcublasLt|ld-linux[^/]*)\.so' |
    while read -r library; do cp -L "$library" "$folder/lib/"; done
  du -sh "$folder"
}

# The folder of the first libcublasLt: the toolkit's, the loader's, or else whatever the disk holds (a Python package's).
cublas_folder() {
  local found
  for found in /usr/local/cuda*/lib64/libcublasLt.so.1? "$(ldconfig -p | awk '/libcublasLt.so.1/ { print $NF; exit }')"; do
    [ -f "$found" ] && dirname "$found" && return
  done
  dirname "$(find / -xdev -name 'libcublasLt.so.1?' 2>/dev/null | head -1)"
}

run() {
  local filter=${1:-[cuda]} row
  export LD_LIBRARY_PATH=$here/lib:$(cublas_folder):${LD_LIBRARY_PATH:-}
  export PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
  local rows=()
  measured() {  # name, command...
    local name=$1 start=$(date +%s) log=$(mktemp)
    shift
    echo "== $name: $*"
    timeout 240 "$@" >"$log" 2>&1
    local code=$?
    tail -n 60 "$log"
    rows+=("$(printf '%-10s | %-6s | %4ss | %s' "$name" "$([ $code = 0 ] && echo ok || echo "rc $code")" \
              $(($(date +%s) - start)) "$(grep -hE 'All tests passed|test cases:|ERROR SUMMARY|RACECHECK SUMMARY' "$log" |
              tr '\n' ' ')")")
  }
  local tests=$here/longhaul_tests
  measured tests "$tests" "$filter"
  if command -v compute-sanitizer >/dev/null; then
    measured memcheck compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 9 "$tests" "$filter~[large]"
    measured racecheck compute-sanitizer --tool racecheck --error-exitcode 9 "$tests" "$filter[shared]"
  else
    rows+=("sanitizer  | absent | compute-sanitizer is not on this machine")
  fi
  echo
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  printf '%s\n' 'step       | result | time  | summary' "${rows[@]}"
  case "${rows[*]}" in *'| rc '*) return 1 ;; esac
}

case ${1:-} in
  pack) pack "$2" "$3" ;;
  run) run "${2:-}" ;;
  *) sed -n '2,5p' "$0" >&2; exit 2 ;;
esac
