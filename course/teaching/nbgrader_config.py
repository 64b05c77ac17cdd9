"""nbgrader's settings for our sheets: copy this file into the folder of your class (nbgrader.md says how)."""

import os

from nbgrader.converters import GenerateAssignment
from nbgrader.preprocessors import ClearSolutions, NbGraderPreprocessor

from course import handout
from course.notebooks import build, source


class Stubs(NbGraderPreprocessor):
    """Our stubs in place of nbgrader's, which would stop "Run all" where an answer is a value; links to the web."""

    def preprocess_cell(self, cell, resources, cell_index):
        """Change one cell."""
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = source.without_solution(cell)
        if cell.cell_type == "markdown":
            cell.source = handout.on_the_web(cell.source, build.repository())
        return cell, resources


# No progress bars, and no notes of who passed what: a line on stderr under a check would cost its points.
os.environ["CI"] = "true"
c = get_config()
c.CourseDirectory.course_id = "ntk"
c.GenerateAssignment.preprocessors = [
    Stubs if step is ClearSolutions else step for step in GenerateAssignment.preprocessors.default()
]
c.Execute.timeout = 300  # for one cell; nbgrader's own limit, 30 seconds, is too short for some measurements
