"""A classifier of the data set's attributes, which judges edits and samples.

Words after a colon change it: --config=configs/judge.py:colour,128
"""

from configs import conv_vae
from vae_jax.errors import UserError


def get_config(words=""):
    config = conv_vae.get_config(words)
    if config.model.likelihood != conv_vae.get_config().model.likelihood:
        allowed = ", ".join((*conv_vae.SIZES, *conv_vae.CHANNELS))
        raise UserError(
            f"configs/judge.py has the words {words!r}, but a classifier has no "
            f"likelihood; allowed are {allowed}"
        )
    config.model.name = "classifier"
    config.model.network = "strided"
    config.model.width = 32
    config.model.latent_dim = 256
    config.model.likelihood = "gaussian"
    config.model.remat = False
    config.model.attributes = "auto"
    config.objective.name = "cross_entropy"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.clip_norm = None
    # Pictures are few for so many labels: without these it learns them by heart.
    config.optimizer.weight_decay = 1.0
    config.train.mirror = True
    config.train.batch_size = 128
    config.train.num_steps = 1500
    return config
