#!/usr/bin/env bash
# Set up on a fresh machine, then lint, types and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh requirements-dev.txt
export PATH="$PWD/.venv/bin:$PATH"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
ruff check .
ruff format --check .
# Types are checked while the tests run: a test waits for its processes more than it computes.
found=$(mktemp)
trap 'rm -f "$found"' EXIT
mypy > "$found" 2>&1 &
types=$!
python -m pytest "$@"
wait "$types" || { cat "$found" >&2; exit 1; }
