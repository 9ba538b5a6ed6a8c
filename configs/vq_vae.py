"""A convolutional VQ-VAE: 8x8 codes out of 512, which is 576 bits an image.

Words after a colon change it: those of conv_vae.py, and the quantiser, gradient, ema
(the default) or fsq: --config=configs/vq_vae.py:colour,fsq
"""

from configs import conv_vae
from vae_jax.errors import UserError
from vae_jax.models.quantizers import QUANTIZERS


def get_config(words=""):
    words = words.split(",")
    try:
        config = conv_vae.get_config(",".join(w for w in words if w not in QUANTIZERS))
    except UserError as error:
        raise UserError(f"{error}; or of vq_vae.py: {', '.join(QUANTIZERS)}") from error
    config.model.name = "vq"
    config.model.prior = "uniform"
    config.model.code_size = 8
    # There is no stage below the codes.
    config.model.depth = 2
    config.model.latent_dim = 8
    config.model.quantizer = "ema"
    config.objective.name = "quantised"
    config.objective.pull_weight = 10.0
    for word in words:
        if word in QUANTIZERS:
            config.model.quantizer = word
    if config.model.quantizer == "fsq":
        # One number for each of model.levels.
        config.model.latent_dim = 3
    return config
