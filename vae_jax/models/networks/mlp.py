"""Fully connected encoder and decoder, one hidden layer each."""

import functools
import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import Frame, Networks, head_layer
from vae_jax.options import Option, whole


class Encoder(nnx.Module):
    """Images, and labels where there are any, to `features` numbers.

    Flatten, Linear, ReLU, Linear; labels enter beside the pixels. The input of the
    last layer has type `dtype`, its output is float32: posteriors are computed in full
    precision.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        hidden_dim: int,
        features: int,
        *,
        condition_dim: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.hidden = nnx.Linear(
            math.prod(image_shape) + condition_dim,
            hidden_dim,
            dtype=dtype,
            rngs=rngs,
        )
        self.head = head_layer(hidden_dim, features, dtype, rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Float[Array, "B A"] | None = None,
    ) -> Float[Array, "B F"]:
        """Returns the features of each image."""
        flat = images.reshape(images.shape[0], -1)
        if labels is not None:
            flat = jnp.concatenate([flat, labels], axis=-1)
        return self.head(nnx.relu(self.hidden(flat))).astype(jnp.float32)


class Decoder(nnx.Module):
    """Codes to `num_maps` maps of the image's shape: Linear, ReLU, Linear.

    A code is followed by the `condition_dim` numbers that the decoder is also told.

    One map for each parameter of the likelihood; all of them come from one product,
    in float32.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden_dim: int,
        image_shape: tuple[int, int, int],
        num_maps: int,
        *,
        condition_dim: int = 0,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.image_shape = image_shape
        self.num_maps = num_maps
        self.hidden = nnx.Linear(
            latent_dim + condition_dim, hidden_dim, dtype=dtype, rngs=rngs
        )
        num_features = num_maps * math.prod(image_shape)
        self.head = head_layer(hidden_dim, num_features, dtype, rngs)

    def __call__(self, z: Float[Array, "N D"]) -> tuple[Float[Array, "N H W C"], ...]:
        """Returns the unbounded parameter maps of each code."""
        flat = self.head(nnx.relu(self.hidden(z))).astype(jnp.float32)
        maps = jnp.split(flat, self.num_maps, axis=-1)
        return tuple(m.reshape(-1, *self.image_shape) for m in maps)


def _networks(frame: Frame, hidden_dim: int) -> Networks:
    common = {"dtype": frame.dtype, "rngs": frame.rngs}
    return Networks(
        (frame.latent_dim,),
        functools.partial(Encoder, frame.image_shape, hidden_dim, **common),
        functools.partial(
            Decoder, frame.latent_dim, hidden_dim, frame.image_shape, **common
        ),
    )


MLP = Option(_networks, {"hidden_dim": whole(512, "Width of the hidden layers.")})
