"""A hierarchical VAE of gray or colour faces, a ladder of latent layers.

Words after a colon change it: --config=configs/hvae.py:colour

As it is, it describes images in few bits, nearly all of them texture. The word faces
has its coarse layers tell faces by themselves, for samples, and needs a guide as
sharp_vae.py does: --config=configs/hvae.py:faces
"""

from configs.conv_vae import CHANNELS, split
from configs.sharp_vae import sharpen
from vae_jax.config import default_config
from vae_jax.errors import UserError


def get_config(words=""):
    config = default_config()
    config.model.name = "hierarchical"
    config.model.network = "ladder"
    # The first of two layers at 4x4 told nothing, but for the word faces.
    config.model.layers = "4:1,8:3,16:4"
    config.model.latent_dim = 16
    config.model.likelihood = "logistic_mixture"
    config.train.batch_size = 16
    config.train.num_steps = 20_000
    # The gap between training and validation is wide after ten epochs of 20,000 images.
    config.train.mirror = True
    config.optimizer.learning_rate = 5e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    # Below the norm at nearly every step: each step is as long as the last.
    config.optimizer.clip_norm = 40.0
    # At this rate updates that agree with those before may grow until the loss jumps.
    config.optimizer.clip_update = 0.1
    config.eval.importance_samples = 16
    for word in split(words, CHANNELS):
        if word == "faces":
            config.model.drop_layers = "8:0.125,16:0.375"
            sharpen(config)
        elif word in CHANNELS:
            config.dataset.channels = CHANNELS[word]
        else:
            raise UserError(
                f"--config has the word {word!r}; allowed are "
                f"{', '.join(CHANNELS)}, faces"
            )
    return config
