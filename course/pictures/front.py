"""The picture at the head of the README, front.svg: what wide networks do between digits, predicted and trained.

Five handwritten digits are trained on, 1 for a three and -1 for an eight. On a path from each to the next one the mean
and the spread of networks over initializations are predicted from kernels alone; then networks are trained.
`python -m course figures --measure` does both and keeps the numbers in front.json; `python -m course figures` draws.
"""

import itertools
import json
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from course.pictures import svg

DIGITS = (3, 8, 3, 8, 3)
STEPS_BETWEEN = 16  # points of the path from a digit to the next
LAYER, MEMBERS, SHOWN = 512, 100, 16
RATE, STEPS = 0.25, 80
LEVELS = 4  # of gray in the images
ALT = (
    "Outputs of networks along a path through five handwritten digits: three, eight, three, eight, three. A gray band "
    "of constant width shows the outputs of networks before training. A blue band, predicted for trained networks, "
    "closes to a point at each of the five digits, at 1 for a three and at minus 1 for an eight, and opens between "
    "them. Orange curves of {shown} trained networks stay in the blue band in most places, and the means of {members} "
    "networks lie near its middle line."
)
WIDTH, HEIGHT, TOP, BOTTOM, LEFT, RIGHT = 420, 292, 54, 218, 42, 394
HIGHEST = 3.0
STYLE = """\
.ground{fill:$ground;stroke:$edge}.t{fill:$ink}.q{fill:$quiet}.guide{stroke:$guide}
.before{fill:$row}.band{fill:$band}.line{fill:none;stroke:$blue}.one{fill:none;stroke:$orange;opacity:.5}.dot{fill:$orange;stroke:$ground}
.bar{stroke:$orange}.digit{fill:$ink}.paper{fill:#fff;stroke:$gray}.i1{fill:#c4c4c4}.i2{fill:#7d7d7d}.i3{fill:#111}"""


class Task(NamedTuple):
    """Images [N, d] and targets [N, 1], the path [P, d], and where on it the images are."""

    x: Any
    y: Any
    path: Any
    places: list[int]


def task() -> Task:
    """The first digits of their kind, and the path on arcs from each to the next: so an input's length stays."""
    import numpy as np

    import ntklib as ntk

    data = ntk.load("mnist5k").flat()
    labels, images = np.asarray(data.y_train), np.asarray(data.x_train, np.float64)
    left = {digit: iter(np.flatnonzero(labels == digit)) for digit in set(DIGITS)}
    x = np.stack([images[next(left[digit])] for digit in DIGITS])
    x *= np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    path = []
    for a, b in itertools.pairwise(x):
        angle = np.arccos(a @ b / (a @ a))
        share = np.arange(STEPS_BETWEEN)[:, None] / STEPS_BETWEEN
        path.append((np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle))
    y = np.array([[1.0] if digit == 3 else [-1.0] for digit in DIGITS])
    return Task(x, y, np.concatenate([*path, x[-1:]]), [STEPS_BETWEEN * i for i in range(len(DIGITS))])


def network(rngs: Any) -> Any:
    """One network."""
    import ntklib as ntk

    return ntk.mlp([784, LAYER, LAYER, 1], w_std=2**0.5, b_std=0.1, rngs=rngs)


def predict(task: Task) -> tuple[Any, Any, Any]:
    """Along the path: the standard deviation before training, and mean and standard deviation after it."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    import ntklib as ntk

    net = network(nnx.Rngs(0))
    with jax.enable_x64(True):
        x, y, path = (jnp.asarray(array) for array in task[:3])
        there = net.kernel(path)
        mean, cov = ntk.ensemble_posterior(net.kernel(x), y, net.kernel(path, x), there, t=RATE * STEPS)
        # At the five digits nothing is left of the spread, and rounding may leave less than nothing.
        std = jnp.sqrt(jnp.maximum(jnp.diagonal(cov), 0.0))
        before = jnp.sqrt(jnp.diagonal(there.nngp))
    return np.asarray(before), np.asarray(mean)[:, 0], np.asarray(std)


def train(task: Task, count: int) -> Any:
    """The outputs along the path of the first `count` networks after training, [count, P]."""
    import jax
    import numpy as np
    import optax
    from flax import nnx

    import ntklib as ntk

    with jax.enable_x64(False):  # the same networks wherever this runs
        apply, _ = ntk.functional(network(nnx.Rngs(0)))
        path = task.path.astype(np.float32)
        trained = ntk.ensemble(
            network,
            task.x.astype(np.float32),
            task.y.astype(np.float32),
            members=count,
            optimizer=optax.sgd(RATE),
            steps=STEPS,
            key=jax.random.split(jax.random.key(0), MEMBERS)[:count],
            record=lambda params: apply(params, path)[:, 0],
            record_at=(STEPS,),
            max_memory=2e9,
        )
    return np.asarray(trained.records)[:, 0]


def measure() -> dict[str, Any]:
    """All numbers of the picture."""
    import numpy as np

    posed = task()
    before, mean, std = predict(posed)
    outputs = train(posed, MEMBERS)

    def rounded(values) -> list:
        return np.round(np.asarray(values, float), 3).tolist()

    return {
        "members": MEMBERS,
        "before": rounded(before),
        "mean": rounded(mean),
        "std": rounded(std),
        "measured_mean": rounded(outputs.mean(axis=0)),
        "measured_std": rounded(outputs.std(axis=0, ddof=1)),
        "networks": rounded(outputs[:SHOWN]),
        "images": [_gray(posed.path[place]) for place in range(0, len(posed.path), STEPS_BETWEEN // 2)],
    }


def _gray(pixels: Any) -> list[str]:
    """An image in few levels of gray, a row a string."""
    import numpy as np

    share = (pixels - pixels.min()) / np.ptp(pixels)
    gray = np.round((LEVELS - 1) * share).astype(int).reshape(28, 28)
    return ["".join(map(str, row)) for row in gray]


def load(root: Path) -> dict[str, Any]:
    """The numbers as they were measured."""
    return json.loads((root / "course" / "pictures" / "front.json").read_text(encoding="utf-8"))


def save(root: Path, found: dict[str, Any]) -> None:
    """Keep the numbers, an entry a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
    (root / "course" / "pictures" / "front.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def alt() -> str:
    """What the picture shows, for those who do not see it."""
    return ALT.format(shown=SHOWN, members=MEMBERS)


def draw(root: Path) -> str:
    """The picture as SVG."""
    found = load(root)
    last = len(found["mean"]) - 1

    def point(place: int, value: float) -> str:
        height = BOTTOM - (BOTTOM - TOP) * (max(-HIGHEST, min(HIGHEST, value)) + HIGHEST) / (2 * HIGHEST)
        return f"{LEFT + (RIGHT - LEFT) * place / last:.1f} {height:.1f}"

    def curve(values: list[float]) -> str:
        return "M" + "L".join(point(place, value) for place, value in enumerate(values))

    def band(mean: list[float], std: list[float]) -> str:
        upper, lower = ([m + sign * 2 * s for m, s in zip(mean, std, strict=True)] for sign in (1, -1))
        back = "L".join(point(place, lower[place]) for place in range(last, -1, -1))
        return f"{curve(upper)}L{back}Z"

    out = [
        svg.opening(WIDTH, HEIGHT, "front", "Between digits: predicted and trained", escape(alt())),
        svg.style("front", STYLE),
        svg.ground(WIDTH, HEIGHT),
        *_legend(),
        f'<path class="before" d="{band([0.0] * (last + 1), found["before"])}"/>',
        f'<path class="band" d="{band(found["mean"], found["std"])}"/>',
    ]
    for value in (-2, -1, 0, 1, 2):
        x, y = point(0, value).split()
        out.append(f'<path class="guide" d="M{x} {y}H{RIGHT}"/>')
        words = {1: "three", -1: "eight"}.get(value, f"{value:+d}".replace("-", "−").replace("+0", "0"))
        out.append(_text("q", LEFT - 5, float(y) + 3.3, words, "end"))
    out.append(f'<path class="one" stroke-width=".9" d="{"".join(map(curve, found["networks"]))}"/>')
    out.append(f'<path class="line" stroke-width="2.2" d="{curve(found["mean"])}"/>')
    for place in range(0, last + 1, STEPS_BETWEEN // 4):
        mean, std = found["measured_mean"][place], found["measured_std"][place]
        x, y = point(place, mean).split()
        if place % STEPS_BETWEEN:
            low, high = (point(place, mean + sign * 2 * std).split()[1] for sign in (-1, 1))
            out.append(f'<path class="bar" stroke-width="1.2" d="M{x} {low}V{high}"/>')
            out.append(f'<circle class="dot" stroke-width=".8" cx="{x}" cy="{y}" r="2.8"/>')
    for number, pixels in enumerate(found["images"]):
        x, y = point(number * STEPS_BETWEEN // 2, 1.0 if number % 4 == 0 else -1.0).split()
        trained = number % 2 == 0
        size = 34 if trained else 24
        out.append(_thumbnail(float(x) - size / 2, BOTTOM + 30 - size / 2, pixels, size))
        if trained:
            out.append(f'<circle class="digit" cx="{x}" cy="{y}" r="3.6"/>')
    words = "on the way from a digit to the next; networks saw the large ones"
    out.append(_text("q", (LEFT + RIGHT) / 2, HEIGHT - 14, words, "middle"))
    return "\n".join([*out, "</svg>"]) + "\n"


def _legend() -> list[str]:
    return [
        f'<rect class="band" x="{LEFT}" y="12" width="22" height="12"/>',
        f'<path class="line" stroke-width="2.2" d="M{LEFT} 18h22"/>',
        _text("t", LEFT + 28, 21.5, "predicted by kernels alone: mean ± 2 std"),
        f'<path class="one" stroke-width="1.2" d="M{LEFT} 36h22"/>',
        f'<path class="bar" stroke-width="1.2" d="M{LEFT + 11} 30v12"/>',
        f'<circle class="dot" stroke-width=".8" cx="{LEFT + 11}" cy="36" r="2.8"/>',
        _text("t", LEFT + 28, 39.5, f"{SHOWN} of {MEMBERS} trained networks, and mean ± 2 std of all"),
        f'<rect class="before" x="{RIGHT - 106}" y="12" width="22" height="12"/>',
        _text("t", RIGHT - 78, 21.5, "before training"),
    ]


def _text(kind: str, x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" font-size="9.5" text-anchor="{anchor}">{escape(words)}</text>'


def _thumbnail(left: float, top: float, pixels: list[str], size: float) -> str:
    """An image, as one path for each level of gray; a run of equal pixels is one rectangle."""
    step = size / len(pixels)
    out = [f'<rect class="paper" x="{left:.1f}" y="{top:g}" width="{size:g}" height="{size:g}"/>']
    for level in range(1, LEVELS):
        d = ""
        for number, row in enumerate(pixels):
            at = 0
            while at < len(row):
                run = len(row[at:]) - len(row[at:].lstrip(str(level)))
                if run:
                    d += f"M{at} {number}h{run}v1h-{run}z"
                at += run or 1
        out.append(f'<path class="i{level}" transform="translate({left:.1f} {top:g}) scale({step:.4f})" d="{d}"/>')
    return "".join(out)
