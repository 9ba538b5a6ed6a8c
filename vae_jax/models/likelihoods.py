"""p(x|z): from the decoder's maps to a distribution over images in [0, 1].

A likelihood is a module whose `num_maps` says how many maps of the image's shape it
wants from the decoder, and which turns them into a distribution with `mean`,
`std`, `log_prob`, `log_mass` and `sample`. Its `PLACE` names the attribute that says
where it lies, beside those that say how wide it is.
"""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Float, Key, UInt8

from vae_jax.options import Option, Refusal, Values, positive

LEVELS = 256

# The standard deviation of rounding to a grid of 1/255. Without a floor the density
# of 8-bit pixels under a learned variance has no upper bound.
ROUNDING_STD = 1 / (255 * math.sqrt(12))


# NumPy's stay on the host.
_Array = TypeVar("_Array", Array, np.ndarray)


def to_unit_interval(
    images: UInt8[_Array, "*batch H W C"],
) -> Float[_Array, "*batch H W C"]:
    """Turns 8-bit levels into float32 in [0, 1], the scale of every likelihood."""
    return images.astype(np.float32) / (LEVELS - 1)


def sum_pixels(per_pixel: Float[Array, "*batch H W C"]) -> Float[Array, "*batch"]:
    """Returns the sums over pixels and channels."""
    # A product with ones: into a sum XLA on a CPU fuses what is summed, and then takes
    # up to 20 times as long for it.
    flat = per_pixel.reshape(*per_pixel.shape[:-3], -1)
    return jnp.matmul(flat, jnp.ones(flat.shape[-1]), precision="highest")


def bounded(logvar: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns a log-variance of at most 10, for exp overflows at 88.

    Pixels in [0, 1] need none above 0. The slope stays 1: with none, a map that has
    strayed above would never come back.
    """
    return logvar - jax.lax.stop_gradient(jax.nn.relu(logvar - 10))


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
class Deterministic:
    """An image as it is: what a model without a likelihood decodes a code to.

    Attributes:
      mean: the image, in [0, 1].
    """

    mean: Float[Array, "*batch H W C"]


@struct.dataclass
class Gaussian:
    """Independent N(mean, std^2) for every pixel and channel.

    Attributes:
      mean: the means, in [0, 1].
      std: the standard deviations, on the same scale; one for all where scalar.
    """

    PLACE = "mean"

    mean: Float[Array, "*batch H W C"]
    std: Float[Array, "*std"]

    def log_prob(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-density in nats, summed over pixels and channels."""
        scaled = jnp.square((images - self.mean) / self.std)
        per_pixel = scaled + 2 * jnp.log(self.std) + jnp.log(2 * jnp.pi)
        return -0.5 * sum_pixels(per_pixel)

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
        return sum_pixels(per_pixel)

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*batch H W C"]:
        """Draws one image for each element of the batch, not clipped to [0, 1]."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.std * noise


@struct.dataclass
class OptimalGaussian(Gaussian):
    """A Gaussian of one shared variance that trains as if that were the best one.

    `log_prob` has the value under `std`, and for the means the gradient of
    -N/2 log(mean squared error): the Gaussian whose variance is optimal for the batch
    (sigma-VAE, Rybkin et al. 2021, equation 5). `std` has its own, ordinary gradient
    and follows; so a trained model's probabilities owe nothing to the image.
    """

    def log_prob(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-density in nats, summed over pixels and channels."""
        variance = jnp.square(self.std)
        best_variance = jnp.mean(jnp.square(images - self.mean)) + ROUNDING_STD**2
        factor = jax.lax.stop_gradient(variance / best_variance)
        still = jax.lax.stop_gradient(self.mean)
        mean = still + factor * (self.mean - still)
        return Gaussian(mean, self.std).log_prob(images)


@struct.dataclass
class Bernoulli:
    """Independent pixels that are black or white.

    `log_prob` takes a gray level as the share of white, the usual cross-entropy; it is
    no normalised probability of gray levels. `log_mass` is: the 256 levels in
    proportion to `exp(log_prob)`, the discrete counterpart of the continuous Bernoulli
    (Loaiza-Ganem & Cunningham 2019).

    Attributes:
      logits: log-odds of white.
    """

    PLACE = "logits"

    logits: Float[Array, "*batch H W C"]

    @property
    def mean(self) -> Float[Array, "*batch H W C"]:
        """The probability of white."""
        return jax.nn.sigmoid(self.logits)

    @property
    def std(self) -> Float[Array, "*batch H W C"]:
        """The standard deviation."""
        return jnp.sqrt(self.mean * (1 - self.mean))

    def log_prob(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-probability in nats, summed over pixels and channels."""
        per_pixel = images * self.logits - jax.nn.softplus(self.logits)
        return sum_pixels(per_pixel)

    def log_mass(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-probability in nats of the images' 8-bit levels."""
        # A geometric series of ratio exp(-slope), from its larger end; where that is
        # almost one, so that its sum loses digits, the logarithm's Taylor series.
        slope = jnp.abs(self.logits) / (LEVELS - 1)
        flat = slope < 1e-6
        safe = jnp.where(flat, 1.0, slope)
        log_sum = jnp.log(-jnp.expm1(-LEVELS * safe)) - jnp.log(-jnp.expm1(-safe))
        from_end = jnp.where(self.logits > 0, images - 1, images)
        per_pixel = jnp.where(
            flat,
            (images - 0.5) * self.logits - math.log(LEVELS),
            from_end * self.logits - log_sum,
        )
        return sum_pixels(per_pixel)

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*batch H W C"]:
        """Draws one image of zeros and ones for each element of the batch."""
        white = jax.random.bernoulli(key, self.mean)
        return white.astype(self.logits.dtype)


class LearnedGaussian(nnx.Module):
    """A Gaussian whose mean and variance the decoder learns for every pixel.

    mean = sigmoid(first map); variance = exp(second map) + ROUNDING_STD^2.
    """

    num_maps = 2

    def __call__(self, maps: tuple[Float[Array, "*batch H W C"], ...]) -> Gaussian:
        """Returns the distribution that the decoder's maps stand for."""
        mean_map, logvar_map = maps
        variance = jnp.exp(bounded(logvar_map)) + ROUNDING_STD**2
        return Gaussian(mean=jax.nn.sigmoid(mean_map), std=jnp.sqrt(variance))


class SharedGaussian(nnx.Module):
    """A Gaussian whose one variance, shared by all pixels and images, is learned.

    variance = exp(logvar) + ROUNDING_STD^2.

    Args:
      optimal: train the decoder as under the best variance, see `OptimalGaussian`.
    """

    num_maps = 1

    def __init__(self, optimal: bool = False):
        # About the variance of natural pixels.
        self.logvar = nnx.Param(jnp.float32(-3.0))
        self.optimal = optimal

    def __call__(self, maps: tuple[Float[Array, "*batch H W C"], ...]) -> Gaussian:
        """Returns the distribution that the decoder's map stands for."""
        std = jnp.sqrt(jnp.exp(bounded(self.logvar[...])) + ROUNDING_STD**2)
        kind = OptimalGaussian if self.optimal else Gaussian
        return kind(mean=jax.nn.sigmoid(maps[0]), std=std)


class FixedGaussian(nnx.Module):
    """A Gaussian of one standard deviation that is given, on the scale of [0, 1]."""

    num_maps = 1

    def __init__(self, std: float):
        self.std = std

    def __call__(self, maps: tuple[Float[Array, "*batch H W C"], ...]) -> Gaussian:
        """Returns the distribution that the decoder's map stands for."""
        return Gaussian(mean=jax.nn.sigmoid(maps[0]), std=jnp.asarray(self.std))


class BernoulliPixels(nnx.Module):
    """A Bernoulli whose log-odds are the decoder's map."""

    num_maps = 1

    def __call__(self, maps: tuple[Float[Array, "*batch H W C"], ...]) -> Bernoulli:
        """Returns the distribution that the decoder's map stands for."""
        return Bernoulli(logits=maps[0])


def _check_optimal(values: Values) -> Refusal | None:
    if values["objective.name"] == "iwae":
        return (
            "model.likelihood",
            "its gradient is that of a mean over samples, which iwae weighs; "
            "shared_gaussian goes with iwae",
        )
    return None


# What makes a likelihood is given the number of the image's channels.
GAUSSIAN = Option(lambda channels: LearnedGaussian())
SHARED_GAUSSIAN = Option(lambda channels: SharedGaussian())
OPTIMAL_GAUSSIAN = Option(
    lambda channels: SharedGaussian(optimal=True), check=_check_optimal
)
FIXED_GAUSSIAN = Option(
    lambda channels, std: FixedGaussian(std),
    {
        "std": positive(
            0.1, "Standard deviation of the fixed Gaussian; pixels are in [0, 1]."
        )
    },
)
BERNOULLI = Option(lambda channels: BernoulliPixels())
