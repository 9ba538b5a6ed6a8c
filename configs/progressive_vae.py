"""The convolutional VAE in stages: images and networks grow within one run.

Words after a colon are those of conv_vae.py: --config=configs/progressive_vae.py:128
begins at 16 pixels as that of 64 does, and goes on to 128.
"""

from configs import conv_vae

UPDATES = {16: 200, 32: 1500, 64: 2500, 128: 2500}


def get_config(words=""):
    config = conv_vae.get_config(words)
    config.model.skips = True
    size = config.dataset.size
    earlier = [f"{at}:{number}" for at, number in UPDATES.items() if at < size]
    config.train.stages = ",".join(earlier)
    return config
