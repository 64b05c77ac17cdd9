"""Affine layers of any model, found by reading its program (see `program`).

A layer is a matrix product or a convolution of data with a weight that is used nowhere else, and the bias, if there is
one, that is added to the result. Data are values that depend on the example.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core

from ntklib.empirical.program import Program
from ntklib.empirical.pure import Arguments


class Scaled(NamedTuple):
    """A value that equals a parameter up to sign, scalar factors, type, reshaping, transposition and broadcasting.

    Args:
        leaf: The number of the parameter among the leaves.
        factors: For each scalar factor the number of its value, and whether it divides.
        axes: The axes of the value, none of size 1, along which the entries of the parameter lie. Along all other axes
            the value is constant.
    """

    leaf: int
    factors: tuple[tuple[int, bool], ...]
    axes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class AffineLayer:
    """A layer z = s·a W + s_b·b, where a are inputs at T positions. Operation number `equation` multiplies a and W."""

    equation: int
    side: int  # which operand is the weight, 0 or 1
    weight: Scaled
    tap: int  # the number of the value z
    factors: tuple[tuple[int, bool], ...] = ()  # s is the product of these and the factors of `weight`
    bias: Scaled | None = None


class Division(NamedTuple):
    """The division of the parameters: each belongs to one of the `layers`, or is `plain`, or has no effect.

    Parameters are given by their numbers among the leaves.
    """

    layers: tuple[AffineLayer, ...]
    plain: tuple[int, ...]


# ----------------------------------------------------------------------------------------------- finding the layers


def division(program: Program) -> Division:
    """Find the affine layers of a program, and the parameters that belong to none.

    The weight of a layer is used once, in an ordinary `dot_general` or `conv_general_dilated` with data (see
    `_is_affine`). Before that it may be multiplied or divided by constant numbers, negated, converted to another type,
    transposed or reshaped. A bias is used once, and is added to the output of a layer along all feature axes. All other
    parameters that are used are `plain`.
    """
    search = _Search(program)
    for place, equation in enumerate(program.equations):
        for side, value in enumerate(equation.inputs if equation.outputs else ()):  # `jax.debug.print` has no outputs
            if value in search.scaled:
                search.follow_parameter(place, side)
            elif value in search.outputs and search.uses[value] == 1:
                search.follow_output(place, side)
    held = {s.leaf for layer in search.layers for s in (layer.weight, layer.bias) if s is not None}
    plain = [i for i, v in enumerate(program.leaves) if search.uses[v] > 0 and i not in held]
    if not search.layers and not plain:  # no parameter has an effect: keep one, whose Jacobian is 0
        plain = [0]
    return Division(tuple(search.layers), tuple(plain))


class _Search:
    """What is known about the values of a program while its operations are visited in order."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.shape = [aval.shape for aval in program.shapes]
        self.uses = collections.Counter(v for e in program.equations for v in e.inputs)
        self.uses[program.output] += 1
        self.data = program.depending_on(program.x)
        self.variable = self.data | program.depending_on(*program.leaves)
        #: By number, the values that are `Scaled` parameters, for parameters that are used once.
        self.scaled = {
            v: Scaled(i, (), _long_axes(self.shape[v])) for i, v in enumerate(program.leaves) if self.uses[v] == 1
        }
        self.layers: list[AffineLayer] = []
        #: For each value that is the output of a layer, up to scalar factors, the place of the layer in `layers`.
        self.outputs: dict[int, int] = {}

    def follow_parameter(self, place: int, side: int) -> None:
        """Record the result of an operation on a `Scaled` parameter: another `Scaled` value, a layer, or neither."""
        eqn, inputs, (out, *_) = self.program.equations[place]
        v, value = inputs[side], self.scaled[inputs[side]]
        moved = _follow(eqn, value, self.shape[v], self.shape[out]) or self._times(value, place, side)
        if moved is not None and self.uses[out] == 1:
            self.scaled[out] = moved
        elif self._other(place, side) in self.data and _is_whole(value, self.shape[v]) and _is_affine(eqn, side):
            self.outputs[out] = len(self.layers)
            self.layers.append(AffineLayer(place, side, value, out))

    def follow_output(self, place: int, side: int) -> None:
        """Record the result of an operation on the output of a layer if it multiplies by a number or adds a bias."""
        eqn, inputs, (out, *_) = self.program.equations[place]
        v, number = inputs[side], self.outputs[inputs[side]]
        layer, other = self.layers[number], self._other(place, side)
        times = self._times(Scaled(-1, layer.factors, ()), place, side)
        if times is not None:
            self.outputs[out] = number
            self.layers[number] = dataclasses.replace(layer, factors=times.factors, tap=out)
        elif eqn.primitive.name == "add" and other in self.scaled and layer.bias is None:
            wide = tuple(a for a in feature_axes(self.program, layer) if self.shape[v][a] > 1)
            same = self.shape[out] == self.shape[v] and len(self.shape[other]) == len(self.shape[v])
            if same and self.scaled[other].axes == wide:
                self.layers[number] = dataclasses.replace(layer, bias=self.scaled[other], tap=out)

    def _other(self, place: int, side: int) -> int:
        """Return the other operand of an operation on two operands, or -1 if there are fewer or more."""
        inputs = self.program.equations[place].inputs
        return inputs[1 - side] if len(inputs) == 2 else -1

    def _times(self, value: Scaled, place: int, side: int) -> Scaled | None:
        """Return the result if the operation multiplies or divides the value by a constant number, and None if not.

        A constant divided by the value is not linear in the value.
        """
        eqn, inputs, (out, *_) = self.program.equations[place]
        name, factor = eqn.primitive.name, self._other(place, side)
        if name not in ("mul", "div") or (name == "div" and side == 1) or self.shape[out] != self.shape[inputs[side]]:
            return None
        if factor in self.variable or math.prod(self.shape[factor]) != 1:
            return None
        return value._replace(factors=(*value.factors, (factor, name == "div")))


def size_of(axes: Sequence[int], shape: Sequence[int]) -> int:
    """Return the number of entries along some axes."""
    return math.prod(shape[a] for a in axes)


def _long_axes(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(a for a, n in enumerate(shape) if n > 1)


def _is_whole(value: Scaled, shape: Sequence[int]) -> bool:
    """Whether the value has each entry of the parameter once: no axis repeats entries."""
    return size_of(value.axes, shape) == math.prod(shape)


def _follow(eqn: core.JaxprEqn, value: Scaled, before: tuple[int, ...], after: tuple[int, ...]) -> Scaled | None:
    """Return the result of an operation on a `Scaled` value if the result is a `Scaled` value, and None if not."""
    name = eqn.primitive.name
    if name in ("neg", "copy", "copy_p"):
        return value  # a sign cancels in every product of two derivatives
    if name == "convert_element_type":
        return value if jnp.issubdtype(eqn.params["new_dtype"], jnp.floating) else None
    if name == "transpose":
        order = eqn.params["permutation"]
        return value._replace(axes=tuple(i for i, a in enumerate(order) if a in value.axes))
    if name == "broadcast_in_dim" and len(eqn.invars) == 1:
        to = eqn.params["broadcast_dimensions"]
        return value._replace(axes=tuple(sorted(to[a] for a in value.axes)))
    if name in ("reshape", "squeeze", "expand_dims") and _is_whole(value, before):
        return value._replace(axes=_long_axes(after))
    return None


def _is_affine(eqn: core.JaxprEqn, side: int) -> bool:
    """Whether the operand can be the weight of an affine layer of real numbers.

    The operation must be a matrix product without batch axes, or a convolution without groups and dilated inputs.
    """
    if not jnp.issubdtype(cast(Any, eqn.outvars[0].aval).dtype, jnp.floating):
        return False
    if eqn.primitive.name == "dot_general":
        (_, _), (batch, _) = eqn.params["dimension_numbers"]
        return not batch
    if eqn.primitive.name == "conv_general_dilated" and side == 1:
        p = eqn.params
        return p["feature_group_count"] == p["batch_group_count"] == 1 and all(d == 1 for d in p["lhs_dilation"])
    return False


def feature_axes(program: Program, layer: AffineLayer) -> tuple[int, ...]:
    """Return the axes of a layer's output along which its units lie."""
    eqn, inputs, _ = program.equations[layer.equation]
    if eqn.primitive.name == "conv_general_dilated":
        return (eqn.params["dimension_numbers"].out_spec[1],)
    rank, (contracted, _) = len(program.shapes[layer.tap].shape), eqn.params["dimension_numbers"]
    units = len(program.shapes[inputs[layer.side]].shape) - len(contracted[layer.side])
    return tuple(range(rank - units, rank)) if layer.side == 1 else tuple(range(units))


# ------------------------------------------------------------------------------------------------ running the program


def evaluate(
    program: Program, arguments: Arguments, x: Array, layers: Sequence[AffineLayer] = (), shifts: Sequence[Array] = ()
) -> tuple[Array, list[Array]]:
    """Return f(x) with `shifts` added to the outputs z of the layers, and the inputs of the layers, [n, T].

    The inputs are s·a, and as the last one s_b for a bias. The derivative of f with respect to the parameters of a
    layer is then the matrix product of its inputs and δ [T, units], the derivative of f with respect to the shift.
    """
    added = {layer.tap: shift for layer, shift in zip(layers, shifts, strict=True)}
    values = values_of(program, arguments, x, added)
    dtype = program.shapes[program.output].dtype
    return values[program.output], [_inputs(program, layer, values, dtype) for layer in layers]


def values_of(program: Program, arguments: Arguments, x: Array, added: dict[int, Array]) -> dict[int, Any]:
    """Run a program, and return all of its values by their numbers.

    `added` has arrays by the numbers of values. Each is added to its value before other operations read the value.
    """
    values: dict[int, Any] = {**program.constants, program.x: x}
    values |= zip((*program.leaves, *program.fixed), (*arguments.leaves, *arguments.fixed), strict=True)
    for eqn, inputs, written in program.equations:
        bound = eqn.primitive.get_bind_params(eqn.params)
        functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.12
        with eqn.ctx.manager:
            out = eqn.primitive.bind(*functions, *(values[v] for v in inputs), **parameters)
        for v, value in zip(written, out if eqn.primitive.multiple_results else [out], strict=True):
            values[v] = value + added[v] if v in added else value
    return values


def _scale(factors: Sequence[tuple[int, bool]], values: dict[int, Any], dtype: Any) -> Array:
    total = jnp.ones((), dtype)
    for v, divides in factors:
        factor = jnp.reshape(values[v], ()).astype(dtype)
        total = total / factor if divides else total * factor
    return total


def _inputs(program: Program, layer: AffineLayer, values: dict[int, Any], dtype: Any) -> Array:
    eqn, inputs, _ = program.equations[layer.equation]
    # The data of a product may be bytes or booleans, which must be converted before they are scaled.
    a = values[inputs[1 - layer.side]].astype(dtype)
    a = a * _scale(layer.weight.factors + layer.factors, values, dtype)
    if eqn.primitive.name == "conv_general_dilated":
        parts = _patches(a, eqn.params, program.shapes[inputs[1]].shape, program.shapes[layer.tap].shape)
    else:
        contracted = eqn.params["dimension_numbers"][0][1 - layer.side]
        parts = [jnp.moveaxis(a, contracted, range(len(contracted))).reshape(size_of(contracted, a.shape), -1)]
    if layer.bias is not None:
        one = _scale(layer.bias.factors, values, dtype)
        parts.append(jnp.broadcast_to(one, (1, parts[0].shape[1])))
    return jnp.concatenate(parts)


def _patches(x: Array, p: dict[str, Any], window: tuple[int, ...], out: tuple[int, ...]) -> list[Array]:
    """Return the patch of each of the T output pixels, as parts [places · channels, T] to be concatenated.

    The patch of an output pixel holds the inputs in its window. A place is a position in the window. The patches are
    made by strided slices along one axis after the other. The axes of pixels are the last ones, so that whole rows of
    pixels are copied at a time.
    """
    numbers = p["dimension_numbers"]
    x = x.transpose(numbers.lhs_spec[1], numbers.lhs_spec[0], *numbers.lhs_spec[2:])  # [channels, batch, pixels...]
    parts = [jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 2 + [(lo, hi, 0) for lo, hi in p["padding"]])]
    for axis in range(len(p["padding"]) + 1, 1, -1):  # the last axis first: its pixels are next to each other in memory
        x = jnp.concatenate(parts)
        size, stride = out[numbers.out_spec[axis]], p["window_strides"][axis - 2]
        starts = [i * p["rhs_dilation"][axis - 2] for i in range(window[numbers.rhs_spec[axis]])]
        parts = [jax.lax.slice_in_dim(x, i, i + (size - 1) * stride + 1, stride, axis) for i in starts]
    return [part.reshape(part.shape[0], -1) for part in parts]


def positions_first(program: Program, layer: AffineLayer, delta: Array) -> Array:
    """Return a derivative with respect to a layer's output as [T, units], with positions as in the layer's inputs."""
    units = feature_axes(program, layer)
    eqn = program.equations[layer.equation].eqn
    first = [a for a in range(delta.ndim) if a not in units]
    if eqn.primitive.name == "conv_general_dilated":
        out = eqn.params["dimension_numbers"].out_spec
        first = [out[0], *out[2:]]
    return delta.transpose(*first, *units).reshape(-1, size_of(units, delta.shape))
