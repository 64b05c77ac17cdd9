"""Right and wrong answers to the tasks of chapter 16."""

import jax.numpy as jnp
import numpy as np
from mutations import Table, cases


def member(kernel, x_test, z, y, ridge, own=None, lam=None, new=None):
    k = kernel(z, z) if own is None else own
    lam = ridge * jnp.trace(k) / len(k) if lam is None else lam
    cross = kernel(x_test, z) if new is None else new
    return cross @ jnp.linalg.solve(k + lam * jnp.eye(len(k)), y)


def running(values):
    counts = jnp.arange(1, len(values) + 1).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.cumsum(values, axis=0) / counts


def ensembles(kernel, x_test, x, y, transforms, ridge):
    return running(jnp.stack([member(kernel, x_test, t(x), y, ridge) for t in transforms]))


def by_loop(kernel, new, images, targets, maps, ridge):
    """NumPy, one ensemble after the other."""
    found = []
    for j in range(1, len(maps) + 1):
        outputs = []
        for a in maps[:j]:
            z = a(images)
            k = np.asarray(kernel(z, z), np.float64)
            lam = ridge * np.mean(np.diag(k))
            alpha = np.linalg.solve(k + lam * np.eye(len(k)), np.asarray(targets, np.float64))
            outputs.append(np.asarray(kernel(new, z), np.float64) @ alpha)
        found.append(np.mean(outputs, 0).tolist())
    return found


def ensembles_with(combine=running, of=None, test=None, **parts):
    """`ensembles` with one part replaced: `of(kernel, x_test, x, z, y, ridge)` gives what `member` is told."""

    def answer(kernel, x_test, x, y, transforms, ridge):
        outputs = []
        for t in transforms:
            z = t(x)
            told = of(kernel, x_test, x, z, ridge) if of else {}
            outputs.append(member(kernel, test(t, x_test) if test else x_test, z, y, ridge, **told))
        return combine(jnp.stack(outputs))

    return answer


def mean_kernels(kernel, x_test, x, y, transforms, ridge):
    own = running(jnp.stack([kernel(t(x), t(x)) for t in transforms]))
    new = running(jnp.stack([kernel(x_test, t(x)) for t in transforms]))
    return jnp.stack([member(kernel, x_test, x, y, ridge, own=a, new=b) for a, b in zip(own, new, strict=True)])


def one_after_the_other(kernel, x_test, x, y, transforms, ridge):
    outputs, z = [], x
    for t in transforms:
        z = t(z)
        outputs.append(member(kernel, x_test, z, y, ridge))
    return running(jnp.stack(outputs))


def signed_with(train="signed", test="signed", ridge="right", form=None):
    """`signed_regression` with other averages, or another ridge."""

    def answer(kernel, x_test, x, y, perms, signs, lam):
        size = len(perms)

        def average(a, how):
            if how == "plain":
                return kernel(a, x)
            weights = signs if how != "unsigned" else jnp.ones(size)
            total = jnp.sum(jnp.stack([w * kernel(a, x[:, p]) for p, w in zip(perms, weights, strict=True)]), 0)
            return total if how == "sum" else total / size

        own = average(x, train)
        lams = {"right": lam / size, "lam": lam, "times": lam * size, "none": 0.0}
        lams["relative"] = lam / size * jnp.trace(own) / len(own)
        return average(x_test, test) @ jnp.linalg.solve(own + lams[ridge] * jnp.eye(len(own)), y)

    return answer


signed_regression = signed_with()


def all_sums(kernel, x_test, x, y, perms, signs, lam):
    """Without a division: the sum over the group, and the ridge as it is; in one call of the kernel."""
    n, size = len(x), len(signs)
    copies = jnp.concatenate([x[:, p] for p in perms])

    def total(a):
        return jnp.einsum("ngm,g->nm", kernel(a, copies).reshape(len(a), size, n), jnp.asarray(signs))

    return total(x_test) @ jnp.linalg.solve(total(x) + lam * jnp.eye(n), y)


def in_numpy(kernel, x_test, x, y, perms, signs, lam):
    pairs = list(zip(np.asarray(perms), np.asarray(signs), strict=True))
    own, new = (np.mean([s * np.asarray(kernel(a, x[:, p])) for p, s in pairs], axis=0) for a in (x, x_test))
    return new @ np.linalg.solve(own + lam / len(pairs) * np.eye(len(own)), np.asarray(y))


def on_all_copies(kernel, x_test, x, y, perms, signs, lam):
    copies = jnp.concatenate([x[:, p] for p in perms])
    targets = jnp.concatenate([s * y for s in signs])
    k = kernel(copies, copies)
    return kernel(x_test, copies) @ jnp.linalg.solve(k + lam * jnp.eye(len(k)), targets)


def over_size(kernel, x_test, x, y, perms, signs, lam):
    return signed_regression(kernel, x_test, x, y, perms, signs, lam) / len(signs)


def split(order, copies, n_test):
    n, order = len(order), np.asarray(order)
    return np.concatenate([c * n + order[n_test:] for c in range(copies)]), order[:n_test]


def by_mask(order, copies, n_test):
    """From a table of rows, in JAX."""
    n = len(order)
    table = jnp.arange(copies * n).reshape(copies, n)
    return table[:, order[n_test:]].ravel(), table[0, order[:n_test]]


def split_with(train=None, test=None):
    def answer(order, copies, n_test):
        order = np.asarray(order)
        changed = [part and part(order, copies, n_test) for part in (train, test)]
        return tuple(
            new if new is not None else old for new, old in zip(changed, split(order, copies, n_test), strict=True)
        )

    return answer


def copies_of(images, copies, n):
    return np.concatenate([c * n + images for c in range(copies)])


TABLES = [
    Table(
        "16.1",
        right={"running means": ensembles, "NumPy, lists": by_loop},
        wrong={
            "mean of kernels": (mean_kernels, "average the predictions"),
            "test images too": (ensembles_with(test=lambda t, a: t(a)), "asked as they are"),
            "one by one": (ensembles_with(combine=lambda f: f), "members one by one"),
            "sums": (ensembles_with(combine=lambda f: jnp.cumsum(f, axis=0)), "without the division"),
            "divided by all": (ensembles_with(combine=lambda f: jnp.cumsum(f, axis=0) / len(f)), "all members"),
            "the last only": (ensembles_with(combine=lambda f: f.mean(0)), "one ensemble"),
            "absolute ridge": (
                ensembles_with(of=lambda kernel, a, x, z, ridge: {"lam": ridge}),
                "mean of the diagonal.",
            ),
            "the trace": (
                ensembles_with(of=lambda kernel, a, x, z, ridge: {"lam": ridge * jnp.trace(kernel(z, z))}),
                "not times its sum",
            ),
            "the originals' diagonal": (
                ensembles_with(of=lambda kernel, a, x, z, ridge: {"lam": ridge * jnp.trace(kernel(x, x)) / len(x)}),
                "its own diagonal",
            ),
            "no ridge": (ensembles_with(of=lambda *_: {"lam": 0.0}), "ridge is missing"),
            "one after the other": (one_after_the_other, "starts from the originals"),
            "plain kernel for the test": (
                ensembles_with(of=lambda kernel, a, x, z, ridge: {"new": kernel(a, x)}),
                "between test and training images",
            ),
            "plain kernel for training": (
                ensembles_with(of=lambda kernel, a, x, z, ridge: {"own": kernel(x, x)}),
                "training matrix is that of the originals",
            ),
            "no return": (lambda *_: None, "is a `return` missing?"),
        },
    ),
    Table(
        "16.2",
        right={"averages": signed_regression, "sums": all_sums, "NumPy": in_numpy},
        wrong={
            "no signs": (signed_with("unsigned", "unsigned"), "labels that all copies share"),
            "no signs for the test": (signed_with(test="unsigned"), "between test and training"),
            "no signs in training": (signed_with(train="unsigned"), "missing in the training matrix"),
            "ridge of all copies": (signed_with(ridge="lam"), "has another one"),
            "ridge times |G|": (signed_with(ridge="times"), "multiplied by |G|"),
            "sums, and the ridge divided": (signed_with("sum", "sum"), "the ridge is"),
            "plain training matrix": (signed_with(train="plain"), "plain kernel, not the averaged"),
            "plain for the test": (signed_with(test="plain"), "plain one"),
            "nothing averaged": (signed_with("plain", "plain", "lam"), "without copies"),
            "no ridge": (signed_with(ridge="none"), "ridge is missing"),
            "relative": (signed_with(ridge="relative"), "absolute"),
            "all copies": (on_all_copies, "N×N matrices will do"),
            "divided once more": (over_size, "1/the size of the group"),
            "no return": (lambda *_: None, "is a `return` missing?"),
        },
    ),
    Table(
        "16.3",
        right={"numbers": (0.295, 20), "an array": np.array([0.295, 20.0]), "a list": [0.28 + 0.12 / 8, 20.0]},
        wrong={
            "the limit": ((0.28, 20), "limit of many"),
            "all divided": ((0.05, 20), "the common part too"),
            "from two": ((0.085, 20), "left at J = 2"),
            "each doubling": ((0.22, 20), "half of the one before"),
            "the root": ((0.2676, 20), "1/√J"),
            "half": ((0.3475, 20), "only half"),
            "near": ((0.31, 20), "off by more"),
            "90 percent": ((0.295, 10), "leaves 10 %"),
            "members by the root": ((0.295, 400), "the law 1/√J"),
            "over two": ((0.295, 40), "over ensembles of two"),
            "one number": (0.295, "tuple of 2"),
            "text": (("0.295", 20), "one number"),
        },
    ),
    Table(
        "16.4",
        right={"rows": (3, 0.96, split), "a table": [3.0, 1 - 0.04, by_mask]},
        wrong={
            "the copies": ((1, 0.96, split), "no harm"),
            "the labels": ((2, 0.96, split), "label of its original"),
            "the solve": ((4, 0.96, split), "How were they chosen"),
            "the score": ((5, 0.96, split), "On which rows"),
            "no line": ((6, 0.96, split), "1 to 5"),
            "one sibling": ((3, 0.8, split), "share of rows for training"),
            "both": ((3, 0.64, split), "both siblings"),
            "neither": ((3, 0.04, split), "without a sibling"),
            "a fifth": ((3, 0.2, split), "share of rows for testing"),
            "three copies": ((3, 1 - 0.008, split), "for sure"),
            "test copies": (
                (3, 0.96, split_with(test=lambda order, c, m: copies_of(order[:m], c, len(order)))),
                "originals alone: each image",
            ),
            "no copies": ((3, 0.96, split_with(train=lambda order, c, m: order[m:])), "their copies belong"),
            "copies of test images": (
                (
                    3,
                    0.96,
                    split_with(
                        train=lambda order, c, m: np.setdiff1d(np.arange(c * len(order)), order[:m]),
                    ),
                ),
                "still among the training rows",
            ),
            "the end of the order": (
                (3, 0.96, split_with(test=lambda order, c, m: order[-m:])),
                "first ones are for testing",
            ),
            "not shuffled": ((3, 0.96, split_with(test=lambda order, c, m: np.arange(m))), "first of the order"),
            "test rows by image": ((3, 0.96, split_with(test=lambda order, c, m: order[:m] * c)), "not i·copies + c"),
            "rows by image": (
                (
                    3,
                    0.96,
                    split_with(train=lambda order, c, m: (order[m:, None] * c + np.arange(c)).ravel()),
                ),
                "not i·copies + c",
            ),
            "from one": (
                (3, 0.96, split_with(train=lambda order, c, m: len(order) + copies_of(order[m:], c, len(order)))),
                "count from 1",
            ),
            "no return": ((3, 0.96, lambda *_: None), "is a `return` missing?"),
            "the line alone": (3, "tuple of 3"),
        },
    ),
]
test_answers = cases(TABLES)
