"""The course as a whole: what its notebooks import, and the commands of `python -m course`.

Exercises say `from course import check, hint, predict`, chapters `from course import claim, report, reseed, scale,
sized`; chapter 20 and its sheet also `bridge`.
"""

from typing import TYPE_CHECKING, Any

from course.claims.claim import claim
from course.notebook import bridge, report, reseed, scale, sized

if TYPE_CHECKING:
    from course.tasks import check, hint, predict

__all__ = ["bridge", "check", "claim", "hint", "predict", "report", "reseed", "scale", "sized"]


def __getattr__(name: str) -> Any:
    """The checks come when they are asked for: they need NumPy, and `python -m course` says so where it is missing."""
    if name in ("check", "hint", "predict"):
        from course import tasks

        return getattr(tasks, name)
    raise AttributeError(f"module 'course' has no attribute {name!r}")
