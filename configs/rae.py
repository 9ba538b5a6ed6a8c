"""The regularised autoencoder of Ghosh et al. (2020), its decoder by weight."""

from configs import conv_vae


def get_config():
    config = conv_vae.get_config("gaussian")
    config.model.name = "ae"
    config.objective.name = "rae"
    return config
