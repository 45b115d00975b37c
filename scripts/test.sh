#!/usr/bin/env bash
# Set up on a fresh machine, then lint, types and tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh requirements-dev.txt
export PATH="$PWD/.venv/bin:$PATH"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
ruff check .
ruff format --check .
# Types are checked while the tests run, because the tests mostly wait for their processes.
types_output=$(mktemp)
trap 'rm -f "$types_output"' EXIT
mypy > "$types_output" 2>&1 &
types_pid=$!
# One test process for every core, at most 8; the tests of a file share their fixtures, so they stay together.
# Long files come first (tests/conftest.py); by itself, pytest-xdist begins with those of many tests.
python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder "$@"
wait "$types_pid" || { cat "$types_output" >&2; exit 1; }
