"""The convolutional VAE with sharp reconstructions, by a guide and a critic.

The guide is a classifier of another seed than the judge's, which sees the same images:

  python -m vae_jax.main --config=configs/judge.py --config.seed=1 --workdir=runs/guide
  python -m vae_jax.main --config=configs/sharp_vae.py

Words after a colon change it as they do conv_vae.py, and the guide needs the same:
--config=configs/sharp_vae.py:colour,128
"""

from configs import conv_vae


def sharpen(config):
    """Adds the pulls of a guide and a critic to a recipe."""
    config.objective.guide = "runs/guide"
    config.objective.perceptual_weight = 0.6
    config.objective.adversarial_weight = 0.25


def get_config(words=""):
    config = conv_vae.get_config(words)
    sharpen(config)
    # Patches of four pixels would show their borders.
    config.model.decoder_patch = 2
    return config
