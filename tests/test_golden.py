"""The first updates of every recipe, from parameters to metrics.

The numbers were computed once by these recipes. They move with initialisation, order
of random numbers, formulas and optimiser; a change that moves them on purpose says so
and replaces them.
"""

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from vae_jax.experiment import assemble

pytestmark = pytest.mark.slow

RECIPES = sorted(
    path.stem for path in (Path(__file__).parents[1] / "configs").glob("[!_]*.py")
)
# The metrics of updates 0, 1 and 2.
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def small(recipe):
    config = importlib.import_module(f"configs.{recipe}").get_config()
    config.precision = "fp32"
    if config.model.network != "mlp":
        config.dataset.size, config.model.width, config.model.latent_dim = 16, 8, 8
        # The first update would have a learning rate of 0.
        config.optimizer.warmup_steps = 0
    if config.model.network == "ladder":
        config.model.layers, config.model.widths = "2:1,4:2", "2:8,4:8"
    if config.model.network == "conv":
        config.model.width_from = "finest"
    if config.model.name == "vq":
        # So that there are two stages, and two maps.
        config.dataset.size, config.model.code_size = 32, 4
        config.model.prior_width = config.model.codebook_size = 16
    if config.model.prior == "vamp":
        config.model.prior_components = 4
    if config.model.attributes:
        config.model.attributes = "Smiling,Male,Young"
    return config


@pytest.mark.parametrize("recipe", RECIPES)
def test_first_updates(recipe):
    config, random = small(recipe), np.random.RandomState(0)
    shape = (config.dataset.size, config.dataset.size, config.dataset.channels)
    batch = {"image": random.randint(0, 256, (8, *shape)).astype(np.uint8)}
    batch["attributes"] = random.randint(0, 2, (8, 3)).astype(bool)
    experiment = assemble(config, 8)
    columns = (0, 1, 2) if config.model.attributes else ()
    update, state = jax.jit(experiment.update(columns)), experiment.initial_state()
    assert len(GOLDEN[recipe]) == 3
    for expected in GOLDEN[recipe]:
        state, metrics = update(state, batch)
        assert {n: float(metrics[n]) for n in expected} == pytest.approx(
            expected, rel=2e-5
        )
