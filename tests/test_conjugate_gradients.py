"""Conjugate gradients: the solution of Cholesky, in bounded memory, after an interrupt; and their preconditioner."""

import functools
import io
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax import nnx
from helpers import assert_close, normal

import ntklib as ntk
from ntklib.scale.conjugate_gradients import _Operator
from ntklib.scale.pivoted_cholesky import PivotedCholesky, _accept
from ntklib.scale.tiles import Tiles

RIDGE = 1e-4


@functools.cache
def digits():
    """A network, inputs, targets, and the kernels (NTK, NNGP) of the inputs."""
    data = ntk.load("digits", n_train=300, n_test=100).flat()
    net = ntk.mlp([64, 8, 8, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
    x, y = np.asarray(data.x_train, np.float64), ntk.one_hot_centered(data.y_train, 10).astype(np.float64)
    k = jax.jit(net.kernel)(jnp.asarray(x))
    return net, x, y, np.asarray(k.ntk), np.asarray(k.nngp)


@pytest.fixture(scope="module")
def problem():
    net, x, y, theta, _ = digits()
    shifted = theta + RIDGE * np.trace(theta) / len(theta) * np.eye(len(theta))
    return net, x, y, theta, shifted, scipy.linalg.solve(shifted, y, assume_a="pos")


def solve(problem, **changes):
    net, x, y, *_ = problem
    arguments: dict[str, Any] = {"ridge": RIDGE, "tol": 1e-11, "tile": 64} | changes
    return ntk.cg_solve(net, x, y, **arguments)


@pytest.mark.sweep
@pytest.mark.parametrize("rank", [0, 40, None, 300])
def test_solution_is_that_of_cholesky(problem, rank):
    *_, y, _, shifted, exact = problem
    got = solve(problem, preconditioner=rank)
    assert_close(got.solution, exact, rtol=1e-8)
    residuals = np.linalg.norm(y - shifted @ got.solution, axis=0) / np.linalg.norm(y, axis=0)
    assert_close(got.residuals, residuals, rtol=0.0, atol=1e-13)
    assert got.residuals.max() <= 2e-11
    assert len(got.history) == got.iterations + 1
    assert got.history[-1] <= 1e-11 < got.history[-2]
    assert got.kept == 1.0
    assert got.rank == {0: 0, 40: 40, None: 173, 300: 300}[rank]
    if rank == 300:  # a factor of full rank is the inverse itself
        assert got.iterations <= 3


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "rank"), [("tanh", 30), ("gelu", 0), ("my own", 0)])
def test_any_activation_will_do(name, rank):
    """Those without a closed form have tables, in which the rest of a last tile must not fall out of their range."""
    activation = {"tanh": ntk.Tanh(), "gelu": ntk.Gelu(), "my own": ntk.Elementwise(jnp.arctan)}[name]
    net = ntk.mlp([5, 8, 2], activation=activation, w_std=1.5, rngs=nnx.Rngs(0))
    x, y = np.asarray(normal(5, 192, 5)), np.asarray(normal(6, 150, 2))
    theta = np.asarray(ntk.gram(net, x, tile=64))[:150, :150]  # of whole tiles
    x = x[:150]
    got = ntk.cg_solve(net, x, y, ridge=1e-3, tol=1e-9, preconditioner=rank, tile=64)
    assert_close(got.solution, np.linalg.solve(theta + 1e-3 * np.trace(theta) / 150 * np.eye(150), y), rtol=1e-6)


def test_preconditioner_saves_iterations_and_tolerance_is_kept(problem):
    plain, with_it = solve(problem, preconditioner=0, tol=1e-6), solve(problem, preconditioner=150, tol=1e-6)
    assert with_it.iterations < plain.iterations / 2
    assert plain.residuals.max() <= 1.01e-6


def test_nngp_and_one_zero_column(problem):
    net, x, y, *_ = problem
    k = digits()[-1]
    y = np.concatenate([y[:, :2], 0 * y[:, :1]], 1)
    shifted = k + 1e-2 * np.trace(k) / len(k) * np.eye(len(k))
    got = ntk.cg_solve(net, x, y, ridge=1e-2, kernel="nngp", tol=1e-10)
    assert_close(got.solution, scipy.linalg.solve(shifted, y, assume_a="pos"), rtol=1e-8)


def test_tiles_are_made_anew_where_memory_is_short(problem, monkeypatch):
    made, begin = [], Tiles.begin
    monkeypatch.setattr(Tiles, "begin", lambda self, i, j, d: made.append((i, j)) or begin(self, i, j, d))
    roomy = solve(problem, preconditioner=0)
    assert sorted(made) == sorted([(i, i) for i in range(5)] + [(i, j) for i in range(5) for j in range(i, 5)])
    made.clear()
    needed = Tiles(problem[0], problem[1], tile=64).memory
    vectors = 8 * 300 * (10 * 10 + 4 * 64)  # as the library reserves them
    short = solve(problem, preconditioner=0, max_memory=needed + vectors + 4 * 64 * 64 * 8)
    assert short.kept == 4 / 15
    assert len(made) > 5 * roomy.iterations
    assert_close(short.solution, roomy.solution, rtol=1e-9)


def test_goes_on_from_a_checkpoint_and_refuses_another_problem(problem, tmp_path):
    path = tmp_path / "run.npz"
    whole = solve(problem, preconditioner=40)
    with pytest.raises(ntk.NotConvergedError, match="after 7 iterations") as stopped:
        solve(problem, preconditioner=40, checkpoint=path, max_iterations=7)
    assert stopped.value.result.iterations == 7
    assert_close(stopped.value.result.history, whole.history[:8], rtol=1e-9)
    rest = solve(problem, preconditioner=40, checkpoint=path)
    # Sums of tiles come in any order; in the end conjugate gradients make that visible.
    assert abs(rest.iterations - whole.iterations) <= 3
    assert_close(rest.history[:20], whole.history[:20], rtol=1e-6)
    assert_close(rest.solution, whole.solution, rtol=1e-8)
    before = path.read_bytes()
    for changes, words in (({"ridge": 2 * RIDGE}, "ridge"), ({"seed": 1}, "seed"), ({"kernel": "nngp"}, "kernel")):
        with pytest.raises(ValueError, match=f"belongs to another run.*{words}"):
            solve(problem, **({"preconditioner": 40, "checkpoint": path} | changes))
    net, x, y, *_ = problem
    with pytest.raises(ValueError, match="other targets"):
        ntk.cg_solve(net, x, -y, ridge=RIDGE, preconditioner=40, checkpoint=path, tile=64)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_keeps_the_last_whole_iteration(problem, tmp_path, monkeypatch):
    path, applied = tmp_path / "run.npz", itertools.count()
    operator = _Operator.__call__

    def interrupted(self, v):
        if next(applied) == 5:
            raise KeyboardInterrupt
        return operator(self, v)

    with monkeypatch.context() as patch:
        patch.setattr(_Operator, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            solve(problem, preconditioner=0, checkpoint=path)
    assert len(np.load(path)["history"]) == 6
    assert_close(solve(problem, preconditioner=0, checkpoint=path).solution, solve(problem).solution, rtol=1e-8)


# Checkpoints of a small problem, all of whose inputs are near each other ---------------------------------------------

X = np.asarray(normal(0, 1, 4)) + 1e-2 * np.asarray(normal(1, 60, 4))
Y = np.asarray(normal(2, 60, 2))


def small(path, **changes):
    def net(**hyper):
        given: Any = {"activation": ntk.Relu(), "w_std": 1.4, "b_std": 0.1} | hyper
        return ntk.mlp([4, 8, 2], rngs=nnx.Rngs(0), **given)

    given: Any = {"x": X, "y": Y, "ridge": 1e-3, "tol": 1e-9, "preconditioner": 5, "checkpoint": path} | changes
    return ntk.cg_solve(net(**given.pop("hyper", {})), given.pop("x"), given.pop("y"), **given)


def residuals(a):
    theta = np.asarray(ntk.gram(ntk.mlp([4, 8, 2], w_std=1.4, b_std=0.1, rngs=nnx.Rngs(0)), X))
    shifted = theta + 1e-3 * np.trace(theta) / 60 * np.eye(60)
    return np.linalg.norm(Y - shifted @ a, axis=0) / np.linalg.norm(Y, axis=0)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "changes",
    [
        {"hyper": {"w_std": 1.4 + 1e-9}}, {"hyper": {"b_std": 0.2}}, {"hyper": {"activation": ntk.Abs()}},
        {"x": X[::-1]}, {"y": Y[::-1]}, {"ridge": 1.1e-3}, {"seed": 1}, {"kernel": "nngp"}, {"preconditioner": 6},
        {"tile": 16},
    ],
    ids=lambda changes: "-".join(changes),
)  # fmt: skip
def test_a_checkpoint_of_another_problem_is_refused_and_left_alone(tmp_path, changes):
    path = tmp_path / "run.npz"
    small(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"`checkpoint` belongs to another run.*Nothing was changed"):
        small(path, **changes)
    assert path.read_bytes() == before
    assert small(path).residuals.max() <= 1e-9


def forged(path, **changes):
    with np.load(path) as file:
        state = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: value for name, value in state.items() if value is not None})


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["a", "r", "p", "rz", "all"])
@pytest.mark.parametrize("history", [[1.0, 1e-12], [1.0, 0.5]], ids=["converged", "halfway"])
def test_what_a_checkpoint_says_of_its_residual_decides_nothing(tmp_path, name, history):
    path = tmp_path / "run.npz"
    small(path)
    shapes = {"a": (60, 2), "r": (60, 2), "p": (60, 2), "rz": (2,)}
    names = shapes if name == "all" else [name]
    random = {n: np.asarray(normal(i, *shapes[n])) for i, n in enumerate(names)}
    forged(path, **random, history=np.array(history))
    result = small(path)
    assert residuals(result.solution).max() <= 1.01e-9
    assert_close(result.residuals, residuals(result.solution), rtol=0.0, atol=1e-12)


def test_where_the_iteration_lost_count_of_its_residual_it_goes_on(tmp_path, monkeypatch):
    """A wrong product now and then, in the middle of it: the true residual says so."""
    count, operator = itertools.count(), _Operator.__call__
    monkeypatch.setattr(_Operator, "__call__", lambda self, v: operator(self, v) * (1.5 if next(count) == 3 else 1.0))
    assert residuals(small(None).solution).max() <= 1.01e-9
    monkeypatch.setattr(_Operator, "__call__", lambda self, v: np.full_like(v, np.nan))
    with pytest.raises(ntk.NotConvergedError):
        small(None, max_iterations=5)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DAMAGE: dict[str, Any] = {
    "empty": lambda path: path.write_bytes(b""),
    "no zip": lambda path: path.write_bytes(b"{}"),
    "binary": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(range(256))),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "cut at the end": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a byte flipped": lambda path: path.write_bytes(
        (b := path.read_bytes())[:2000] + bytes([b[2000] ^ 1]) + b[2001:]
    ),
    "an array, no zip": lambda path: path.write_bytes(npy(X)),
    "another zip": lambda path: np.savez(path, x=X),
    "without settings": lambda path: forged(path, settings=None),
    "settings of no record": lambda path: forged(path, settings="[]"),
    "without p": lambda path: forged(path, p=None),
    "r too short": lambda path: forged(path, r=Y[:50]),
    "rz in a matrix": lambda path: forged(path, rz=np.ones((1, 2))),
    "a in float32": lambda path: forged(path, a=Y.astype(np.float32)),
    "a with NaN": lambda path: forged(path, a=Y * np.nan),
    "no history": lambda path: forged(path, history=np.empty(0)),
    "objects": lambda path: forged(path, a=np.array([{}, None], dtype=object)),
}  # fmt: skip


@pytest.mark.sweep
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_refused_with_the_way_out(tmp_path, name):
    path = tmp_path / "run.npz"
    small(path)
    DAMAGE[name](path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"`checkpoint`.*run.npz.*Nothing was changed.*[Dd]elete"):
        small(path)
    assert path.read_bytes() == before
    path.unlink()
    assert small(path).residuals.max() <= 1e-9
    assert list(tmp_path.iterdir()) == [path]


def test_places_where_no_checkpoint_can_be(tmp_path):
    with pytest.raises(ValueError, match=r"`checkpoint`.*there is no folder"):
        small(tmp_path / "nowhere" / "run.npz")
    with pytest.raises(ValueError, match=r"`checkpoint` must be a file"):
        small(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_begin_one_checkpoint_at_once(tmp_path, monkeypatch):
    """The second finds the place taken before it has iterated, and leaves it alone."""
    path, made = tmp_path / "run.npz", PivotedCholesky.__init__
    wanted = small(None).solution

    def meanwhile(self, *arguments):
        monkeypatch.setattr(PivotedCholesky, "__init__", made)
        small(path, ridge=1e-2)
        made(self, *arguments)

    monkeypatch.setattr(PivotedCholesky, "__init__", meanwhile)
    with pytest.raises(ValueError, match=r"`checkpoint` is in use.*run.npz.*Nothing was changed"):
        small(path)
    before = path.read_bytes()
    assert small(path, ridge=1e-2).residuals.max() <= 1e-9
    assert len(before) > 0
    assert_close(small(tmp_path / "other.npz").solution, wanted, rtol=1e-7)


def test_an_interrupt_within_an_iteration_keeps_the_one_before(tmp_path, monkeypatch):
    path, count, apply = tmp_path / "run.npz", itertools.count(), PivotedCholesky.__call__

    def interrupted(self, r):
        if next(count) == 6:  # after the solution and its residual have new values, before the direction has
            raise KeyboardInterrupt
        return apply(self, r)

    with monkeypatch.context() as patch:
        patch.setattr(PivotedCholesky, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            small(path)
    with np.load(path) as state:
        assert len(state["history"]) == 6
        assert_close(residuals(state["a"]), np.linalg.norm(state["r"], axis=0) / np.linalg.norm(Y, axis=0), rtol=1e-9)
        assert_close(np.sum(state["r"] * state["p"], 0), state["rz"], rtol=1e-9)
    assert small(path).residuals.max() <= 1e-9


def test_randomly_pivoted_cholesky_recovers_a_kernel_of_low_rank():
    linear = ntk.mlp([4, 8, 2], activation=ntk.Identity(), w_std=1.3, b_std=0.5, rngs=nnx.Rngs(0))
    x = np.asarray(normal(0, 60, 4))
    theta = np.asarray(ntk.gram(linear, x, tile=16))  # rank 4 + 1
    inverse = PivotedCholesky(Tiles(linear, x, tile=16), theta.diagonal(), 30, 0.1, np.random.default_rng(0))
    assert inverse.rank == 5
    assert_close(inverse.factor @ inverse.factor.T, theta, rtol=1e-12)
    r = np.asarray(normal(1, 60, 3))
    assert_close(inverse(r), np.linalg.solve(theta + 0.1 * np.eye(60), r), rtol=1e-9)


def test_columns_are_drawn_from_all_inputs():
    """Of a block of proposals those that are drawn first are kept, and not those with the smallest numbers."""
    net, x = ntk.mlp([5, 8, 1], w_std=1.0, b_std=0.1, rngs=nnx.Rngs(0)), np.asarray(normal(2, 200, 5))
    theta = np.asarray(ntk.gram(net, x))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        factor = PivotedCholesky(Tiles(net, x), theta.diagonal(), 20, 0.1, rng).factor
        left = theta.diagonal() - np.sum(factor**2, axis=1)
        drawn = np.flatnonzero(left < 1e-9 * theta.diagonal())
        assert len(drawn) == 20
        assert drawn.max() > 120, drawn  # all 20 below 120: once in 30,000 draws


def test_columns_may_need_no_table_where_the_matrix_needs_one():
    """As those of few entries with large variances, which are integrated one by one."""
    net = ntk.mlp([5, 8, 1], activation=ntk.Tanh(), w_std=1.0, b_std=0.1, rngs=nnx.Rngs(0))
    x, y = 6 * np.asarray(normal(3, 120, 5), np.float32), np.asarray(normal(4, 120, 1))
    theta = np.asarray(ntk.gram(net, x), np.float64)
    got = ntk.cg_solve(net, x, y, ridge=1e-2, tol=1e-6, preconditioner=20)
    assert got.rank == 20
    assert_close(got.solution, np.linalg.solve(theta + 1e-2 * np.trace(theta) / 120 * np.eye(120), y), rtol=1e-4)


def test_blocks_of_proposals_draw_as_if_one_by_one():
    a = np.array([[1.0, 0.9, 0.1], [0.9, 1.2, 0.3], [0.1, 0.3, 0.7]])
    diagonal, rng = a.diagonal(), np.random.default_rng(0)
    p, counts, runs = diagonal / diagonal.sum(), np.zeros((3, 3)), 40_000

    @functools.cache
    def remainder(*taken):
        """What is left of `a` without these columns, and its diagonal."""
        left = a - a[:, taken] @ np.linalg.pinv(a[np.ix_(taken, taken)]) @ a[taken, :] if taken else a
        return left, np.maximum(left.diagonal(), 0.0)

    for _ in range(runs):
        taken = []
        while len(taken) < 2:  # blocks of two proposals, until two are accepted
            left, own = remainder(*taken)
            proposals = rng.choice(3, 2, p=own / own.sum())
            accepted = _accept(left[np.ix_(proposals, proposals)], own[proposals], rng)
            taken += [int(i) for i in proposals[accepted]]
        counts[taken[0], taken[1]] += 1
    want = np.zeros((3, 3))
    for first in range(3):
        left = diagonal - a[first] ** 2 / a[first, first]
        left[first] = 0.0
        want[first] = p[first] * left / left.sum()
    spread = np.sqrt(want * (1 - want) / runs)
    assert (np.abs(counts / runs - want) <= 4.5 * spread).all()


def test_augmented_data():
    data = ntk.load("digits", n_train=50, n_test=10)
    more = data.augmented(130, shift=1, seed=3)
    assert more.x_train.shape == (130, 8, 8, 1)
    assert more.x_train.dtype == np.float32
    assert np.array_equal(more.x_train[:50], data.x_train)
    assert np.array_equal(more.x_test, data.x_test)
    black = np.float32(-data.mean / data.std)
    for x, y in zip(more.x_train[50:], more.y_train[50:], strict=True):  # each copy is some image of its class, moved
        padded = np.pad(data.x_train[data.y_train == y], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=black)
        places = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        assert any((place == x).all(axis=(1, 2, 3)).any() for place in places)
    assert sorted(np.bincount(more.y_train)) != sorted(np.bincount(data.y_train))
    assert np.array_equal(more.x_train, data.augmented(130, shift=1, seed=3).x_train)
    assert not np.array_equal(more.x_train, data.augmented(130, shift=1, seed=4).x_train)
