"""Latent layers of a ladder: how posteriors depart from priors, and how codes join."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import head_layer, mix_channels
from vae_jax.models.networks.stages import Block, Spatial
from vae_jax.models.posteriors import DiagonalGaussian

# Standard deviations that a posterior's mean may be from the prior's, and what its
# log-variance lies between, beside those of the prior. Without bounds a layer's KL
# leaps to 1e16 once in thousands of steps, and the layers above it are lost.
FARTHEST = 6.0
WIDEST, NARROWEST = 1.0, -20.0
# The largest factor on a layer's code, which starts at 1.
LARGEST_GAIN = 4.0
# Gain, relative to LeCun's, of the layers that make a posterior's departure and the
# factor on a code.
SMALL_GAIN = 0.1


def _scaled(gain: float) -> Any:
    return nnx.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")


class Departure(nnx.Module):
    """How a layer's posterior departs from its prior, by what is above and the image.

    Args:
      width: channels of the maps on the way down, and of the features.
      dims: numbers in a code at each place.
      spatial: see `Block`.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        width: int,
        dims: int,
        spatial: Spatial,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        inner = width // 2
        self.narrow = nnx.Linear(2 * width, inner, dtype=dtype, rngs=rngs)
        self.spatial = spatial(inner, inner, dtype=dtype, rngs=rngs)
        self.head = head_layer(
            inner, 2 * dims, dtype, rngs, kernel_init=_scaled(SMALL_GAIN)
        )

    def __call__(
        self, x: Float[Array, "B h w c"], features: Float[Array, "B h w c"]
    ) -> DiagonalGaussian:
        """Returns q of the layer's code [B,h,w,d], of which the prior is N(0, I)."""
        both = nnx.silu(jnp.concatenate([x, features], axis=-1))
        y = nnx.silu(mix_channels(self.narrow, both))
        y = mix_channels(self.head, nnx.silu(self.spatial(y)))
        mean, width = jnp.split(y, 2, axis=-1)
        # 0 at 0: the posterior starts as wide as the prior.
        span = WIDEST - NARROWEST
        start = math.log(math.expm1(span * math.atanh(WIDEST / span)))
        falls = jax.nn.softplus(width + start)
        return DiagonalGaussian(
            FARTHEST * jnp.tanh(mean / FARTHEST),
            WIDEST - span * jnp.tanh(falls / span),
        )


class LatentLayer(nnx.Module):
    """A block on the way down, and what adds a code to it.

    The layer's latent variable has the prior N(m(x), s(x)^2) given what is above. Its
    mean m(x) is what the block adds; the code is its noise, which s(x) scales.

    Args:
      width: channels.
      dims: numbers in a code at each place.
      gain: gain of what the code adds in the beginning.
      spatial: see `Block`.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        width: int,
        dims: int,
        gain: float,
        spatial: Spatial,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.block = Block(width, "none", spatial, dtype=dtype, rngs=rngs)
        self.scale = nnx.Linear(
            width, dims, kernel_init=_scaled(SMALL_GAIN), dtype=dtype, rngs=rngs
        )
        self.joining = nnx.Linear(
            dims, width, kernel_init=_scaled(gain), dtype=dtype, rngs=rngs
        )

    def join(
        self, x: Float[Array, "B h w c"], code: Float[Array, "B h w d"]
    ) -> Float[Array, "B h w c"]:
        """Returns what the layer's code makes of what is above."""
        wanted = mix_channels(self.scale, nnx.silu(x)).astype(jnp.float32)
        start = math.log(LARGEST_GAIN - 1)
        scale = LARGEST_GAIN * jax.nn.sigmoid(wanted - start)
        return x + mix_channels(self.joining, scale * code).astype(x.dtype)
