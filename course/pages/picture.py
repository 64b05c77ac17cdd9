"""The picture of the landing page: what the kernel predicts before training, and networks trained afterwards.

`python -m course.pages.picture` computes its numbers and keeps them in `course/site/picture.json`; `svg` draws them.
The colors are those of the page, so the picture is right in light and dark.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUMBERS = Path(__file__).parents[1] / "site" / "picture.json"
X = [-1.6, -0.9, -0.5, 0.4, 0.7, 1.5]
Y = [-0.2, 0.9, 0.5, -0.8, -0.6, 0.7]
STEPS = [0, 20, 1500]  # of gradient descent with the rate RATE, which is below half of the largest
RATE, WIDTH, MEMBERS = 0.2, 512, 8
GRID = [round(-2.2 + 4.4 * i / 88, 4) for i in range(89)]
ALT = (
    "Three panels: before training, after 20 steps, at the end. A shaded band, which the kernel predicts, is wide at "
    "first and closes around six data points. The thin curves of eight trained networks stay within it."
)
#: Size of a panel and the range of outputs that it shows.
WIDE, HIGH, GAP, RANGE = 196, 150, 12, 2.6


def network(width: int, rngs: Any) -> Any:
    """The network of the picture, or its infinitely wide relative."""
    import ntklib as ntk

    return ntk.mlp([1, width, width, 1], activation=ntk.Erf(), w_std=1.6, b_std=0.4, rngs=rngs)


def prediction() -> dict[str, Any]:
    """Mean and standard deviation of infinitely wide networks on the grid at each time, from kernels alone."""
    import jax.numpy as jnp
    from flax import nnx

    import ntklib as ntk

    net = network(1, nnx.Rngs(0))
    x, y, grid = (jnp.asarray(values)[:, None] for values in (X, Y, GRID))
    t = jnp.asarray([RATE * step for step in STEPS])
    mean, cov = ntk.ensemble_posterior(net.kernel(x), y, net.kernel(grid, x), net.kernel(grid), t=t)
    std = jnp.sqrt(jnp.maximum(jnp.diagonal(cov, axis1=1, axis2=2), 0.0))
    return {"mean": _short(mean[..., 0]), "std": _short(std)}


def training() -> dict[str, Any]:
    """The outputs of trained networks on the grid at each time, [members, times, grid]."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    import ntklib as ntk

    with jax.enable_x64(False):  # the same networks wherever this runs
        like = network(WIDTH, nnx.Rngs(0))
        apply_fn, _ = ntk.functional(like)
        x, y, grid = (jnp.asarray(values)[:, None] for values in (X, Y, GRID))
        done = ntk.ensemble(
            lambda rngs: network(WIDTH, rngs), x, y, members=MEMBERS, optimizer=ntk.sgd(like, RATE), steps=STEPS[-1],
            key=jax.random.key(0), record=lambda p: apply_fn(p, grid)[:, 0], record_at=STEPS,
        )  # fmt: skip
    return {"networks": _short(done.records)}


def _short(values: Any) -> list:
    import numpy as np

    return np.round(np.asarray(values, dtype=float), 3).tolist()


def numbers() -> dict[str, Any]:
    """The numbers that are kept."""
    return json.loads(NUMBERS.read_text(encoding="utf-8"))


def svg() -> str:
    """The picture, from the numbers that are kept."""
    found = numbers()
    titles = ("before training", f"after {STEPS[1]} steps", "trained")
    width = len(STEPS) * WIDE + (len(STEPS) - 1) * GAP
    parts = [f'<svg class="picture" viewBox="0 0 {width} {HIGH + 24}" role="img" aria-label="{ALT}">']
    for panel, title in enumerate(titles):
        mean, std = found["mean"][panel], found["std"][panel]
        upper = [m + 2 * s for m, s in zip(mean, std, strict=True)]
        lower = [m - 2 * s for m, s in zip(mean, std, strict=True)]
        band = _path(GRID, upper) + "L" + _path(GRID[::-1], lower[::-1])[1:] + "Z"
        curves = "".join(f'<path class="network" d="{_path(GRID, net[panel])}"/>' for net in found["networks"])
        points = "".join(f'<circle cx="{_x(x)}" cy="{_y(y)}" r="3.5"/>' for x, y in zip(X, Y, strict=True))
        parts.append(
            f'<svg x="{panel * (WIDE + GAP)}" width="{WIDE}" height="{HIGH + 24}">'
            f'<svg width="{WIDE}" height="{HIGH}"><rect class="frame" width="{WIDE}" height="{HIGH}" rx="6"/>'
            f'<path class="band" d="{band}"/>{curves}<path class="mean" d="{_path(GRID, mean)}"/>{points}</svg>'
            f'<text x="{WIDE / 2}" y="{HIGH + 17}">{title}</text></svg>'
        )
    return "".join([*parts, "</svg>"])


def _x(value: float) -> float:
    return round((value - GRID[0]) / (GRID[-1] - GRID[0]) * WIDE, 1)


def _y(value: float) -> float:
    return round((0.5 - value / (2 * RANGE)) * HIGH, 1)


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    return "M" + "L".join(f"{_x(x)} {_y(y)}" for x, y in zip(xs, ys, strict=True))


if __name__ == "__main__":
    NUMBERS.write_text(json.dumps(prediction() | training(), separators=(",", ":")) + "\n", encoding="utf-8")
