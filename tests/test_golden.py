"""The first update of each recipe, from parameters to metrics.

The numbers were computed once by these recipes. They move with initialisation, order
of random numbers, formulas and optimiser; a change that moves them on purpose says so
and replaces them.
"""

import jax
import numpy as np
import pytest
from flax import nnx

from configs import ae, vae
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.training import step as step_lib

IMAGES = np.random.RandomState(0).randint(0, 256, (8, 64, 64, 1)).astype(np.uint8)

GOLDEN = {
    "vae": [
        {"loss": 4102.8818, "kl": 12.746270, "log_px": -4090.1357, "mse": 0.11517999},
        {"loss": 3964.2588, "kl": 8.5299311, "log_px": -3955.7288, "mse": 0.10719274},
        {"loss": 3889.3118, "kl": 13.233793, "log_px": -3876.0779, "mse": 0.10693857},
    ],
    "ae": [{"loss": 0.089775413}, {"loss": 0.089775413}, {"loss": 0.089558691}],
}


@pytest.mark.parametrize("recipe", [vae, ae], ids=["vae", "ae"])
def test_first_updates(recipe):
    config = recipe.get_config()
    model = build.build_model(
        **config.model,
        precision="fp32",
        image_shape=(64, 64, 1),
        rngs=nnx.Rngs(key(0, Stream.INIT)),
    )
    graphdef, params = build.split(model)
    optimizer = step_lib.build_optimizer(
        **config.optimizer, num_steps=config.train.num_steps
    )
    loss_fn = build.build_loss_fn(graphdef, build.build_objective(config.objective))
    update = jax.jit(
        step_lib.build_update(loss_fn, optimizer, ema_decay=config.ema.decay, seed=0)
    )
    state = step_lib.create_state(params, optimizer, float16=False)
    for expected in GOLDEN[config.model.name]:
        state, metrics = update(state, {"image": IMAGES})
        metrics = {name: float(metrics[name]) for name in expected}
        assert metrics == pytest.approx(expected, rel=2e-5)
