"""Notices when the code that marks an answer, or that it rests on, has been changed by the answer."""

import builtins
import sys
import types
from typing import Any

PACKAGES = ("builtins", "math", "numpy", "jax", "flax", "optax", "scipy", "ntklib", "course")
OURS = ("ntklib", "course")


class Seal:
    """What the functions and classes of some packages are now; `broken` names the first that is another later.

    >>> import math
    >>> seal = Seal()
    >>> keep, math.sin = math.sin, math.cos
    >>> seal.broken()
    'math.sin'
    >>> math.sin = keep
    >>> seal.broken()
    ''
    """

    def __init__(self) -> None:
        modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES}
        self.kept = {name: _fixed(vars(module)) for name, module in modules.items() if module is not None}
        self.inside: dict[str, dict[str, Any]] = {}
        for name, names in self.kept.items():
            if name.split(".")[0] in OURS:
                for key, value in names.items():
                    self.inside |= _inside(f"{name}.{key}", value)

    def broken(self) -> str:
        """The name of something that has been replaced, or nothing."""
        for module, names in self.kept.items():
            now = vars(sys.modules[module]) if module in sys.modules else {}
            for key, value in names.items():
                if now.get(key, builtins) is not value:
                    return f"{module}.{key}"
        for name, kept in self.inside.items():
            module, key = name.rsplit(".", 1)
            now = _inside(name, self.kept[module][key])[name]
            for part, value in kept.items():
                if now.get(part, builtins) is not value:
                    return f"{name}.{part}"
        return ""


def _fixed(names: dict[str, Any]) -> dict[str, Any]:
    """Functions, classes and modules: numbers and caches change by themselves."""
    return {key: value for key, value in names.items() if callable(value) or isinstance(value, types.ModuleType)}


def _inside(name: str, value: Any) -> dict[str, dict[str, Any]]:
    """What makes a function of ours, or a class of ours, do what it does."""
    if isinstance(value, types.FunctionType):
        return {name: {"__code__": value.__code__, "__defaults__": value.__defaults__}}
    if isinstance(value, type):
        return {name: _fixed(dict(vars(value)))}
    return {}
