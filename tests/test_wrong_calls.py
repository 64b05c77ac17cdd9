"""Bad input gets an error that names the argument, the rule, what came and the way out: table in wrong_calls.py."""

import json
import pathlib
import subprocess
import sys

import pytest
from wrong_calls import CALLS


@pytest.fixture(scope="module")
def outcomes(request):
    """One process for all rows that are tested, set up as a user's is: none of the tests' settings and checks."""
    script = pathlib.Path(__file__).parent / "wrong_calls.py"
    asked = [item.callspec.params["name"] for item in request.session.items if item.name.startswith("test_wrong_call[")]
    command = [sys.executable, str(script)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.sweep(part=3)
@pytest.mark.parametrize(("name", "kind", "words"), [(n, k, w) for n, _, k, w in CALLS], ids=[c[0] for c in CALLS])
def test_wrong_call(outcomes, name, kind, words):
    raised, message = outcomes[name]
    assert raised == kind.__name__, message
    for word in words:
        assert word in message, message


def test_table_is_long_enough():
    assert len({name for name, *_ in CALLS}) == len(CALLS) >= 40
