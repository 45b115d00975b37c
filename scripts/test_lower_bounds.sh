#!/usr/bin/env bash
# Tests with the oldest packages that the requirements files allow, in an environment of its own.
# On demand, with Python 3.10 or 3.11: it downloads several GB. Run it after a change of a lower bound.
# Usage: bash scripts/test_lower_bounds.sh [arguments of pytest]
# LOWEST=folder chooses the environment (default: .venv-lowest); PYTHON=... the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=${LOWEST:-.venv-lowest}
python=${PYTHON:-python3}

[ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
lowest=$environment/lowest.txt
# "name>=1.2" becomes "name==1.2.*", "name>=12" becomes "name==12.0.*": of these pip takes the last bug fix.
# Search, demo, the package and ONNX are left out: gradio and the oldest transformers need different versions of huggingface-hub.
sed -nE 's/^([A-Za-z0-9_.-]+)>=([0-9]+)([ #].*)?$/\1==\2.0.*/p; s/^([A-Za-z0-9_.-]+)>=([0-9]+\.[0-9.]+)([ #].*)?$/\1==\2.*/p' \
    requirements.txt > "$lowest"
sed -E 's/^/test_lower_bounds: /' "$lowest"
grep -v '^-r' requirements-dev.txt > "$environment/tools.txt" # pytest and others, in their newest versions
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r requirements.txt -r "$environment/tools.txt" -c "$lowest"
export PATH="$PWD/${environment#"$PWD"/}/bin:$PATH"
case $environment in /*) export PATH="$environment/bin:$PATH" ;; esac
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
python -m pytest --ignore tests/search --ignore tests/demo --ignore tests/tools/test_search.py \
    --ignore tests/tools/test_demo.py --ignore tests/hmmc --ignore tests/tools/export "$@"
