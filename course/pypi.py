"""README.md as PyPI shows it, with whole addresses of links and pictures; hatchling calls this where it builds."""

import re
import runpy
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Readme(MetadataHookInterface):
    """Gives the description of the package."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put it into the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": whole(text, Path(self.root))}


def whole(text: str, root: Path) -> str:
    """The text with links to files of the repository turned into addresses, those of pictures into raw files."""
    address = runpy.run_path(str(root / "course" / "address.py"))  # not imported: a build knows of no package `course`
    files, raw = address["blob"]("", root), address["raw"]("", root)
    text = re.sub(r"\]\((?!https://|#)", f"]({files}", text)
    return re.sub(r'src="(?!https://)', f'src="{raw}', text)
