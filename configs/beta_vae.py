"""The convolutional beta-VAE of Higgins et al. (2017), with a KL weighted by 4."""

from configs import conv_vae


def get_config():
    config = conv_vae.get_config()
    config.objective.beta = 4.0
    # Without it, a weight this high empties dimensions before the decoder reads them.
    config.objective.kl_warmup_steps = 1000
    return config
