"""Empirical kernels on two devices: inside `jax.shard_map`, with explicit axes, over a mesh (see run_empirical.py)."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def found():
    script = pathlib.Path(__file__).parent / "run_empirical.py"
    settings = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=900, env=settings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.weekly
@pytest.mark.parametrize(("where", "cases"), [("shard_map", 10), ("explicit", 22), ("over_a_mesh", 13)])
def test_two_devices_give_what_one_gives(found, where, cases):
    assert len(found[where]) == cases
    assert max(found[where].values()) < 1e-6, found[where]
