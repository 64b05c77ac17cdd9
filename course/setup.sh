#!/bin/sh
# Sets up .venv from a lock file and installs this clone in it; does nothing when that is done already.
#   sh course/setup.sh           what a developer needs, from requirements.lock
#   sh course/setup.sh course    what a reader of the course needs, from requirements-course.lock: a part of it
# All that is fetched is checked against the hashes in the lock, uv and the tools that build this package included.
# Needs a Python >= 3.12, or a network from which uv can fetch one. PYTHON=/path/to/python chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
kind=${1:-all}
case $kind in
    all) lock=requirements.lock ;;
    course) lock=requirements-course.lock ;;
    *) echo "usage: sh course/setup.sh [course]" >&2 && exit 2 ;;
esac

# The stamp says what .venv holds, and from which files. Who has all needs nothing more for the course.
stamp=.venv/.ready
sources="$(cat requirements.lock requirements-course.lock pyproject.toml course/setup.sh | cksum) $(pwd)"
if [ -x .venv/bin/python ]; then
    have=$(cat "$stamp" 2>/dev/null || true)
    if [ "$have" = "all $sources" ] || [ "$have" = "$kind $sources" ]; then exit 0; fi
fi

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1; }

# Installs the uv of the lock, checked against its hashes, into the environment $1.
install_uv() {
    sed -n '/^uv==/,/[^\\]$/p' requirements.lock >"$1/uv.lock.txt"
    "$1/bin/python" -m pip --version >/dev/null 2>&1 || "$1/bin/python" -m ensurepip >/dev/null
    "$1/bin/python" -m pip install --disable-pip-version-check -q --no-deps --require-hashes -r "$1/uv.lock.txt"
}

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
            if "$python" -m venv .cache/uv && install_uv .cache/uv; then
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

rm -f "$stamp" # until all is done, .venv is neither
uv=.venv/bin/uv
pinned=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)
case "$("$uv" --version 2>/dev/null || true) " in
    "uv $pinned "*) ;;
    *) install_uv .venv ;;
esac
# uv reads UV_INDEX_URL and the like; those who have set up only pip keep their index.
if [ -n "${PIP_INDEX_URL:-}" ] && [ -z "${UV_INDEX_URL:-}${UV_DEFAULT_INDEX:-}" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; fi
if [ -n "${PIP_CERT:-}" ] && [ -z "${SSL_CERT_FILE:-}" ]; then export SSL_CERT_FILE="$PIP_CERT"; fi
VIRTUAL_ENV="$(pwd)/.venv" "$uv" pip sync --require-hashes "$lock"
# The tools that build this package are in the lock: nothing is fetched for it.
VIRTUAL_ENV="$(pwd)/.venv" "$uv" pip install --quiet --no-deps --no-build-isolation -e .
echo "$kind $sources" >"$stamp"
