"""Who takes part. A module of this folder has two functions, which run in a worker process:

    versions() -> {package: version}
    prepare(case, option, x, weights) -> call        with call() -> array, finished when it returns

`weights` is a list of (W, b) in the order of the affine layers; for a regression come targets `y` and inputs `test` as
keywords. Whoever cannot be imported is said to be missing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.cases import Case

ROOT = Path(__file__).parents[2]
TORCH = ROOT / ".cache" / "torch" / "bin" / "python"


@dataclass(frozen=True)
class Implementation:
    """One way to compute a case. Those of one `family` are first tried on a few inputs; the slow ones are left out.

    option: handed to `prepare`; kinds: of the cases that it can do; how: to get it, where it is missing.
    whole: measure it on the whole case in any event, without trying the family on a few inputs first.
    role: a "peer" must have our result. A "yardstick" computes something else, against which the goal stands; the
        "limit" is what any program must do.
    """

    name: str
    family: str
    module: str
    option: str = ""
    kinds: tuple[str, ...] = ("empirical", "model", "analytic", "activation", "regression")
    python: str = sys.executable
    how: str = ""
    whole: bool = False
    role: Literal["peer", "yardstick", "limit"] = "peer"

    def takes(self, case: Case) -> bool:
        """Whether it can do that case."""
        return case.kind in self.kinds


OURS = Implementation("ntklib", "ntklib", "benchmarks.peers.ours", whole=True)

_NT = "benchmarks.peers.neural_tangents"
_NT_HOW = "`pip install --no-deps neural-tangents==0.6.5 frozendict`; `make setup` installs it, too"
PEERS = [
    *(
        Implementation(f"neural-tangents {i}", "neural-tangents", _NT, str(i), ("empirical", "model"), how=_NT_HOW)
        for i in (1, 2, 3)
    ),
    *(
        Implementation(f"neural-tangents {name}", name, _NT, name, ("analytic",), how=_NT_HOW, whole=True)
        for name in ("float32", "float64")
    ),
    Implementation(
        "torch.func",
        "torch.func",
        "benchmarks.peers.torch_func",
        kinds=("empirical",),
        python=str(TORCH),
        how="`make benchmark-torch`",
    ),
    Implementation("neural-tangents predict", "predict", _NT, "predict", ("regression",), how=_NT_HOW, whole=True),
    Implementation(
        "scikit-learn on neural-tangents' kernel", "scikit-learn", _NT, "KernelRidge", ("regression",), how=_NT_HOW,
        whole=True,
    ),
    Implementation("ours with erf", "erf", OURS.module, "erf", ("activation",), whole=True, role="yardstick"),
    Implementation(
        "limit: product and one pass", "limit", "benchmarks.peers.limit", kinds=("analytic",), whole=True, role="limit"
    ),
]  # fmt: skip
