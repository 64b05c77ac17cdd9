"""The phase-diagram explorer: one self-contained page, its diagrams computed here, its other numbers tested against
ntklib.
"""

import json
import pathlib
import re

PAGE = pathlib.Path(__file__).with_name("page.html")
W_STD = [round(0.5 + 2.5 * (i + 0.5) / 56, 5) for i in range(56)]  # the centres of the diagram's cells
B_STD = [round(1.5 * (i + 0.5) / 40, 5) for i in range(40)]
_BLOCK = re.compile(r'(<script id="diagrams" type="application/json">)(.*?)(</script>)', re.S)


def activations() -> dict:
    """The activations of the page, as layers."""
    import ntklib as ntk

    return {"tanh": ntk.Tanh(), "erf": ntk.Erf(), "relu": ntk.Relu(), "elu": ntk.Elu(), "gelu": ntk.Gelu()}


def diagram(name: str) -> dict:
    """Depth scales ξ_c over the page's grid, cut off at 100 layers: three digits are more than colours show."""
    import jax
    import jax.numpy as jnp

    import ntklib as ntk

    with jax.enable_x64(True):
        scales = ntk.depth_scales(activations()[name], jnp.asarray(W_STD)[:, None], jnp.asarray(B_STD)[None, :])
        xi = [[float(f"{min(value, 100.0):.3g}") for value in row] for row in scales.xi_c.tolist()]
    return {"w": W_STD, "b": B_STD, "xi": xi}


def stored() -> dict:
    """The diagrams that are in the page."""
    found = _BLOCK.search(PAGE.read_text(encoding="utf-8"))
    assert found
    return json.loads(found[2])


def build() -> None:
    """Compute the diagrams and put them into the page."""
    data = json.dumps({name: diagram(name) for name in activations()}, separators=(",", ":"))
    page = _BLOCK.sub(lambda found: found[1] + data + found[3], PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")
