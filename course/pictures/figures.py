"""The pictures of the README: `python -m course figures` draws them, a test keeps them in step with what they show."""

from collections.abc import Callable
from pathlib import Path

from course.pictures import front, map, speed

#: Each file under `course`, what draws it, and how large it may be.
PICTURES: dict[str, tuple[Callable[[Path], str], int]] = {
    "front.svg": (front.draw, 100_000),
    "map.svg": (map.draw, 60_000),
    "speed.svg": (speed.draw, 20_000),
}


def write(root: Path) -> list[Path]:
    """Draw all anew."""
    paths = []
    for name, (draw, _) in PICTURES.items():
        paths.append(root / "course" / "pictures" / name)
        paths[-1].write_text(draw(root), encoding="utf-8")
    return paths
