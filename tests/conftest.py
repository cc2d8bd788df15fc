"""The strictest JAX there is: no silent promotion of ranks or dtypes, except in other people's code."""

import gc
import os
from pathlib import Path

# Before jax is imported: eight devices, and little time spent on making machine code that runs once. Without the last
# four the suite takes twice as long. What test_demo and test_processes start is compiled as a user's programs are.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1 "
    "--xla_disable_hlo_passes=simplify-while-loops,reshape-mover",
)

import jax
import pytest

collect_ignore_glob = ["typing/*"]  # programs that a type checker reads, see test_types.py


def pytest_configure(config):
    """Let the workers, what they start, and the next run share what has been compiled; most of the time is that.

    A program of one operation takes 10 ms to compile and 2 ms to read; another worker, or module, will want it too.
    """
    if hasattr(config, "cache"):  # not with pytest -p no:cacheprovider
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(config.cache.mkdir("jax"))
    elif "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        return
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """Forbid implicit promotion, except where a test says that Optax or a framework needs it."""
    relaxed = request.node.get_closest_marker("standard_promotion") is not None
    with (
        jax.numpy_dtype_promotion("standard" if relaxed else "strict"),
        jax.numpy_rank_promotion("allow" if relaxed else "raise"),
    ):
        yield


def pytest_collection_finish():
    """Keep the collector from walking over what stays until the end, millions of objects, and from coming often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


MANY_MAPS = 5000  # of memory; two or three, and a megabyte, are a compiled program's


def memory_maps():
    """Return how many this process has, of the 65,530 that Linux allows; where nobody knows, too many."""
    maps = Path("/proc/self/maps")
    return len(maps.read_bytes().splitlines()) if maps.exists() else MANY_MAPS + 1


@pytest.fixture(autouse=True, scope="module")
def free_compiled_programs():
    """Let go of programs after a module, once they are many: some thousands exhaust the maps of one process."""
    yield
    if memory_maps() > MANY_MAPS:
        jax.clear_caches()
