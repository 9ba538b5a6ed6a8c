"""The convolutional VAE with sharp reconstructions, by a guide and a critic.

It needs a guide, a classifier that sees the same images:

    python -m vae_jax.main --config=configs/judge.py --config.seed=1 \\
        --workdir=runs/guide
    python -m vae_jax.main --config=configs/sharp_vae.py \\
        --config.objective.guide=runs/guide

Words after a colon change it, and the guide, as they do conv_vae.py:
--config=configs/sharp_vae.py:colour,128
"""

from configs import conv_vae


def get_config(words=""):
    config = conv_vae.get_config(words)
    config.objective.perceptual_weight = 0.3
    config.objective.adversarial_weight = 0.2
    return config
