"""The package as a whole: imports, layers of modules, public names, docstrings, settings."""

import ast
import graphlib
import inspect
import os
import pathlib
import re
import subprocess
import sys

import pytest

import ntklib as ntk

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "ntklib").rglob("*.py"))
#: Each module imports only from rows below its own (rows as in the README); `plotting` and `interop` stand apart.
ROWS = {
    "_checks": 1, "_convolutions": 1, "_download": 1, "data": 1.5, "whitening": 1.5,
    "_traced": 1, "models": 2, "parameterization": 2, "duals": 1.5, "_directions": 1.7, "kernel": 2, "dynamics": 2.5,
    "layers": 3, "training": 4, "empirical": 4, "linearization": 4, "scale": 4, "depth": 4,
    "_ensemble_job": 4.4,
    "ensembles": 4.5,
    "regression": 5, "evolution": 5,
    "plotting": 9, "interop": 9, "datasets": 9, "__init__": 10,
}  # fmt: skip


def run(code):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)


def test_importing_is_light_and_changes_no_setting():
    heavy = [
        "matplotlib",
        "sklearn",
        "skimage",
        "neural_tangents",
        "tensorflow",
        "pooch",
        "diffrax",
        "jupyterlab",
        "scipy.linalg",  # half as long again as the rest of the library
        "scipy.optimize",
        "scipy.sparse",
    ]
    code = (
        "import sys, time; start = time.process_time(); import jax, flax.nnx; before = dict(jax.config.values); "
        "there = time.process_time(); import ntklib; done = time.process_time(); "
        f"print([m for m in {heavy} if m in sys.modules], before == dict(jax.config.values)); "
        "print(there - start, done - there)"
    )
    run("import ntklib")  # writes the bytecode
    out = run(code)
    said, times, *_ = out.stdout.split("\n")
    assert said == "[] True", out.stdout + out.stderr
    others, ours = map(float, times.split())
    # Seconds of a processor; where it has more to do all takes longer, and a tenth of the others' time is usual.
    assert ours <= max(0.3, 0.15 * others), f"importing ntklib takes {ours:.2f} s, JAX and Flax take {others:.2f} s"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_import_from_lower_rows_only(path):
    name = path.relative_to(ROOT / "ntklib").parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "ntklib":
                modules = [alias.name for alias in node.names]
            elif node.module.startswith("ntklib."):
                modules = [node.module.split(".")[1]]
        for other in modules:
            assert other == name or ROWS[other] < ROWS[name], f"{name} imports {other}"


def test_modules_go_in_no_circles():
    """Rooms too: a room's modules import from each other, and its head from all of them."""
    imports = {}
    for path in FILES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ntklib"):
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imports[name] = found - {name}
    imports = {name: found & imports.keys() for name, found in imports.items()}
    # `from ntklib.dynamics import _linalg` in one of its modules names the room, but waits for `_linalg` only.
    rooms = {name for name in imports if any(other.startswith(f"{name}.") for other in imports)}
    for name, found in imports.items():
        found -= {room for room in rooms if name.startswith(f"{room}.")}
    assert len(list(graphlib.TopologicalSorter(imports).static_order())) == len(imports)


def test_public_names_are_listed_and_documented():
    assert ntk.__all__ == sorted(set(ntk.__all__), key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    for name in ntk.__all__:
        value = getattr(ntk, name)
        if callable(value):
            assert value.__doc__, f"{name} has no docstring"


def test_max_memory_has_one_default():
    """2 GiB, and the docstring says so where it does not refer to another. `gram` has none, since its result counts."""
    found = {
        name: inspect.signature(getattr(ntk, name)).parameters for name in ntk.__all__ if callable(getattr(ntk, name))
    }
    defaults = {
        name: parameters["max_memory"].default for name, parameters in found.items() if "max_memory" in parameters
    }
    assert defaults.pop("gram") is None
    assert set(defaults.values()) == {2**31}
    assert len(defaults) >= 12
    for name in defaults:
        text = " ".join((getattr(ntk, name).__doc__ or "").split())
        assert re.search(r"max_memory: (As in|[^.]*(by default 2 GiB|as in `empirical_ntk`))", text), name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_definitions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
                continue
            assert ast.get_docstring(node), f"{node.name} in {path.name}"


def test_the_readme_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        done = run(block + "\nprint(train.shape, empirical.shape, accuracy > 0.8)")
        assert done.stdout == "(500, 10) (20, 20) True\n", done.stdout + done.stderr
