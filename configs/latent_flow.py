"""A flow over the codes of an autoencoder, all else of which stays as it is.

  python -m vae_jax.main --config=configs/sharp_vae.py
  python -m vae_jax.main --config=configs/latent_flow.py

Words after a colon are those that the first run was trained with; plain where it was
conv_vae.py, ae or rae where it was one of these, spatial where its code is a map of 8x8
places with 8 numbers, and labelled for a flow that is told the attributes of a face:

  python -m vae_jax.main --config=configs/sharp_vae.py --config.model.code_size=8 \
    --config.model.latent_dim=8
  python -m vae_jax.main --config=configs/latent_flow.py:spatial,labelled
"""

from configs import ae, conv_vae, rae
from vae_jax.errors import UserError

AUTOENCODERS = {"ae": ae, "rae": rae}
OWN = ("plain", "spatial", "labelled", *AUTOENCODERS)


def get_config(words=""):
    words = words.split(",")
    try:
        config = conv_vae.get_config(",".join(w for w in words if w not in OWN))
    except UserError as error:
        raise UserError(f"{error}; or of latent_flow.py: {', '.join(OWN)}") from error
    config.init_from = "runs/conv_vae"
    if "plain" not in words:
        config.init_from = "runs/sharp_vae"
        config.model.decoder_patch = 2
    for word, recipe in AUTOENCODERS.items():
        if word in words:
            config.init_from = f"runs/{word}"
            config.model.update(recipe.get_config().model)
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
        # Few labels of many are asked for at a time.
        config.model.attribute_dropout = 0.5
    config.model.prior_width = 256
    config.model.prior_depth = 3
    config.optimizer.learning_rate = 1e-3
    # The norm of a prior's gradients is another than that of a whole model's.
    config.optimizer.clip_norm = 1.0
    # Twice as many codes to learn from.
    config.train.mirror = True
    # log p(z) is an estimate, of which more samples would make no bound.
    config.eval.importance_samples = 1
    config.eval.samples_per_chunk = 1
    return config
