"""The time of `ensemble` beside that of as many calls of `train`: `python -m benchmarks.ensembles`.

M calls of `train` compile M times. So that this does not decide, compilation is counted once each way: a call of one
step is taken for it, and the time of M calls is that of one step, once, and M times what more steps take. The time of
`ensemble` is that of one call, with what it compiles. The two alternate, and the medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import ntklib as ntk

#: Widths, the number of examples, and the largest ratio of the two times that we want.
CASES = {"16-32-1": ([16, 32, 1], 32, 0.25), "784-256-10": ([784, 256, 10], 500, 1.2)}


def seconds(call: Callable[[], Any]) -> float:
    """Return the time of one call, until its results are there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(widths: list[int], n: int, members: int, steps: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of each way, and those without compilation."""
    x, y = (jax.random.normal(jax.random.key(i), (n, size)) for i, size in enumerate((widths[0], widths[-1])))
    build = lambda rngs: ntk.mlp(widths, w_std=2**0.5, rngs=rngs)  # noqa: E731
    rate = ntk.sgd(build(nnx.Rngs(0)), 0.1)

    def single(steps: int) -> Any:
        net = build(nnx.Rngs(0))
        return ntk.train(net, x, y, optimizer=rate, steps=steps, progress=False).params

    def together(steps: int) -> Any:
        how: dict[str, Any] = {"optimizer": rate, "steps": steps, "key": jax.random.key(0), "progress": False}
        return ntk.ensemble(build, x, y, members=members, **how).params

    times: dict[str, list[float]] = {"one": [], "single": [], "first": [], "ensemble": []}
    for _ in range(repeats):
        times["one"].append(seconds(lambda: single(1)))
        times["single"].append(seconds(lambda: single(steps)))
        times["first"].append(seconds(lambda: together(1)))
        times["ensemble"].append(seconds(lambda: together(steps)))
    median = {name: statistics.median(values) for name, values in times.items()}
    running = members * (median["single"] - median["one"])
    return {
        "train": median["one"] + running,
        "ensemble": median["ensemble"],
        "train, running": running,
        "ensemble, running": median["ensemble"] - median["first"],
        "calls of train": members * median["single"],
    }


def main() -> None:
    """Print the times of each case and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    for name, (widths, n, goal) in CASES.items():
        if given.only in (None, name):
            got = measure(widths, n, given.members, given.steps, given.repeats)
            print(name, *(f"{key}: {value:.3g} s" for key, value in got.items()), sep="\n  ")
            print(f"  ensemble/train {got['ensemble'] / got['train']:.2f}, wanted at most {goal}", flush=True)


if __name__ == "__main__":
    jnp.zeros(1).block_until_ready()
    main()
