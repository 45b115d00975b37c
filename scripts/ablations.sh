#!/usr/bin/env bash
# The method's ablations on the toy data, and one table; the paper's ablation figures are not public.
# Usage: bash scripts/ablations.sh [--real] [-- FLAGS...]
#   --real     print the commands for the real data instead
#   -- FLAGS   more flags for every run, e.g. -- --epochs 4
# DATA_DIR (default runs/quickstart/data, as scripts/quickstart.sh leaves it) and OUT (default runs/ablations).
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || bash scripts/setup.sh
exec .venv/bin/python tools/run_ablations.py --data_dir "${DATA_DIR:-runs/quickstart/data}" \
    --out "${OUT:-runs/ablations}" "$@"
