#!/bin/sh
# PyTorch for the benchmarks, in an environment of its own, .cache/torch. PYTHON=/path/to/python chooses the interpreter.
# First uv, which knows where PyTorch keeps its small builds for the CPU; where that place is out of reach, pip, with
# whatever the configured indexes have: on Linux that may be a build for GPUs, some gigabytes, which works as well.
set -eu
cd "$(dirname "$0")/.."
want=benchmarks/requirements-torch.txt
python=${PYTHON:-.venv/bin/python}
here=.cache/torch
if ! "$here/bin/python" -c "import torch, numpy" 2>/dev/null; then
    rm -rf "$here"
    "$python" -m venv "$here"
    uv=$(command -v uv || echo .venv/bin/uv)
    echo "Installing PyTorch into $here ..."
    UV_HTTP_RETRIES=0 VIRTUAL_ENV="$(pwd)/$here" "$uv" pip install --torch-backend cpu -r "$want" 2>/dev/null || {
        echo "No builds for the CPU alone within reach: asking the configured index, which may send a large one."
        "$here/bin/python" -m pip install --disable-pip-version-check -q -r "$want"
    }
fi
"$here/bin/python" -c "import torch; print('PyTorch', torch.__version__, 'in $here')"
