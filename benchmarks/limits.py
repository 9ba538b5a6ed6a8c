"""What the machine can do at best, measured, and what a training step asks of it."""

import functools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vae_jax.data.cache import Split
from vae_jax.experiment import Experiment

# Passes over the parameters in a step, of 4 bytes each: forward and backward read the
# weights and write the gradients (3); AdamW and EMA read parameters, gradients, two
# moments and the average (5), and write all of those but the gradients (4).
PASSES = 12


def _seconds(run: Callable[[], Any], repeats: int = 9) -> float:
    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return statistics.median(found)


@functools.cache
def machine(
    size: int = 2048, megabytes: int = 256, dtype: Any = jnp.float32
) -> dict[str, float]:
    """Returns FLOP/s of a matrix product and bytes/s of memory traffic.

    Args:
      size: rows and columns of the square matrices.
      megabytes: size of the array that is read, changed and written back.
      dtype: type of the matrices.
    """
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    x = jnp.ones(megabytes * 2**18, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def pass_over():
        nonlocal x
        x = add(x)
        return x

    return {
        "flops": 2 * size**3 / _seconds(lambda: product(a)),
        "bytes": 2 * x.nbytes / _seconds(pass_over),
    }


def description() -> dict[str, Any]:
    """Returns what the machine is, and what it can do."""
    limit = machine()
    return {
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "matrix_product_gflops": limit["flops"] / 1e9,
        "memory_gb_per_second": limit["bytes"] / 1e9,
    }


def step_floor(
    experiment: Experiment, split: Split, batch_size: int
) -> dict[str, float]:
    """Returns the seconds of a step at the machine's two limits, one after the other.

    FLOPs are XLA's count for loss and gradients; bytes are `PASSES` over the
    parameters. Activations are left out, and so is what could overlap: `seconds` is
    the sum, and the larger of the two is the roofline.
    """
    batch = {
        "image": split.images[:batch_size],
        "attributes": split.attributes[:batch_size],
    }
    loss_fn, shapes = experiment.loss_fn(), experiment.shapes
    gradient = jax.jit(
        lambda variables, batch: jax.grad(loss_fn, has_aux=True)(
            variables.params, variables.state, batch, jax.random.key(0), jnp.int32(0)
        )
    )
    cost: Any = gradient.lower(shapes, batch).compile().cost_analysis()
    count = sum(math.prod(p.shape) for p in jax.tree.leaves(shapes.params))
    limit = machine()
    arithmetic = cost["flops"] / limit["flops"]
    traffic = 4 * PASSES * count / limit["bytes"]
    return {
        "parameters": count,
        "flops": cost["flops"],
        "bytes": 4 * PASSES * count,
        "arithmetic_seconds": arithmetic,
        "traffic_seconds": traffic,
        "seconds": arithmetic + traffic,
    }
