#!/usr/bin/env bash
# The GPU kernels with the oldest Triton that is supported, beside the environment that is active:
#
#   bash scripts/oldest_triton.sh FOLDER [all]
#
# puts Triton 3.6.0 into FOLDER, compiles every kernel with it for sm_90, and runs one in seven of the
# interpreted tests; `all` compiles for sm_80 too, and runs every test. Other commands take that Triton with
# PYTHONPATH=FOLDER. Python 3.11 will do: what NumPy 2.5 on 3.12 refuses of its interpreter, 2.4 refuses too.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

[ -d "$folder/triton" ] || python -m pip install -q --no-deps --target "$folder" triton==3.6.0
export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
python -c 'import triton; assert triton.__version__ == "3.6.0", triton.__file__'
unset CAMRT_CHECK_SKIPS # a part of the tests has a part of the skips
if [ "${2:-}" = all ]; then
  pytest -q -n auto --dist worksteal tests/kernels/gpu
else
  pytest -q -n auto --dist worksteal tests/kernels/gpu -m aot -k sm_90
  pytest -q -n auto --dist worksteal tests/kernels/gpu -m interpret --every 7
fi
