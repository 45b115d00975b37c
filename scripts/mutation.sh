#!/usr/bin/env bash
# Mutation testing: small faults in the code, one at a time; which ones do the tests notice? Takes hours, not in CI.
# Arguments: modules, as patterns, e.g. 'modules.losses.*'; --help explains the options.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh requirements-mutation.txt
export PATH="$PWD/.venv/bin:$PATH"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
exec nice -n 19 python benchmarks/robustness/mutation.py "$@"
