"""A convolutional VQ-VAE: 8x8 codes out of 512, which is 576 bits an image.

Words after a colon change it: those of conv_vae.py, and the quantiser, gradient, ema
(the default) or fsq: --config=configs/vq_vae.py:colour,fsq

The word sharp has a guide and a critic pull at reconstructions, and needs a guide as
sharp_vae.py does.
"""

from configs import conv_vae
from configs.sharp_vae import sharpen
from vae_jax.models.quantizers import QUANTIZERS

OWN = (*QUANTIZERS, "sharp")


def get_config(words="", own=()):
    """Returns the settings; for `own` see conv_vae.py."""
    config = conv_vae.get_config(words, (*OWN, *own))
    config.model.name = "vq"
    config.model.prior = "uniform"
    config.model.code_size = 8
    # There is no stage below the codes.
    config.model.depth = 2
    config.model.latent_dim = 8
    config.model.quantizer = "ema"
    config.objective.name = "quantised"
    config.objective.pull_weight = 10.0
    for word in conv_vae.split(words, QUANTIZERS):
        if word in QUANTIZERS:
            config.model.quantizer = word
        elif word == "sharp":
            sharpen(config)
            # Patches of four pixels would show their borders.
            config.model.decoder_patch = 2
    if config.model.quantizer == "fsq":
        # One number for each of model.levels.
        config.model.latent_dim = 3
    return config
