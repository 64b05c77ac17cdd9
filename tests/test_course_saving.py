"""JupyterLab saves notebooks as they were built, whatever Python runs them."""

import json
import shutil

import nbformat
import pytest

from course.notebooks import saving
from course.notebooks.build import repository


@pytest.fixture
def manager(tmp_path):
    from jupyter_server.services.contents.filemanager import FileContentsManager

    return FileContentsManager(root_dir=str(tmp_path), pre_save_hook="course.notebooks.saving.as_built")


def test_a_saved_notebook_is_the_built_one_to_the_byte(manager, tmp_path):
    built = next((repository() / "exercises").glob("01_*.ipynb"))
    copy = tmp_path / built.name
    shutil.copy(built, copy)
    model = manager.get(built.name)
    info = {"name": "python", "version": "3.99.1", "codemirror_mode": {"name": "ipython", "version": 3}}
    model["content"]["metadata"]["language_info"] = info  # as JupyterLab does when a kernel has started
    manager.save(model, built.name)
    assert copy.read_bytes() == built.read_bytes()


def test_other_notebooks_and_files_stay_as_they_are(manager, tmp_path):
    mine = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "julia", "display_name": "Julia"}, "language_info": {"name": "julia"}}
    )
    manager.save({"type": "notebook", "content": mine}, "mine.ipynb")
    written = json.loads((tmp_path / "mine.ipynb").read_text())
    assert written["metadata"]["language_info"] == {"name": "julia"}
    text = {"type": "file", "format": "text", "content": "words"}
    saving.as_built(text, "words.txt")
    assert text["content"] == "words"
