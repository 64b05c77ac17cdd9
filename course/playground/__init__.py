"""The playground: one self-contained page whose numbers come from closed forms, tested against ntklib."""

import pathlib

PAGE = pathlib.Path(__file__).with_name("page.html")
