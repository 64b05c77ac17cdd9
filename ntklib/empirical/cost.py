"""The cost of each method for an empirical NTK: operations, to choose a method, and bytes, to choose sizes of tiles."""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend import core

from ntklib.empirical import affine, layerwise, terms
from ntklib.empirical import program as programs
from ntklib.empirical.affine import Division
from ntklib.empirical.blocks import Memory
from ntklib.empirical.program import Program
from ntklib.empirical.pure import Arguments, Function

Method = Literal["layerwise", "jacobian", "products"]

#: The error message if a method needs forward derivatives and the model has none.
NO_PUSH = (
    "`model` contains a function with `jax.custom_vjp`, which has no forward derivatives; products with the kernel "
    'need them. Use `empirical_ntk` with method="layerwise" or "jacobian", or define the function by `jax.custom_jvp`.'
)

# The approximate size of a CPU's cache in bytes, 40 MiB. With half or twice this number, a convolutional network took 3
# to 8 % longer.
_CACHE = 5 * 2**23

# The weight of an operation of "products" when methods are compared. Its matrix products are smaller than those of the
# other methods. With 200 to 300 outputs, a CPU took 4 to 7 times as long for an operation as by "layerwise". The weight
# is smaller than that because other devices were not measured.
_PRODUCTS = 1.5


@dataclasses.dataclass(frozen=True)
class Cost:
    """Counts of operations and bytes for a model, and for `outputs` as in `empirical_ntk`.

    Bytes are an upper bound on the arrays that can exist at the same time. A test compares them with what XLA reports.
    """

    program: Program
    division: Division
    outputs: str
    cache: int = _CACHE

    @property
    def k(self) -> int:
        """K, the number of outputs."""
        return self.program.shapes[self.program.output].shape[0]

    @property
    def dtype(self) -> Any:
        """The type of the outputs, and of the kernel."""
        return self.program.shapes[self.program.output].dtype

    @property
    def bytes_of_example(self) -> int:
        """An upper bound on the bytes of all values that are computed from one example."""
        values, _, example = self._activations
        return self._item * (values + example)

    @property
    def precision(self) -> float:
        """The machine epsilon of the least precise floating-point type in the program."""
        types = {shape.dtype for shape in self.program.shapes if jnp.issubdtype(shape.dtype, jnp.floating)}
        return max(float(jnp.finfo(dtype).eps) for dtype in types)

    @functools.cached_property
    def evaluation(self) -> float:
        """F, the number of operations of one evaluation."""
        return float(sum(_operations(e.eqn) for e in self.program.equations))

    @functools.cached_property
    def leaf_sizes(self) -> list[int]:
        """The sizes of all parameter arrays; their sum is P."""
        return [math.prod(self.program.shapes[v].shape) for v in self.program.leaves]

    @functools.cached_property
    def layers(self) -> list[layerwise.Sizes]:
        """The sizes of each affine layer."""
        return [layerwise.sizes(self.program, layer, self.k, self.outputs) for layer in self.division.layers]

    def operations(self, method: str, n: int, m: int) -> float:
        """Return the number of operations for a kernel [N, M]: those of all examples plus those of all pairs.

        One evaluation, of F operations, serves the passes of all K outputs. A backward or a forward pass takes about
        2 F operations for each output. A backward pass of "layerwise" takes about F, because it computes derivatives
        with respect to the outputs of layers, and none with respect to their weights.
        """
        k, p, f = self.k, sum(self.leaf_sizes), self.evaluation
        products = k * k if self.outputs == "full" else k  # the pairs of outputs whose derivatives are multiplied
        if method == "products":
            return m * (n + 1) * (1 + 2 * k) * f  # for each x', one backward pass and n forward passes for each output
        if method == "jacobian":
            return (n + m) * (1 + 2 * k) * f + n * m * 2 * products * p
        plain = sum(self.leaf_sizes[i] for i in self.division.plain)
        example, pair = (1 + k) * f, 2.0 * products * plain
        for t, inputs, o, factors in self.layers:
            example += 0 if factors else 2 * t * inputs * o * k
            pair += 2 * (t * t * (inputs + products * o) if factors else products * inputs * o)
        return (n + m) * example + n * m * pair

    @functools.cached_property
    def pushes_forward(self) -> bool:
        """Whether the model has forward derivatives: a function with `jax.custom_vjp` has none."""
        return not any(map(_only_pulls_back, (e.eqn for e in self.program.equations)))

    def cheapest(self, n: int, m: int) -> Method:
        """Return the method with the fewest operations for a kernel [N, M], with those of "products" weighted."""
        methods: tuple[Method, ...] = ("layerwise", "jacobian", "products")

        def time(method: Method) -> float:
            return self.operations(method, n, m) * (_PRODUCTS if method == "products" else 1)

        return min(methods[: 2 + self.pushes_forward], key=time)

    def memory(self, method: str, b: int, k: int) -> Memory:
        """Return the `Memory` of blocks of `b` examples and `k` outputs."""
        item, tile = self._item, b * b * {"mean": 1, "diagonal": k, "full": k * k}[self.outputs]
        if method == "products":
            return self._memory_of_products(b, k, tile)
        kept, chunk = self._kept(method, k), min(b, self.chunk(method, k))
        # Twice the parameters, for scaled and for transposed copies of weights.
        computing = 2 * sum(self.leaf_sizes) + chunk * (self.working(method, k) + kept)
        if method == "jacobian":
            computing += chunk**2 * k * self._convolved  # the merged convolution (see `chunk`)
        if chunk < b:  # the block, which is then filled chunk by chunk
            computing += b * kept
        # `b * kept`: XLA may copy an operand of a matrix product. 1024: small buffers of XLA, which count only in the
        # smallest tiles. For one example of a small CNN in float64, XLA took 5,380 bytes; the other terms give 5,104.
        contracting = self._joining(method, b, k, tile) + b * kept + 1024
        return Memory(item * b * kept, item * computing, item * contracting)

    def _memory_of_products(self, b: int, k: int, tile: int) -> Memory:
        """Return the `Memory` of blocks for "products". A block holds only its inputs.

        To contract two blocks, each output needs a derivative with respect to all parameters, and derivatives of the
        hidden units and outputs of all b examples. All values of the examples are needed, too. The factors 2 and 3 are
        for copies.
        """
        values, largest, example = self._activations
        working = k * (3 * sum(self.leaf_sizes) + b * (3 * largest + self.k)) + 2 * b * values + 3 * tile
        return Memory(self._item * (b * example + k * self.k), 0, self._item * working)

    def _kept(self, method: str, k: int) -> int:
        """Return how many numbers of one example a block holds."""
        kept = k * sum(self._plain(method))
        for t, inputs, o, factors in self._by_layers(method):
            kept += t * (inputs + k * o) if factors else k * inputs * o
        return kept

    def _joining(self, method: str, b: int, k: int, tile: int) -> int:
        """Return how many numbers are in the products of the terms of two blocks before they are summed."""
        products, contracting = terms.groups(self.outputs, k, self._plain(method)), 2 * tile
        for t, inputs, o, factors in self._by_layers(method):
            if not factors:
                products += terms.parts(self.outputs, inputs, k, o) + 1
            else:
                contracting += tile + b * b if t == 1 else t * t * (2 * tile + b * b)
        return contracting + products * tile

    def chunk(self, method: str, k: int) -> int:
        """Return how many examples to compute at a time so that all intermediate values stay in the cache."""
        if method == "products" or jax.default_backend() != "cpu":
            return 2**31  # no limit
        working = self.working(method, k)
        fit = self.cache // (self._item * working)
        # On a CPU, XLA merges the Jacobians of B examples with respect to the weights of a convolution into one
        # convolution, which takes B times the work.
        if method == "jacobian" and self._convolved:
            fit = min(fit, working // (k * self._convolved))
        return max(1, fit)

    def working(self, method: str, k: int) -> int:
        """Return how many numbers are in the intermediate values of one example."""
        values, largest, _ = self._activations
        working = 2 * values + k * (2 * largest + sum(self._plain(method)))
        for t, inputs, o, factors in self._by_layers(method):
            working += t * (inputs + k * o) + (t * k * o + 2 * t * inputs + 2 * k * inputs * o) * (not factors)
        return working

    def _by_layers(self, method: str) -> list[layerwise.Sizes]:
        """Return the sizes of the layers whose structure a method uses."""
        return self.layers if method == "layerwise" else []

    def _plain(self, method: str) -> list[int]:
        """Return the sizes of the parameters whose Jacobians a method computes without regard to layers."""
        return self.leaf_sizes if method == "jacobian" else [self.leaf_sizes[i] for i in self.division.plain]

    @functools.cached_property
    def _item(self) -> int:
        """The bytes of one number."""
        return max(self.program.shapes[v].dtype.itemsize for v in (*self.program.leaves, self.program.output))

    @functools.cached_property
    def _convolved(self) -> int:
        """The size of the largest output of a convolution; 0 if there are no convolutions."""
        found = (e.outputs[0] for e in self.program.equations if e.eqn.primitive.name == "conv_general_dilated")
        return max((math.prod(self.program.shapes[v].shape) for v in found), default=0)

    @functools.cached_property
    def _activations(self) -> tuple[int, int, int]:
        """The total size of the values that depend on one example, the size of the largest, and the example's size."""
        made = self.program.depending_on(self.program.x)
        sizes = [math.prod(self.program.shapes[v].shape) for v in made]
        return sum(sizes), max(sizes), math.prod(self.program.shapes[self.program.x].shape)


def _operations(eqn: Any) -> float:
    """Return the number of operations of one equation.

    A matrix product or a convolution has 2 for each product of two numbers. A call or a loop has those of its bodies,
    times the length of a scan. Any other equation has 1 for each entry of its results.
    """
    out = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * out * math.prod(eqn.invars[0].aval.shape[a] for a in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        window = eqn.invars[1].aval.shape
        return 2.0 * out * math.prod(window) / window[eqn.params["dimension_numbers"].rhs_spec[0]]
    bodies = [sum(map(_operations, body.eqns)) for body in core.jaxprs_in_params(eqn.params)]
    return max(float(out), eqn.params.get("length", 1) * sum(bodies)) if bodies else float(out)


def example(x: Any) -> Any:
    """Return the shape and type of one example."""
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _only_pulls_back(eqn: Any) -> bool:
    if eqn.primitive.name.startswith("custom_vjp"):
        return True
    return any(map(_only_pulls_back, (e for body in core.jaxprs_in_params(eqn.params) for e in body.eqns)))


def of(function: Function, arguments: Arguments, example: Any, outputs: str) -> Cost:
    """Return the `Cost` of a model. It is made once for all models of one structure, without functions of the user."""
    if function.closes_over_something:  # do not cache a program that would keep these arrays alive
        return _counted(function, arguments, example, outputs)
    leaves, tree = jax.tree.flatten(programs.types((arguments, example)))
    return _known(function, tuple(leaves), tree, outputs)


@functools.lru_cache(maxsize=64)
def _known(function: Function, leaves: tuple[Any, ...], tree: Any, outputs: str) -> Cost:
    arguments, example = jax.tree.unflatten(tree, leaves)
    return _counted(function, arguments, example, outputs)


def _counted(function: Function, arguments: Arguments, example: Any, outputs: str) -> Cost:
    program = programs.read(function, arguments, example)
    return Cost(program, affine.division(program), outputs)
