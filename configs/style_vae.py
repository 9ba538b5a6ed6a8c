"""The sharp VAE with a decoder whose code sets styles, as StyleGAN2's does.

It needs a guide as sharp_vae.py does, but for the word plain, which leaves the
likelihood alone; styles gives each resolution a part of the code, for --mode=mix.
Other words are those of conv_vae.py: --config=configs/style_vae.py:styles,colour,128
"""

from configs import sharp_vae


def get_config(words=""):
    given = words.split(",")
    others = [word for word in given if word not in ("plain", "styles")]
    config = sharp_vae.get_config(",".join(others))
    config.model.decoder = "style"
    if "styles" in given:
        config.model.styles = "by_resolution"
    if "plain" in given:
        config.objective.guide = None
        config.objective.perceptual_weight = 0.0
        config.objective.adversarial_weight = 0.0
    return config
