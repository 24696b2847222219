#!/bin/bash
# What can only be checked on a GPU machine. `build` runs where the CUDA toolkit and our libraries are, a GPU or not;
# the folder that it packs needs neither network nor our libraries.
#   tests/gpu.sh build                    here: builds the preset cuda and packs it into build-cuda/gpu
#   tests/gpu.sh pack BUILD FOLDER        here: copies the programs of a cuda build, stripped, and the libraries they need
#   FOLDER/gpu.sh run [FILTER]            there, in the project's folder: the tests, the golden families, then the four
#                                         sanitizers on operators' cases, each with a planted error first (15 min)
#   FOLDER/gpu.sh figures [ARGS]          there: bench_cuda_figures; results go to FOLDER/results, or $OUT
#   FOLDER/gpu.sh short                   there: all of it within ten minutes, sanitizers on an eighth of the cases
# A table comes last; the exit code is 1 when anything in it failed, had no time left or saw no device. Without a GPU
# nothing begins.
# cuBLASLt and cuDNN are not packed (half a gigabyte each): they are looked for on the GPU machine.
set -u
here=$(cd "$(dirname "$0")" && pwd)
rows=()
# What a row of the table quotes.
told_by='All tests passed|test cases:|ERROR SUMMARY|RACECHECK SUMMARY|skipped: no CUDA device|out of time, or killed'

build() {
  (cd "$here/.." && cmake --preset cuda && cmake --build --preset cuda \
    --target longhaul_tests longhaul golden_check bench_cuda_figures) || exit 1
  pack "$here/../build-cuda" "$here/../build-cuda/gpu"
}

pack() {
  local build=$1 folder=$2 program from
  mkdir -p "$folder/lib"
  cp "$here/gpu.sh" "$folder/"
  for program in longhaul_tests longhaul golden_check bench_cuda_figures; do
    from=$(find "$build" -maxdepth 2 -type f -name $program -perm -u+x | head -1)
    [ -n "$from" ] && strip -o "$folder/$program" "$from"
  done
  for program in longhaul_tests longhaul bench_cuda_figures; do [ -f "$folder/$program" ] && ldd "$folder/$program"; done |
    awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|libcuda|libcublas|libcublasLt|libcudnn|ld-linux[^/]*)\.so' |
    while read -r library; do cp -L "$library" "$folder/lib/"; done
  du -sh "$folder"
}

# folder_of LIBRARY: the toolkit's, the loader's, or else whatever the disk holds (a Python package's); empty: none.
folder_of() {
  local found
  for found in /usr/local/cuda*/lib64/$1 "$(ldconfig -p | awk -v name="${1%%\**}" 'index($1, name) { print $NF; exit }')"; do
    [ -f "$found" ] && dirname "$found" && return
  done
  found=$(find / -xdev -name "$1" 2>/dev/null | head -1)
  [ -n "$found" ] && dirname "$found"
}

find_tools() {
  export LD_LIBRARY_PATH=$here/lib:$(folder_of 'libcublasLt.so.1*'):$(folder_of 'libcudnn.so.9'):${LD_LIBRARY_PATH:-}
  export PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
}

need_device() {  # the cases skip where there is none, and would pass
  nvidia-smi -L 2>/dev/null | grep -q '^GPU ' && return
  echo "gpu.sh: no CUDA device here: nvidia-smi -L lists none" >&2
  exit 1
}

# within LIMIT COMMAND...: no longer than LIMIT seconds, nor beyond $deadline (seconds since 1970; none: empty).
within() {
  local limit=$1 left=$((${deadline:-9999999999} - $(date +%s))) code=124
  shift
  ((left < limit)) && limit=$left
  if ((limit > 0)); then  # timeout takes 0 for no limit
    timeout -k 5 "$limit" "$@"
    code=$?
  fi
  # 137: killed, by timeout or for memory.
  ((code == 124 || code == 137)) && echo "out of time, or killed, within $((limit > 0 ? limit : 0)) s"
  return $code
}

# measured NAME WANTED LIMIT COMMAND...: runs it with its output in $log/NAME, and writes its row of the table there, too.
measured() {
  local name=$1 wanted=$2 limit=$3 start
  shift 3
  start=$(date +%s)
  within "$limit" "$@" >"$log/$name" 2>&1
  local code=$?
  grep -q 'skipped: no CUDA device' "$log/$name" && code=77  # they pass
  printf '%-16s | %-6s | %4ss | %s\n' "$name" "$([ $code = "$wanted" ] && echo ok || echo "rc $code")" \
    $(($(date +%s) - start)) "$(grep -hE "$told_by" "$log/$name" | sort -u |
    tr '\n' ' ')" >"$log/$name.row"
}

told() {  # told LINES NAME...: the ends of their outputs, and their rows for the table
  local lines=$1 name
  shift
  for name in "$@"; do
    echo "== $name"
    tail -n "$lines" "$log/$name"
    rows+=("$(cat "$log/$name.row")")
  done
}

# sanitizer TOOL AT_ONCE FILTER ARGS...: a tool must find the error planted for it (exit code 9), and none in the tests.
# Each case is a process, several at once: in one, racecheck takes hours. What fails or does not end in time is not
# clean: the tool has not seen all of it.
sanitizer() {
  local tool=$1 at_once=$2 filter=$3 start cases clean late
  shift 3
  measured "$tool-planted" 9 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$@" "$tests" "[planted][$tool]"
  start=$(date +%s)
  "$tests" --list-test-names-only "$filter" | awk -v every="${every:-1}" 'NR % every == 0' |
    sed 's/,/\\,/g' >"$log/$tool-names"
  xargs -d '\n' -P "$at_once" -I{} bash -c 'within 600 "$@" && echo "== clean"' within \
    compute-sanitizer --tool "$tool" --error-exitcode 9 "$@" "$tests" {} \
    <"$log/$tool-names" >"$log/$tool" 2>&1
  cases=$(wc -l <"$log/$tool-names")
  clean=$(grep -c '== clean' "$log/$tool")
  late=$(grep -c 'out of time, or killed' "$log/$tool")
  printf '%-16s | %-6s | %4ss | %s\n' "$tool" "$([ "$clean" = "$cases" ] && echo ok || echo "rc 1")" \
    $(($(date +%s) - start)) "$clean of $cases cases without an error, $late out of time" >"$log/$tool.row"
}

run_tests() {
  local filter=${1:-[cuda]}
  tests=$here/longhaul_tests
  # In parts at once: most of their time they wait for the CPU's answer.
  local parts=6 i
  "$tests" --list-test-names-only "$filter" | sed 's/,/\\,/g' >"$log/names"
  for ((i = 0; i < parts; ++i)); do
    awk -v parts=$parts -v i=$i 'NR % parts == i' "$log/names" >"$log/names-$i"
    [ ! -s "$log/names-$i" ] || measured "tests-$i" 0 240 "$tests" -f "$log/names-$i" &
  done
  measured families 0 240 "$here/golden_check" --device cuda tests/data/families/* &
  wait
  for ((i = 0; i < parts; ++i)); do [ ! -s "$log/names-$i" ] || told 40 "tests-$i"; done
  told 5 families
  measured fatal 0 60 "$tests" "[planted][fatal]"
  told 40 fatal
  if ! command -v compute-sanitizer >/dev/null; then
    rows+=("sanitizers       | absent | compute-sanitizer is not on this machine")
    return
  fi
  # cuBLASLt's own kernels race on purpose, so racecheck takes our cases alone, and small ones of those that it does
  # not end ([long]). synccheck must be told how many barriers in shared memory a block has (48 in score_units): it does
  # not find out by itself, and takes those beyond its guess for errors. Under a tool the host is late for cases that
  # compare times ([clock]). initcheck complains of a reduction of cuBLASLt's own over its products' parts ([partials]).
  local small="$filter~[engine]~[planted]~[large]~[clock]" tool
  sanitizer memcheck 4 "$small" --report-api-errors no &
  sanitizer racecheck 7 "${small}[shared]~[long]" --report-api-errors no &
  sanitizer initcheck 3 "$small~[partials]" --report-api-errors no &
  sanitizer synccheck 2 "${small}[shared]" --report-api-errors no --num-cuda-barriers 64 &
  wait
  for tool in memcheck racecheck initcheck synccheck; do told 8 $tool-planted; told 25 $tool; done
}

figures() {
  measured figures 0 "${limit:-580}" "$here/bench_cuda_figures" --results "${OUT:-$here/results}" "$@"
  told 100 figures
}

table() {
  echo
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
  printf '%s\n' 'step             | result | time  | summary' "${rows[@]}"
  case "${rows[*]}" in *'| rc '*) exit 1 ;; esac
}

verb=${1:-}
[ $# -gt 0 ] && shift
case $verb in
  build) build ;;
  pack) pack "$1" "$2" ;;
  run | figures | short)
    need_device
    [ "$verb" = short ] && deadline=$(($(date +%s) + 590))  # ten minutes, with the end of what is stopped and the table
    export deadline
    export -f within
    find_tools
    log=$(mktemp -d)
    trap 'rm -rf "$log"' EXIT
    case $verb in
      run) run_tests "$@" ;;
      figures) figures "$@" ;;
      short) every=8 run_tests; limit=240 figures --short ;;
    esac
    table
    ;;
  *) sed -n '2,12p' "$0" >&2; exit 2 ;;
esac
