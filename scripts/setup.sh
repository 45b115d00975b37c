#!/usr/bin/env bash
# Make .venv in the checkout and install a requirements file; quick if nothing changed.
# Usage: bash scripts/setup.sh [requirements.txt]
set -euo pipefail
cd "$(dirname "$0")/.."
requirements=${1:-requirements.txt}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "setup: $("$python" --version) is too old; Python 3.10 or newer is needed (set PYTHON=...)" >&2
    exit 2
}
[ -x .venv/bin/python ] || "$python" -m venv .venv || {
    echo "setup: '$python -m venv' failed; on Debian and Ubuntu install python3-venv" >&2
    exit 2
}
stamp=".venv/installed-$(basename "$requirements")"
wanted=$(cat requirements*.txt) # they include each other
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "setup: installing $requirements into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r "$requirements"
    # On all cores, where pip uses one. What cannot be compiled (packages hold templates) does not matter.
    .venv/bin/python -m compileall -qq -j 0 -x 'site-packages/.*/tests?/' .venv/lib > /dev/null 2>&1 || true
    printf '%s' "$wanted" | tee "$stamp" > .venv/installed-requirements.txt # every file includes this one
fi
