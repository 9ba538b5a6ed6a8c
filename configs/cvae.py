"""A conditional VAE (Sohn et al. 2015) that also draws without labels.

python -m vae_jax.main --mode=sample --workdir=runs/cvae --attributes=Smiling=1,Male=0
"""

from configs import conv_vae


def get_config():
    config = conv_vae.get_config()
    config.model.attributes = "Smiling,Male,Eyeglasses,Blond_Hair,Young"
    return config
