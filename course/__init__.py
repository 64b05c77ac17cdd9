"""The course as a whole: what its notebooks import, and the commands of `python -m course`.

Exercises say `from course import check, hint`, chapters `from course import claim, report, scale`.
"""

from course.claims import claim
from course.notebook import report, scale
from course.tasks import check, hint

__all__ = ["check", "claim", "hint", "report", "scale"]
