"""The plain autoencoder: a deterministic code."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models.layers import decode_rows
from vae_jax.models.terms import Terms


class AE(nnx.Module):
    """x -> z = encoder(x) -> sigmoid(decoder(z)).

    Args:
      encoder: images [B,H,W,C] to codes [B,D].
      decoder: codes [N,D] to one map of the image's shape.
    """

    def __init__(self, encoder: nnx.Module, decoder: nnx.Module):
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, images: Float[Array, "B H W C"]) -> Float[Array, "B D"]:
        """Returns the code of each image."""
        return self.encoder(images)

    def decode(self, z: Float[Array, "*batch D"]) -> Float[Array, "*batch H W C"]:
        """Returns the image of each code, in [0, 1]."""
        (logits,) = decode_rows(self.decoder, z)
        return jax.nn.sigmoid(logits)

    def reconstruct(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Returns the decoded code of each image."""
        return self.decode(self.encode(images))

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Float[Array, "*labelled A"] | None = None,
        num_samples: int = 1,
    ) -> Terms:
        """Returns the terms of the objective; an autoencoder has no use for labels.

        Its code is one and the same, however many samples are asked for. `aux` has
        what a regularised autoencoder penalises (Ghosh et al. 2020): `code` [B,D],
        `decoder_l2`, the sum of squares of the decoder's parameters, and
        `decoder_gradient` [B], an estimate of the squared Frobenius norm of the
        decoder's Jacobian.
        """
        del labels, num_samples
        z = self.encode(images)
        mean, pull_back = jax.vjp(self.decode, z)
        # E |J^T v|^2 = |J|^2 for v of unit covariance (Hutchinson 1989).
        (pulled,) = pull_back(jax.random.rademacher(key, mean.shape, mean.dtype))
        weights = jax.tree.leaves(nnx.state(self.decoder, nnx.Param))
        squares = (jnp.sum(jnp.square(w)) for w in weights)
        return Terms(
            mean=mean[None],
            aux={
                "code": z,
                "decoder_l2": sum(squares, start=jnp.zeros(())),
                "decoder_gradient": jnp.sum(jnp.square(pulled), axis=-1),
            },
        )
