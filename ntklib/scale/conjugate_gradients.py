"""Kernel regression by conjugate gradients, which apply the kernel matrix tile by tile and need not store it."""

import dataclasses
import functools
import math
import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike
from tqdm import tqdm

from ntklib import _checks
from ntklib.layers import Layer
from ntklib.scale import ahead
from ntklib.scale.fused import Which
from ntklib.scale.gram_matrix import mesh_devices
from ntklib.scale.pivoted_cholesky import BLOCK, PivotedCholesky
from ntklib.scale.store import Checkpoint, local_path
from ntklib.scale.tiles import TileIndex, Tiles


@dataclasses.dataclass(frozen=True)
class CGSolution:
    """The result of `cg_solve`.

    Args:
        solution: α, [N, K], in float64.
        residuals: ‖y − (Θ + λ)α‖/‖y‖ for each output, [K], computed anew from α at the end.
        iterations: The number of iterations, including those before a checkpoint.
        history: The largest residual of an output before the first and after each iteration, [iterations + 1].
        rank: The rank of the preconditioner.
        kept: The share of the tiles that stayed in memory.
    """

    solution: np.ndarray
    residuals: np.ndarray
    iterations: int
    history: np.ndarray
    rank: int
    kept: float


class NotConvergedError(RuntimeError):
    """Raised by `cg_solve` if the residual is above `tol` after `max_iterations`.

    Its attribute `result` is the `CGSolution` so far.
    """

    def __init__(self, message: str, result: CGSolution) -> None:
        super().__init__(message)
        self.result = result


def cg_solve(
    net: Layer,
    x: ArrayLike,
    y: ArrayLike,
    *,
    ridge: float,
    kernel: Which = "ntk",
    tol: float = 1e-6,
    max_iterations: int = 500,
    preconditioner: int | None = None,
    tile: int | None = None,
    mesh: Mesh | None = None,
    max_memory: int | float = _checks.MAX_MEMORY,
    checkpoint: str | os.PathLike | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CGSolution:
    """Solve a kernel regression by conjugate gradients, without storing the kernel matrix.

    The system of equations for all K outputs is::

        (Θ(x, x) + λ·1) α = y,   λ = ridge · tr(Θ)/N.

    Predictions are `gram(net, x_test, x) @ result.solution`. Each iteration applies Θ tile by tile. As many tiles are
    kept as fit into `max_memory`. All other tiles are computed again in each iteration.

    Args:
        net: The network.
        x: Inputs, [N, d] or [N, H, W, C]. The entries of the kernel are computed in their type.
        y: Targets, [N, K].
        ridge: Above zero, relative to the mean of the kernel's diagonal.
        kernel: "ntk" or "nngp".
        tol: The relative residual ‖y − (Θ + λ)α‖/‖y‖ that no output may exceed. The iteration updates α and the
            residual together. Before the solution is returned, the residual is computed anew from α, without the
            rounding errors of these updates. If it is above `tol`, the iteration continues from α.
        max_iterations: The largest number of iterations.
        preconditioner: The rank r of the approximation Θ ≈ FFᵀ by randomly pivoted Cholesky. Each iteration applies
            (FFᵀ + λ)⁻¹. With 0 there is no preconditioner. The default is 10 √N, or less if F would need more than a
            quarter of `max_memory`.
        tile: The number of rows and columns of a tile, as in `gram`.
        mesh: A `jax.sharding.Mesh`, whose devices share the tiles. Under `jax.distributed` the processes share them.
        max_memory: The bytes for tiles, preconditioner and vectors together; by default 2 GiB.
        checkpoint: A file (.npz) on this machine, which is written at the start, every minute, at the end, and at an
            interrupt. The same call continues from it. If the file belongs to another problem (inputs, targets,
            network, settings) or is damaged, an error is raised and the file is not changed.
        seed: An integer that chooses the pivots of the preconditioner.
        progress: Whether to show a bar with the residual. By default it is shown, unless the environment variable CI is
            set.

    Returns:
        A `CGSolution`.

    Raises:
        TypeError: If an argument has the wrong type, or is traced by `jit`, `grad` or `vmap`.
        ValueError: If `ridge` is not positive, if another argument has a wrong value, if inputs and targets do not fit,
            if the kernel cannot be computed (see `gram`), is not finite or is zero, if there is too little memory, or
            if the checkpoint belongs to another problem, is damaged or is in use.
        NotConvergedError: If the residual is above `tol` after `max_iterations`. Its `result` is the solution so far.

    Example:
        >>> import ntklib as ntk
        >>> from flax import nnx
        >>> data = ntk.load("digits", n_train=300, n_test=100).flat()
        >>> net = ntk.mlp([64, 8, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))
        >>> y = ntk.one_hot_centered(data.y_train, 10)
        >>> result = cg_solve(net, data.x_train, y, ridge=1e-3)
        >>> outputs = ntk.gram(net, data.x_test, data.x_train) @ result.solution
        >>> bool(result.residuals.max() < 1e-6), float((outputs.argmax(1) == data.y_test).mean()) > 0.9
        (True, True)

    Note:
        An iteration takes N² K multiplications, and the time of `gram` for the tiles that are not kept. The
        preconditioner takes r columns of the kernel or more (some are rejected), N r² operations and N r numbers.
        Vectors, sums and the preconditioner are in float64, whatever the type of `x`.

    References:
        Hestenes & Stiefel 1952; Chen, Epperly, Tropp & Webber 2022 for the preconditioner.
    """
    _checks.real("ridge", ridge, above=0.0)
    _checks.real("tol", tol, above=0.0)
    _checks.count("max_iterations", max_iterations)
    if preconditioner is not None:
        _checks.count("preconditioner", preconditioner, minimum=0)
    path = None if checkpoint is None else local_path("checkpoint", checkpoint)
    _checks.outside_jit("cg_solve", "Solve outside; `net.kernel(x1, x).ntk @ solution` can be differentiated.", x, y)
    known = np.asarray(_checks.host_inputs("x", x))
    n = len(known)
    ahead.refuse_large("x", known, jax.dtypes.canonicalize_dtype(known.dtype))  # `Tiles` would name it x1
    y = np.asarray(_checks.host_targets("y", y, n), np.float64)
    if preconditioner is None:
        preconditioner = int(min(n, 10 * math.sqrt(n), max_memory / 4 / (8 * n)))
    # In float64: ten arrays [N, K], F [N, r], FᵀF and its factor, and four blocks of columns while F is computed.
    reserved = 8 * (n * (10 * y.shape[1] + preconditioner + 4 * min(n, tile or BLOCK, BLOCK)) + 2 * preconditioner**2)
    devices = mesh_devices(mesh)
    tiles = Tiles(net, x, kernel=kernel, tile=tile, devices=devices, max_memory=max_memory, reserved=reserved)
    operator = _Operator(tiles, room=max_memory - tiles.memory)
    diagonal = tiles.diagonal().astype(np.float64)
    _checks.usable_diagonal("inputs `x`", diagonal, tiles.dtype)
    # The square of 1e200 overflows, and that of 1e-200 is zero: solve for targets that are scaled to order 1.
    largest = np.abs(y).max(0)
    unit = np.where((largest > 1e100) | (largest < 1e-100), 2.0 ** (np.frexp(largest)[1] - 1), 1.0)
    y = y / unit
    shift = ridge * diagonal.mean()
    settings = {"ridge": float(ridge), "preconditioner": preconditioner, "seed": seed}
    saved = Checkpoint(path, tiles, y, settings, _Iterate.shapes(*y.shape))
    inverse = PivotedCholesky(tiles, diagonal, preconditioner, shift, np.random.default_rng(seed))
    quiet = bool(os.environ.get("CI")) if progress is None else not progress
    with tqdm(desc="residual", total=max_iterations, disable=quiet, leave=False, delay=1.0) as bar:
        a, residuals, history = _iterate(operator, inverse, y, shift, tol, max_iterations, saved, bar)
    with np.errstate(over="ignore"):
        solution = unit * a
    if np.isinf(solution).any():
        raise ValueError(
            f"`y` goes up to {largest.max():.3g}, and the solution leaves the range of float64. Scale `y`."
        )
    result = CGSolution(solution, residuals, len(history) - 1, np.array(history), inverse.rank, operator.kept())
    if not residuals.max() <= tol:
        raise NotConvergedError(
            f"The residual is {residuals.max():.3g} after {result.iterations} iterations, above `tol` = {tol:g}. "
            f"Allow more with `max_iterations`, a larger `preconditioner` (its rank was {inverse.rank}) or a larger "
            f"`ridge`. With a small ridge, rounding can make a float32 kernel indefinite: then pass `x` in float64. "
            f"The error's `.result` has the solution so far.",
            result,
        )
    return result


class _Iterate(NamedTuple):
    """The state of an iteration.

    Args:
        a: The solution α so far, [N, K].
        r: The residual of α, [N, K], as the iteration updates it.
        p: The direction of the next step, [N, K].
        rz: r·z of each column, [K], with z the preconditioned residual.
        history: The largest relative residual of a column before the first and after each step.
    """

    a: np.ndarray
    r: np.ndarray
    p: np.ndarray
    rz: np.ndarray
    history: list[float] | np.ndarray

    @staticmethod
    def shapes(n: int, outputs: int) -> dict[str, tuple[int | None, ...]]:
        """Return the names and shapes of the arrays of a checkpoint, with None for an unknown length."""
        return {**dict.fromkeys("arp", (n, outputs)), "rz": (outputs,), "history": (None,)}


def _iterate(operator: "_Operator", inverse: PivotedCholesky, y: np.ndarray, shift: float, tol: float,
             most: int, saved: Checkpoint, bar: tqdm) -> tuple[np.ndarray, np.ndarray, list[float]]:  # fmt: skip
    """Run conjugate gradients (Hestenes & Stiefel 1952), and return (α, residuals, history).

    Each column takes steps of its own size. Rounding makes the residual r of the iteration drift away from
    y − (Θ + λ)α, and the r of a checkpoint file may have been changed. The residual is therefore computed anew from α
    when a checkpoint is read, and at the end. If it is too large at the end, the iteration starts again from α.
    """
    scale = _nonzero(_norms(y))

    def apply(v: np.ndarray) -> np.ndarray:
        return operator(v) + shift * v

    def largest(r: np.ndarray) -> float:
        return float((_norms(r) / scale).max())

    def towards(a: np.ndarray, r: np.ndarray, history: list[float]) -> _Iterate:
        """Return the first state of an iteration that starts from α with the residual r."""
        z = inverse(r)
        return _Iterate(a, r, z, np.sum(r * z, 0), [*history, largest(r)])

    def step(now: _Iterate) -> _Iterate:
        q = apply(now.p)
        size = now.rz / _nonzero(np.sum(now.p * q, 0))
        a, r = now.a + size * now.p, now.r - size * q
        z = inverse(r)
        rz = np.sum(r * z, 0)
        return _Iterate(a, r, z + rz / _nonzero(now.rz) * now.p, rz, [*now.history, largest(r)])

    now = _resumed(saved, y, apply, towards)
    bar.update(len(now.history) - 1)
    saved.claim(**now._asdict())
    try:
        while True:
            while now.history[-1] > tol and len(now.history) <= most:
                now = step(now)  # one assignment: an interrupt leaves either the old or the new state
                bar.set_postfix_str(f"{now.history[-1]:.2e}")
                bar.update()
                saved.save(False, **now._asdict())
            r = y - apply(now.a)
            history = [*now.history[:-1], largest(r)]
            if not history[-1] > tol or len(history) > most:  # `not`: NaN ends the loop, too
                return now.a, _norms(r) / scale, history
            now = towards(now.a, r, history[:-1])
    finally:  # also after an error or an interrupt
        saved.save(True, **now._asdict())


def _resumed(saved: Checkpoint, y: np.ndarray, apply: Callable[[np.ndarray], np.ndarray],
             towards: Callable[[np.ndarray, np.ndarray, list[float]], _Iterate]) -> _Iterate:  # fmt: skip
    """Return the state of the checkpoint or, if there is no checkpoint, the first state.

    The arrays of a checkpoint are tested against its solution α. If they do not fit, the iteration starts again from α.
    """
    state = saved.load()
    if state is None:
        return towards(np.zeros_like(y), y.copy(), [])
    now = _Iterate(**state)
    r = y - apply(now.a)
    anew = towards(now.a, r, list(now.history[:-1]))
    # In exact arithmetic now.r is r, and now.rz is both r·z with the preconditioned residual z, and r·p.
    with np.errstate(over="ignore", invalid="ignore"):
        fits = (_norms(r - now.r) <= 0.1 * _norms(r)) & np.isclose(now.rz, anew.rz, rtol=0.1, atol=0.0)
        fits &= np.isclose(np.sum(now.r * now.p, 0), now.rz, rtol=0.1, atol=0.0)
    return now if fits.all() else anew


class _Operator:
    """The map v ↦ Θ v. The first call keeps as many tiles as fit into `room` bytes, and later calls use these tiles."""

    def __init__(self, tiles: Tiles, room: float) -> None:
        self.tiles, self.room = tiles, room
        self.pairs = tiles.pairs()[jax.process_index() :: jax.process_count()]
        self.held: dict[TileIndex, Array] = {}
        self.lock = threading.Lock()

    def __call__(self, v: np.ndarray) -> np.ndarray:
        (n, outputs), size = v.shape, self.tiles.tile
        blocks = -(-n // size)
        padded = np.zeros((blocks * size, outputs))
        padded[:n] = v
        # [blocks, K, tile]: products with few vectors are twice as fast if the vectors are rows.
        vectors = np.ascontiguousarray(padded.reshape(blocks, size, outputs).swapaxes(1, 2))
        out = np.zeros_like(vectors)

        def apply(i: int, j: int, device: Any) -> Callable[[], None]:
            def products(entries: Array) -> tuple[Array, Array]:
                with jax.enable_x64(True):
                    return _products(entries, vectors[j], vectors[i])

            held = self.held.get((i, j))
            begun: Any = self.tiles.begin(i, j, device) if held is None else products(held)

            def finish() -> None:
                entries = begun() if held is None else held
                high, low = map(np.asarray, products(entries) if held is None else begun)
                with self.lock:
                    out[i] += high
                    if i != j:
                        out[j] += low
                    if held is None and self.room >= entries.nbytes:
                        self.held[i, j] = entries
                        self.room -= entries.nbytes

            return finish

        self.tiles.each(apply, self.pairs, progress=False)
        return _sum_over_processes(out.swapaxes(1, 2).reshape(-1, outputs)[:n])

    def kept(self) -> float:
        """Return the share of this process's tiles that are kept in memory."""
        return len(self.held) / max(1, len(self.pairs))


@jax.jit
def _products(entries: Array, right: Array, left: Array) -> tuple[Array, Array]:
    """Return T v and Tᵀ u for a tile T of Θ in any precision, with v = `right` and u = `left`, [K, tile] in float64."""
    exact = entries.astype(right.dtype)
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return product("ij,kj->ki", exact, right), product("ij,ki->kj", exact, left)


def _sum_over_processes(part: np.ndarray) -> np.ndarray:
    """Return the sum of the arrays `part` of all processes."""
    if jax.process_count() == 1:
        return part
    from jax.experimental import multihost_utils

    # `process_allgather` fails if one process calls it half a minute after another. This waits for all of them first.
    multihost_utils.sync_global_devices("ntklib.cg_solve")
    with jax.enable_x64(True):
        return np.asarray(multihost_utils.process_allgather(part)).sum(0)


def _norms(a: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a, axis=0)


def _nonzero(a: np.ndarray) -> np.ndarray:
    return np.where(a == 0, 1.0, a)
