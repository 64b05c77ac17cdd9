"""How JupyterLab saves the course's notebooks: with the metadata that they were built with.

JupyterLab writes the exact version of the Python that runs into each notebook that it saves. With another version than
the author's every saved notebook would differ from the repository, and the next pull would be a conflict.
"""

from typing import Any

from course.notebooks.source import METADATA


def as_built(model: dict[str, Any], path: str, **_: Any) -> None:
    """Put the metadata of a notebook that is about to be saved back (a `pre_save_hook` of Jupyter's contents manager).

    Only notebooks that say that they run on "python3" are changed, and of them only what says in which language.
    """
    if model["type"] != "notebook" or model["content"] is None:
        return
    metadata = model["content"]["metadata"]
    if metadata.get("kernelspec", {}).get("name") == "python3":
        metadata["language_info"] = dict(METADATA["language_info"])
