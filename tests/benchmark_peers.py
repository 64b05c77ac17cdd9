"""Stand-ins for implementations, for test_benchmarks.py: quick, in NumPy, each wrong or slow in its own way."""

import os
import time

DELAYS = {"right": 0.02, "slow": 0.2}


def versions():
    """Of the stand-in."""
    return {"stand-in": "1"}


def prepare(case, option, x, weights):
    """The kernel of one linear layer, in the way that `option` says."""
    if option == "refuses":
        raise ValueError("no such network\nhere")

    def call():
        time.sleep(DELAYS.get(option, 0.0))
        if option == "dies":
            os._exit(3)
        if option == "hangs":
            time.sleep(60.0)
        theta = case.w_std**2 * x @ x.T / x.shape[1] + case.b_std**2
        return theta * (1.001 if option == "wrong" else 1.0)

    return call
