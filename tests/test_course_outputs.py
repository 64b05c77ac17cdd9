"""The comparison of printed numbers: what another processor may change passes, anything else does not."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from course.notebooks.outputs import agree

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("depth 50: 0.57 ± 0.02", "depth 50: 0.59 ± 0.01"),
        ("0.13 ± 0.03\n0.67 ± 0.02", "0.15 ± 0.04\n0.67 ± 0.02"),
        ("share 0.40 [0.30, 0.50], margin 0.1", "share 0.45 [0.36, 0.53], margin 0.1"),
        ("slope -0.482", "slope -0.483"),
        ("slope −0.482", "slope −0.481"),
        ("1 and 2e-05", "1.01 and 2.01e-05"),
        ("gap 2.28e-14", "gap 4.1e-15"),
        ("a   0.1  b", "a 0.101 b"),
        ("0.000 ± 0.005", "-0.001 ± 0.004"),
        ("[1.08 1.06]", "[1.08 1.07]"),
    ],
)
def test_what_rounding_may_change_agrees(before, now):
    assert agree(before, now)
    assert agree(now, before)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("depth 50: 0.57 ± 0.02", "depth 51: 0.57 ± 0.02"),  # a whole number
        ("0.57 ± 0.02", "0.67 ± 0.02"),  # beyond three errors of the difference, 0.085, and a digit
        ("0.57 ± 0.02", "0.57 ± 0.12"),  # another error
        ("0.57 ± 0.02", "0.57 ± 0.00"),
        ("0.40 [0.30, 0.50]", "0.80 [0.70, 0.90]"),
        ("slope -0.482", "slope -0.484"),
        ("slope -0.482", "slope 0.482"),
        ("gap 2.28e-14", "gap 2.28e-08"),
        ("gap 1e-07", "gap 3e-07"),
        ("holds: True", "holds: False"),
        ("7 seeds", "8 seeds"),
        ("1,000 images", "1,001 images"),
        ("float32", "float64"),
        ("0.57", "0.57 0.57"),
        ("n^-1/2", "n^-1/3"),
    ],
)
def test_what_another_result_changes_does_not(before, now):
    assert not agree(before, now)
    assert not agree(now, before)


def test_nbval_compares_cells_by_it(tmp_path):
    """Seven cells whose outputs are not what they print and show now: four agree with it."""
    cells = []
    for source, output in (
        ("print('0.57 ± 0.02, 5 seeds')", "0.58 ± 0.02, 5 seeds\n"),
        ("print('0.57 ± 0.02, 5 seeds')", "0.58 ± 0.02, 6 seeds\n"),
        ("print(0.123)", "0.122\n"),
        ("print(0.123)", "0.120\n"),
    ):
        printed = [nbformat.v4.new_output("stream", name="stdout", text=output)]
        cells.append(nbformat.v4.new_code_cell(source, outputs=printed, execution_count=len(cells) + 1))
    for text, page in (("accuracy 0.57", "A"), ("accuracy 0.56", "B"), ("accuracy 0.37", "A")):  # a film has both
        data = {"text/plain": text, "text/html": page}
        shown = [nbformat.v4.new_output("display_data", data=data)]
        source = "display({'text/plain': 'accuracy 0.57', 'text/html': 'A'}, raw=True)"
        cells.append(nbformat.v4.new_code_cell(source, outputs=shown, execution_count=len(cells) + 1))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "seven.ipynb")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "course.notebooks.outputs", "--nbval", "--nbval-current-env"]
    run = subprocess.run([*command, "seven.ipynb"], cwd=tmp_path, capture_output=True, text=True, env=env)
    failed = [line.split("::")[1].split(" - ")[0] for line in run.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == ["Cell 1", "Cell 3", "Cell 6"], run.stdout + run.stderr
