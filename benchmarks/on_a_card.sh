#!/usr/bin/env bash
# On a machine with a card and no network: builds camrt, runs the tests that need a GPU, and measures what
# explaining costs beside predicting, and the kernels beside what the card allows.
#
#   bash benchmarks/on_a_card.sh --collect .whl [3.12]            where there is a network: wheels for that Python
#   bash benchmarks/on_a_card.sh --wheels .whl --out results      on the card, within ten minutes
#   bash benchmarks/on_a_card.sh --wheels .whl --out results --dry-run    the same without a card, on small arrays
#
# The machine needs NumPy, torch with CUDA, Triton from 3.6 on, ONNX, ONNX Runtime, Pillow, torchvision, CMake and a
# C++ compiler; what else is needed comes with the wheels, which go before what is installed. Phases are in order of
# worth, each has its time, and what it finds is written as it goes: OUT/NAME.log, OUT/NAME.json and OUT/NAME.md,
# and OUT/summary.md says how each ended. The exit status is 0 if all did well.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
minutes=9 slower=1
wheels="" out="" dry=""
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }

collect() { # FOLDER PYTHON
  local folder platforms=() each size
  folder=$(mkdir -p "$1" && cd "$1" && pwd) || exit 1
  for each in manylinux_2_28 manylinux_2_17 manylinux2014; do platforms+=(--platform "${each}_x86_64"); done
  # What is large and compiled is on the machine already; of what is not, everything, so that it fits together.
  "$python" -m pip download -q --no-deps --only-binary=:all: --python-version "$2" --implementation cp \
    "${platforms[@]}" -c "$root/constraints.txt" -d "$folder" \
    array-api-compat lazy-loader typing-extensions onnxscript onnx-ir scikit-build-core pathspec packaging pybind11 \
    ninja rich markdown-it-py mdurl pygments typer shellingham annotated-doc pydantic pydantic-core annotated-types \
    typing-inspection pytest iniconfig pluggy pytest-timeout pytest-xdist execnet hypothesis sortedcontainers \
    torchcam || exit 1
  size=$(cd "$root" && { git ls-files -z; printf '%s\0' "$folder"/*.whl; } | du -cm --files0-from=- | tail -n 1 | cut -f 1)
  echo "$size MiB, the tree and the wheels in $folder"
  [ "$size" -le 64 ] || { echo "they are to take no more than 64 MiB" >&2; exit 1; }
}

while [ $# -gt 0 ]; do
  case $1 in
    --collect) [ $# -ge 2 ] || usage; collect "$2" "${3:-3.12}"; exit ;;
    --wheels) wheels=${2:-} ; shift 2 || usage ;;
    --out) out=${2:-} ; shift 2 || usage ;;
    --minutes) minutes=${2:-} ; shift 2 || usage ;;
    --dry-run) dry=yes minutes=40 slower=5; shift ;; # two busy processors, and nobody who waits for a card
    *) usage ;;
  esac
done
[ -n "$out" ] || usage
mkdir -p "$out"
out=$(cd "$out" && pwd)
if [ -n "$wheels" ]; then wheels=$(cd "$wheels" && pwd) || exit 2; fi
cd "$root" || exit 2
end=$((SECONDS + minutes * 60)) failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
site=$work/site
export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export TRITON_CACHE_DIR="$work/triton" # shared by all phases: a kernel is compiled once
printf '| phase | ended | seconds |\n| --- | --- | --- |\n' > "$out/summary.md"

# at_most SECONDS: that, or what is left of all the time, less what a program may take to end once it is told to.
at_most() { local left=$((end - SECONDS - 10)); echo $((left < $1 ? left : $1)); }

phase() { # NAME SECONDS COMMAND...
  local name=$1 limit began=$SECONDS status=0 ended
  limit=$(at_most $(($2 * slower)))
  shift 2
  if [ "$limit" -lt 5 ]; then
    ended="no time was left"
    status=1
  else
    timeout --signal=INT --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1 || status=$?
    case $status in
      0) ended=well ;;
      124 | 137) ended="stopped after its $limit seconds" ;;
      *) ended="with exit status $status: see $name.log" ;;
    esac
  fi
  if [ "$status" -ne 0 ]; then failed=1; fi
  echo "| $name | $ended | $((SECONDS - began)) |" >> "$out/summary.md"
  echo "$name: $ended, $((SECONDS - began)) s"
  return "$status"
}

install() {
  { nvidia-smi || echo "no nvidia-smi"; "$python" --version; "$python" -m pip list; } 2>&1
  local put=("$python" -m pip install -q --no-index --no-deps --no-compile --target "$site")
  if [ -n "$wheels" ]; then "${put[@]}" "$wheels"/*.whl || return; fi
  CMAKE_ARGS="${CMAKE_ARGS:--DCAMRT_REQUIRE_NATIVE=ON}" "${put[@]}" --no-build-isolation . || return
  "$python" -c 'import camrt, camrt.kernels, torch, triton; print(camrt.__file__, camrt.kernels.IMPLEMENTATION,
    "torch", torch.__version__, "triton", triton.__version__, "cuda", torch.cuda.is_available())'
}
export -f install
export python wheels site

run_tests() { # SECONDS WORKERS ARGUMENTS
  local limit=$1 workers=$2
  shift 2
  phase tests "$limit" "$python" -m pytest -v -p pytest_timeout -p xdist.plugin -p _hypothesis_pytestplugin \
    -p no:cacheprovider -n "$workers" --dist worksteal --continue-on-collection-errors \
    --junit-xml "$out/tests.xml" "$@"
}

benchmark() { # NAME SECONDS PARTS
  local script=(benchmarks/gpu.py)
  if [ -n "$dry" ]; then script=(-m helpers.triton_interpreter benchmarks/gpu.py --check); fi
  phase "$1" "$2" "$python" "${script[@]}" --parts "$3" --out "$out/$1.json" \
    --minutes "$(awk "BEGIN { print ($(at_most "$2") - 15) / 60 }")"
}

phase install 120 bash -c install || exit 1
if [ -n "$dry" ]; then
  export PYTHONPATH="$PYTHONPATH:$PWD/tests"
  run_tests 60 1 -m interpret tests/kernels/gpu/test_rank_one.py
  benchmark explain 60 cd
  benchmark kernels 60 ab
else
  mapfile -t marked < <(grep -rlE 'mark\.gpu\b' --include='test_*.py' tests)
  run_tests 210 $(($(nproc) < 12 ? $(nproc) : 12)) -m gpu --timeout 100 tests/kernels/gpu "${marked[@]}"
  benchmark explain 150 c
  benchmark kernels 90 ab
  benchmark rest 60 def
fi
for name in rest kernels explain; do if [ -f "$out/$name.md" ]; then cat "$out/$name.md"; fi; done
grep -E '^(FAILED|ERROR) |^=+ .*(passed|failed|error|skipped)' "$out/tests.log" | tail -n 40
cat "$out/summary.md"
exit "$failed"
