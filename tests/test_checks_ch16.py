"""Right and wrong answers to the tasks of chapter 16."""

import jax.numpy as jnp
import numpy as np
from mutations import Table, cases


def entries(table, element):
    """Entry [i, element, j] of the table for each member."""
    i = jnp.arange(len(table))
    return table[i[:, None], element, i[None, :]]


def kernels_with(element):
    """`member_kernels` with another element: of first_then, the inverses, and the copies of rows and columns."""

    def answer(table, first_then, draws):
        inverse = jnp.argmin(first_then, axis=1)
        found = element(first_then, inverse, draws[:, :, None], draws[:, None, :])
        return entries(table, jnp.broadcast_to(found, (len(draws), len(table), len(table))))

    return answer


member_kernels = kernels_with(lambda then, inverse, row, column: then[column, inverse[row]])


def by_loops(table, first_then, draws):
    """Python's loops and lists."""
    then, numbers = np.asarray(first_then).tolist(), np.asarray(draws).tolist()
    found = np.asarray(table).tolist()
    return [
        [[found[i][then[h][then[g].index(0)]][j] for j, h in enumerate(draw)] for i, g in enumerate(draw)]
        for draw in numbers
    ]


def by_columns(table, first_then, draws):
    """The other image made an original, and the matrix transposed; float32."""
    k = kernels_with(lambda then, inverse, row, column: then[column, inverse[row]])(table, first_then, draws)
    return jnp.swapaxes(k, 1, 2).astype(jnp.float32)


def one_matrix(table, first_then, draws):
    return member_kernels(table, first_then, draws[:1])[0]


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


def by_image(order, copies, n_test):
    numbers = [int(i) for i in order]
    n = len(numbers)
    return [c * n + i for i in numbers[n_test:] for c in range(copies)], numbers[:n_test]


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
        right={"one look-up": member_kernels, "loops and lists": by_loops, "the other image": by_columns},
        wrong={
            "other order": (kernels_with(lambda then, inv, row, col: then[inv[row], col]), "the order counts: first"),
            "no inverse": (kernels_with(lambda then, inv, row, col: then[col, row]), "what makes an original"),
            "no inverse, other order": (
                kernels_with(lambda then, inv, row, col: then[row, col]),
                "and the order is another",
            ),
            "exchanged": (kernels_with(lambda then, inv, row, col: then[row, inv[col]]), "roles of i and j"),
            "exchanged, other order": (
                kernels_with(lambda then, inv, row, col: then[inv[col], row]),
                "belongs to the copy of image i",
            ),
            "one copy": (kernels_with(lambda then, inv, row, col: col), "both are copies"),
            "the wrong copy": (kernels_with(lambda then, inv, row, col: row), "was put in"),
            "numbers subtracted": (kernels_with(lambda then, inv, row, col: (col - row) % len(inv)), "are names"),
            "averaged": (lambda table, then, draws: jnp.stack([table.mean(1)] * len(draws)), "averaged kernel"),
            "originals": (kernels_with(lambda then, inv, row, col: 0 * row), "kernel of the originals"),
            "first member": (one_matrix, "shape"),
            "no return": (lambda *_: None, "is a `return` missing?"),
        },
    ),
    Table(
        "16.2",
        right={
            "averages": signed_regression,
            "sums": all_sums,
            "NumPy": in_numpy,
            "lists": lambda *of: np.asarray(in_numpy(*of)).tolist(),
        },
        wrong={
            "no signs": (signed_with("unsigned", "unsigned"), "labels that all copies share"),
            "no signs for the test": (signed_with(test="unsigned"), "between test and training"),
            "no signs in training": (signed_with(train="unsigned"), "missing in the training matrix"),
            "ridge of all copies": (signed_with(ridge="lam"), "has another one"),
            "ridge times |G|": (signed_with(ridge="times"), "multiplied by |G|"),
            "sums, and the ridge divided": (signed_with("sum", "sum"), "the ridge is"),
            "plain training matrix": (signed_with(train="plain"), "plain kernel, not the averaged"),
            "plain for the test": (signed_with(test="plain"), "plain one"),
            "plain, with the ridge of all": (signed_with(train="plain", ridge="lam"), "and the ridge that of all"),
            "sums, and plain for the test": (
                signed_with("sum", "plain", "lam"),
                "test images is the plain one, beside",
            ),
            "sums, and plain training": (
                signed_with("plain", "sum", "lam"),
                "training matrix is the plain kernel, beside",
            ),
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
        right={
            "rows": (3, 0.96, split),
            "a table": [3.0, 1 - 0.04, by_mask],
            "lists, image by image": (np.int64(3), 24 / 25, by_image),
        },
        wrong={
            "the copies": ((1, 0.96, split), "no harm"),
            "the labels": ((2, 0.96, split), "label of its original"),
            "the solve": ((4, 0.96, split), "How were they chosen"),
            "the score": ((5, 0.96, split), "On which rows"),
            "no line": ((6, 0.96, split), "1 to 5"),
            "one sibling": ((3, 0.8, split), "share of rows for training"),
            "both": ((3, 0.64, split), "both siblings"),
            "neither": ((3, 0.04, split), "without a sibling"),
            "a sibling in the test": ((3, 1 - 0.8**2, split), "among the *test* rows"),
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
            "the other way around": ((3, 0.96, lambda *of: split(*of)[::-1]), "other way around"),
            "n of the rest": (
                (3, 0.96, split_with(train=lambda order, c, m: copies_of(order[m:], c, len(order) - m))),
                "those that are left",
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
