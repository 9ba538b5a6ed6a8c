"""What it costs to have more devices: the time of the same step on 1, 2, 4 and 8."""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import jax

from benchmarks import training
from benchmarks.timing import Point, in_turn, spread
from configs import vae
from vae_jax import sharding


def against_devices(
    counts: Iterable[int] = (1, 2, 4, 8), batch_size: int = 64, repeats: int = 5
) -> dict[str, Any]:
    """Returns the step time of the notebook's VAE by devices, by how the state lies.

    Devices of a CPU are virtual and share its cores: what is above the time of one is
    what it costs to have more. Each number of them is a process of its own.
    """
    curves: dict[str, list[Point]] = {}
    for count in counts:
        flags = f"--xla_force_host_platform_device_count={count}"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.devices", str(batch_size), str(repeats)],
            check=True,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}",
            },
        )
        for kind, point in json.loads(done.stdout).items():
            curves.setdefault(kind, []).append(point)
    return {
        "name": f"VAE, 64x64 gray, batch {batch_size} in all",
        "x": "virtual devices",
        "unit": "ms a step",
        "note": "all on the cores of one processor",
        "curves": curves,
    }


def _by_sharding(batch_size: int, repeats: int) -> dict[str, Point]:
    """Returns the step time on this process's devices, by `train.sharding`."""
    config, trainers = training.plain(vae.get_config(), batch_size), {}
    split = training.pictures(config, 2 * batch_size)
    num_steps = config.train.steps_per_dispatch
    for kind in sharding.STATE_SHARDINGS:
        config.train.sharding = kind
        train = training.trainer(config, split, "device")
        trainers[kind] = functools.partial(train, num_steps)
    return {
        kind: {
            "at": jax.device_count(),
            **spread([1e3 * each / num_steps for each in seconds]),
        }
        for kind, seconds in in_turn(trainers, repeats=repeats).items()
    }


if __name__ == "__main__":
    print(json.dumps(_by_sharding(int(sys.argv[1]), int(sys.argv[2]))))
