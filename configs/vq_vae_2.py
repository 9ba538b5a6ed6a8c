"""VQ-VAE-2: a map of 8x8 codes, and one of 16x16 that adds what the first leaves out.

Words after a colon change it as they do vq_vae.py.
"""

from configs import vq_vae


def get_config(words="", own=()):
    """Returns the settings; for `own` see conv_vae.py."""
    config = vq_vae.get_config(words, own)
    config.model.two_maps = True
    return config
