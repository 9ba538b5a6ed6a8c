"""The plain autoencoder: a deterministic code."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models.contract import CodeShape, Labels, Prior, Terms
from vae_jax.models.likelihoods import Deterministic
from vae_jax.models.networks.layers import Frame, Networks, decode_rows
from vae_jax.options import Option


class AE(nnx.Module):
    """x -> z = encoder(x) -> sigmoid(decoder(z)). It has no use for labels.

    Args:
      encoder: images [B,H,W,C] to codes [B,*code_shape].
      decoder: codes [N,*code_shape] to one map of the image's shape.
      code_shape: (D,), or (h, w, d).
      code_resolutions: see `Networks`.
    """

    prior = None

    def __init__(
        self,
        encoder: nnx.Module,
        decoder: nnx.Module,
        code_shape: CodeShape,
        code_resolutions: tuple[int, ...] = (),
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.code_shape = code_shape
        self.code_resolutions = code_resolutions

    def encode(
        self,
        images: Float[Array, "B H W C"],
        labels: Labels = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B ..."]:
        """Returns the code of each image."""
        del labels, key
        return self.encoder(images)

    def decode(
        self, code: Float[Array, "*batch_code"], labels: Labels = None
    ) -> Deterministic:
        """Returns the image of each code."""
        del labels
        (logits,) = decode_rows(self.decoder, code, len(self.code_shape))
        return Deterministic(jax.nn.sigmoid(logits))

    def prior_of(self, labels: Labels = None) -> Prior:
        """Raises TypeError, as there is no prior."""
        raise TypeError("an autoencoder has no prior")

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Labels = None,
        num_samples: int = 1,
    ) -> Terms:
        """Returns the terms of the objective, of one code however many are asked for.

        Args:
          images: in [0, 1].
          key: of no use, as are the labels.
          labels: of the images.
          num_samples: of the code, which is one and the same.
        """
        del key, labels, num_samples
        code = self.encode(images)[None]
        return Terms(mean=self.decode(code).mean, code=code)


def _build(frame: Frame, networks: Networks) -> AE:
    assert networks.make_decoder is not None
    return AE(
        networks.make_encoder(frame.latent_dim, condition_dim=0),
        networks.make_decoder(num_maps=1),
        networks.code_shape,
        networks.code_resolutions,
    )


AUTOENCODER = Option(_build, terms="reconstructions")
