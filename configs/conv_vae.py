"""A convolutional VAE of gray or colour faces at 64, 128 or 256 pixels.

Words after a colon change it: --config=configs/conv_vae.py:colour,128,gaussian
"""

from vae_jax.config import default_config
from vae_jax.errors import UserError
from vae_jax.models.vae import LIKELIHOODS

SIZES = {"64": 64, "128": 128, "256": 256}
CHANNELS = {"gray": 1, "colour": 3}


def split(words, *kinds):
    """Returns words, or raises UserError where more than one is of the same kind."""
    found = [*filter(None, words.split(","))]
    for kind in kinds:
        if len({*found} & {*kind}) > 1:
            raise UserError(
                f"--config has the words {words!r}; allowed is one of {', '.join(kind)}"
            )
    return found


def get_config(words="", own=()):
    """Returns the settings; `own` are words that a recipe built on this one knows."""
    config = default_config()
    config.model.network = "conv"
    config.model.latent_dim = 128
    config.model.likelihood = "logistic"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 500
    # Twice what the norm is once trained.
    config.optimizer.clip_norm = 5000.0
    # Three epochs of CelebA's 162,770 training pictures.
    config.train.num_steps = 7630
    # A convolutional decoder makes the bound the longest part of an evaluation.
    config.eval.importance_samples = 16
    for word in split(words, SIZES, CHANNELS, LIKELIHOODS):
        if word in SIZES:
            config.dataset.size = SIZES[word]
        elif word in CHANNELS:
            config.dataset.channels = CHANNELS[word]
        elif word in LIKELIHOODS:
            config.model.likelihood = word
        elif word not in own:
            allowed = ", ".join((*SIZES, *CHANNELS, *LIKELIHOODS, *own))
            raise UserError(f"--config has the word {word!r}; allowed are {allowed}")
    # Memory is short where activations are large.
    config.model.remat = config.dataset.size > 128
    return config
