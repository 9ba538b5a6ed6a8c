"""A flow over the codes of an autoencoder, all else of which stays as it is.

  python -m vae_jax.main --config=configs/sharp_vae.py
  python -m vae_jax.main --config=configs/latent_flow.py

Words after a colon are those that the first run was trained with, and name its workdir,
runs/sharp_vae_colour say; plain where it was conv_vae.py, spatial where its code is a
map of 8x8 places with 8 numbers, ae or rae alone where it was one of these, and
labelled for a flow that is told the attributes of a face:

  python -m vae_jax.main --config=configs/sharp_vae.py --config.model.code_size=8 \
    --config.model.latent_dim=8
  python -m vae_jax.main --config=configs/latent_flow.py:spatial,labelled
"""

from configs import ae, conv_vae, rae
from vae_jax.errors import UserError

AUTOENCODERS = {"ae": ae, "rae": rae}
OWN = ("plain", "spatial", "labelled", *AUTOENCODERS)


def get_config(words=""):
    told, words = words, words.split(",")
    first = [word for word in words if word in AUTOENCODERS]
    if first and set(words) - {first[0], "labelled"}:
        raise UserError(
            f"configs/latent_flow.py has the words {told!r}; with {first[0]} allowed "
            "is labelled"
        )
    config = conv_vae.get_config(told, OWN)
    shared = [word for word in words if word and word not in OWN]
    config.init_from = "_".join(["runs/conv_vae", *shared])
    if "plain" not in words:
        config.init_from = "_".join(["runs/sharp_vae", *shared])
        config.model.decoder_patch = 2
    if first:
        config.init_from = f"runs/{first[0]}"
        config.model.update(AUTOENCODERS[first[0]].get_config().model.to_dict())
    if "spatial" in words:
        config.model.code_size = config.model.latent_dim = 8
    # What has parameters, and is not the prior.
    parts = ["encoder", "decoder"]
    if config.model.likelihood in ("shared_gaussian", "optimal_gaussian"):
        parts.append("likelihood")
    config.parts.frozen = config.parts.initialised = ",".join(parts)
    config.model.prior = "flow"
    config.objective.name = "flow"
    config.objective.num_samples = 4
    if "labelled" in words:
        config.model.attributes = "auto"
        # Any number of many labels is asked for.
        config.model.attribute_dropout = 0.5
    config.model.prior_width = 256
    config.model.prior_depth = 3
    config.optimizer.learning_rate = 1e-3
    # The norm of a prior's gradients is another than that of a whole model's.
    config.optimizer.clip_norm = 1.0
    # Twice as many codes to learn from.
    config.train.mirror = True
    # A step decodes nothing: a third of a VAE's time.
    config.train.num_steps = 15_000
    # log p(z) is an estimate, of which more samples would make no bound.
    config.eval.importance_samples = 1
    return config
