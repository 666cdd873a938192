# Sourced by the other scripts: goes to the project's folder and puts a Python on the path that has the
# project installed with the extras named in $1. Uses the virtual environment that is active, or makes .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
    python=""
    for candidate in python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "error: Python 3.11 or newer was not found. Install it, then run this again." >&2
        exit 2
    fi
    if [ ! -x .venv/bin/python ]; then
        echo "making a virtual environment in .venv" >&2
        "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    source .venv/bin/activate
fi

# torch is pinned, so that an install is the same one everywhere. Nothing is asked of the network once it is done.
wanted="$1 $(cat pyproject.toml constraints.txt | cksum)"
stamp="${VIRTUAL_ENV:-$CONDA_PREFIX}/.autotune-installed"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ] || ! python -c 'import autotune' 2>/dev/null; then
    echo "installing autotune and what it needs (this takes a minute or two)" >&2
    python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$1]"
    echo "$wanted" >"$stamp"
fi
