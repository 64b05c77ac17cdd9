"""Many networks trained at once, by one compiled program."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from ntklib import _checks, training
from ntklib._convolutions import convolves
from ntklib._ensemble_job import Build, Job, fitting, groups
from ntklib._traced import Traced
from ntklib.empirical.monte_carlo import check_builder
from ntklib.models import ApplyFn, Params, check_output, functional
from ntklib.training import Loss

Optimizer = optax.GradientTransformation | Callable[..., optax.GradientTransformation]


class Made:
    """What `build` does, as a function of a key that returns (apply_fn, params) and does not call `build` again.

    If `build` makes a pair with a Python function, which may be another one each time, it is called again. Two of these
    objects are equal if they come from one function and do the same.
    """

    def __init__(self, build: Build, key: Array) -> None:
        self.build = build

        def member(key: Array) -> Any:
            made = functional(build(nnx.Rngs(key)))
            arrays = all(isinstance(leaf, (jax.Array, np.ndarray, float, complex)) for leaf in jax.tree.leaves(made))
            return made if arrays else None

        traced = Traced(member, key)
        self._traced = traced if traced.returns_something else None

    def __call__(self, key: Array) -> tuple[ApplyFn, Params]:
        return functional(self.build(nnx.Rngs(key))) if self._traced is None else self._traced(key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Made) and (self.build, self._traced) == (other.build, other._traced)

    def __hash__(self) -> int:
        return hash((self.build, self._traced))

    def __reduce__(self) -> tuple:
        return _made_again, (self.build,)  # a traced program cannot be pickled


def _made_again(build: Build) -> Made:
    return Made(build, jax.random.key(0))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["steps", "loss", "records", "params", "keys"],
    meta_fields=["build", "chunk", "made"],
)
@dataclasses.dataclass(frozen=True, repr=False)
class Ensemble:
    """The result of `ensemble`: M trained networks.

    Args:
        steps: The step numbers at which the loss was recorded, [T].
        loss: The loss of each member over all its training data at these steps, [M, T].
        records: The values that `record` returned, stacked along two first axes [M, T]; None if there was no `record`.
        params: The parameters at the end, with a first axis of length M.
        keys: The random keys with which the members were built, [M].
        build: The function that builds a member.
        chunk: The largest number of members that may be computed at once.
        made: What `build` did at the training, as a function of a key. It stays the same if `build` reads a variable
            that changes later, such as the variable of a loop.
    """

    steps: Int[Array, " T"]
    loss: Float[Array, "M T"]
    records: Any
    params: Params
    keys: Array
    build: Build
    chunk: int
    made: Callable[[Array], tuple[ApplyFn, Params]]

    def __len__(self) -> int:
        """Return M, the number of members."""
        return len(self.loss)

    def __repr__(self) -> str:
        return f"<Ensemble of {len(self)} networks>"

    def member(self, index: int) -> tuple[ApplyFn, Params]:
        """Return a trained network as a model (apply_fn, params).

        Raises:
            TypeError: If `index` is not a whole number.
            ValueError: If `index` is out of range.
        """
        _checks.count("index", index, minimum=-len(self), maximum=len(self) - 1)
        params = jax.tree.map(lambda leaf: leaf[index], self.params)
        return self.made(self.keys[index])[0], params

    def outputs(self, x: ArrayLike, *, centered: bool = False) -> Float[Array, "M N K"]:
        """Return the outputs f_m(x) of all members.

        Args:
            x: Inputs, [N, ...].
            centered: Whether to return f_m(x) − f_m0(x), where f_m0 is the member before training.

        Returns:
            [M, N, K].

        Raises:
            TypeError: If `x` is not an array of inputs, or `centered` is not True or False.
            ValueError: If `x` is empty, not finite, or has too few axes. Errors of the network itself, for a wrong
                number of features for instance, are passed on.
        """
        _checks.flag("centered", centered)
        x = _checks.model_inputs("x", x)
        # On a CPU, convolutions of several members at once take two to three times as long as those of the same members
        # one at a time.
        alone = jax.default_backend() == "cpu" and _convolves(self.made, x.shape, x.dtype.name)
        parts = [
            _outputs(self.made, self.keys[rows], jax.tree.map(lambda leaf, rows=rows: leaf[rows], self.params), x,
                     bool(centered))
            for rows in groups(len(self), 1 if alone else self.chunk)
        ]  # fmt: skip
        return jnp.concatenate(parts)[: len(self)]

    def mean(self, x: ArrayLike, *, centered: bool = False) -> Float[Array, "N K"]:
        """Return the mean of the members' outputs, (1/M) Σ_m f_m(x). Arguments and errors are as for `outputs`."""
        return self.outputs(x, centered=centered).mean(0)

    def variance(self, x: ArrayLike, *, centered: bool = False) -> Float[Array, "N K"]:
        """Return the variance of the outputs between members, Σ_m (f_m(x) − mean)²/(M − 1).

        If the members are independent and trained alike, 1/M of this estimates the variance of the mean of M members.

        Raises:
            TypeError: As for `outputs`.
            ValueError: If there is one member only; as for `outputs`.
        """
        if len(self) < 2:
            raise ValueError("The variance between members needs at least two `members`; this ensemble has one.")
        return self.outputs(x, centered=centered).var(0, ddof=1)

    def accuracy(self, x: ArrayLike, labels: ArrayLike, *, centered: bool = False) -> Float[Array, ""]:
        """Return the accuracy of the mean: the share of examples whose largest mean output is that of their label.

        Args:
            x: Inputs, [N, ...].
            labels: Integers from 0, [N].
            centered: As for `outputs`.

        Returns:
            A number between 0 and 1. For single members, use `ntklib.training.accuracy` with each of `outputs(x)`.

        Raises:
            TypeError: If `labels` are not integers [N]; as for `outputs`.
            ValueError: If `labels` are not from 0 to K − 1, or if their number is not N; as for `outputs`.
        """
        mean = self.mean(x, centered=centered)
        labels = _checks.labels("labels", labels, mean.shape[1])
        if len(labels) != len(mean):
            raise ValueError(f"`labels` must be [N] = [{len(mean)}], one for each input; got {len(labels)}.")
        return training.accuracy(mean, labels)


def ensemble(
    build: Build,
    x: ArrayLike,
    y: ArrayLike,
    *,
    members: int,
    optimizer: Optimizer,
    steps: int,
    key: Array,
    settings: Mapping[str, ArrayLike] | None = None,
    rows: ArrayLike | None = None,
    batch_size: int | None = None,
    loss: Loss | Literal["mse", "cross_entropy"] = "mse",
    record: Callable[[Params], Any] | None = None,
    record_at: Sequence[int] | None = None,
    diverged: Literal["raise", "keep"] = "raise",
    max_memory: int | float = _checks.MAX_MEMORY,
    progress: bool | None = None,
) -> Ensemble:
    """Train M networks of one architecture at once, by one compiled program.

    Each member is trained as `train` would train it. Members differ in their initialization. They may also differ in
    the arguments of their optimizers (`settings`) and in their training examples (`rows`).

    Args:
        build: A function of `nnx.Rngs` that makes a network, or any other model that `functional` takes, e.g.
            `lambda rngs: ntk.mlp([784, 256, 10], w_std=1.0, rngs=rngs)`. JAX traces it. It is called with
            `nnx.Rngs(k)`, where k is the key of a member, and must return the same network if called again with k.
        x: Inputs [N, ...].
        y: Targets, as in `train`.
        members: M, the number of networks.
        optimizer: An Optax transformation, the same for all members; or, with `settings`, a function that makes one,
            e.g. `lambda rate: ntk.sgd(net, rate)`.
        steps: The number of updates.
        key: A JAX random key, which is split into M keys, `jax.random.split(key, members)`; or an array [M] of such
            keys, one for each member; raw keys (uint32) are not taken here. Members with equal keys start with equal
            parameters.
        settings: A dict from the names of the arguments of `optimizer` to arrays [M, ...] of floating-point numbers
            with a value for each member, e.g. `{"rate": jnp.array([0.1, 0.1, 1.0, 1.0])}`.
        rows: For each member the row numbers of its n training examples, integers [M, n]. By default each member is
            trained on all.
        batch_size: As in `train`. Members draw their batches with keys of their own,
            `jax.random.fold_in(k, 2**32 - 1)`.
        loss: As in `train`.
        record: A function of the present parameters of one member that JAX can trace. It is called at the steps
            `record_at`. It is not given the parameters at the start. For centered outputs after training, use the
            method `outputs` of the `Ensemble`.
        record_at: As in `train`.
        diverged: What happens if the loss of a member is not finite when it is recorded: "raise" raises an error, and
            "keep" goes on training. The losses show which members diverged.
        max_memory: The bytes to use; by default 2 GiB. If not all members fit, they are trained in groups of equal
            size, one group after the other. A group has at most as many members as fit, and at least one.
        progress: As in `train`.

    Returns:
        An `Ensemble`: the losses [M, T], the records and the parameters of all members, and methods for their outputs,
        mean, variance and accuracy. After Ctrl-C it has the finished members or, if there are none, the members in
        training with what was recorded until then.

    Raises:
        TypeError: As for `train`; if `build` is not a function of `nnx.Rngs` that makes a network, or cannot be traced;
            if `optimizer` does not fit `settings`; inside `jit`.
        ValueError: As for `train`; if `settings`, `rows` or the keys are not for M members.
        FloatingPointError: As for `train`; with diverged="keep" only before the first step.

    Example:
        >>> import ntklib as ntk
        >>> build = lambda rngs: ntk.mlp([1, 64, 1], w_std=1.0, rngs=rngs)
        >>> x = jnp.linspace(-1, 1, 8)[:, None]
        >>> how = {"steps": 100, "key": jax.random.key(0), "progress": False}
        >>> trained = ensemble(build, x, x**2, members=20, optimizer=optax.sgd(0.5), **how)
        >>> trained.loss.shape, trained.mean(x).shape
        ((20, 2), (8, 1))
        >>> rates = {"learning_rate": jnp.array([0.1, 0.5])}
        >>> slow, fast = ensemble(build, x, x**2, members=2, optimizer=optax.sgd, settings=rates, **how).loss[:, -1]
        >>> bool(fast < slow)
        True

    Note:
        Everything compiles once, while M calls of `train` compile M times. For 64 networks with the layer sizes
        16-32-1, 32 examples and 300 steps this took 1.4 s of processor time instead of 64 times 0.35 s. On a CPU a step
        of all members takes about as long as M steps of `train`. If the members have convolutions, a CPU trains them
        one after the other, but still in one program, so that the arrays of a member stay in the cache.

        The memory of a member is estimated as its own examples (with `rows`) and the sum of all arrays in one step of
        training, or in one evaluation of the loss over all its examples if that is more; XLA needs less.

    See Also:
        `train`, for one network; `monte_carlo_kernel`, which with the same key and number of networks uses these
        networks before training; `ensemble_posterior`, the limit for infinitely wide networks.
    """
    _checks.count("members", members)
    _checks.outside_jit("ensemble", "There use `jax.vmap` of `ntklib.train`.", x, y, key, settings)
    check_builder(build)
    keys = _member_keys(key, members)
    inputs = training.gathered(_checks.model_inputs("x", x))
    settings = _settings(settings, members)
    make = _maker(optimizer, settings)
    rows = _rows(rows, members, len(inputs))
    loss_fn = training.loss_function(loss)
    outputs = _outputs_of(build, keys[0], inputs)
    targets = training.gathered(training.checked_targets(loss_fn, y, len(inputs), outputs))
    _checks.count("steps", steps, maximum=2**31 - 1)
    stops = training.record_steps(record_at, steps)
    if record is not None and not callable(record):
        raise TypeError(f"`record` must be a function of the parameters; got {_checks.shown(record)}.")
    _checks.choice("diverged", diverged, ("raise", "keep"))
    _checks.real("max_memory", max_memory, above=0.0)
    if progress is not None:
        _checks.flag("progress", progress)
    examples = len(inputs) if rows is None else rows.shape[1]
    training.batch_key(keys[0], batch_size, examples)

    job = Job(build, make, loss_fn, inputs, targets, keys, settings, rows, batch_size, record)
    job.check(_abstract(build, keys[0]))
    made = Made(build, keys[0])
    chunk = fitting(members, max_memory, job.bytes_of_a_member())
    all_groups = groups(members, chunk)
    finished = []
    with contextlib.closing(training.progress_bar(steps * len(all_groups), progress)) as bar:
        for chosen in all_groups:
            refuse = functools.partial(_check_diverged, chosen, diverged)
            state, looks, interrupted = job.run(chosen, stops, steps, bar, refuse)
            if not interrupted or not finished:
                finished.append((looks, state[0]))
            if interrupted:
                break
    return _joined(finished, keys, stops, members, made, chunk)


def _joined(
    finished: list[tuple[list, Params]], keys: Array, stops: list[int], members: int, made: Made, chunk: int
) -> Ensemble:
    """Return the members of all groups as one ensemble."""
    taken = len(finished[0][0])
    of_groups = []
    for looks, params in finished:
        if looks:
            loss, records = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *looks)
        else:  # interrupted before the first record
            loss, records = jnp.zeros((len(jax.tree.leaves(params)[0]), 0)), None
        of_groups.append((loss, records, params))
    loss, records, params = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:members], *of_groups)
    steps = jnp.asarray(stops[:taken], dtype=int)
    return Ensemble(steps, loss, records, params, keys[: len(loss)], made.build, chunk, made)


def _check_diverged(chosen: np.ndarray, diverged: str, loss: Array, step: int) -> None:
    """Refuse losses that are not finite. With "keep" refuse them before the first step only."""
    bad = np.unique(chosen[~np.isfinite(np.asarray(loss))])
    if not len(bad) or (diverged == "keep" and step > 0):
        return
    which = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
    if step == 0:
        raise FloatingPointError(
            f"The loss of {len(bad)} members ({which}) is not finite before the first step: look for NaN, ∞ or very "
            f"large numbers in what `build` makes and in `y`."
        )
    raise FloatingPointError(
        f"The loss of {len(bad)} of {len(np.unique(chosen))} members ({which}) is not finite at step {step}: training "
        f'diverged. Use a smaller learning rate, or keep these members by diverged="keep".'
    )


@functools.partial(jax.jit, static_argnums=(0, 4))
def _outputs(made: Made, keys: Array, params: Params, x: Array, centered: bool) -> Array:
    def of_member(key: Array, params: Params) -> Array:
        apply_fn, start = made(key)
        return apply_fn(params, x) - apply_fn(start, x) if centered else apply_fn(params, x)

    return jax.vmap(of_member)(keys, params)


@functools.lru_cache(maxsize=64)
def _convolves(made: Made, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether members have convolutions."""

    def outputs(key: Array, x: Array) -> Array:
        apply_fn, params = made(key)
        return apply_fn(params, x)

    return convolves(jax.make_jaxpr(outputs)(jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype)).jaxpr)


# ------------------------------------------------------------------------------------------------------- the checks


def _member_keys(key: Any, members: int) -> Array:
    """Return one random key for each member."""
    new = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if new and key.ndim == 1:
        if len(key) != members:
            raise ValueError(f"`key` must be one key or one for each of {members} members; got {len(key)} keys.")
        return key
    _checks.key("key", key)
    return jax.random.split(key, members)


def _settings(settings: Any, members: int) -> dict[str, Array]:
    if settings is None:
        return {}
    if not isinstance(settings, Mapping) or not settings:
        raise TypeError(
            f"`settings` must be a dict from names of arguments of `optimizer` to arrays [M, ...]; got "
            f"{_checks.shown(settings)}."
        )
    arrays = {}
    for name, values in settings.items():
        argument = f"settings[{name!r}]"
        arrays[name] = jnp.asarray(_checks.checked(argument, values, "M ..."))
        if len(arrays[name]) != members:
            raise ValueError(
                f"`{argument}` must have an entry for each of {members} members; got shape {arrays[name].shape}."
            )
    return arrays


def _maker(optimizer: Any, settings: dict[str, Array]) -> Callable[[dict[str, Array]], Any]:
    """Return a function that makes the optimizer of a member from its settings."""
    if not settings:
        transformation = training.transformation_of(optimizer)
        return lambda _: transformation
    if not callable(optimizer):
        raise TypeError(
            f"`optimizer` must be a function of {', '.join(map(repr, settings))} with `settings`, e.g. `optax.sgd` or "
            f"`lambda rate: ntklib.sgd(net, rate)`; got {_checks.shown(optimizer)}."
        )
    try:
        inspect.signature(optimizer).bind(**settings)
    except TypeError as error:
        raise TypeError(
            f"`optimizer` must take the names in `settings` as arguments, {', '.join(map(repr, settings))}: {error}."
        ) from None
    return lambda entries: training.transformation_of(optimizer(**entries))


def _rows(rows: Any, members: int, examples: int) -> np.ndarray | None:
    if rows is None:
        return None
    known = np.asarray(_checks.plain("rows", rows))
    if known.ndim != 2 or len(known) != members or not known.size:
        raise ValueError(
            f"`rows` must be [M, n], n row numbers of `x` for each of {members} members; got shape {known.shape}."
        )
    if not np.issubdtype(known.dtype, np.integer):
        raise TypeError(f"`rows` must be whole numbers, row numbers of `x`; got {known.dtype}.")
    if known.min() < 0 or known.max() >= examples:
        raise ValueError(
            f"`rows` must be from 0 to {examples - 1}, because `x` has {examples} rows; they go from {known.min()} to "
            f"{known.max()}."
        )
    return known


def _abstract(build: Build, key: Array) -> tuple[ApplyFn, Params]:
    """Return a member's function and the shapes of its parameters. Nothing is computed."""
    held: list[Any] = []

    def of(key: Array) -> Params:
        model = build(nnx.Rngs(key))
        try:
            _, params = functional(model)
        except TypeError as error:
            held.append(error)
            return None
        return jax.tree.map(jnp.asarray, params)

    try:
        params = jax.eval_shape(of, key)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        raise TypeError(
            f"`build` must be a function that JAX can trace, without decisions that depend on random numbers: {error}"
        ) from error
    if held:
        raise TypeError(f"`build` must make a network: {held[0]}") from held[0]

    def apply_fn(params: Params, x: Array) -> Array:
        return functional(build(nnx.Rngs(key)))[0](params, x)

    return apply_fn, params


def _outputs_of(build: Build, key: Array, x: Array) -> int:
    """Return K, the number of outputs."""
    return check_output(*_abstract(build, key), x[:1])[1]
