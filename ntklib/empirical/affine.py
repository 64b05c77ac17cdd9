"""Affine layers of any function, found by reading its program: where one use of a weight meets the data in a matrix
product or a convolution, and where a bias is added to the result.
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


class Scaled(NamedTuple):
    """A value that is a parameter times numbers: entry by entry in another order (`axes`: those that carry the
    entries), the same along all other axes.
    """

    leaf: int
    factors: tuple[tuple[int, bool], ...]  # (value, whether it divides)
    axes: tuple[int, ...]  # none of size 1


@dataclasses.dataclass(frozen=True)
class Layer:
    """z = s·W a + s_b·b for T positions of the input a: `equation` multiplies W by a, and z is the value `tap`."""

    equation: int
    side: int  # which operand is the weight
    weight: Scaled
    tap: int
    factors: tuple[tuple[int, bool], ...] = ()  # of z, on top of the weight's
    bias: Scaled | None = None


class Plan(NamedTuple):
    """Every parameter that matters belongs to a layer or is `plain`; both by their number among the leaves."""

    layers: tuple[Layer, ...]
    plain: tuple[int, ...]


# ----------------------------------------------------------------------------------------------- finding the layers


def plan(program: Program) -> Plan:
    """Which parameters belong to an affine layer. A weight does if it is used once, as it is or times constants,
    transposed or reshaped, in an ordinary `dot_general` or `conv_general_dilated` with data; a bias, if it is used
    once, added to such a layer's output over its whole feature axes. All others are `plain`.
    """
    shape = [aval.shape for aval in program.shapes]
    size = [math.prod(s) for s in shape]
    uses = collections.Counter(v for e in program.equations for v in e.inputs)
    uses[program.output] += 1
    data = program.depending_on(program.x)
    variable = data | program.depending_on(*program.leaves)
    scaled = {v: Scaled(i, (), _long_axes(shape[v])) for i, v in enumerate(program.leaves) if uses[v] == 1}
    layers: list[Layer] = []
    outputs: dict[int, int] = {}  # values that are a layer's output times numbers, and used once

    def constant(v: int) -> bool:
        return v not in variable and size[v] == 1

    for place, (eqn, inputs, written) in enumerate(program.equations):
        out, name = written[0] if written else -1, eqn.primitive.name
        if not any(v in scaled or v in outputs for v in inputs):
            continue
        for side, v in enumerate(inputs):
            other = inputs[1 - side] if len(inputs) == 2 else -1
            if v in scaled:
                moved = _follow(eqn, scaled[v], shape[v], shape[out])
                if moved is None and name in ("mul", "div") and constant(other) and shape[out] == shape[v]:
                    moved = _times(scaled[v], other, name, side)
                if moved is not None and uses[out] == 1:
                    scaled[out] = moved
                elif other in data and size[v] == size_of(scaled[v].axes, shape[v]) and _is_affine(eqn, side):
                    outputs[out] = len(layers)
                    layers.append(Layer(place, side, scaled[v], out))
            elif v in outputs and uses[v] == 1:
                layer = layers[outputs[v]]
                if name in ("mul", "div") and constant(other) and shape[out] == shape[v]:
                    factors = _times(Scaled(-1, layer.factors, ()), other, name, side)
                    if factors is not None:
                        outputs[out] = outputs[v]
                        layers[outputs[v]] = dataclasses.replace(layer, factors=factors.factors, tap=out)
                elif name == "add" and other in scaled and layer.bias is None and shape[out] == shape[v]:
                    wide = tuple(a for a in feature_axes(program, layer) if shape[v][a] > 1)
                    if scaled[other].axes == wide and len(shape[other]) == len(shape[v]):
                        layers[outputs[v]] = dataclasses.replace(layer, bias=scaled[other], tap=out)
    held = {s.leaf for layer in layers for s in (layer.weight, layer.bias) if s is not None}
    plain = [i for i, v in enumerate(program.leaves) if uses[v] > 0 and i not in held]
    return Plan(tuple(layers), tuple(plain))


def size_of(axes: Sequence[int], shape: Sequence[int]) -> int:
    """The number of entries along some axes."""
    return math.prod(shape[a] for a in axes)


def _long_axes(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(a for a, n in enumerate(shape) if n > 1)


def _times(value: Scaled, factor: int, name: str, side: int) -> Scaled | None:
    """The value times (or divided by) a constant; a constant divided by the value is not linear."""
    if name == "div" and side == 1:
        return None
    return value._replace(factors=(*value.factors, (factor, name == "div")))


def _follow(eqn: core.JaxprEqn, value: Scaled, before: tuple[int, ...], after: tuple[int, ...]) -> Scaled | None:
    """What an operation on one value makes of it, if that is still the parameter's entries times numbers."""
    name, aval = eqn.primitive.name, cast(Any, eqn.invars[0].aval)
    if name in ("neg", "copy", "copy_p", "convert_element_type"):
        same = name != "convert_element_type" or eqn.params["new_dtype"] == aval.dtype
        return value if same else None  # a sign drops out of every product of two derivatives
    if name == "transpose":
        order = eqn.params["permutation"]
        return value._replace(axes=tuple(i for i, a in enumerate(order) if a in value.axes))
    if name == "broadcast_in_dim" and len(eqn.invars) == 1:
        to = eqn.params["broadcast_dimensions"]
        return value._replace(axes=tuple(sorted(to[a] for a in value.axes)))
    if name in ("reshape", "squeeze", "expand_dims") and size_of(value.axes, before) == math.prod(before):
        return value._replace(axes=_long_axes(after))
    return None


def _is_affine(eqn: core.JaxprEqn, side: int) -> bool:
    """Whether the operand is the weight of an ordinary matrix product or convolution."""
    if eqn.primitive.name == "dot_general":
        (_, _), (batch, _) = eqn.params["dimension_numbers"]
        return not batch
    if eqn.primitive.name == "conv_general_dilated" and side == 1:
        p = eqn.params
        return p["feature_group_count"] == p["batch_group_count"] == 1 and all(d == 1 for d in p["lhs_dilation"])
    return False


def feature_axes(program: Program, layer: Layer) -> tuple[int, ...]:
    """The axes of a layer's output that stand for its weight's: the units, one after the other."""
    eqn, inputs, _ = program.equations[layer.equation]
    if eqn.primitive.name == "conv_general_dilated":
        return (eqn.params["dimension_numbers"].out_spec[1],)
    rank, (contracted, _) = len(program.shapes[layer.tap].shape), eqn.params["dimension_numbers"]
    units = len(program.shapes[inputs[layer.side]].shape) - len(contracted[layer.side])
    return tuple(range(rank - units, rank)) if layer.side == 1 else tuple(range(units))


# ------------------------------------------------------------------------------------------------ running the program


def evaluate(
    program: Program, leaves: Sequence[Array], x: Array, layers: Sequence[Layer] = (), shifts: Sequence[Array] = ()
) -> tuple[Array, list[Array]]:
    """f(x) with `shifts` added to the layers' outputs, and the inputs of the layers, [n + 1, T].

    A layer's inputs are scaled as its weight is, with a last one of s_b for the bias: its parameters' derivative is
    then a ⊗ δ, δ that with respect to the shift.
    """
    values: dict[int, Any] = {**program.constants, **dict(zip(program.leaves, leaves, strict=True)), program.x: x}
    added = {layer.tap: shift for layer, shift in zip(layers, shifts, strict=True)}
    for eqn, inputs, written in program.equations:
        bound = eqn.primitive.get_bind_params(eqn.params)
        functions, parameters = bound if isinstance(bound, tuple) else ((), bound)  # a pair before JAX 0.12
        with eqn.ctx.manager:
            out = eqn.primitive.bind(*functions, *(values[v] for v in inputs), **parameters)
        for v, value in zip(written, out if eqn.primitive.multiple_results else [out], strict=True):
            values[v] = value + added[v] if v in added else value
    return values[program.output], [_inputs(program, layer, values) for layer in layers]


def _scale(factors: Sequence[tuple[int, bool]], values: dict[int, Any], dtype: Any) -> Array:
    total = jnp.ones((), dtype)
    for v, divides in factors:
        factor = jnp.reshape(values[v], ()).astype(dtype)
        total = total / factor if divides else total * factor
    return total


def _inputs(program: Program, layer: Layer, values: dict[int, Any]) -> Array:
    eqn, inputs, _ = program.equations[layer.equation]
    a = values[inputs[1 - layer.side]]
    a = a * _scale(layer.weight.factors + layer.factors, values, a.dtype)
    if eqn.primitive.name == "conv_general_dilated":
        parts = _patches(a, eqn.params, program.shapes[inputs[1]].shape, program.shapes[layer.tap].shape)
    else:
        contracted = eqn.params["dimension_numbers"][0][1 - layer.side]
        parts = [jnp.moveaxis(a, contracted, range(len(contracted))).reshape(size_of(contracted, a.shape), -1)]
    if layer.bias is not None:
        one = _scale(layer.bias.factors, values, a.dtype)
        parts.append(jnp.broadcast_to(one, (1, parts[0].shape[1])))
    return jnp.concatenate(parts)


def _patches(x: Array, p: dict[str, Any], window: tuple[int, ...], out: tuple[int, ...]) -> list[Array]:
    """The patch of each output pixel, in parts of [places · channels, T]: strided slices, along one axis after the
    other. Channels come first, so that whole rows of pixels are copied at a time.
    """
    numbers = p["dimension_numbers"]
    x = x.transpose(numbers.lhs_spec[1], numbers.lhs_spec[0], *numbers.lhs_spec[2:])  # [channels, batch, pixels...]
    parts = [jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * 2 + [(lo, hi, 0) for lo, hi in p["padding"]])]
    for axis in range(len(p["padding"]) + 1, 1, -1):  # the last one first: its places are those next to each other
        x = jnp.concatenate(parts)
        size, stride = out[numbers.out_spec[axis]], p["window_strides"][axis - 2]
        starts = [i * p["rhs_dilation"][axis - 2] for i in range(window[numbers.rhs_spec[axis]])]
        parts = [jax.lax.slice_in_dim(x, i, i + (size - 1) * stride + 1, stride, axis) for i in starts]
    return [part.reshape(part.shape[0], -1) for part in parts]


def positions_first(program: Program, layer: Layer, delta: Array) -> Array:
    """A derivative with respect to a layer's output as [T, units], the positions in the order of its inputs."""
    units = feature_axes(program, layer)
    eqn = program.equations[layer.equation].eqn
    first = [a for a in range(delta.ndim) if a not in units]
    if eqn.primitive.name == "conv_general_dilated":
        out = eqn.params["dimension_numbers"].out_spec
        first = [out[0], *out[2:]]
    return delta.transpose(*first, *units).reshape(-1, size_of(units, delta.shape))
