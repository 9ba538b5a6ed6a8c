"""The importance-weighted autoencoder of Burda et al. (2016), k = 5."""

from configs import conv_vae


def get_config():
    config = conv_vae.get_config()
    config.objective.name = "iwae"
    config.objective.num_samples = 5
    return config
