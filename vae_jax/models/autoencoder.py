"""The plain autoencoder: a deterministic code.

An autoencoder has no prior of its own. A flow over its codes is learned in a second
run, as Ghosh et al. (2020), section 4, fit a density after the fact.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models.contract import CodeShape, Labels, Terms, flatten
from vae_jax.models.labels import ATTRIBUTES
from vae_jax.models.likelihoods import Deterministic
from vae_jax.models.networks.layers import Frame, Networks, decode_rows
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.vae import DROPOUT, PRIOR, PRIORS, check_labels
from vae_jax.options import Option, Refusal, Values, make


class AE(nnx.Module):
    """x -> z = encoder(x) -> sigmoid(decoder(z)). Labels are for its prior alone.

    Args:
      encoder: images [B,H,W,C] to codes [B,*code_shape].
      decoder: codes [N,*code_shape] to one map of the image's shape.
      code_shape: (D,), or (h, w, d).
      code_resolutions: see `Networks`.
      prior: a flow over its codes; None where there is no prior.
      num_labels: A, of the prior.
    """

    def __init__(
        self,
        encoder: nnx.Module,
        decoder: nnx.Module,
        code_shape: CodeShape,
        code_resolutions: tuple[int, ...] = (),
        prior: Any = None,
        num_labels: int = 0,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.code_shape = code_shape
        self.code_resolutions = code_resolutions
        self.prior = prior
        self.num_labels = num_labels

    def encode(
        self,
        images: Float[Array, "B H W C"],
        labels: Labels = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B ..."]:
        """Returns the code of each image."""
        return self.encoder(images)

    def decode(
        self, code: Float[Array, "*batch_code"], labels: Labels = None
    ) -> Deterministic:
        """Returns the image of each code."""
        (logits,) = decode_rows(self.decoder, code, len(self.code_shape))
        return Deterministic(jax.nn.sigmoid(logits))

    def prior_of(self, labels: Labels = None) -> Any:
        """Returns p(z|y) over the N numbers in a code, see `contract.Prior`.

        Raises:
          TypeError: there is no prior.
        """
        if self.prior is None:
            raise TypeError("this autoencoder has no prior")
        labels = jnp.zeros(self.num_labels) if labels is None else labels
        return self.prior(None, labels)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Labels = None,
        num_samples: int = 1,
    ) -> Terms:
        """Returns the terms of the objective, of one code however many are asked for.

        Args:
          images: images in [0, 1].
          key: random key, which has no use here, as labels have none.
          labels: labels of the images.
          num_samples: samples of the code for each image, which are one and the same.
        """
        code = self.encode(images)[None]
        return Terms(mean=self.decode(code).mean, code=code)

    def update_state(self, terms: Terms) -> None:
        """Moves what a prior keeps of codes on, by those of a batch."""
        if self.prior is not None:
            codes = flatten(terms.code[0])
            # A point is a Gaussian of no variance.
            self.prior.update(DiagonalGaussian(codes, jnp.full_like(codes, -jnp.inf)))


def _build(frame: Frame, networks: Networks, prior: str, **others: Any) -> AE:
    assert networks.make_decoder is not None
    flow = None
    if prior == "flow":
        flow = make(PRIORS, prior, frame.settings, frame, networks.code_shape)
    return AE(
        networks.make_encoder(frame.latent_dim, condition_dim=0),
        networks.make_decoder(num_maps=1),
        networks.code_shape,
        networks.code_resolutions,
        flow,
        frame.num_labels,
    )


def _check(values: Values) -> Refusal | None:
    prior = values["model.prior"]
    if prior not in (PRIOR.default, "flow"):
        reason = "with model.name ae allowed is flow, or normal, which here means none"
        return "model.prior", reason
    if values["model.attributes"] and prior != "flow":
        reason = "an autoencoder is told none, but a flow over its codes may be"
        return "model.attributes", f"{reason}: they go with model.prior flow"
    return check_labels(values)


AUTOENCODER = Option(
    _build,
    {"prior": PRIOR, "attributes": ATTRIBUTES, "attribute_dropout": DROPOUT},
    check=_check,
    terms="reconstructions",
)
