"""Kernel matrices on disk: what a folder belongs to, what damage does, and what is left of a run that was killed."""

import json
import os
import pathlib
import subprocess
import sys
import threading
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import normal

import ntklib as ntk
from ntklib.scale.fingerprint import describe, difference, fingerprint
from ntklib.scale.store import local_path
from ntklib.scale.tiles import Tiles

X = np.asarray(normal(0, 20, 5))
IMAGES = np.asarray(normal(1, 6, 4, 4, 2))


def dense(n_in, n_out, **changes):
    given: Any = {"w_std": 1.4, "b_std": 0.2, "rngs": nnx.Rngs(0)} | changes
    return ntk.Dense(n_in, n_out, **given)


def conv(**changes):
    given: Any = {"kernel_size": 3, "w_std": 1.4, "rngs": nnx.Rngs(0)} | changes
    return ntk.Conv(2, 3, given.pop("kernel_size"), **given)


def flat(layer):
    return ntk.Serial(layer, ntk.Flatten())


def mlp(activation=None, seed=0, **changes):
    given: Any = {"w_std": 1.4, "b_std": 0.2} | changes
    return ntk.mlp([5, 8, 2], activation=activation, rngs=nnx.Rngs(seed), **given)


def slope(a):
    return ntk.Elementwise(lambda x: jnp.where(x > 0, x, a * x), name="mine")


class Scaled(ntk.Layer):
    """A layer of a user's own, with a hyperparameter under a private name and one in an array."""

    def __init__(self, factor, matrix=None):
        self._factor, self.matrix = factor, matrix

    def __call__(self, x):
        return self._factor * x

    def kernel_map(self, k):
        f = self._factor**2
        return k.replace(nngp=f * k.nngp, ntk=f * k.ntk, q1=f * k.q1, q2=f * k.q2)


def other_class(factor):
    """A layer of the same name and hyperparameter, but another kernel."""

    class Scaled(ntk.Layer):
        def __init__(self):
            self._factor, self.matrix = factor, None

        def __call__(self, x):
            return -self._factor * x

        def kernel_map(self, k):
            return k.replace(ntk=self._factor**4 * k.ntk)

    return Scaled()


# ------------------------------------------------------------------------------------------ what it belongs to

#: Two networks each that differ in one thing.
VECTORS = {
    "w_std, by 1e-9": (mlp(), mlp(w_std=1.4 + 1e-9)),
    "b_std": (mlp(), mlp(b_std=0.2 + 1e-9)),
    "bias": (dense(5, 2, b_std=0.0), dense(5, 2, b_std=0.0, use_bias=False)),
    "width": (ntk.Serial(dense(5, 4), dense(4, 1)), ntk.Serial(dense(5, 3), dense(3, 1))),
    "parameterization": (mlp(), mlp(parameterization=ntk.STANDARD)),
    "depth": (ntk.Serial(dense(5, 4)), ntk.Serial(dense(5, 4), dense(4, 4))),
    "activation": (mlp(ntk.Relu()), mlp(ntk.Erf())),
    "slope": (mlp(ntk.LeakyRelu(0.1)), mlp(ntk.LeakyRelu(0.1 + 1e-12))),
    "frequency": (mlp(ntk.Sin(1.0)), mlp(ntk.Sin(1.0 + 1e-12))),
    "order": (
        ntk.Serial(dense(5, 4), ntk.Relu(), dense(4, 4), ntk.Erf(), dense(4, 1)),
        ntk.Serial(dense(5, 4), ntk.Erf(), dense(4, 4), ntk.Relu(), dense(4, 1)),
    ),
    "scale of a branch": (ntk.Residual(dense(5, 5)), ntk.Residual(dense(5, 5), 0.9)),
    "a branch": (ntk.Sum(dense(5, 4), dense(5, 4)), ntk.Sum(dense(5, 4), dense(5, 4, w_std=1.3))),
    "epsilon": (ntk.Serial(dense(5, 5), ntk.LayerNorm()), ntk.Serial(dense(5, 5), ntk.LayerNorm(1e-3))),
    "a function": (mlp(ntk.Elementwise(jnp.tanh, name="f")), mlp(ntk.Elementwise(jnp.arctan, name="f"))),
    "a number in a function": (mlp(slope(0.3)), mlp(slope(0.3 + 1e-6))),
    "a number in a layer of one's own": (ntk.Serial(Scaled(1.0)), ntk.Serial(Scaled(1.0 + 1e-9))),
    "an array in one": (ntk.Serial(Scaled(1.0, np.eye(2))), ntk.Serial(Scaled(1.0, 2 * np.eye(2)))),
    "a class of the same name": (ntk.Serial(dense(5, 4), Scaled(1.5)), ntk.Serial(dense(5, 4), other_class(1.5))),
}
CONVOLUTIONS = {
    "kernel_size": (flat(conv()), flat(conv(kernel_size=(3, 2)))),
    "strides": (flat(conv()), flat(conv(strides=2))),
    "padding": (flat(conv()), flat(conv(padding="CIRCULAR"))),
    "window": (
        ntk.Serial(conv(), ntk.AvgPool(2), ntk.GlobalAvgPool()),
        ntk.Serial(conv(), ntk.AvgPool(4), ntk.GlobalAvgPool()),
    ),
    "flattening": (flat(conv()), ntk.Serial(conv(), ntk.GlobalAvgPool())),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", [*VECTORS, *CONVOLUTIONS])
def test_networks_that_differ_in_one_thing_are_told_apart(name):
    """Where all inputs are equal, too: the kernel there tells little."""
    (one, other), x = (VECTORS[name], X) if name in VECTORS else (CONVOLUTIONS[name], IMAGES)
    same = np.repeat(x[:1], 3, axis=0)
    first, second = (json.loads(json.dumps(fingerprint(Tiles(net, same)))) for net in (one, other))
    assert difference(first, first) is None
    assert str(difference(first, second)).startswith("another network")
    assert str(difference(second, first)).startswith("another network")


def test_the_same_architecture_is_the_same_built_anew_with_any_seed_and_after_training():
    for make in (
        lambda seed: mlp(seed=seed),
        lambda seed: mlp(slope(0.3), seed=seed),
        lambda seed: ntk.Serial(dense(5, 4, rngs=nnx.Rngs(seed)), Scaled(1.5, jnp.eye(2))),
    ):
        one, other = make(0), make(1)
        for param in (v for _, v in nnx.iter_graph(other) if isinstance(v, nnx.Param)):
            param[...] = 7.0 * param[...]
        first, second = (json.loads(json.dumps(fingerprint(Tiles(net, X)))) for net in (one, other))
        assert difference(first, second) is None


def test_a_hyperparameter_is_compared_as_a_number_and_rounding_is_none():
    numbers = [{"network": describe(ntk.Serial(Scaled(two)))} for two in (2, 2.0, np.float32(2), jnp.float64(2))]
    assert [difference(number, numbers[0]) for number in numbers] == [None] * 4
    ours = fingerprint(Tiles(mlp(), X))
    for error, same in ((1e-12, True), (1e-8, False)):
        theirs = ours | {"values": [value * (1 + error) for value in ours["values"]]}
        assert (difference(theirs, ours) is None) == same


def test_inputs_are_compared_as_they_enter_the_kernel():
    def digest(x, x2=None):
        return fingerprint(Tiles(mlp(), x, x2))["inputs"]

    single = X.astype(np.float32)
    assert digest(X) == digest(np.asfortranarray(X)) == digest(jnp.asarray(X)) == digest(np.repeat(X, 2, 0)[::2])
    assert digest(single) != digest(X)
    assert digest(X) != digest(X, X) != digest(X[:10], X[10:])
    changed = np.repeat(X, 200, axis=0)
    before = digest(changed)
    changed[-1, -1] = np.nextafter(changed[-1, -1], 9.0)
    assert digest(changed) != before


@pytest.mark.weekly
def test_another_process_has_the_same_fingerprint():
    code = (
        "import json, sys; sys.path.insert(0, 'tests'); import jax; jax.config.update('jax_enable_x64', True)\n"
        "import test_store as t\n"
        "net = t.ntk.Serial(t.dense(5, 4), t.slope(0.3), t.dense(4, 1))\n"
        "print(json.dumps(t.fingerprint(t.Tiles(net, t.X))))"
    )
    said = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    assert said[0] == said[1]
    assert difference(said[0], fingerprint(Tiles(ntk.Serial(dense(5, 4), slope(0.3), dense(4, 1)), X))) is None


def test_norms_of_any_size_have_finite_values():
    for size in (0.0, 1e-150, 1e150):
        with np.errstate(over="raise", invalid="raise"):
            values = fingerprint(Tiles(ntk.Serial(Scaled(1.0)), size * X))["values"]
        assert np.isfinite(values).all()


# ------------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def folder(tmp_path):
    """A complete store of 3 × 3 tiles."""
    ntk.gram(mlp(), X, store=tmp_path / "k", tile=8)
    return tmp_path / "k"


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_refused(folder, *words, **changes):
    """The store is refused with these words, and nothing in it changes."""
    before = files(folder)
    given: Any = {"net": mlp(), "x1": X, "store": folder} | changes
    with pytest.raises(ValueError, match="`store`") as error:
        ntk.gram(**given)
    for word in (*words, str(folder), "othing was changed"):
        assert word in str(error.value), str(error.value)
    assert files(folder) == before


def flipped(content, at):
    return bytes([*content[:at], content[at] ^ 1, *content[at + 1 :]])


DAMAGE = {
    "first byte": lambda content: flipped(content, 0),
    "a byte within": lambda content: flipped(content, 300),
    "its checksum": lambda content: flipped(content, len(content) - 1),
    "empty": lambda content: b"",
    "cut short": lambda content: content[:100],
    "without its checksum": lambda content: content[:-4],
    "another tile": lambda content: content[::-1],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_tile_is_named_and_it_alone_is_computed_anew(folder, name, monkeypatch):
    before, chunk = files(folder), folder / "c" / "0" / "2"
    chunk.write_bytes(DAMAGE[name](chunk.read_bytes()))
    assert_refused(folder, str(chunk), "Delete", "call again", "of the 9 tiles", ", 1 cannot be read")
    chunk.unlink()
    times = {path: (folder / path).stat().st_mtime_ns for path in files(folder)}
    computed, begin = [], Tiles.begin
    monkeypatch.setattr(
        Tiles, "begin", lambda self, i, j, d: computed.append((self.shape, i, j)) or begin(self, i, j, d)
    )
    ntk.gram(mlp(), X, store=folder)
    assert [(i, j) for shape, i, j in computed if shape == (20, 20)] == [(0, 2)]
    assert files(folder) == before
    assert {path: (folder / path).stat().st_mtime_ns for path in times} == times


def test_all_damaged_tiles_are_named_at_once_and_a_folder_in_the_place_of_one(folder):
    for i, j in ((0, 0), (1, 2)):
        chunk = folder / "c" / str(i) / str(j)
        chunk.write_bytes(b"")
    (folder / "c" / "2" / "0").unlink()
    (folder / "c" / "2" / "0").mkdir()
    assert_refused(folder, *(str(folder / "c" / name) for name in ("0/0", "1/2", "2/0")), ", 3 cannot be read")


def test_a_tile_that_is_gone_is_not_read_as_zeros(folder):
    kept: Any = ntk.gram(mlp(), X, store=folder)
    (folder / "c" / "1" / "1").unlink()
    with pytest.raises(ValueError, match="c/1/1"):
        np.asarray(kept)
    assert np.asarray(kept[:8]).shape == (8, 20)


def edited(**changes):
    """The manifest with other entries; None takes one out."""

    def edit(content):
        record = json.loads(content) | changes
        return json.dumps({key: value for key, value in record.items() if value is not None}).encode()

    return edit


MANIFESTS = {
    "empty": lambda content: b"",
    "a brace": lambda content: b"{",
    "a list": lambda content: b"[]",
    "a number": lambda content: b"5",
    "an empty record": lambda content: b"{}",
    "binary": lambda content: b"\x80\x00\xff\xfe" * 20,
    "cut short": lambda content: content[: len(content) // 2],
    "nested without end": lambda content: b"[" * 100_000,
    "without tile": edited(tile=None),
    "without format": edited(format=None),
    "without network": edited(network=None),
    "tile in words": edited(tile="8"),
    "tile of 0": edited(tile=0),
    "tile true": edited(tile=True),
    "network as a list": edited(network=[]),
    "values as a record": edited(values={}),
    "of a later version": edited(format=99),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_damaged_manifest_is_refused_with_the_way_out(folder, name):
    manifest = folder / "ntklib.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(MANIFESTS[name](whole))
    assert_refused(folder, str(manifest), "damaged", "delete")
    assert_refused(folder, str(manifest), tile=8)
    manifest.write_bytes(whole)
    ntk.gram(mlp(), X, store=folder)


@pytest.mark.parametrize("values", [[], ["a"] * 18, [None] * 18, [0.0] * 18, [1.0] * 17])
def test_kernel_values_that_are_none_are_another_network(folder, values):
    manifest = folder / "ntklib.json"
    manifest.write_bytes(edited(values=values)(manifest.read_bytes()))
    assert_refused(folder, "another network")


def test_a_store_of_the_old_format_is_refused_in_words(folder):
    old = {"format": 1, "kernel": "ntk", "shape": [20, 20], "tile": 8, "dtype": "float64", "symmetric": True}
    (folder / "ntklib.json").write_text(json.dumps(old | {"inputs": "0", "first entries": [1.0] * 4}))
    assert_refused(folder, "older version", "compute it anew")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"zarr_format": 3, "node_type": "group"}', None])
def test_a_damaged_description_of_the_array_is_written_anew_once_deleted(folder, content):
    description, before = folder / "zarr.json", files(folder)
    whole = description.read_bytes()
    description.write_bytes(whole.replace(b"[20,20]", b"[24,20]") if content is None else content)
    assert_refused(folder, str(description), "Delete this file and call again")
    description.unlink()
    ntk.gram(mlp(), X, store=folder)
    assert files(folder) == before


def test_called_again_it_is_the_same_whatever_the_size(tmp_path):
    """The tile that is chosen by default may be larger than the matrix."""
    for n in (1, 3, 20):
        first, second = (np.asarray(ntk.gram(mlp(), X[:n], X[:2], store=tmp_path / str(n))) for _ in range(2))
        assert np.array_equal(first, second)


# ------------------------------------------------------------------------------------------------------ killed, shared


def test_killed_before_the_manifest_was_in_its_place(tmp_path):
    folder = tmp_path / "k"
    folder.mkdir()
    (folder / ".ntklib.json.0123").write_text('{"form')
    kept: Any = ntk.gram(mlp(), X, store=folder, tile=8)
    assert np.array_equal(np.asarray(kept), ntk.gram(mlp(), X, tile=8))


def test_killed_before_the_array_was_described(folder):
    before = files(folder)
    for path in [*folder.glob("c/*/*"), folder / "zarr.json"]:
        path.unlink()
    ntk.gram(mlp(), X, store=folder)
    assert files(folder) == before


def test_two_networks_that_begin_one_store_at_once(tmp_path):
    """One of them has it, the other is refused; nobody mixes."""
    nets = [mlp(), mlp(ntk.Erf())]
    wanted = [np.asarray(ntk.gram(net, X, tile=8)) for net in nets]
    for attempt in range(6):
        barrier, outcome = threading.Barrier(2), list[Any]([None, None])

        def work(k, attempt=attempt, barrier=barrier, outcome=outcome):
            barrier.wait()
            try:
                outcome[k] = np.asarray(ntk.gram(nets[k], X, store=tmp_path / str(attempt), tile=8, progress=False))
            except ValueError as error:
                outcome[k] = str(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        texts = [isinstance(out, str) for out in outcome]
        assert sorted(texts) == [False, True], outcome
        assert "belongs to another run" in outcome[texts.index(True)]
        assert np.array_equal(outcome[texts.index(False)], wanted[texts.index(False)])


def test_one_network_by_two_processes_at_once(tmp_path):
    script, folder = pathlib.Path(__file__).parent / "run_gram.py", tmp_path / "k"
    env = {**os.environ, "CI": "true"}
    pair = [
        subprocess.Popen(
            [sys.executable, str(script), "stores", str(folder)], env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    sums = []
    for process in pair:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-3000:]
        sums += json.loads(out.splitlines()[-1])
    assert sums[0] == sums[1]
    assert not [path for path in folder.rglob("*") if path.name.startswith(".ntklib")]


# ------------------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/k", "gs://bucket/k", "http://host/k", "https://host/k", "memory://k", "hdfs://host/k", "S3://b/k",
        "file://elsewhere/k", pathlib.Path("s3://bucket/k"),
    ],
)  # fmt: skip
def test_addresses_are_refused_and_no_folder_of_that_name_appears(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"`store` must be a path on this machine; got the address"):
        ntk.gram(mlp(), X, store=address)
    with pytest.raises(ValueError, match=r"`checkpoint` must be a path on this machine; got the address"):
        ntk.cg_solve(mlp(), X, X[:, :1], ridge=0.1, checkpoint=address)
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_and_file_addresses_are_places(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ntk.gram(mlp(), X, store="~/a folder")
    assert (tmp_path / "a folder" / "ntklib.json").exists()
    ntk.gram(mlp(), X, store=f"file://{tmp_path}/a%20folder")
    ntk.gram(mlp(), X, store=f"file://localhost{tmp_path}/b")
    ntk.gram(mlp(), X, store=pathlib.Path(f"file://{tmp_path}/b"))
    ntk.cg_solve(mlp(), X, X[:, :1], ridge=0.1, checkpoint="~/run.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a folder", "b", "run.npz"]
    assert local_path("store", "C:/here") == pathlib.Path("C:/here")
    with pytest.raises(ValueError, match=r"home folder is not known\. Write the path without `~`"):
        local_path("store", "~nobody-of-this-name/k")


@pytest.mark.parametrize("value", ["", 5, b"k", None, ["k"]])
def test_what_is_no_path_is_refused(value):
    with pytest.raises(TypeError, match="`store` must be a path, such as"):
        local_path("store", value)


def test_a_place_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("words")
    with pytest.raises(ValueError, match=r"`store` cannot be made at.*Choose another place"):
        ntk.gram(mlp(), X, store=tmp_path / "file" / "k")
    with pytest.raises(ValueError, match="holds something else"):
        ntk.gram(mlp(), X, store=tmp_path / "file")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "further")
    with pytest.raises(ValueError, match="`store` cannot be made at"):
        ntk.gram(mlp(), X, store=tmp_path / "nowhere")
    assert (tmp_path / "file").read_text() == "words"
