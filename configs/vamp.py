"""A VAE with the VampPrior of Tomczak & Welling (2018)."""

from configs import conv_vae


def get_config():
    config = conv_vae.get_config()
    config.model.prior = "vamp"
    return config
