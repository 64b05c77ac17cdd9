"""A model, applied to one example, as a list of operations.

The list is the jaxpr of the model, in which each value has a number, and most calls are replaced by their bodies.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from ntklib import _checks
from ntklib.empirical.pure import Arguments, Function

# Calls that are replaced by their bodies. Calls with derivatives of their own (custom_jvp, custom_vjp) are kept, unless
# `opened` in `read` says otherwise.
_INLINED = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")


class Equation(NamedTuple):
    """One operation: its primitive and parameters (in `eqn`), and the numbers of the values it reads and writes."""

    eqn: core.JaxprEqn
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass
class Program:
    """A function f(leaves, fixed, x) of one example x, as a list of operations on numbered values.

    `leaves` are the parameters, and `fixed` the other arrays of the model (see `pure.Arguments`). x has no axis of
    examples, and the result is [K]. Most values between them have a first axis of length 1, because the model is called
    on a batch of one example.

    The number of a value is its place in `shapes`. The fields `leaves`, `fixed`, `x` and `output` hold such numbers,
    and `constants` maps them to arrays.
    """

    shapes: list[Any] = dataclasses.field(default_factory=list)  # for each value an object with .shape and .dtype
    constants: dict[int, Any] = dataclasses.field(default_factory=dict)
    equations: list[Equation] = dataclasses.field(default_factory=list)
    leaves: list[int] = dataclasses.field(default_factory=list)
    fixed: list[int] = dataclasses.field(default_factory=list)
    x: int = -1
    output: int = -1

    def new(self, aval: Any) -> int:
        """Add a value, and return its number."""
        self.shapes.append(aval)
        return len(self.shapes) - 1

    def depending_on(self, *values: int) -> set[int]:
        """Return these values and all values that are computed from one of them."""
        found = set(values)
        for _, inputs, outputs in self.equations:
            if not found.isdisjoint(inputs):
                found.update(outputs)
        return found


_traced = jax.jit(Function.__call__, static_argnums=0)


def read(
    function: Function, arguments: Arguments, example: Any, opened: Callable[[core.JaxprEqn], Any] | None = None
) -> Program:
    """Return the program of a model for one example.

    Of the given arrays only shapes and types are used, and of traced ones the axes of `jax.shard_map` over which they
    vary. `opened` is a function of a `JaxprEqn`. It returns the body if the equation is a further call to be replaced,
    and None if not. If that call has a derivative of its own, a derivative of the program is that of the body instead.
    """
    given = types((arguments, example))
    closed: Any = _traced.trace(function, *given).jaxpr
    if len(closed.jaxpr.invars) != len(jax.tree.leaves(given)):
        # The function closes over traced values: it was made under `vmap` or `jit`. They are further arguments of the
        # jaxpr of `jit`. In that of `make_jaxpr` they are constants, as they should be.
        closed = jax.make_jaxpr(function)(*given)
    program = Program()
    inputs = [program.new(v.aval) for v in closed.jaxpr.invars]
    *others, program.x = inputs
    count = len(arguments.leaves)
    program.leaves, program.fixed = others[:count], others[count:]
    (program.output,) = _inline(program, closed, inputs, opened or (lambda _: None))
    return program


def types(values: Any) -> Any:
    """Return a `jax.ShapeDtypeStruct` for each array.

    That of a traced array also says over which axes of `jax.shard_map` the array varies.
    """
    if _checks.is_traced(*jax.tree.leaves(values)):
        return jax.eval_shape(lambda values: values, values)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), values)


def body_of(eqn: core.JaxprEqn) -> Any:
    """Return the body of a call."""
    return next(eqn.params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in eqn.params)


def _inline(program: Program, closed: Any, inputs: Sequence[int], opened: Callable[[core.JaxprEqn], Any]) -> list[int]:
    """Append the operations of a jaxpr whose arguments are the values `inputs`. Return the numbers of its results."""
    jaxpr = closed.jaxpr if hasattr(closed, "jaxpr") else closed
    numbers = dict(zip(jaxpr.invars, inputs, strict=True))
    for var, value in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True):
        numbers[var] = program.new(var.aval)
        program.constants[numbers[var]] = value

    def number(atom: Any) -> int:
        if not isinstance(atom, core.Literal):
            return numbers[atom]
        aval: Any = atom.aval
        new = program.new(aval)
        program.constants[new] = np.asarray(atom.val, aval.dtype)
        return new

    for eqn in jaxpr.eqns:
        given = tuple(map(number, eqn.invars))
        body = body_of(eqn) if eqn.primitive.name in _INLINED else opened(eqn)
        if body is not None:
            written = tuple(_inline(program, body, given, opened))
        else:
            written = tuple(program.new(v.aval) for v in eqn.outvars)
            program.equations.append(Equation(eqn, given, written))
        numbers.update(zip(eqn.outvars, written, strict=True))
    return list(map(number, jaxpr.outvars))
