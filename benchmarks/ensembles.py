"""The time of `ensemble` beside that of as many calls of `train`: `python -m benchmarks.ensembles`.

M calls of `train` compile M times. So that this does not decide, compilation is counted once each way: a call of one
step is taken for it, and what a step takes is found from a call of many more steps. The ways alternate, and the least
time of each is taken, which other programs disturb least. `--cpu` takes the processor's time instead, where the machine
is shared.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

import ntklib as ntk

#: Widths, the number of examples, and the largest ratio of the two times that we want.
CASES = {"16-32-1": ([16, 32, 1], 32, 0.25), "784-256-10": ([784, 256, 10], 500, 1.2)}


def seconds(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Return the time of one call, until its results are there."""
    start = clock()
    jax.block_until_ready(call())
    return clock() - start


def measure(
    widths: list[int], n: int, *, members: int, steps: int, long: int, repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the seconds of each way, in all and without what is done once."""
    x, y = (jax.random.normal(jax.random.key(i), (n, size)) for i, size in enumerate((widths[0], widths[-1])))
    build = lambda rngs: ntk.mlp(widths, w_std=2**0.5, rngs=rngs)  # noqa: E731
    rate = ntk.sgd(build(nnx.Rngs(0)), 0.1)

    def single(steps: int) -> Any:
        net = build(nnx.Rngs(0))
        return ntk.train(net, x, y, optimizer=rate, steps=steps, progress=False).params

    def together(steps: int) -> Any:
        how: dict[str, Any] = {"optimizer": rate, "steps": steps, "key": jax.random.key(0), "progress": False}
        return ntk.ensemble(build, x, y, members=members, **how).params

    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(repeats):
        for name, call in (("train", single), ("ensemble", together)):
            for count in (1, 1 + long):
                times.setdefault((name, count), []).append(seconds(lambda c=call, n=count: c(n), clock))
    least = {name: min(values) for name, values in times.items()}
    once, running = (
        {name: value(name) for name in ("train", "ensemble")}
        for value in (lambda name: least[name, 1], lambda name: (least[name, 1 + long] - least[name, 1]) * steps / long)
    )
    running["train"] *= members
    return {f"{name}, once": once[name] for name in once} | {f"{name}, running": running[name] for name in running}


def main() -> None:
    """Print the times of each case and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--members", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--long", type=int, default=1200, help="the steps of the longer calls")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", action="store_true", help="the processor's time, not that of the clock on the wall")
    given = parser.parse_args()
    how = {"members": given.members, "steps": given.steps, "long": given.long, "repeats": given.repeats}
    for name, (widths, n, goal) in CASES.items():
        if given.only in (None, name):
            got = measure(widths, n, clock=time.process_time if given.cpu else time.perf_counter, **how)
            print(name, *(f"{key}: {value:.3g} s" for key, value in got.items()), sep="\n  ")
            whole = [got[f"{way}, once"] + got[f"{way}, running"] for way in ("ensemble", "train")]
            running = got["ensemble, running"] / got["train, running"]
            print(
                f"  ensemble/train {whole[0] / whole[1]:.2f}, wanted at most {goal}; running {running:.2f}", flush=True
            )


if __name__ == "__main__":
    main()
