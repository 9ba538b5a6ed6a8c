"""The plain autoencoder: a deterministic code."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models.terms import Terms


class AE(nnx.Module):
    """x -> z = encoder(x) -> sigmoid(decoder(z)).

    Args:
      encoder: images [B,H,W,C] to codes [B,D].
      decoder: codes to one map of the image's shape.
    """

    def __init__(self, encoder: nnx.Module, decoder: nnx.Module):
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, images: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        """Returns the code of each image."""
        return self.encoder(images)

    def decode(self, z: Float[Array, "*batch D"]) -> Float[Array, "*batch H W C"]:
        """Returns the image of each code, in [0, 1]."""
        (logits,) = self.decoder(z)
        return jax.nn.sigmoid(logits)

    def reconstruct(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Returns the decoded code of each image."""
        return self.decode(self.encode(images))

    def __call__(
        self, images: Float[Array, "B H W C"], key: Key[Array, ""] | None = None
    ) -> Terms:
        """Returns the terms of the objective; nothing here is random."""
        del key
        return Terms(mean=self.reconstruct(images)[None])
