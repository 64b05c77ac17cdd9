"""What tests/test_gram.py runs in processes of its own: a store, a mesh of two devices, two processes, peak memory."""

import json
import os
import socket
import sys
import threading

import jax
import numpy as np
import psutil
from flax import nnx

import ntklib as ntk
from ntklib.scale.store import Store
from ntklib.scale.tiles import Tiles


def mnist(n=5000):
    """The first n images of 5,000, and a network."""
    data = ntk.load("mnist5k").flat()
    x = np.concatenate([data.x_train, data.x_test])[:n]
    return x, ntk.mlp([784, 8, 8, 10], w_std=2**0.5, b_std=0.1, rngs=nnx.Rngs(0))


def stores(*paths):
    """Fill stores; the sums of their entries."""
    x, net = mnist()
    return [float(np.asarray(ntk.gram(net, x[:1000], store=p, tile=128)).sum(dtype=np.float64)) for p in paths]


def killed(path, writes):
    """Fill a store, and end as if killed after so many writes."""
    write, left = Store.write, iter(range(int(writes)))

    def deadly(self, i, j, entries):
        if next(left, None) is None:
            os._exit(9)
        write(self, i, j, entries)

    Store.write = deadly
    stores(path)


def mesh(path):
    """Two devices of one process, against one device."""
    x, net = mnist(2000)
    rows = jax.make_mesh((2,), ("rows",))
    sharded, single = ntk.gram(net, x, mesh=rows), ntk.gram(net, x)
    error = ""
    try:
        ntk.gram(net, x[:-1], mesh=rows)
    except ValueError as raised:
        error = str(raised)
    stored = np.asarray(ntk.gram(net, x[:301], mesh=rows, store=path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shards = [[s.index[0].start or 0, s.index[0].stop or len(x)] for s in sharded.addressable_shards]
    sums = [float(np.asarray(s.data).sum(dtype=np.float64)) for s in sharded.addressable_shards]
    equal = bool((np.asarray(sharded) == np.asarray(single)).all())
    equal &= np.array_equal(stored, ntk.gram(net, x[:301]))
    return {"equal": equal, "shards": shards, "sums": sums, "error": error, "port": port}


def process(number, port, path):
    """One of two processes that share the work."""
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(number))
    x, net = mnist(2000)
    sharded = ntk.gram(net, x, mesh=jax.make_mesh((2,), ("rows",)))
    (ours,) = sharded.addressable_shards
    tiles, begin = [], Tiles.begin

    def counted(self, i, j, device):
        if self.shape == (len(x), len(x)):  # not the few of the fingerprint
            tiles.append((i, j))
        return begin(self, i, j, device)

    Tiles.begin = counted
    stored = np.asarray(ntk.gram(net, x, store=path))
    both = [float(half.sum(dtype=np.float64)) for half in np.split(stored, 2)]
    return {
        "rows": [ours.index[0].start or 0, ours.index[0].stop or len(x)],
        "sum": float(np.asarray(ours.data).sum(dtype=np.float64)),
        "stored": sum(both),
        "tiles": len(tiles),
    }


def memory(bound):
    """The peak of resident memory above what it was before. The programs are compiled before, and not counted."""
    x, net = mnist()
    ntk.gram(net, x[:600], max_memory=int(bound))
    Tiles(net, x, max_memory=int(bound), reserved=4 * len(x) ** 2)
    me, peak, done = psutil.Process(), [], threading.Event()
    before = me.memory_info().rss

    def watch():
        while not done.wait(0.001):
            peak.append(me.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    k = ntk.gram(net, x, max_memory=int(bound))
    k.block_until_ready()
    done.set()
    watcher.join()
    return {"peak": max(peak) - before}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
