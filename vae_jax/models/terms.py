"""What a model returns for a batch; objectives and evaluation read nothing else."""

import jax
from flax import struct
from jaxtyping import Array, Float

from vae_jax.models.posteriors import DiagonalGaussian


@struct.dataclass
class Latent:
    """One layer of latent variables, with S samples for each of B images.

    All log-probabilities are in nats.

    Attributes:
      z: the samples from the posterior.
      posterior: q(z|x), the same for all samples of an image.
      log_qz: log q(z|x) of each sample.
      log_pz: log p(z) of each sample.
      kl: KL(q(z|x) || p(z)) by dimension, or None where it is not analytic.
    """

    z: Float[Array, "S B D"]
    posterior: DiagonalGaussian
    log_qz: Float[Array, "S B"]
    log_pz: Float[Array, "S B"]
    kl: Float[Array, "B D"] | None


@struct.dataclass
class Terms:
    """The parts of an objective for B images, neither averaged nor weighted.

    Attributes:
      mean: the reconstructions, in [0, 1].
      log_px: log p(x|z) in nats, summed over pixels and channels; None where the
        model has no likelihood.
      log_mass: log-probability in nats of the image's 8-bit levels, the discretised
        counterpart of `log_px`; None where the model has no likelihood.
      layers: the latent variables; none for a deterministic code.
      aux: what only a particular objective reads.
    """

    mean: Float[Array, "S B H W C"]
    log_px: Float[Array, "S B"] | None = None
    log_mass: Float[Array, "S B"] | None = None
    layers: tuple[Latent, ...] = ()
    aux: dict[str, jax.Array] = struct.field(default_factory=dict)
