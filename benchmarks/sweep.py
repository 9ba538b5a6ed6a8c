"""Several runs in one program against one run after another."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import training
from benchmarks.timing import in_turn, rates
from vae_jax.data import batches
from vae_jax.experiment import assemble
from vae_jax.training import step as step_lib


def measure(*, repeats: int, num_runs: int = 4, num_steps: int = 100) -> dict[str, Any]:
    """Returns images/s of several trainings of the VAE, of all runs together.

    As one program, vectorised over runs of other parameters, against one run after
    another.

    Args:
      repeats: turns of each rival.
      num_runs: number of runs in the program.
      num_steps: updates of each run, a multiple of the recipe's steps per dispatch.
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
