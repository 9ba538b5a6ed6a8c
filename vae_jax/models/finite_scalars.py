"""The quantiser without a codebook: numbers rounded to a few levels each.

It is what models/quantizers.py says of a quantiser.
"""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vae_jax.models.code_gradients import Vectors, straight_through

Indices = Int[Array, "*places"]


class FiniteScalars(nnx.Module):
    """FSQ: each number of a vector is rounded to one of a few levels.

    Mentzer et al. (2023). There is no codebook, and nothing pulls. What the decoder is
    given lies in [-1, 1].

    Args:
      levels: number of levels of each number; K is their product.
    """

    # How far bounds lie beyond the outermost levels, so that these are reached, as a
    # share of half the span. In levels it is less than that at which another one, which
    # there is not, would be nearer.
    MARGIN, MOST_MARGIN = 1e-3, 0.49

    def __init__(self, levels: tuple[int, ...]):
        self.levels = levels
        self.num_codes = math.prod(levels)

    def _halves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns half the span, the offset of even levels, and what undoes it at 0."""
        levels = np.array(self.levels, np.float32)
        half = (levels - 1) / 2
        half = half + np.minimum(half * self.MARGIN, np.float32(self.MOST_MARGIN))
        offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
        return half, offset, np.arctanh(offset / half).astype(np.float32)

    def _bound(self, vectors: Vectors) -> Vectors:
        half, offset, shift = self._halves()
        return jnp.tanh(vectors.astype(jnp.float32) + shift) * half - offset

    def _weights(self) -> np.ndarray:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)

    def nearest(self, vectors: Vectors) -> Indices:
        """Returns the number whose digits the levels are, the first one's the least."""
        lowest = np.array([level // 2 for level in self.levels], np.int32)
        digits = jnp.round(self._bound(vectors)).astype(jnp.int32) + lowest
        return jnp.sum(digits * self._weights(), axis=-1)

    def look_up(self, indices: Indices) -> Vectors:
        """Returns vectors that are rounded to these levels, and not moved by it."""
        half, offset, shift = self._halves()
        levels = np.array(self.levels, np.int32)
        digits = (indices[..., None] // self._weights()) % levels
        return jnp.arctanh((digits - levels // 2 + offset) / half) - shift

    def quantize(self, vectors: Vectors) -> Vectors:
        """Returns the levels, scaled to [-1, 1], with the gradient of the bound."""
        bounded = self._bound(vectors)
        rounded = straight_through(bounded, jnp.round(bounded))
        return rounded / np.array([level // 2 for level in self.levels], np.float32)

    def pull(self, vectors: Vectors) -> Float[Array, "*places"]:
        """Returns 0."""
        return jnp.zeros(vectors.shape[:-1])
