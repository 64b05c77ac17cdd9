"""Float64, strict dtypes and ranks, and enforced shape annotations, before anything imports the library."""

import gc
import itertools
import os
import pathlib
import random
import warnings
from collections.abc import Iterator

os.environ["CI"] = "true"  # no progress bars, no progress file
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import programs
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compiled programs are kept for the next run, by JAX's version and all settings. Here and not in the environment: the
# processes that tests start compile as a user's do. Two workers may write the same entry at once: who reads half of one
# compiles it again, with a warning that pyproject.toml lets pass.
if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # beartype's own, on how a hint is spelt
    hook = install_import_hook(
        [
            f"ntklib.{name}"
            for name in (
                "depth",
                "duals",
                "dynamics",
                "empirical",
                "evolution",
                "kernel",
                "layers",
                "training",
            )
        ],
        "beartype.beartype",
    )
    hook.__enter__()  # stays on for the session


TESTS = itertools.count(1)


PARTS = {"all": 1, "sixth": 6}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With NTK_SWEEPS=sixth keep a sixth of the cases of each test that is marked as a sweep, and at least one.

    They are always the same ones: what turns a run red should be the change, not the day.
    A sweep asks the same of many activations, models or stored values, and its cases take most of the time. `make
    test` keeps a sixth; a third where cases have less in common, as error messages have (`sweep(part=3)`), and fewer
    where a case takes ten seconds or more (`sweep(part=20)`). It leaves out tests that are marked `weekly`, which are
    slow. The weekly run of CI and pytest called by hand keep all.
    """
    chosen = os.environ.get("NTK_SWEEPS", "all")
    if chosen not in PARTS:
        raise pytest.UsageError(f"NTK_SWEEPS is one of {', '.join(PARTS)}; it is {chosen!r}")
    if chosen == "all":
        return
    sweeps: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        if mark := item.get_closest_marker("sweep"):
            part = mark.kwargs.get("part", PARTS[chosen]) if chosen == "sixth" else PARTS[chosen]
            sweeps.setdefault((item.nodeid.partition("[")[0], part), []).append(item)
    dropped: set[pytest.Item] = {item for item in items if item.get_closest_marker("weekly")}
    for (name, part), cases in sweeps.items():
        dropped.update(random.Random(name).sample(cases, len(cases) - -(-len(cases) // part)))
    config.hook.pytest_deselected(items=[item for item in items if item in dropped])
    items[:] = [item for item in items if item not in dropped]


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what is there to stay: modules, tests, types. It took an eighth of the time.

    Tracing makes objects by the thousand, and 700 of them, Python's default, are too few to look for garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def forget_programs() -> Iterator[None]:
    """Forget what earlier tests compiled before the memory maps run out: a file may take 40,000."""
    yield
    if next(TESTS) % 20 == 0:
        programs.forget(20_000)
