"""What an accelerator is for: bfloat16, long trainings, several runs in one program."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import limits, training
from benchmarks.timing import durations, in_turn, rates
from configs import conv_vae
from vae_jax.data import batches
from vae_jax.experiment import assemble
from vae_jax.training import step as step_lib


def epochs(
    *, repeats: int, num_steps: int = 7630, num_images: int = 162_770
) -> dict[str, Any]:
    """Returns the seconds of the notebook's three epochs of CelebA, in bfloat16.

    Of its VAE in batches of 64; compilation, in `compile_seconds`, is apart. The floor
    is the traffic of optimiser and EMA alone, see `limits.PASSES`.

    Args:
      repeats: turns of each rival.
      num_steps: a multiple of a recipe's steps per dispatch.
      num_images: to choose from.
    """
    config = training.plain(training.RECIPES["VAE"](), 64)
    config.precision = "bf16"
    split = training.pictures(config, num_images)
    ours = training.trainer(config, split, "device")
    start = time.perf_counter()
    ours(config.train.steps_per_dispatch)
    compile_seconds = time.perf_counter() - start
    rivals = {"vae_jax": ours, **training.peers("VAE", config, split)}
    turns = {name: functools.partial(run, num_steps) for name, run in rivals.items()}
    found = durations(in_turn(turns, repeats=repeats))
    floor = limits.step_floor(assemble(config, num_images), split, 64)
    floor = num_steps * floor["traffic_seconds"]
    return {
        "name": f"VAE, bf16, {num_steps} steps of 64",
        "unit": "s",
        "rivals": found,
        "compile_seconds": compile_seconds,
        "floor": {"traffic_seconds": floor},
        "time_over_floor": found["vae_jax"]["median"] / floor,
    }


def colour(size: int, *, repeats: int, batch_size: int = 64) -> dict[str, Any]:
    """Returns images/s of training the conv VAE in bfloat16, and its share of the peak.

    `share_of_peak` is XLA's count of a step's FLOPs over its time, by the rate of
    a matrix product in bfloat16.

    Args:
      size: of the RGB pictures, 64, 128 or 256.
      repeats: turns of each rival.
      batch_size: pictures in an update.
    """
    config = training.plain(conv_vae.get_config(f"gaussian,colour,{size}"), batch_size)
    config.precision = "bf16"
    split = training.pictures(config, 20 * batch_size)
    rivals = {
        "vae_jax": training.trainer(config, split, "device"),
        **training.peers("conv VAE", config, split),
    }
    num_steps = 10 * config.train.steps_per_dispatch
    turns = {name: functools.partial(run, num_steps) for name, run in rivals.items()}
    found = rates(in_turn(turns, repeats=repeats), num_steps * batch_size)
    floor = limits.step_floor(assemble(config, len(split.images)), split, batch_size)
    flops = floor["flops"] * found["vae_jax"]["median"] / batch_size
    return {
        "name": f"conv VAE, bf16, RGB {size}x{size}, batch {batch_size}",
        "unit": "images/s",
        "rivals": found,
        "share_of_peak": flops / limits.machine(dtype=jnp.bfloat16)["flops"],
    }


def sweep(*, repeats: int, num_runs: int = 4, num_steps: int = 100) -> dict[str, Any]:
    """Returns images/s of several trainings of the VAE, of all runs together.

    As one program, vectorised over runs of other parameters, against one run after
    another.

    Args:
      repeats: turns of each rival.
      num_runs: in the program.
      num_steps: of each run, a multiple of the recipe's steps per dispatch.
    """
    config = training.plain(training.RECIPES["VAE"](), 64)
    split = training.pictures(config, 20_000)
    feed = batches.build_feed("device", split, seed=0, batch_size=64)
    data = jax.device_put(feed.data)
    experiment = assemble(config, len(split.images))
    update, state = experiment.update(), experiment.initial_state()
    several = jax.vmap(update, in_axes=(0, None))
    states = jax.tree.map(lambda a: jnp.stack(num_runs * [a]), state)
    size = config.train.steps_per_dispatch
    calls = [(first, size) for first in range(0, num_steps, size)]

    def trainer(dispatch: Any, state: Any) -> Any:
        def train() -> float:
            nonlocal state
            metrics = {}
            for xs in feed.stream(calls):
                state, metrics = dispatch(state, data, xs)
            return float(jnp.sum(metrics["loss"]))

        return train

    together = trainer(step_lib.build_dispatch(several, feed.gather), states)
    one = trainer(step_lib.build_dispatch(update, feed.gather), state)

    def one_after_another() -> None:
        for _ in range(num_runs):
            one()

    turns = {"vae_jax": together, "one run after another": one_after_another}
    return {
        "name": f"VAE, {num_runs} runs in one program",
        "unit": "images/s",
        "rivals": rates(in_turn(turns, repeats=repeats), num_runs * num_steps * 64),
    }
