#!/usr/bin/env bash
# Says whether the native kernels, and the engine's threads around them, are free of data races, memory errors and
# undefined behaviour. Run once a release, on Linux with GCC 12 or later, in an environment with camrt's `dev` extra.
#
#   bash scripts/sanitizers.sh [thread|address|undefined|all] --out DIR [--rounds N] [--calls N] [--minutes N]
#
# Each sanitizer gets kernels of its own, built in DIR/build; the installed ones are left alone. Then it watches
#
#   planted  a fault that it must report, and the same call without the fault, where it must be silent
#   pool     the threads that kernels keep: calls at once, within each other, with exceptions: pool_calls.cpp
#   kernels  every kernel on odd shapes from several threads at once, N rounds of them: kernel_calls.py
#   tests    tests/kernels
#   engines  engines, decoding and loading in several threads at once, N calls by each: engine_calls.py
#
# A phase may take so many minutes. Its report is in DIR/SANITIZER-PHASE.txt, a table of all of them in
# DIR/summary.md. The exit code is 0 when all of them ran to their ends and nothing of camrt's was reported. Leaks are
# not looked for here, since Python leaves at its end what it has made at its beginning: scripts/soak.py looks for them.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,18s/^# \{0,1\}//p' scripts/sanitizers.sh >&2
  exit 2
}

chosen=all out='' rounds=40 calls=40 minutes=40
while [ $# -gt 0 ]; do
  case $1 in
    thread | address | undefined | all) chosen=$1 ;;
    --out | --rounds | --calls | --minutes) [ $# -gt 1 ] || usage; printf -v "${1#--}" %s "$2"; shift ;;
    *) usage ;;
  esac
  shift
done
[ -n "$out" ] || usage
if [ "$chosen" = all ]; then kinds=(thread address undefined); else kinds=("$chosen"); fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python}
compiler=${CXX:-g++}
scripts=$PWD/scripts/sanitizers

declare -A planted=(
  [thread]='WARNING: ThreadSanitizer: data race'
  [address]='ERROR: AddressSanitizer: heap-buffer-overflow'
  [undefined]='planted\.cpp:[0-9:]+ runtime error: signed integer overflow'
)

library() { "$compiler" -print-file-name="$1"; }

# watch SANITIZER COMMAND...: runs a command under a sanitizer, which makes it exit with 66 when it has reported
# something.
watch() {
  local kind=$1
  shift
  # Python's own allocator would hide from a sanitizer what is read behind an array; BLAS has threads of its own.
  local settings=(CAMRT_WATCHED="$out/build/$kind" CAMRT_KERNELS=native PYTHONPATH="$scripts" PYTHONMALLOC=malloc
    OPENBLAS_NUM_THREADS=1) before=()
  case $kind in
    thread)
      before=(setarch -R) # older sanitizers do not know the addresses that newer kernels choose at random
      settings+=(LD_PRELOAD="$(library libtsan.so)" TSAN_OPTIONS=exitcode=66:history_size=7) ;;
    address)
      settings+=(LD_PRELOAD="$(library libasan.so) $(library libstdc++.so)"
        ASAN_OPTIONS=exitcode=66:detect_leaks=0:detect_stack_use_after_return=1:strict_init_order=1) ;;
    undefined)
      settings+=(UBSAN_OPTIONS=exitcode=66:print_stacktrace=1) ;;
  esac
  timeout --kill-after=10 "$((60 * minutes))" "${before[@]}" env "${settings[@]}" "$@"
}

failed=false
# row SANITIZER PHASE SECONDS REPORTS WHAT: a line of the table, here and in the summary.
row() {
  printf '| %s | %s | %s | %s | %s |\n' "$@" | tee -a "$out/summary.md"
}
fail() {
  failed=true
  row "$1" "$2" "$3" "$4" "FAILED: $5"
}

# judge SANITIZER NOT_OURS REPORT: sets `count` to the reports that count, and `left_out` to what does not.
# NOT_OURS is a file of the libraries whose own races are left out, or nothing.
judge() {
  { read -r count; read -r left_out; } < <("$python" "$scripts/reports.py" "$3" ${2:+--not-ours "$2"})
}

# phase SANITIZER PHASE NOT_OURS COMMAND...: a phase in which nothing may be reported that counts.
phase() {
  local kind=$1 name=$2 not_ours=$3 report="$out/$1-$2.txt" status=0 start=$SECONDS count left_out what
  shift 3
  watch "$kind" "$@" > "$report" 2>&1 || status=$?
  judge "$kind" "$not_ours" "$report"
  what=$(grep -E 'the same bits|answered rightly|[0-9]+ passed' "$report" | tail -n 1 || true) # said by those that came to their ends
  if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
    fail "$kind" "$name" "$((SECONDS - start))" "$count" "not done after $minutes minutes; see $report"
  elif [ "$count" -ne 0 ] || [ -z "$what" ] || { [ "$status" -ne 0 ] && { [ "$status" -ne 66 ] || [ -z "$left_out" ]; }; }; then
    fail "$kind" "$name" "$((SECONDS - start))" "$count" "exit code $status; see $report"
  else
    row "$kind" "$name" "$((SECONDS - start))" 0 "$what${left_out:+; left out: $left_out}"
  fi
}

# prove SANITIZER NOT_OURS: the planted fault is reported and counts, and without it nothing is reported.
prove() {
  local kind=$1 not_ours=$2 report="$out/$1-planted" status=0 count left_out
  watch "$kind" "$python" "$scripts/planted.py" "$kind" faulty > "$report.txt" 2>&1 || status=$?
  judge "$kind" "$not_ours" "$report.txt"
  [ "$status" -eq 66 ] && [ "$count" -ge 1 ] && grep -qE "${planted[$kind]}" "$report.txt" &&
    grep -q 'planted\.cpp' "$report.txt" || return 1
  status=0
  watch "$kind" "$python" "$scripts/planted.py" "$kind" sound > "$report-not.txt" 2>&1 || status=$?
  judge "$kind" '' "$report-not.txt"
  [ "$status" -eq 0 ] && [ "$count" -eq 0 ]
}

# build SANITIZER: its kernels, their threads alone and the planted fault.
build() {
  cmake --preset "$1" -B "$out/build/$1" -DCMAKE_CXX_COMPILER="$compiler" \
    -DPython_EXECUTABLE="$(command -v "$python")" &&
    cmake --build "$out/build/$1" --target _planted _pool_calls _native -j "${JOBS:-2}"
}

{
  printf '# Sanitizers\n\n'
  printf -- '- %s, %s\n' "$(date -u '+%Y-%m-%d %H:%M UTC')" "$(git describe --always --dirty 2> /dev/null || echo 'no git')"
  printf -- '- %s, %s, %s\n' "$("$compiler" --version | head -n 1)" "$(ldd --version 2>&1 | head -n 1)" "$(uname -srm)"
  "$python" - << 'PYTHON'
import platform
from importlib.metadata import version

names = ("camrt", "numpy", "onnxruntime", "pillow", "pybind11")
print(f"- Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names))
PYTHON
  printf '\n| sanitizer | phase | seconds | reports | what |\n| --- | --- | ---: | ---: | --- |\n'
} | tee "$out/summary.md"

for kind in "${kinds[@]}"; do
  start=$SECONDS
  if ! build "$kind" > "$out/$kind-build.txt" 2>&1; then
    fail "$kind" build "$((SECONDS - start))" 0 "see $out/$kind-build.txt"
    continue
  fi
  row "$kind" build "$((SECONDS - start))" 0 'kernels, their threads alone and the planted fault'

  # Kernels alone are judged without any list of what is left out.
  not_ours=''
  if [ "$kind" = thread ]; then not_ours=$scripts/not_ours.txt; fi
  start=$SECONDS
  if ! prove "$kind" "$not_ours"; then
    fail "$kind" planted "$((SECONDS - start))" 0 \
      "the planted fault was not reported, or one was that is not there: silence would mean nothing; see $out/$kind-planted*.txt"
    continue
  fi
  row "$kind" planted "$((SECONDS - start))" 1 'the planted fault, and nothing without it'

  phase "$kind" pool '' "$out/build/$kind/_pool_calls" 300
  phase "$kind" kernels '' "$python" "$scripts/kernel_calls.py" --rounds "$rounds"
  # A test may take as long as the phase: one of seconds takes minutes here.
  phase "$kind" tests '' "$python" -m pytest -q -p sanitized_kernels -p no:cacheprovider -o timeout=0 \
    tests/kernels --ignore tests/kernels/gpu
  phase "$kind" engines "$not_ours" "$python" "$scripts/engine_calls.py" --calls "$calls"
done

if $failed; then
  printf '\nFAILED: see what the table says.\n' | tee -a "$out/summary.md"
  exit 1
fi
printf '\nNothing of camrt was reported by: %s.\n' "${kinds[*]}" | tee -a "$out/summary.md"
