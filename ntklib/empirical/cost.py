"""What each way to an empirical NTK takes: operations, to choose between them, and bytes, to keep a bound."""

import dataclasses
import functools
import math
from typing import Any

import jax
from jax.extend import core

from ntklib.empirical import affine, layerwise
from ntklib.empirical import program as programs
from ntklib.empirical.affine import Plan
from ntklib.empirical.blocks import Memory
from ntklib.empirical.program import Program

# Bytes that fit a cache, roughly. Half as much and twice as much took 3 to 8 % longer on a convolutional network.
_CACHE = 5 * 2**23


@dataclasses.dataclass(frozen=True)
class Cost:
    """Counts for a model with k outputs; N, M examples; `outputs` as in `empirical_ntk`.

    Memory is that of the arrays which can be there at the same time, from above: a test holds it against XLA's own
    account of what it allocates.
    """

    program: Program
    plan: Plan
    outputs: str

    @property
    def k(self) -> int:
        """K."""
        return self.program.shapes[self.program.output].shape[0]

    @property
    def dtype(self) -> Any:
        """Of the outputs."""
        return self.program.shapes[self.program.output].dtype

    @functools.cached_property
    def evaluation(self) -> float:
        """Operations of one evaluation, F."""
        return float(sum(_operations(e.eqn) for e in self.program.equations))

    @functools.cached_property
    def leaf_sizes(self) -> list[int]:
        """Of all parameters; P in sum."""
        return [math.prod(self.program.shapes[v].shape) for v in self.program.leaves]

    @functools.cached_property
    def layers(self) -> list[layerwise.Sizes]:
        """The sizes of each affine layer."""
        return [layerwise.sizes(self.program, layer, self.k, self.outputs) for layer in self.plan.layers]

    def operations(self, method: str, n: int, m: int) -> float:
        """Of a whole kernel, [N, M]: in the examples, and in the pairs."""
        k, p, f = self.k, sum(self.leaf_sizes), self.evaluation
        products = k * k if self.outputs == "full" else k  # of two derivatives, for each pair of examples
        if method == "products":
            return m * 2 * k * f + n * m * 3 * k * f
        if method == "jacobian":
            return (n + m) * (1 + 2 * k) * f + n * m * 2 * products * p
        plain = sum(self.leaf_sizes[i] for i in self.plan.plain)
        example, pair = (1 + k) * f, 2.0 * products * plain
        for t, inputs, o, factors in self.layers:
            example += 0 if factors else 2 * t * inputs * o * k
            pair += 2 * (t * t * (inputs + products * o) if factors else products * inputs * o)
        return (n + m) * example + n * m * pair

    def memory(self, method: str, b: int, k: int) -> Memory:
        """For blocks of `b` examples and `k` outputs."""
        item, p, plain = self._item, sum(self.leaf_sizes), self._plain(method)
        tile = b * b * {"mean": 1, "diagonal": k, "full": k * k}[self.outputs]
        values, largest, example = self._activations
        if method == "products":
            working = k * (3 * p + b * (3 * largest + self.k)) + 2 * b * values + 3 * tile
            return Memory(item * (b * example + k * self.k), 0, item * working)
        kept, joining = k * sum(plain), (2 + len(plain)) * tile
        for t, inputs, o, factors in self.layers if method == "layerwise" else ():
            kept += t * (inputs + k * o) if factors else k * inputs * o
            joining += (tile + b * b) if t == 1 or not factors else t * t * (2 * tile + b * b)
        piece = min(b, self.piece(method, k))
        making = 2 * p + piece * (self._working(method, k) + kept)  # scaled and transposed weights, too
        if piece < b:  # a block is filled piece by piece
            making += b * kept
        joining += b * kept + 1024  # products may copy an operand
        return Memory(item * b * kept, item * making, item * joining)

    def piece(self, method: str, k: int) -> int:
        """Examples at a time for which all that is made on the way stays in a processor's cache."""
        if method == "products" or jax.default_backend() != "cpu":
            return 2**31
        return max(1, _CACHE // (self._item * self._working(method, k)))

    def _working(self, method: str, k: int) -> int:
        """Numbers made from one example on the way to what is kept of it."""
        values, largest, _ = self._activations
        working = 2 * values + k * (2 * largest + max(self._plain(method), default=0))
        for t, inputs, o, factors in self.layers if method == "layerwise" else ():
            working += t * (inputs + k * o) + (t * k * o + 2 * t * inputs + 2 * k * inputs * o) * (not factors)
        return working

    def _plain(self, method: str) -> list[int]:
        """Sizes of the parameters whose Jacobians are formed."""
        return self.leaf_sizes if method == "jacobian" else [self.leaf_sizes[i] for i in self.plan.plain]

    @functools.cached_property
    def _item(self) -> int:
        """Bytes of a number."""
        return max(self.program.shapes[v].dtype.itemsize for v in (*self.program.leaves, self.program.output))

    @functools.cached_property
    def _activations(self) -> tuple[int, int, int]:
        """Numbers in all values computed from one example, in the largest, and in the example."""
        made = self.program.depending_on(self.program.x)
        sizes = [math.prod(self.program.shapes[v].shape) for v in made]
        return sum(sizes), max(sizes), math.prod(self.program.shapes[self.program.x].shape)


def _operations(eqn: Any) -> float:
    """Of one equation: 2 for each product in a matrix product or convolution, 1 for each entry of anything else."""
    out = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(eqn.invars[0].aval.shape[a] for a in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        window = eqn.invars[1].aval.shape
        return 2.0 * out * math.prod(window) / window[eqn.params["dimension_numbers"].rhs_spec[0]]
    bodies = [sum(map(_operations, body.eqns)) for body in core.jaxprs_in_params(eqn.params)]
    return max(float(out), eqn.params.get("length", 1) * sum(bodies)) if bodies else float(out)


def of(apply_fn: Any, params: Any, example: Any, outputs: str) -> Cost:
    """The counts of a model."""
    program = programs.read(apply_fn, params, example)
    return Cost(program, affine.plan(program), outputs)
