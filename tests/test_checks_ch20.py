"""Right and wrong answers to the tasks of chapter 20; and that chapter and sheet do without neural-tangents."""

import sys
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from mutations import Table, cases

import course
import ntklib as ntk
from course.notebook import NotInstalled
from course.notebooks import execute, source

ROOT = Path(__file__).parents[1]


# 20.1 -------------------------------------------------------------------------------------------------------------


def translation(
    first=ntk.STANDARD,
    second=None,
    last=ntk.NTK,
    none=True,
    bias=True,
    scales=(1.5, 1.2, 0.9),
    phi=None,
    leak=0.1,
    swap=False,
):
    """`translated` with parts replaced."""

    def answer(d, a, b, rngs):
        a, b = (b, a) if swap else (a, b)
        return ntk.Serial(
            ntk.Dense(d, a, w_std=scales[0], use_bias=not none, parameterization=first, rngs=rngs),
            phi or ntk.Erf(),
            ntk.Dense(a, b, w_std=scales[1], use_bias=bias, parameterization=second or first, rngs=rngs),
            ntk.LeakyRelu(leak) if leak else ntk.Relu(),
            ntk.Dense(b, 1, w_std=scales[2], b_std=0.3, parameterization=last, rngs=rngs),
        )

    return answer


def nested(n_in, n1, n2, rngs):
    """In blocks, and with the last layer's default written out."""
    standard = {"parameterization": ntk.STANDARD, "rngs": rngs}
    block = ntk.Serial(ntk.Dense(n_in, n1, w_std=1.5, use_bias=False, **standard), ntk.Erf())
    other = ntk.Serial(ntk.Dense(n1, n2, w_std=1.2, b_std=0.0, **standard), ntk.LeakyRelu(0.1))
    return ntk.Serial(block, other, ntk.Dense(n2, 1, w_std=0.9, b_std=0.3, parameterization=ntk.NTK, rngs=rngs))


def wrong_input(d, a, b, rngs):
    return translation()(d + 1, a, b, rngs)


# 20.2 -------------------------------------------------------------------------------------------------------------


def pooled(k, real1, real2):
    w1 = real1 / jnp.sum(real1, axis=1, keepdims=True)
    w2 = real2 / jnp.sum(real2, axis=1, keepdims=True)
    return jnp.einsum("is,jt,ijst->ij", w1, w2, k)


def by_loops(k, real1, real2):
    """In NumPy, pair by pair."""
    k, real1, real2 = (np.asarray(v) for v in (k, real1, real2))
    return [[k[i, j][np.ix_(a, b)].mean() for j, b in enumerate(real2)] for i, a in enumerate(real1)]


def by_where(k, real1, real2):
    pairs = real1[:, None, :, None] & real2[None, :, None, :]
    return jnp.where(pairs, k, 0.0).sum((2, 3)) / pairs.sum((2, 3))


def weighted(weight1, weight2=None):
    """The kernel with other weights of the tokens."""

    def answer(k, real1, real2):
        return jnp.einsum("is,jt,ijst->ij", weight1(real1), (weight2 or weight1)(real2), k)

    return answer


def number(real):
    return real.sum(1, keepdims=True)


def equal_positions(k, real1, real2):
    s = min(k.shape[2:])
    w1, w2 = (real1 / number(real1))[:, :s], (real2 / number(real2))[:, :s]
    return jnp.einsum("is,js,ijss->ij", w1, w2, k[:, :, :s, :s])


# 20.4 -------------------------------------------------------------------------------------------------------------


def time_and_ridge(theta, K, t, eta, delta):
    return eta * t / K, delta * len(theta) / jnp.trace(theta)


def by_the_mean(theta, outputs, t, rate, delta):
    theta = np.asarray(theta)
    return [float(rate) / outputs * t, float(delta / np.diag(theta).mean())]


def with_time(form):
    return 4, lambda theta, K, t, eta, delta: (form(len(theta), K, t, eta), time_and_ridge(theta, K, t, eta, delta)[1])


def with_ridge(form):
    return 4, lambda theta, K, t, eta, delta: (eta * t / K, form(theta, K, delta))


TABLES = [
    Table(
        "20.1",
        right={"layer by layer": translation(), "in blocks": nested},
        wrong={
            "no bias in the second": (translation(bias=False), "starts at zero and is trained"),
            "a bias in the first": (translation(none=False), "is no bias; here there is one"),
            "exchanged": (translation(none=False, bias=False), "two kinds of no bias"),
            "all in NTK": (translation(first=ntk.NTK), "here all are in NTK"),
            "the second in NTK": (translation(second=ntk.NTK), "the second layer is in the standard"),
            "the first in NTK": (translation(first=ntk.NTK, second=ntk.STANDARD), "the first layer is in the standard"),
            "all standard": (translation(last=ntk.STANDARD), "here it is in the standard one"),
            "the wrong way around": (translation(first=ntk.NTK, last=ntk.STANDARD), "the other way around"),
            "σ²": (translation(scales=(2.25, 1.44, 0.81)), "not to be squared"),
            "√σ": (translation(scales=(1.5**0.5, 1.2**0.5, 0.9**0.5)), "no root"),
            "the usual leak": (translation(leak=0.01), "is 0.1"),
            "no leak": (translation(leak=0.0), "that is ReLU"),
            "widths exchanged": (translation(swap=True), "widths a and b"),
            "tanh": (translation(phi=ntk.Elementwise(jnp.tanh)), "the NNGP is not right"),
            "standard as a word": (translation(first="standard"), "stopped with"),
            "its kernel": (lambda *a: translation()(*a).kernel, "a layer of ntklib"),
            "another activation": (translation(phi=ntk.Gelu()), "the NNGP is not right"),
            "another input": (wrong_input, "cannot be computed"),
            "a tuple": (lambda d, a, b, rngs: (1, 2, 3), "as `stax` has it"),
            "a function": (lambda d, a, b, rngs: jnp.tanh, "a layer of ntklib"),
            "no return": (lambda d, a, b, rngs: None, "a layer of ntklib"),
        },
    ),
    Table(
        "20.2",
        right={
            "weights": pooled,
            "pair by pair": by_loops,
            "where": by_where,
            "float32": lambda k, a, b: jnp.mean(
                k.astype(jnp.float32), axis=(2, 3), where=a[:, None, :, None] & b[None, :, None, :]
            ),
        },
        wrong={
            "all in the number": (weighted(lambda r: r / r.shape[1]), "count in the number"),
            "no masks": (lambda k, a, b: k.mean((2, 3)), "the masks are not used"),
            "filled in the sum": (weighted(lambda r: jnp.ones_like(r, float) / number(r)), "are in the sum"),
            "first mask only": (
                weighted(lambda r: r / number(r), lambda r: jnp.ones_like(r, float) / r.shape[1]),
                "second set is not used",
            ),
            "second mask only": (
                weighted(lambda r: jnp.ones_like(r, float) / r.shape[1], lambda r: r / number(r)),
                "first set is not used",
            ),
            "a sum": (weighted(lambda r: r.astype(float)), "the sum over the real tokens"),
            "inverted": (lambda k, a, b: pooled(k, ~a, ~b), "wrong way around"),
            "root": (weighted(lambda r: r / number(r) ** 0.5), "divided by n"),
            "all sequences": (weighted(lambda r: r / r.sum()), "in all sequences"),
            "squared": (weighted(lambda r: r / number(r) ** 2), "enter squared"),
            "equal positions": (equal_positions, "equal positions"),
            "axes left": (lambda k, a, b: k, "left to sum"),
            "transposed": (lambda k, a, b: pooled(k, a, b).T, "swapped"),
            "no return": (lambda k, a, b: None, "is a `return` missing?"),
        },
    ),
    Table(
        "20.3",
        right={"a number": 0.46875, "a ratio": 30 / 64, "an array": jnp.array(15 / 32)},
        wrong={
            "upside down": (64 / 30, "other way around"),
            "nothing": (1, "counted in the average"),
            "the first": (5 / 8, "first sequence"),
            "the second": (0.75, "second sequence"),
            "root": (30**0.5 / 8, "without a root"),
            "squared": ((30 / 64) ** 2, "not twice"),
            "the filled": (34 / 64, "what is left"),
            "five of eight, twice": ((5 / 8) ** 2, "5/8 twice"),
            "six of eight, twice": ((6 / 8) ** 2, "6/8 twice"),
            "something": (0.1, "off by more"),
            "text": ("half", "one number"),
        },
    ),
    Table(
        "20.4",
        right={"the formulas": (4, time_and_ridge), "by the mean": [4.0, by_the_mean]},
        wrong={
            "line 1": ((1, time_and_ridge), "line 1 is right"),
            "line 2": ((2, time_and_ridge), "line 2 is right"),
            "line 3": ((3, time_and_ridge), "line 3 is right"),
            "line 5": ((5, time_and_ridge), "Look further up"),
            "no line": ((6, time_and_ridge), "1 to 5"),
            "flawed": (with_ridge(lambda theta, K, delta: delta / jnp.trace(theta)), "N times too small"),
            "absolute": (with_ridge(lambda theta, K, delta: delta), "relative"),
            "upside down": (with_ridge(lambda theta, K, delta: delta * jnp.trace(theta) / len(theta)), "divide δ by"),
            "1/N": (with_ridge(lambda theta, K, delta: delta / jnp.trace(theta) / len(theta)), "wrong side"),
            "over K": (with_ridge(lambda theta, K, delta: delta * len(theta) / jnp.trace(theta) / K), "no part"),
            "the largest": (with_ridge(lambda theta, K, delta: delta / jnp.linalg.eigvalsh(theta)[-1]), "eigenvalue"),
            "no η": (with_time(lambda n, K, t, eta: t / K), "learning rate is missing"),
            "no K": (with_time(lambda n, K, t, eta: eta * t), "K is missing"),
            "times K": (with_time(lambda n, K, t, eta: eta * t * K), "K times slower"),
            "over N K": (with_time(lambda n, K, t, eta: eta * t / (n * K)), "cancels"),
            "over N": (with_time(lambda n, K, t, eta: eta * t / n), "in the place of K"),
            "over η": (with_time(lambda n, K, t, eta: t / (eta * K)), "not divided by"),
            "swapped": ((4, lambda *args: time_and_ridge(*args)[::-1]), "swapped"),
            "the line alone": (4, "tuple of 2"),
            "δ over the size": (with_ridge(lambda theta, K, delta: delta / len(theta)), "is not right"),
            "no return": ((4, lambda *args: None), "is a `return` missing?"),
        },
    ),
]
test_answers = cases(TABLES)


# Without neural-tangents --------------------------------------------------------------------------------------------

HIDING = """
    import importlib.metadata, sys

    class Hidden:  # as if it were not installed
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "neural_tangents":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Hidden())
    version = importlib.metadata.version

    def without(name):
        if name == "neural-tangents":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    importlib.metadata.version = without
"""
SENTENCE = (
    "neural-tangents, which is not installed: "
    "run `%pip install --no-deps neural-tangents==0.6.5 frozendict` in a cell, "
    "restart the kernel and run all cells again."
)


@pytest.fixture(name="run_without")
def _run_without(tmp_path):
    """A function that runs a notebook as a reader without neural-tangents would, and returns it."""
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(HIDING), encoding="utf-8")

    def run(name, *, exercise=False):
        target = tmp_path / "notebook.ipynb"
        source_of = ROOT / ("solutions" if exercise else "notebooks") / name
        nb = source.notebook(source_of, ROOT, exercise=exercise, target=ROOT / source_of.parent.name / "x.ipynb")
        env = execute.environment(ROOT)
        env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
        if not exercise:  # the first cells will do: the run ends there
            nb.cells = nb.cells[: 1 + next(i for i, cell in enumerate(nb.cells) if "bridge()" in cell.source)]
        return execute.execute(nb, target, env, allow_errors=True)

    return run


def errors(nb):
    return [out for cell in nb.cells for out in cell.get("outputs", []) if out.output_type == "error"]


def test_the_chapter_says_in_a_sentence_what_to_install(run_without):
    (error,) = errors(run_without("20_neural_tangents.py"))
    assert error.ename == "NotInstalled"
    assert "\n".join(error.traceback) == f"This chapter needs {SENTENCE}"  # and no frames of a traceback


def test_the_sheet_runs_to_its_end(run_without):
    nb = run_without("20_neural_tangents.py", exercise=True)
    assert errors(nb) == []
    assert [out.text for cell in nb.cells for out in cell.get("outputs", []) if out.get("name") == "stderr"] == []
    text = "\n".join(execute.text_of(cell) for cell in nb.cells)
    assert f"Some cells of this sheet wait for {SENTENCE}" in text
    assert text.count("not attempted yet") == 6


def test_other_obstacles_are_named_as_the_bridge_names_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ntklib.interop.neural_tangents", None)  # importing it raises ModuleNotFoundError
    with pytest.raises(NotInstalled, match="is not installed"):
        course.bridge()

    def refuse(name):
        raise ImportError("this is jax 0.4.25")

    monkeypatch.setattr(course.notebook.importlib, "import_module", refuse)
    with pytest.raises(NotInstalled, match=r"^this is jax 0.4.25$"):
        course.bridge()
    assert course.bridge(needed=False) is None
    assert capsys.readouterr().out == "this is jax 0.4.25\n"


def test_with_neural_tangents_it_is_the_bridge():
    import ntklib.interop.neural_tangents as nt

    assert course.bridge() is nt


def test_the_built_chapter_was_run_with_neural_tangents():
    nb = execute.read(ROOT / "notebooks" / "20_neural_tangents.ipynb")
    assert errors(nb) == []
    assert "neural-tangents 0.6.5" in "\n".join(execute.text_of(cell) for cell in nb.cells)
