#!/bin/sh
# Sets up .venv from requirements.lock; does nothing when that is done already. Needs a Python >= 3.12, or a network from
# which uv can fetch one. PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/.ready
want="$(cat requirements.lock pyproject.toml course/setup.sh | cksum) $(pwd)"
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then exit 0; fi

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; }

if ! { [ -x .venv/bin/python ] && new_enough .venv/bin/python; }; then
    rm -rf .venv
    found=
    for python in ${PYTHON:-} python3 python3.12 python3.13 python3.14 python; do
        if new_enough "$python"; then found=$python; break; fi
    done
    if [ -n "$found" ]; then
        echo "Setting up .venv with $("$found" --version) ..."
        "$found" -m venv .venv || {
            echo "This Python cannot make virtual environments. On Debian or Ubuntu: sudo apt install python3-venv" >&2
            rm -rf .venv
            exit 1
        }
    else
        # No Python is new enough: uv can bring its own, if it is here or any Python can install it.
        echo "No Python >= 3.12 found; asking uv for one ..."
        uv=$(command -v uv) || for python in python3 python /usr/bin/python3; do
            if "$python" -m venv .cache/uv && .cache/uv/bin/python -m pip install -q uv; then
                uv=.cache/uv/bin/uv
                break
            fi
        done >/dev/null 2>&1
        if [ -z "$uv" ] || ! "$uv" venv --quiet --python 3.12 --seed .venv 2>/dev/null; then
            echo "The course needs Python 3.12 or newer: install it (python.org, 'pyenv install 3.12' or your package" \
                "manager), or name one that you have: make course PYTHON=/path/to/python3.12" >&2
            exit 1
        fi
    fi
fi

if command -v uv >/dev/null 2>&1; then uv=uv; else
    uv=.venv/bin/uv
    [ -x "$uv" ] || .venv/bin/python -m pip install --disable-pip-version-check -q uv
fi
# uv reads UV_INDEX_URL and the like; those who have set up only pip keep their index.
if [ -n "${PIP_INDEX_URL:-}" ] && [ -z "${UV_INDEX_URL:-}${UV_DEFAULT_INDEX:-}" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; fi
if [ -n "${PIP_CERT:-}" ] && [ -z "${SSL_CERT_FILE:-}" ]; then export SSL_CERT_FILE="$PIP_CERT"; fi
VIRTUAL_ENV="$(pwd)/.venv" "$uv" pip sync --require-hashes requirements.lock
VIRTUAL_ENV="$(pwd)/.venv" "$uv" pip install --quiet --no-deps -e .
echo "$want" >"$stamp"
