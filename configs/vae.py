"""The notebook's VAE: 4096-512-(100,100), 100-512-(4096,4096), 6,454,472 parameters."""

from vae_jax.config import default_config


def get_config():
    config = default_config()
    # Three epochs of CelebA's 162,770 training pictures.
    config.train.num_steps = 7630
    return config
