"""The sharp VAE with a decoder whose code sets styles, as StyleGAN2's does.

It needs a guide as sharp_vae.py does, but for the word plain, which leaves the
likelihood alone; styles gives each resolution a part of the code, for --mode=mix.
Other words are those of conv_vae.py: --config=configs/style_vae.py:styles,colour,128
"""

from configs import conv_vae
from configs.sharp_vae import sharpen

OWN = ("plain", "styles")


def get_config(words=""):
    config = conv_vae.get_config(words, OWN)
    words = words.split(",")
    config.model.decoder = "style"
    config.model.decoder_patch = 2
    if "plain" not in words:
        sharpen(config)
    if "styles" in words:
        config.model.styles = "by_resolution"
    return config
