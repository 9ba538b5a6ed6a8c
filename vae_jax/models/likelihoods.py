"""p(x|z): from the decoder's maps to a distribution over images in [0, 1].

A likelihood is a module whose `num_maps` says how many maps of the image's shape it
wants from the decoder, and which turns them into a distribution with `mean`,
`log_prob`, `log_mass` and `sample`.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Key, UInt8

LEVELS = 256

# The standard deviation of rounding to a grid of 1/255. Without a floor the density
# of 8-bit pixels under a learned variance has no upper bound.
ROUNDING_STD = 1 / (255 * math.sqrt(12))


def to_unit_interval(
    images: UInt8[Array, "*batch H W C"],
) -> Float[Array, "*batch H W C"]:
    """Turns 8-bit levels into float32 in [0, 1], the scale of every likelihood."""
    return images.astype(jnp.float32) / (LEVELS - 1)


def _log_bin_mass(
    centre: Float[Array, "..."], half_width: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns log(cdf(centre + half_width) - cdf(centre - half_width)) of N(0, 1)."""
    # The difference of two nearly equal cdfs loses float32's digits; the integral of
    # the density's Taylor series, to fourth order in the width, does not.
    narrow = half_width < 0.02
    h2, c2 = jnp.square(half_width), jnp.square(centre)
    correction = h2 * (c2 - 1) / 6 + h2 * h2 * (c2 * c2 - 6 * c2 + 3) / 120
    series = (
        -0.5 * (c2 + jnp.log(2 * jnp.pi))
        + jnp.log(2 * half_width)
        + jnp.log1p(jnp.where(narrow, correction, 0.0))
    )
    # In the upper tail both cdfs round to 1; mirrored into the lower they do not.
    width = jnp.where(narrow, 1.0, half_width)
    log_high = jax.scipy.special.log_ndtr(width - jnp.abs(centre))
    log_low = jax.scipy.special.log_ndtr(-width - jnp.abs(centre))
    difference = log_high + jnp.log(-jnp.expm1(log_low - log_high))
    return jnp.where(narrow, series, difference)


@struct.dataclass
class Gaussian:
    """Independent N(mean, std^2) for every pixel and channel.

    Attributes:
      mean: the means, in [0, 1].
      std: the standard deviations, on the same scale.
    """

    mean: Float[Array, "*batch H W C"]
    std: Float[Array, "*batch H W C"]

    def log_prob(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-density in nats, summed over pixels and channels."""
        scaled = jnp.square((images - self.mean) / self.std)
        per_pixel = scaled + 2 * jnp.log(self.std) + jnp.log(2 * jnp.pi)
        return -0.5 * jnp.sum(per_pixel, axis=(-3, -2, -1))

    def log_mass(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-probability in nats of the images' 8-bit levels.

        The density integrated over each level's bin of width 1/255; the end bins are
        open, so that the 256 levels sum to 1 (the construction of Salimans et al.
        2017, PixelCNN++, equation 2, with a normal cdf).
        """
        # On the scale of levels, whole numbers are exact and neighbours share an edge.
        std = (LEVELS - 1) * self.std
        centre = (jnp.round((LEVELS - 1) * images) - (LEVELS - 1) * self.mean) / std
        half_width = 0.5 / std
        per_pixel = jnp.where(
            images <= 0.0,
            jax.scipy.special.log_ndtr(centre + half_width),
            jnp.where(
                images >= 1.0,
                jax.scipy.special.log_ndtr(half_width - centre),
                _log_bin_mass(centre, half_width),
            ),
        )
        return jnp.sum(per_pixel, axis=(-3, -2, -1))

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*batch H W C"]:
        """Draws one image for each element of the batch, not clipped to [0, 1]."""
        return self.mean + self.std * jax.random.normal(key, self.mean.shape)


class LearnedGaussian(nnx.Module):
    """A Gaussian whose mean and variance the decoder learns for every pixel.

    mean = sigmoid(first map); variance = exp(second map) + ROUNDING_STD^2.
    """

    num_maps = 2

    def __call__(self, maps: tuple[Float[Array, "*batch H W C"], ...]) -> Gaussian:
        """Returns the distribution that the decoder's maps stand for."""
        mean_map, logvar_map = maps
        variance = jnp.exp(logvar_map) + ROUNDING_STD**2
        return Gaussian(mean=jax.nn.sigmoid(mean_map), std=jnp.sqrt(variance))
