"""Checks of chapter 16, augmentation."""

from course import expect
from course.tasks import task, written


@task(
    "16.1",
    "member_kernels",
    minutes=25,
    difficulty=3,
    section="Averaging over a group",
    hints=(
        "Let one more permutation act on both copies, one after which the first of the two is an original again. The "
        "kernel does not notice, and the second is then some copy of its image: which one?",
        "With g the copy of image i and h that of image j: do the inverse of g after both. The entry is "
        "table[i, u, j], where u is first h, then the inverse of g. The inverse is what gives element 0 after g.",
        "inverse = jnp.argmin(first_then, axis=1); u = first_then[draws[:, None, :], inverse[draws][:, :, None]]; "
        "i = jnp.arange(N); return table[i[:, None], u, i[None, :]].",
    ),
)
def _(answer, rng):
    import itertools

    import numpy as np

    n, members, blocks = expect.one_of(rng, (8, 7, 5), (9, 5, 7))
    d, size = 3 * blocks, 6
    places = np.arange(d).reshape(blocks, 3)
    perms = np.array([places[:, p].ravel() for p in itertools.permutations(range(3))])  # do not commute
    numbers = {tuple(p): g for g, p in enumerate(perms)}
    first_then = np.array([[numbers[tuple(a[b])] for b in perms] for a in perms])  # x[:, a][:, b] = x[:, a[b]]
    inverse = first_then.argmin(1)
    x, draws = 1.5 * rng.normal(size=(n, d)), rng.integers(size, size=(members, n))
    table = _kernel(np, x, x[:, perms].transpose(1, 0, 2).reshape(size * n, d)).reshape(n, size, n)
    i = np.arange(n)

    def entries(u):
        return table[i[:, None], u, i[None, :]]

    want = np.array([_kernel(np, z, z) for z in (x[i[:, None], perms[g]] for g in draws)])
    of_row, of_column = draws[:, :, None], draws[:, None, :]
    got = expect.call(answer, table, first_then, draws)
    got = expect.array(got, "the array of kernels", shape=(members, n, n), axes="J N N")
    expect.close(
        got,
        want,
        "the array of kernels",
        slips={
            "the order counts: first the copy of image j, then the inverse of that of image i.": lambda: entries(
                first_then[inverse[of_row], of_column]
            ),
            "the inverse is missing: what makes an original of the copy of image i?": lambda: entries(
                first_then[of_column, of_row]
            ),
            "the inverse is missing, and the order is another one.": lambda: entries(first_then[of_row, of_column]),
            "the roles of i and j are exchanged: in `table[i, u, j]` it is image j that is changed.": lambda: entries(
                first_then[of_row, inverse[of_column]]
            ),
            "the inverse belongs to the copy of image i, and the order counts.": lambda: entries(
                first_then[inverse[of_column], of_row]
            ),
            "the copies of image j stand there, but image i is the original: both are copies.": lambda: entries(
                np.broadcast_to(of_column, want.shape)
            ),
            "`table[i, g, j]` changes image j by g; there the copy of image i was put in.": lambda: entries(
                np.broadcast_to(of_row, want.shape)
            ),
            "numbers of elements are names; the one to look up stands in `first_then`.": lambda: entries(
                (of_column - of_row) % size
            ),
            "that is the averaged kernel; a member has one copy of each image.": lambda: np.broadcast_to(
                table.mean(1), want.shape
            ),
            "that is the kernel of the originals.": lambda: np.broadcast_to(table[:, 0], want.shape),
        },
        rtol=1e-3,
    )
    return "All members from |G| N² values of the kernel, however many there are"


def _kernel(np, a, b):
    """A kernel that is invariant if an orthogonal matrix acts on both inputs."""
    return np.exp(a @ b.T / a.shape[1])


def _jax_kernel(a, b):
    import jax.numpy as jnp

    return jnp.exp(a @ b.T / a.shape[1])


@task(
    "16.2",
    "labels that change sign",
    minutes=25,
    difficulty=4,
    section="Averaging over a group",
    hints=(
        "Do as the section does, with another guess for the coefficients of the copies: how should that of g x_i "
        "depend on g, if its target is χ(g) y_i?",
        "With a_{g,i} = χ(g) a_i the sum over h is χ(g) times |G| Σ_j k_χ(x_i, x_j) a_j, where "
        "k_χ(x, x') = (1/|G|) Σ_u χ(u) k(x, u x'). What remains of λ on dividing by |G|?",
        "average = lambda a: sum(s * kernel(a, x[:, p]) for p, s in zip(perms, signs)) / len(signs); "
        "average(x_test) @ jnp.linalg.solve(average(x) + lam/len(signs) * jnp.eye(N), y).",
    ),
)
def _(answer, rng):
    import numpy as np

    n, m, k, size, blocks = expect.one_of(rng, (7, 5, 3, 6, 3), (5, 3, 7, 8, 3))
    d, lam = size * blocks, 0.4
    places = np.arange(d).reshape(blocks, size)
    perms = np.array([np.roll(places, s, axis=1).ravel() for s in range(size)])  # a cyclic group
    signs = (-1.0) ** np.arange(size)
    x, x_test = 1.5 * rng.normal(size=(n, d)), 1.5 * rng.normal(size=(m, d))
    y = rng.normal(size=(n, k)) + 0.5

    def average(inputs, weights=signs):
        return sum(w * _kernel(np, inputs, x[:, p]) for p, w in zip(perms, weights, strict=True)) / size

    def solve(own, new, ridge, targets=y):
        return new @ np.linalg.solve(own + ridge * np.eye(len(own)), targets)

    ones = np.ones(size)
    own, new = average(x), average(x_test)
    want = solve(own, new, lam / size)
    asked = []

    def kernel(a, b):
        asked.append(len(a) * len(b))
        return _jax_kernel(a, b)

    got = expect.call(answer, kernel, x_test, x, y, perms, signs, lam)
    got = expect.array(got, "the prediction", shape=(m, k), axes="M K")
    expect.close(
        got,
        want,
        "the prediction",
        slips={
            "the signs are missing: that is the average for labels that all copies share.": lambda: solve(
                average(x, ones), average(x_test, ones), lam / size
            ),
            "the signs are missing between test and training images.": lambda: solve(
                own, average(x_test, ones), lam / size
            ),
            "the signs are missing in the training matrix.": lambda: solve(average(x, ones), new, lam / size),
            "the ridge is that of all copies; the small system has another one.": lambda: solve(own, new, lam),
            "the ridge is multiplied by |G|: look again at which side |G| comes from.": lambda: solve(
                own, new, lam * size
            ),
            "the sum is not divided by |G|, and the ridge is.": lambda: solve(size * own, size * new, lam / size),
            "the training matrix is the plain kernel, not the averaged one.": lambda: solve(
                _kernel(np, x, x), new, lam / size
            ),
            "the training matrix is the plain kernel, and the ridge that of all copies.": lambda: solve(
                _kernel(np, x, x), new, lam
            ),
            "the kernel of the test images is the plain one, not the averaged one.": lambda: solve(
                own, _kernel(np, x_test, x), lam / size
            ),
            "the kernel of the test images is the plain one, beside a sum over the group.": lambda: solve(
                size * own, _kernel(np, x_test, x), lam
            ),
            "the training matrix is the plain kernel, beside a sum over the group.": lambda: solve(
                _kernel(np, x, x), size * new, lam
            ),
            "nothing is averaged: that is regression without copies.": lambda: solve(
                _kernel(np, x, x), _kernel(np, x_test, x), lam
            ),
            "the ridge is missing.": lambda: solve(own, new, 0.0),
            "the ridge should be absolute: λ is added to the diagonal of all copies as it is.": lambda: solve(
                own, new, lam / size * np.trace(own) / n
            ),
        },
        rtol=1e-3,
        factors={"the size of the group": size},
    )
    expect.that(
        max(asked, default=0) < (size * n) ** 2,
        "the numbers are right, but a matrix of all copies with all copies is formed; N×N matrices will do.",
    )
    return "One sign in the average, and the kernel knows what the label does"


@task(
    "16.3",
    "eight members from two",
    minutes=10,
    difficulty=2,
    section="How many members?",
    hints=(
        "The errors of the members have a part in common, which no average removes, and a part of their own, which "
        "falls like 1/J.",
        "Write E_1 = a + b and E_2 = a + b/2, and solve for a and b. The gain from J = 1 on is b (1 − 1/J).",
        "a = 2 E_2 − E_1, b = 2 (E_1 − E_2); a + b/8, and the J for which 1 − 1/J = 0.95.",
    ),
)
def _(answer, rng):
    value, members = expect.parts(answer, ("at_eight", "members"))
    e1, e2 = 0.400, 0.340
    b = 2 * (e1 - e2)
    expect.number(
        value,
        e1 - b + b / 8,
        "at_eight",
        rtol=0.004,
        slips={
            "that is the limit of many members.": e1 - b,
            "the whole error is divided by the number of members, the common part too.": e1 / 8,
            "what is left at J = 2 is divided by 4, the common part too.": e2 / 4,
            "each doubling gains the same here; it gains half of the one before.": e1 - 3 * (e1 - e2),
            "1/√J is the law of a standard error; squared errors go with 1/J.": e1
            - (e1 - e2) / (1 - 2**-0.5) * (1 - 8**-0.5),
            "from J = 1 to J = 2 only half of the falling part is gained, not all of it.": e2 + (e1 - e2) / 8,
        },
    )
    expect.number(
        members,
        20.0,
        "members",
        rtol=0.03,
        slips={
            "that leaves 10 %.": 10.0,
            "that is the law 1/√J.": 400.0,
            "that is the gain over ensembles of two; it is asked for over a single member.": 40.0,
        },
    )
    return "Neither the kernel nor the data were asked"


@task(
    "16.4",
    "too good to be true, spot the error",
    minutes=20,
    difficulty=3,
    section="Against one solve on all copies",
    hints=(
        "For each step ask: what does a test row share with a training row?",
        "A test row has two other copies of the same image. Each is in training with a probability of 0.8. How often "
        "is at least one? And what has to be shuffled, in place of rows?",
        "Line 3; 1 − 0.2²; test = order[:n_test], "
        "train = np.concatenate([c * n + order[n_test:] for c in range(copies)]).",
    ),
)
def _(answer, rng):
    import numpy as np

    line, share, split = expect.parts(answer, ("wrong_line", "share", "split"))
    another = "the first error is in another line:"
    expect.line(
        line,
        3,
        5,
        {
            1: f"{another} line 1 does no harm yet: copies may be made early, if the split knows whose they are.",
            2: f"{another} line 2 is right: a copy has the label of its original.",
            4: f"{another} line 4 does what it says with the rows it is given. How were they chosen?",
            5: f"{another} line 5 is how an accuracy is measured. On which rows?",
        },
    )
    expect.number(
        share,
        0.96,
        "share",
        rtol=0.008,
        slips={
            "that is the share of rows for training: a test row has two siblings, one is enough.": 0.8,
            "that is the share for which both siblings are in training; one is enough.": 0.64,
            "that is the share of test rows without a sibling in training.": 0.04,
            "that is the share of rows for testing.": 0.2,
            "that is the share with a sibling among the *test* rows.": 1 - 0.8**2,
            "all three copies were counted, but the row itself is in the test set for sure.": 1 - 0.2**3,
        },
    )
    n, copies, n_test = expect.one_of(rng, (11, 3, 5), (9, 5, 3))
    order = rng.permutation(n)
    got = expect.parts(expect.call(split, order, copies, n_test), ("train", "test"))
    train, test = (np.asarray(part) for part in got)
    kept = [c * n + i for c in range(copies) for i in order[n_test:]]
    if test.shape == (n_test * copies,) and train.shape == (len(kept),):
        expect.fail("the test images are the originals alone: each image counts once, and as it is.")
    if train.shape == (n_test,) and test.shape == (len(kept),):
        expect.fail("the order is (train, test); here it is the other way around.")
    if train.shape == (n - n_test,):
        expect.fail("the training rows are the originals alone: their copies belong there too.")
    if train.shape == (copies * n - n_test,):
        expect.fail("copies of the test images are still among the training rows.")
    train = expect.array(got[0], "train", shape=(len(kept),), axes="rows")
    test = expect.array(got[1], "test", shape=(n_test,), axes="rows")
    expect.close(
        np.sort(test),
        np.sort(order[:n_test]),
        "test",
        atol=1e-6,
        slips={
            "it has the last images of the order; the first ones are for testing.": np.sort(order[-n_test:]),
            "it has the first images, not the first of the order.": np.arange(n_test),
            "copy c of image i is row c·n + i, not i·copies + c.": np.sort(order[:n_test] * copies),
        },
    )
    expect.close(
        np.sort(train),
        np.sort(kept),
        "train",
        atol=1e-6,
        slips={
            "copy c of image i is row c·n + i, not i·copies + c.": np.sort(
                [i * copies + c for c in range(copies) for i in order[n_test:]]
            ),
            "n is the number of all images; there it is the number of those that are left.": np.sort(
                [c * (n - n_test) + i for c in range(copies) for i in order[n_test:]]
            ),
            "the copies count from 1, so that the originals are missing and rows beyond the last are there.": np.sort(
                [(c + 1) * n + i for c in range(copies) for i in order[n_test:]]
            ),
        },
    )
    return "Split images, then copy"


written(
    "16.5",
    "what is lost",
    rubric=(
        "the factor J² = 81, from J N³ against (J N)³;",
        "why it is enough: off the diagonal members have k_G on average; the variance of the mean falls as 1/J;",
        "what is lost: the diagonal, k − k_G, an extra ridge: no member sees two copies of one image.",
    ),
    numbers=("81", "eighty-one"),
    asked="how many times fewer multiplications are that?",
    minutes=15,
    difficulty=3,
    section="Against one solve on all copies",
    hints=(
        "What is the expectation of an entry of a member's matrix, off the diagonal and on it?",
        "Off the diagonal it is the averaged kernel. On it the same image meets itself, moved by the same amount.",
        "(9N)³/(9N³) = 81. The mean matrix is k_G + D, so the average is nearly the invariant predictor with a ridge D "
        "that cannot be turned off.",
    ),
)

written(
    "16.6",
    "an augmentation of your own",
    rubric=(
        "a copy that keeps the label, and a prediction of the sign before it was measured;",
        "measured beside no augmentation on the same images, with an error over seeds;",
        "a reason that refers to images: what varies within a class and is not in the training set.",
    ),
    minutes=40,
    difficulty=4,
    section="The labels decide",
    hints=(
        "What do people do differently when they write the same digit? Position, slant, size, thickness.",
        "A slant is a shear: row r moves by a multiple of its distance from the middle. Thickness: the maximum, or a "
        "blur, of neighboring pixels.",
        "`scipy.ndimage.affine_transform(image, [[1, 0], [t, 1]], offset=[0, -3.5 * t], order=1, cval=black)` shears "
        "an image of 8×8 by t; draw t from −0.3 to 0.3 for each image.",
    ),
)
