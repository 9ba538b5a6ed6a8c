"""The first update of each recipe, from parameters to metrics.

The numbers were computed once by these recipes. They move with initialisation, order
of random numbers, formulas and optimiser; a change that moves them on purpose says so
and replaces them.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from configs import ae, conv_vae, vae
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.training import step as step_lib


def small_conv_vae():
    config = conv_vae.get_config()
    config.dataset.size, config.model.width, config.model.latent_dim = 16, 8, 8
    # The first update would have a learning rate of 0.
    config.optimizer.warmup_steps = 0
    return config


RECIPES = {"vae": vae.get_config, "ae": ae.get_config, "conv_vae": small_conv_vae}

GOLDEN = {
    "vae": [
        {"loss": 4102.8818, "kl": 12.746270, "log_px": -4090.1357, "mse": 0.11517999},
        {"loss": 3964.2588, "kl": 8.5299311, "log_px": -3955.7288, "mse": 0.10719274},
        {"loss": 3889.3118, "kl": 13.233793, "log_px": -3876.0779, "mse": 0.10693857},
    ],
    "ae": [{"loss": 0.089775413}, {"loss": 0.089775413}, {"loss": 0.089558691}],
    "conv_vae": [
        {"loss": 1772.9725, "kl": 0.1657965, "log_px": -1772.8068, "mse": 0.080294997},
        {"loss": 1768.4066, "kl": 0.12975896, "log_px": -1768.2769, "mse": 0.079963319},
        {"loss": 1765.8695, "kl": 0.15480864, "log_px": -1765.7147, "mse": 0.079643470},
    ],
}


@pytest.mark.parametrize("name", RECIPES)
def test_first_updates(name):
    config = RECIPES[name]()
    shape = (config.dataset.size, config.dataset.size, config.dataset.channels)
    images = np.random.RandomState(0).randint(0, 256, (8, *shape)).astype(np.uint8)
    model = build.build_model(
        config.model,
        precision="fp32",
        image_shape=shape,
        rngs=nnx.Rngs(key(0, Stream.INIT)),
    )
    graphdef, variables = build.split(model)
    optimizer = step_lib.build_optimizer(
        **config.optimizer, num_steps=config.train.num_steps
    )
    objective = build.build_objective(config.objective, len(images))
    loss_fn = build.build_loss_fn(graphdef, objective)
    update = jax.jit(
        step_lib.build_update(loss_fn, optimizer, ema_decay=config.ema.decay, seed=0)
    )
    state = step_lib.create_state(
        variables.params, variables.state, optimizer, float16=False
    )
    for expected in GOLDEN[name]:
        state, metrics = update(state, {"image": images})
        metrics = {name: float(metrics[name]) for name in expected}
        assert metrics == pytest.approx(expected, rel=2e-5)
