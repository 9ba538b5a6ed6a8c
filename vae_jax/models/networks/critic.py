"""A critic: it scores how real images look, and learns from real and made ones."""

import itertools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import Conv3x3, head_layer, space_to_depth

PATCH = 2
COARSEST = 4
_SLOPE = 0.2
# Keeps the variance of what passes a leaky ReLU (He et al. 2015, equation 15).
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))


class Critic(nnx.Module):
    """Images to a score each, in float32; only differences of scores mean anything.

    Patches of 2x2 pixels, then 3x3 convolutions, of which all but the first halve the
    resolution, down to 4x4. There is no normalisation: a score depends on its own image
    alone, as the penalties on its gradient assume (Gulrajani et al. 2017, section 4).

    Args:
      image_shape: (height, width, channels); square, a multiple of `PATCH`.
      width: channels of the first convolution; they double with each, up to eight
        times.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        width: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        size, _, channels = image_shape
        at, widths = size // PATCH, [PATCH**2 * channels, width]
        while at > COARSEST:
            at = math.ceil(at / 2)
            widths.append(min(2 * widths[-1], 8 * width))
        self.layers = nnx.List(
            Conv3x3(fine, coarse, stride, dtype=dtype, rngs=rngs)
            for stride, (fine, coarse) in zip(
                [1, *[2] * len(widths)], itertools.pairwise(widths), strict=False
            )
        )
        # A bias would be the same for all images, and learn nothing from differences.
        self.head = head_layer(at**2 * widths[-1], 1, dtype, rngs, use_bias=False)

    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, " B"]:
        """Returns the score of each image in [0, 1]."""
        x = space_to_depth(2 * images - 1, PATCH)
        for layer in self.layers:
            x = _GAIN * jax.nn.leaky_relu(layer(x), _SLOPE)
        return self.head(x.reshape(len(x), -1)).astype(jnp.float32)[:, 0]
