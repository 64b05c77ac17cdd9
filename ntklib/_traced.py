"""Functions that are traced once, so that later changes of variables that they read have no effect."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core


class Traced:
    """A function that was traced once, and is never called again. Its result is a pytree of arrays.

    Later changes of variables that the function reads have no effect. Two of these objects are equal if they do the
    same, so that a program that is compiled for one serves the other. `jit` alone would compare the functions
    themselves, and return an old program if a variable has changed.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        trees: list[Any] = []

        def leaves(*arguments: Any) -> list[Array]:
            found, tree = jax.tree.flatten(function(*arguments))
            trees.append(tree)
            return [jnp.asarray(leaf) for leaf in found]

        self._program = jax.make_jaxpr(leaves)(*arguments)
        self._tree, self._text = trees[0], str(self._program.jaxpr)

    def __call__(self, *arguments: Any) -> Any:
        found = core.jaxpr_as_fun(self._program)(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(self._tree, found)

    @property
    def returns_something(self) -> bool:
        """Whether the result has any leaves."""
        return self._tree.num_leaves > 0

    def __hash__(self) -> int:
        return hash((self._tree, self._text))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Traced) or (self._tree, self._text) != (other._tree, other._text):
            return False
        mine, theirs = self._program.consts, other._program.consts
        return len(mine) == len(theirs) and all(a is b for a, b in zip(mine, theirs, strict=True))
