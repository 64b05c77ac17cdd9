"""What the drawn pictures share: their letters, and two sets of colors, for light and for dark."""

import re
from string import Template

FONT = 'text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}'
#: Each color under the same name in both. The ground is a part of the picture: a page may be dark where the system is
#: light, and the letters have to be legible all the same.
LIGHT = {
    "ground": "#ffffff",
    "edge": "#d5d9de",
    "row": "#f2f4f7",
    "chosen": "#dbe7f5",
    "guide": "#e1e4e8",
    "ink": "#1c2128",
    "quiet": "#57606a",
    "gray": "#848c95",
    "purple": "#a3479b",
    "blue": "#0b6cb8",
    "orange": "#b34a00",
    "green": "#0a7d5b",
    "band": "#c3d9ee",
}
DARK = {
    "ground": "#0d1117",
    "edge": "#30363d",
    "row": "#171d26",
    "chosen": "#223047",
    "guide": "#262d36",
    "ink": "#e6edf3",
    "quiet": "#9aa4af",
    "gray": "#7d8590",
    "purple": "#d78ad0",
    "blue": "#58b0f5",
    "orange": "#f58b3c",
    "green": "#3ccb9a",
    "band": "#1d3a57",
}


def style(name: str, rules: str) -> str:
    """A <style> for the picture called `name`, and nothing else on its page, from rules in which `$ink` is a color.

    It has the light colors, and the dark ones where the system asks for them.

    >>> style("map", ".t{fill:$ink}").splitlines()[1:]
    ['#map .t{fill:#1c2128}', '@media(prefers-color-scheme:dark){', '#map .t{fill:#e6edf3}', '}</style>']
    """

    def scoped(text: str) -> str:
        return re.sub(
            r"[^{}]+(?=\{)", lambda found: ",".join(f"#{name} {one}" for one in found[0].strip().split(",")), text
        )

    light, dark = (scoped(Template(rules).substitute(colors)) for colors in (LIGHT, DARK))
    return f"<style>{scoped(FONT)}\n{light}\n@media(prefers-color-scheme:dark){{\n{dark}\n}}</style>"


def opening(width: float, height: float, name: str, title: str, about: str, *, role: str = "img") -> str:
    """The first lines of a picture with a ground; `title` and `about` are for those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" id="{name}" viewBox="0 0 {width:g} {height:g}" '
        f'role="{role}" aria-labelledby="{name}-title {name}-about">\n'
        f'<title id="{name}-title">{title}</title><desc id="{name}-about">{about}</desc>'
    )


def ground(width: float, height: float) -> str:
    """The sheet that all else lies on; its class is `ground`."""
    return f'<rect class="ground" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>'
