"""The share of rectifiers that are on in one of two networks only, found by reading the jaxprs of the models."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core
from jax.typing import ArrayLike
from jaxtyping import Float

from ntklib import _checks
from ntklib.empirical import affine
from ntklib.empirical import cost as costs
from ntklib.empirical import program as programs
from ntklib.empirical.program import Program
from ntklib.empirical.pure import Arguments, Function
from ntklib.evolution import _models
from ntklib.models import Model


def activation_hamming(
    model1: Model, model2: Model, x: ArrayLike, *, max_memory: int | float = _checks.MAX_MEMORY
) -> Float[Array, ""]:
    """Return the share of rectifiers that are on in one network and off in the other.

    A rectifier, such as ReLU, is applied to a number z and is on if z > 0. With U rectifiers (each unit of each layer,
    at each position), N inputs, and [·] = 1 where a statement holds, else 0::

        (1/(N U)) Σ_i Σ_u [ [z_u(x_i) > 0] ≠ [z'_u(x_i) > 0] ].

    Args:
        model1: A model as in `empirical_ntk`.
        model2: Another model of the same architecture.
        x: Inputs, [N, ...].
        max_memory: The bytes to use; by default 2 GiB. As many inputs as fit are evaluated at a time.

    Returns:
        A number between 0 and 1. It is 0 if each rectifier is on for the same inputs in both networks.

    Raises:
        ValueError: If a model has no rectifiers, or a max(z, 0) in a loop or a branch; if the rectifiers of the two
            models differ in number or shape; as for `empirical_ntk`.
        TypeError: As for `empirical_ntk`; inside `jit`.

    Example:
        >>> one = (lambda w, x: jax.nn.relu(x @ w).sum(1, keepdims=True), jnp.array([[1.0, 1.0]]))
        >>> other = (one[0], jnp.array([[1.0, -1.0]]))
        >>> activation_hamming(one, other, jnp.ones((3, 1))).item()
        0.5

    Note:
        Rectifiers are found in any model by reading its jaxpr, the list of operations that JAX has traced. For a z that
        depends on inputs and parameters, they are max(z, 0), min(z, 0), z times [z > 0], and a choice by the sign of z
        between multiples of z (leaky ReLU). ELU and CELU count, because their code has a choice by the sign of z or
        max(z, 0); other smooth activations of `jax.nn` do not. A max(z, 0) in a loop (`jax.lax.scan`) or a branch is
        refused, because its z cannot be read from outside; other rectifiers in loops and branches are not counted. Each
        network is evaluated once for each input.

    References:
        Fort et al. 2020 (2010.15110).
    """
    _checks.real("max_memory", max_memory, above=0.0)
    first, second = _models.checked("model1", model1, x), _models.checked("model2", model2, x)
    _models.known("activation_hamming", first, second)
    x = first.x1
    shapes = [_shapes(argument, *given[:2], x) for argument, given in (("model1", first), ("model2", second))]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"`model2` must have the same rectifiers as `model1`, {len(shapes[0])} layers of the shapes {shapes[0]}; "
            f"got {len(shapes[1])} of {shapes[1]}."
        )
    used = sum(costs.of(f, a, costs.example(x), "mean").bytes_of_example for f, a, *_ in (first, second))
    size = int(max(1, min(len(x), max_memory // used)))
    different = sum(
        int(_different(first.function, first.arguments, second.function, second.arguments, x[i : i + size]))
        for i in range(0, len(x), size)
    )
    return jnp.asarray(different / (len(x) * sum(int(np.prod(shape)) for shape in shapes[0])))


@functools.partial(jax.jit, static_argnums=(0, 2))
def _different(f1: Function, arguments1: Arguments, f2: Function, arguments2: Arguments, x: Array) -> Array:
    """Return the number of pairs (input, rectifier) for which the rectifier is on in exactly one of the models."""
    patterns = (jax.vmap(functools.partial(_pattern, f, a))(x) for f, a in ((f1, arguments1), (f2, arguments2)))
    return jnp.stack([jnp.sum(p != q) for p, q in zip(*patterns, strict=True)]).sum()


def _pattern(function: Function, arguments: Arguments, x: Array) -> list[Array]:
    """Return which rectifiers are on for one example: a boolean array for each layer."""
    program = _read(function, arguments, jax.eval_shape(lambda x: x, x))
    values = affine.values_of(program, arguments, x, {})
    return [values[z] > 0 for z in rectified(program)]


def _shapes(argument: str, function: Function, arguments: Arguments, x: Array) -> list[tuple[int, ...]]:
    """Return the shapes of the layers of rectifiers.

    Refuse a model without rectifiers, or with a max(z, 0) in a loop or a branch.
    """
    program = _read(function, arguments, costs.example(x))
    bodies = [e.eqn for e in program.equations if not e.eqn.primitive.name.startswith("custom_")]
    if any(_rectifies(inner) for eqn in bodies for inner in _inside(eqn)):
        raise ValueError(
            f"`{argument}` has rectifiers in a loop or a branch (`jax.lax.scan`, `cond`), where their inputs cannot be "
            f"read from outside. Write a Python loop instead."
        )
    found = [tuple(program.shapes[z].shape) for z in rectified(program)]
    if not found:
        raise ValueError(
            f"`{argument}` has no rectifiers, such as `jax.nn.relu` or `jnp.maximum(z, 0)`: smooth activations are "
            f"neither on nor off. `function_distance` compares any two models."
        )
    return found


# ------------------------------------------------------------------------------------------- finding the rectifiers

#: Operations that rectifiers consist of. A call with a custom derivative, such as `jax.nn.relu`, is replaced by its
#: body if the body has no other operations.
_PIECEWISE_LINEAR = {
    "max", "min", "clamp", "mul", "neg", "gt", "ge", "lt", "le", "select_n", "broadcast_in_dim", "convert_element_type",
    "copy", "copy_p", "jit", "pjit", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr",
}  # fmt: skip


def _read(function: Function, arguments: Arguments, example: Any) -> Program:
    return programs.read(function, arguments, example, _opened)


def _opened(eqn: core.JaxprEqn) -> Any:
    """Return the body of a call with a custom derivative if it may be a rectifier, otherwise None."""
    if not eqn.primitive.name.startswith("custom_"):
        return None
    return programs.body_of(eqn) if all(e.primitive.name in _PIECEWISE_LINEAR for e in _inside(eqn)) else None


def _inside(eqn: core.JaxprEqn) -> list[core.JaxprEqn]:
    """Return all operations in the bodies of an operation, at any depth."""
    return [e for body in core.jaxprs_in_params(eqn.params) for inner in body.eqns for e in (inner, *_inside(inner))]


def _rectifies(eqn: core.JaxprEqn) -> bool:
    """Whether an operation is max(z, 0)."""
    return eqn.primitive.name == "max" and any(
        isinstance(v, core.Literal) and not np.any(np.asarray(v.val)) for v in eqn.invars
    )


def rectified(program: Program) -> list[int]:
    """Return the values to which rectifiers are applied, if these depend on both the input and the parameters."""
    search = _Search(program)
    for eqn, inputs, outputs in program.equations:
        if outputs:
            search.visit(eqn, inputs, outputs[0])
    moving = program.depending_on(program.x) & program.depending_on(*program.leaves)
    return [z for z in dict.fromkeys(search.found) if z in moving]


class _Search:
    """A search for rectifiers that visits the operations of a program in order. Values are given by their numbers."""

    def __init__(self, program: Program) -> None:
        self.data = program.depending_on(program.x)
        self.zeros = {v for v, value in program.constants.items() if not np.any(np.asarray(value))}
        #: For a value c·z, with a factor c that does not depend on the input of the model: the value z, which is itself
        #: no such product.
        self.multiple: dict[int, int] = {}
        #: For a value [z > 0], or another comparison of z with 0: the value z.
        self.sign: dict[int, int] = {}
        self.found: list[int] = []
        #: Squares, and differences such as E[h²] − E[h]². Normalizations take max(0, ·) of such a difference to remove
        #: negative rounding errors. This maximum is no rectifier.
        self.squares: set[int] = set()
        self.variances: set[int] = set()

    def visit(self, eqn: core.JaxprEqn, inputs: tuple[int, ...], out: int) -> None:
        """Note what is known about `out`, the result of an operation on the values `inputs`."""
        name = eqn.primitive.name
        if (
            name == "square"
            or (name == "integer_pow" and eqn.params["y"] == 2)
            or (name == "mul" and inputs[0] == inputs[1])
        ):
            self.squares.add(out)
        elif name == "sub" and inputs[1] in self.squares:
            self.variances.add(out)
        if name == "neg":
            self.multiple[out] = self._root(inputs[0])
        if name in ("broadcast_in_dim", "convert_element_type", "reshape", "copy", "copy_p", "neg"):
            self._passed_on(inputs[0], out)
        elif name in ("gt", "ge", "lt", "le", "max", "min") and not self.zeros.isdisjoint(inputs):
            z = inputs[1] if inputs[0] in self.zeros else inputs[0]
            if name in ("max", "min"):
                self.found.extend({z} - self.variances)
            else:
                self.sign[out] = z
        elif name == "mul":
            self._product(inputs[0], inputs[1], out)
        elif name == "select_n" and len(inputs) == 3:
            self._choice(*inputs)

    def _passed_on(self, value: int, out: int) -> None:
        if value in self.zeros:
            self.zeros.add(out)
        if value in self.sign:
            self.sign[out] = self.sign[value]
        if value in self.multiple:
            self.multiple[out] = self.multiple[value]

    def _root(self, value: int) -> int:
        """Return z for a value c·z, and otherwise the value itself."""
        return self.multiple.get(value, value)

    def _product(self, a: int, b: int, out: int) -> None:
        for one, other in ((a, b), (b, a)):
            if one in self.sign and self.sign[one] == other:
                self.found.append(other)  # z [z > 0]
            elif one not in self.data:  # c·z, where c is a number or a trained slope
                self.multiple[out] = self._root(other)

    def _choice(self, which: int, *branches: int) -> None:
        z = self.sign.get(which)
        if z is not None and all(b in self.zeros or self._root(b) == self._root(z) for b in branches):
            self.found.append(z)
