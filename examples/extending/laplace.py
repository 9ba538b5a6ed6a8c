"""A likelihood of Laplace densities: an example of an option, see docs/extending.md."""

import math

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Key

from vae_jax.models.likelihoods import LEVELS, ROUNDING_STD, sum_pixels
from vae_jax.options import Option, positive


@struct.dataclass
class Laplace:
    """Independent Laplace densities of every pixel and channel.

    Attributes:
      mean: the means, in [0, 1].
      scale: the mean absolute deviations, on the same scale.
    """

    PLACE = "mean"

    mean: Float[Array, "*batch H W C"]
    scale: Float[Array, "*batch H W C"]

    @property
    def std(self) -> Float[Array, "*batch H W C"]:
        """The standard deviations."""
        return math.sqrt(2) * self.scale

    def log_prob(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-density in nats, summed over pixels and channels."""
        return sum_pixels(jax.scipy.stats.laplace.logpdf(images, self.mean, self.scale))

    def log_mass(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-probability in nats of the images' 8-bit levels."""
        half_bin = 0.5 / (LEVELS - 1)
        upper = jnp.where(images >= 1, jnp.inf, images + half_bin)
        lower = jnp.where(images <= 0, -jnp.inf, images - half_bin)
        below = jax.scipy.stats.laplace.cdf(upper, self.mean, self.scale)
        mass = below - jax.scipy.stats.laplace.cdf(lower, self.mean, self.scale)
        return sum_pixels(jnp.log(mass + 1e-12))

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*batch H W C"]:
        """Draws one image for each element of the batch, not clipped to [0, 1]."""
        noise = jax.random.laplace(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.scale * noise


class LearnedLaplace(nnx.Module):
    """mean = sigmoid(first map); scale = largest_scale sigmoid(second map) + a floor.

    Args:
      largest_scale: that a pixel may have.
    """

    num_maps = 2

    def __init__(self, largest_scale: float):
        self.largest_scale = largest_scale

    def __call__(self, maps: tuple[Float[Array, "*batch H W C"], ...]) -> Laplace:
        """Returns the distribution that the decoder's maps stand for."""
        mean, scale = map(jax.nn.sigmoid, maps)
        return Laplace(mean, self.largest_scale * scale + ROUNDING_STD)


LAPLACE = Option(
    lambda channels, largest_scale: LearnedLaplace(largest_scale),
    {"largest_scale": positive(0.5, "Largest scale of a pixel's Laplace density.")},
)
