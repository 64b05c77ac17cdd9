"""Parameterizations: the multipliers, the initial standard deviations and the learning rates of a layer's parameters.

The weights W of an affine layer with fan-in n and fan-out m have the multiplier n^-a. They are drawn with standard
deviation n^-b, and SGD trains them with the learning rate η n^-c m^-e. The first layer, the hidden layers and the last
layer each have their own exponents (see `Exponents`).

A parameterization puts σ_w and σ_b either into the multipliers of W and of the bias, or into their initial standard
deviations. In the second case their learning rates have the factors σ_w² and σ_b². The functions that `sgd` trains are
therefore the same in both cases (Yang & Hu 2021, the symmetry of abc-parametrizations). If σ_b = 0, the bias adds
nothing to the outputs under any parameterization, neither at the start nor while `sgd` trains.
"""

import dataclasses
import inspect
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from ntklib import _checks

Role = Literal["input", "hidden", "output"]


@dataclasses.dataclass(frozen=True)
class Exponents:
    """The exponents for the layers of one role (first, hidden or last).

    They leave out the factors σ_w and σ_b, by which `Parameterization` multiplies in addition.

    Args:
        multiplier: The multiplier of W is fan_in^-multiplier.
        init: W is drawn from N(0, fan_in^(-2 · init)).
        rate: The learning rate of W is η · fan_in^-rate · fan_out^-rate_out.
        rate_out: See `rate`.
        bias_rate_out: The learning rate of the bias is η · fan_out^-bias_rate_out.

    Raises:
        TypeError: If an exponent is not a number.
        ValueError: If an exponent is not finite.
    """

    multiplier: float
    init: float
    rate: float = 0.0
    rate_out: float = 0.0
    bias_rate_out: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _checks.real(field.name, getattr(self, field.name))


@dataclasses.dataclass(frozen=True, repr=False)
class Parameterization:
    """A convention for the scales of layers and the learning rates of their parameters.

    The library has `NTK`, `STANDARD`, `MEAN_FIELD` and `MUP`; see `sgd` for their learning rates.

    Args:
        name: The name of the parameterization in error messages.
        input: The `Exponents` of the first layer.
        hidden: The `Exponents` of hidden layers.
        output: The `Exponents` of the last layer.
        std: "multiplier" if σ_w and σ_b are factors of the multipliers, "init" if they are factors of the initial
            standard deviations.

    Raises:
        TypeError: If `input`, `hidden` or `output` is not an `Exponents`.
        ValueError: If `std` is neither "multiplier" nor "init".

    Example:
        >>> NTK.weight("hidden", fan_in=4, fan_out=3, w_std=2.0)  # (multiplier, initial standard deviation, rate)
        (1.0, 1.0, 1.0)
        >>> STANDARD.weight("hidden", fan_in=4, fan_out=3, w_std=2.0)
        (1.0, 1.0, 1.0)

    References:
        Yang & Hu 2021, "Feature Learning in Infinite-Width Neural Networks".
    """

    name: str
    input: Exponents
    hidden: Exponents
    output: Exponents
    std: Literal["multiplier", "init"]

    def __post_init__(self) -> None:
        for role in ("input", "hidden", "output"):
            _checks.instance(role, getattr(self, role), Exponents, "e.g. `Exponents(multiplier=0.5, init=0.0)`")
        _checks.choice("std", self.std, ("multiplier", "init"))

    def __repr__(self) -> str:
        return f"ntklib.{self.name}" if globals().get(self.name) == self else f"Parameterization({self.name!r})"

    def exponents(self, role: Role | None) -> Exponents:
        """Return the exponents of a role. `role` may be None if all roles have the same exponents.

        Raises:
            ValueError: If `role` is unknown, or if it is None and the roles have different exponents.
        """
        if role is None:
            if not self.input == self.hidden == self.output:
                raise ValueError(
                    f"`role` must be given under {self.name}, whose first, hidden and last layers scale differently: "
                    f'pass role="input", "hidden" or "output" to Dense, or build the network with ntklib.mlp.'
                )
            return self.hidden
        _checks.choice("role", role, ("input", "hidden", "output"))
        return getattr(self, role)

    def weight(self, role: Role | None, fan_in: int, fan_out: int, w_std: float) -> tuple[float, float, float]:
        """Return (multiplier, initial standard deviation, learning-rate factor) of a weight matrix."""
        e = self.exponents(role)
        multiplier, init = fan_in**-e.multiplier, fan_in**-e.init
        rate = fan_in**-e.rate * fan_out**-e.rate_out
        if self.std == "multiplier":
            return w_std * multiplier, init, rate
        return multiplier, w_std * init, w_std**2 * rate

    def bias(self, role: Role | None, fan_out: int, b_std: float) -> tuple[float, float, float]:
        """Return (multiplier, initial standard deviation, learning-rate factor) of a bias vector."""
        rate = fan_out ** -self.exponents(role).bias_rate_out
        if self.std == "multiplier":
            return b_std, 1.0, rate
        return 1.0, b_std, b_std**2 * rate


_ntk = Exponents(multiplier=0.5, init=0.0)
#: z = σ_w/√n · xW + σ_b b with W, b ~ N(0, 1). All parameters have the same learning rate (Jacot et al. 2018).
NTK = Parameterization("NTK", _ntk, _ntk, _ntk, std="multiplier")

_standard = Exponents(multiplier=0.0, init=0.5, rate=1.0)
#: z = xW + b with W ~ N(0, σ_w²/n), b ~ N(0, σ_b²). With the learning rates η σ_w²/n and η σ_b² each step of SGD
#: changes the function exactly as under NTK.
STANDARD = Parameterization("STANDARD", _standard, _standard, _standard, std="init")

#: For one hidden layer, without biases: f = σ_w/n Σ_i a_i φ(σ_w w_i·x/√d), with a_i, w_i ~ N(0, 1) and learning rates
#: η n (Mei et al. 2018). In a second hidden layer a unit starts as a sum of n independent terms times 1/n. Its size is
#: n^-1/2, which vanishes as the width grows: use MUP for deeper networks.
MEAN_FIELD = Parameterization(
    "MEAN_FIELD",
    input=Exponents(multiplier=0.5, init=0.0, rate_out=-1.0, bias_rate_out=-1.0),
    hidden=Exponents(multiplier=1.0, init=0.0, rate=-1.0, rate_out=-1.0, bias_rate_out=-1.0),
    output=Exponents(multiplier=1.0, init=0.0, rate=-1.0),
    std="multiplier",
)

#: Maximal update (Yang & Hu 2021; SGD rates of Yang et al. 2022): all layers learn features at every width. The rate of
#: the weights of the first layer also has the constant factor 1/d. With this factor each step of SGD changes the
#: function of a network with one hidden layer exactly as under MEAN_FIELD.
MUP = Parameterization(
    "MUP",
    input=Exponents(multiplier=0.0, init=0.5, rate=1.0, rate_out=-1.0, bias_rate_out=-1.0),
    hidden=Exponents(multiplier=0.0, init=0.5, bias_rate_out=-1.0),
    output=Exponents(multiplier=0.0, init=1.0, rate=1.0),
    std="init",
)


def scales(net: nnx.Module) -> dict[tuple, dict[str, tuple[float, float, float]]]:
    """Return the scales of the parameters of a network, as {path of the layer: {name of the parameter: scales}}.

    The scales of a parameter are (multiplier, initial standard deviation, learning-rate factor). Layers without a
    method `scales` are left out.
    """
    modules: Any = nnx.iter_modules(net)
    return {path: module.scales() for path, module in modules if _has_scales(module)}


def _has_scales(module: Any) -> bool:
    """Whether a module has the method `scales`. A user's module may have a parameter of this name."""
    return inspect.ismethod(getattr(module, "scales", None))


def sgd(
    net: nnx.Module, learning_rate: optax.ScalarOrSchedule, momentum: float | None = None
) -> optax.GradientTransformation:
    """Return SGD with the learning rate that the parameterization of each layer gives to its parameters.

    The rate of a parameter is η times a factor. For a layer with fan-in n and fan-out m the factors are::

                      input           hidden          output
                    W       b       W       b       W       b
        NTK         1       1       1       1       1       1
        STANDARD    σ_w²/n  σ_b²    σ_w²/n  σ_b²    σ_w²/n  σ_b²
        MEAN_FIELD  m       m       n m     m       n       1
        MUP         σ_w²m/n σ_b² m  σ_w²    σ_b² m  σ_w²/n  σ_b²

    With these factors and the same η, each step changes the function under STANDARD exactly as under NTK. With σ_b = 0
    a bias adds nothing to the outputs: its multiplier is 0, or it starts at 0 and its factor is 0 (see `Dense`).

    Args:
        net: The network. Parameters of layers that are not from ntklib have the factor 1.
        learning_rate: η ≥ 0, a number or an Optax schedule.
        momentum: μ of the heavy ball, 0 ≤ μ < 1, as in `optax.sgd`. None means 0.

    Returns:
        An Optax transformation for the parameters `nnx.state(net, nnx.Param)`, and for those of `functional(net)`.

    Raises:
        TypeError: If `net` is not an `nnx.Module`, if `learning_rate` is neither a number nor a schedule, or if
            `momentum` is not a number.
        ValueError: If `learning_rate` or `momentum` is out of range. From `update` of the transformation, if the
            gradients do not have the shapes of the parameters of `net`.

    Example:
        >>> import ntklib as ntk
        >>> net = ntk.Dense(4, 3, w_std=1.0, parameterization=ntk.STANDARD, rngs=nnx.Rngs(0))
        >>> optimizer = nnx.Optimizer(net, ntk.sgd(net, learning_rate=0.5), wrt=nnx.Param)

    References:
        Yang & Hu 2021; Yang et al. 2022 for the rates of MUP.
    """
    _module("net", net, "`ntklib.sgd(net, 0.1)`")
    if not callable(learning_rate):
        _checks.real("learning_rate", learning_rate, minimum=0.0)
    elif isinstance(learning_rate, nnx.Module):
        raise TypeError("`learning_rate` must be a number or an Optax schedule; got a module.")
    if momentum is not None:
        _checks.momentum("momentum", momentum)
    factors = [factor for _, _, factor in _by_leaf(net, scales(net))]
    shapes = _shapes(net)

    def scale_each(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        leaves, tree = _leaves_of(updates, shapes, "sgd")
        return jax.tree.unflatten(tree, [f * leaf for f, leaf in zip(factors, leaves, strict=True)])

    def look_at(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        _leaves_of(updates, shapes, "sgd")  # before the momentum is added, which would broadcast the shapes
        return updates

    return optax.chain(optax.stateless(look_at), optax.sgd(learning_rate, momentum), optax.stateless(scale_each))


def weight_decay(net: nnx.Module, strength: ArrayLike, *, like: Parameterization = NTK) -> optax.GradientTransformation:
    """Return weight decay that has the effect of plain weight decay under another parameterization.

    Plain weight decay has one strength λ for all parameters. Let s be the multiplier of a parameter θ, and s' its
    multiplier under the parameterization `like`. Under `like` the same function has the parameter θ' = (s/s') θ. Its
    penalty λ/2 ‖θ'‖² equals λ/2 (s/s')² ‖θ‖². The transformation adds the gradient of this penalty to the gradient g of
    the loss::

        g  ->  g + λ (s/s')² θ.

    For `like=NTK` and a layer with fan-in n the strengths are::

                    W           b
        NTK         λ           λ
        STANDARD    λ n/σ_w²    λ/σ_b²

    If `sgd` follows, a network under STANDARD then trains exactly as under NTK with the same η, μ and λ.
    `optax.add_decayed_weights` gives all parameters the strength λ. For the weights of a layer under STANDARD this is
    n/σ_w² times less.

    Args:
        net: The network. Parameters of layers that are not from ntklib have the strength λ.
        strength: λ ≥ 0.
        like: The parameterization under which all parameters have the strength λ.

    Returns:
        An Optax transformation, to be chained before the optimizer. It is for the parameters
        `nnx.state(net, nnx.Param)`, and for those of `functional(net)`.

    Raises:
        TypeError: If `net` is not an `nnx.Module`, if `strength` is not a number, or if `like` is not a
            `Parameterization`.
        ValueError: If `strength` is negative, or if a layer has no role and `like` needs one. From `update` of the
            transformation, if the parameters are not given, or if the gradients do not have the shapes of the
            parameters of `net`.

    Example:
        >>> import ntklib as ntk
        >>> net = ntk.mlp([4, 16, 1], w_std=2.0, parameterization=ntk.STANDARD, rngs=nnx.Rngs(0))
        >>> optimizer = optax.chain(ntk.weight_decay(net, 0.01), ntk.sgd(net, 0.5, momentum=0.9))
        >>> params = nnx.state(net, nnx.Param)
        >>> decay = ntk.weight_decay(net, 0.01)
        >>> updates, _ = decay.update(jax.tree.map(jnp.zeros_like, params), decay.init(params), params)
        >>> ratio = updates.layers[2].W[...] / params.layers[2].W[...]  # λ n/σ_w² = 0.01 · 16/4
        >>> [round(float(r), 4) for r in (ratio.min(), ratio.max())]
        [0.04, 0.04]

    Note:
        A parameter is not penalized if its multiplier is 0 in `net` or under `like`. Under NTK and MEAN_FIELD this is
        the case for a bias with b_std = 0.

        The penalty draws the parameters toward 0, and not toward their initial values. Training with it is therefore
        not kernel ridge regression, not even in the limit of infinite width.

    References:
        Lee et al. 2020.

    See Also:
        `sgd`, for the learning rates of each parameterization.
    """
    _module("net", net, "`ntklib.weight_decay(net, 1e-3)`")
    _checks.real("strength", strength, minimum=0.0)
    _checks.instance("like", like, Parameterization, "one of ntklib.NTK, STANDARD, MEAN_FIELD, MUP")
    own, there = (_by_leaf(net, scales(copy)) for copy in (net, _reparameterized(net, like)))
    pairs = [(s, s_like) for (s, _, _), (s_like, _, _) in zip(own, there, strict=True)]
    ratios = [(s / s_like) ** 2 if s_like else 0.0 for s, s_like in pairs]
    shapes = _shapes(net)

    def decay_each(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
        if params is None:
            raise ValueError(
                "`weight_decay` needs the parameters: pass them to `update(gradients, state, params)`, as "
                "nnx.Optimizer and ntklib.train do."
            )
        leaves, tree = _leaves_of(updates, shapes, "weight_decay")
        decayed = [
            leaf + ratio * jnp.asarray(strength).astype(leaf.dtype) * param
            for leaf, param, ratio in zip(leaves, jax.tree.leaves(params), ratios, strict=True)
        ]
        return jax.tree.unflatten(tree, decayed)

    return optax.stateless(decay_each)


def convert[Net: nnx.Module](net: Net, parameterization: Parameterization) -> Net:
    """Return a copy of a network that has another parameterization and computes the same function.

    Each parameter of the copy is multiplied by (old multiplier)/(new multiplier). Where the new multiplier is 0, the
    parameter is copied unchanged.

    Args:
        net: The network. Layers that are not from ntklib are copied unchanged.
        parameterization: The parameterization of the copy.

    Returns:
        A network of the type of `net`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a parameter is not 0 and its multiplier would change from another number to 0, if layers that
            share a parameter would need it multiplied by different numbers, or if a layer has no role and the new
            parameterization needs one.

    Example:
        >>> import ntklib as ntk
        >>> net = ntk.mlp([3, 8, 1], w_std=1.0, b_std=0.1, rngs=nnx.Rngs(0))
        >>> standard = ntk.convert(net, ntk.STANDARD)
        >>> x = jnp.ones((1, 3))
        >>> bool(jnp.allclose(net(x), standard(x), atol=1e-6))
        True

    Note:
        If a network is converted from NTK to STANDARD or back, `sgd` trains the copy exactly as the network. MUP and
        MEAN_FIELD have other learning rates. Training then starts from the same function, but changes it differently.
    """
    _module("net", net, "`ntklib.convert(net, ntklib.NTK)`")
    if not isinstance(parameterization, Parameterization):
        raise TypeError(f"`parameterization` must be a Parameterization such as ntklib.NTK; got {parameterization!r}.")
    new = nnx.clone(net)
    done: dict[int, float] = {}  # what each parameter was multiplied by; layers may share one
    for path, found in nnx.iter_modules(new):
        module: Any = found
        if not _has_scales(module):
            continue
        before = module.scales()
        module.parameterization = parameterization
        after = module.scales()
        for name in before:
            param = getattr(module, name)
            old, now = before[name][0], after[name][0]
            if now == 0.0 and old != 0.0 and bool(jnp.any(param[...] != 0.0)):
                raise ValueError(
                    f"{'.'.join(map(str, path))}.{name} is not zero but would get the multiplier 0 under "
                    f"{parameterization.name}, because its w_std or b_std is 0. No conversion to "
                    f"{parameterization.name} keeps the function."
                )
            factor = old / now if now else 1.0
            if done.get(id(param), factor) != factor:
                raise ValueError(
                    f"{'.'.join(map(str, path))}.{name} is shared with another layer. {parameterization.name} would "
                    f"multiply it by {factor:.4g} here and by {done[id(param)]:.4g} there. No conversion keeps the "
                    f"function. Give the layers the same w_std, or parameters of their own."
                )
            if id(param) not in done:
                param[...] = param[...] * factor
            done[id(param)] = factor
    return new


def _module(argument: str, value: object, call: str) -> None:
    if not isinstance(value, nnx.Module):
        raise TypeError(
            f"`{argument}` must be the network, an nnx.Module; got {_checks.shown(value)}. The call is {call}."
        )


def _reparameterized[Net: nnx.Module](net: Net, parameterization: Parameterization) -> Net:
    """Return a copy of a network whose layers have another parameterization and whose parameters are unchanged."""
    new = nnx.clone(net)
    for _, found in nnx.iter_modules(new):
        module: Any = found
        if _has_scales(module):
            module.parameterization = parameterization
    return new


def _by_leaf(net: nnx.Module, found: dict[tuple, dict]) -> list[tuple[float, float, float]]:
    """Look up each parameter of a network in `found`, a result of `scales`.

    The list is in the order of the leaves of the network's state. Parameters that `found` does not have get the scales
    (1, 1, 1).
    """
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(net, nnx.Param))]
    return [found.get(tuple(path), {}).get(str(name), (1.0, 1.0, 1.0)) for *path, name in paths]


def _shapes(net: nnx.Module) -> list[tuple[int, ...]]:
    return [param[...].shape for _, param in nnx.to_flat_state(nnx.state(net, nnx.Param))]


def _leaves_of(updates: optax.Updates, shapes: list[tuple[int, ...]], name: str) -> tuple[list[Array], Any]:
    """Return the gradients as a list, and their tree structure. Refuse gradients that do not have the given shapes."""
    leaves, tree = jax.tree.flatten(updates)
    if [leaf.shape for leaf in leaves] != shapes:
        raise ValueError(
            f"The gradients are not those of the network that `{name}` was called with: "
            f"expected {len(shapes)} arrays of shapes {shapes}, got {[leaf.shape for leaf in leaves]}."
        )
    return leaves, tree
