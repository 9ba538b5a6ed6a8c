"""A learned prior over the codes of a VQ-VAE, all else of which stays as it is.

  python -m vae_jax.main --config=configs/vq_vae.py
  python -m vae_jax.main --config=configs/vq_prior.py

Words after a colon are those that the VQ-VAE was trained with, sharp among them, and
name its workdir, runs/vq_vae_sharp; two_maps where it was vq_vae_2.py, masked for a
prior that sees codes on all sides, and labelled for one that is told the attributes of
a face.
"""

from configs import vq_vae, vq_vae_2

OWN = ("two_maps", "masked", "labelled")


def get_config(words=""):
    words = words.split(",")
    base, name = (vq_vae_2, "vq_vae_2") if "two_maps" in words else (vq_vae, "vq_vae")
    # Nothing would pull at a decoder that stays as it is.
    others = ",".join(word for word in words if word != "sharp")
    config = base.get_config(others, OWN)
    first = [word for word in words if word not in OWN]
    config.init_from = "_".join([f"runs/{name}", *filter(None, first)])
    if "sharp" in words:
        config.model.decoder_patch = 2
    # What has parameters or state, and is not the prior.
    parts = ["encoder", "decoder", "quantizers", "guess"]
    if config.model.quantizer == "fsq":
        parts.remove("quantizers")
    if not config.model.two_maps:
        parts.remove("guess")
    if config.model.likelihood in ("shared_gaussian", "optimal_gaussian"):
        parts.append("likelihood")
    config.parts.frozen = config.parts.initialised = ",".join(parts)
    config.model.prior = "masked" if "masked" in words else "transformer"
    if "labelled" in words:
        config.model.attributes = "auto"
    config.optimizer.learning_rate = 1e-3
    # The norm of a prior's gradients is another than that of a whole model's.
    config.optimizer.clip_norm = None
    # Twice as many codes to learn from.
    config.train.mirror = True
    if "two_maps" in words:
        # A sequence of 320 codes is as much to learn from as five of one map.
        config.train.batch_size = 8
        config.train.num_steps = 16_000
        config.optimizer.learning_rate = 2e-3
    return config
