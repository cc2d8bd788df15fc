"""Times of programs that take turns, so that the machine's moods touch all of them alike."""

import os
import platform
import statistics
import time

import jax


def medians(calls, rounds=7, budget=0.05, of=statistics.median):
    """Return the seconds of one call for every name.

    Args:
      calls: Names to functions without arguments that return when their work is done.
      rounds: How often each has its turn; the median over the turns is returned.
      budget: Seconds of one turn; short calls are repeated to fill it.
      of: What is returned of the turns; `min` for calls so short that other work shows in most of their turns.
    """
    repeats = {name: max(1, round(budget / _second_run(call))) for name, call in calls.items()}
    turns = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            turns[name].append((time.perf_counter() - start) / repeats[name])
    return {name: of(seconds) for name, seconds in turns.items()}


def _second_run(call):
    call()
    start = time.perf_counter()
    call()
    return max(time.perf_counter() - start, 1e-7)


def waiting(function, *args):
    """Return a call of a jitted function that waits for its result."""
    return lambda: jax.block_until_ready(function(*args))


def machine():
    """Say what the figures were measured on."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def tried(header):
    """Return what the header of a script says of its stored figures: what limits them, and what was tried."""
    return "\nOf the stored figures its header says:\n" + header[header.index("Outcome: ") :].strip()


def dispatch_in_this_thread():
    """Let a program on the CPU run in the thread that calls it, as other libraries' do.

    By default JAX hands each call to another thread, which takes some 20 µs. A training step is one program and
    pays that once; a weighting measured by itself would pay it instead of its own time.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
