"""p(x|z) of discretised logistics, one for each pixel or a mixture of them."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Key

from vae_jax.models.likelihoods import LEVELS, ROUNDING_STD, bounded, sum_pixels
from vae_jax.options import Option, whole


def clipped_logistic_mean(
    location: Float[Array, "*shape"], scale: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Returns the mean of a logistic distribution that is clipped to [0, 1]."""
    rises = jax.nn.softplus(location / scale)
    falls = jax.nn.softplus((location - 1) / scale)
    return scale * (rises - falls)


def level_centres(images: Float[Array, "*images"], bits: int) -> Array:
    """Returns the middle of the level that each number is of, on the scale of 255.

    Args:
      images: numbers in [0, 1], on the grid of 256 levels.
      bits: bits of a level: there are 2^bits, each a range of as many of the 256.
    """
    level, width = jnp.round((LEVELS - 1) * images), LEVELS >> bits
    return width * jnp.floor(level / width) + (width - 1) / 2


def log_level_mass(
    images: Float[Array, "*images"],
    location: Float[Array, "*shape"],
    scale: Float[Array, "*shape"],
    bits: int = 8,
) -> Float[Array, "*shape"]:
    """Returns the log-probability in nats of each level under a logistic distribution.

    The levels at the ends are open, so that all sum to 1.

    Args:
      images: see `level_centres`.
      location: the centres, on the same scale.
      scale: scale of the distribution; its standard deviation is pi / sqrt(3) times
        that.
      bits: bits of a level.
    """
    # On the scale of levels, whole numbers are exact and neighbours share an edge.
    scale, width = (LEVELS - 1) * scale, LEVELS >> bits
    level = level_centres(images, bits)
    centre = (level - (LEVELS - 1) * location) / scale
    half_width = 0.5 * width / scale
    below_upper = jax.nn.log_sigmoid(centre + half_width)
    above_lower = jax.nn.log_sigmoid(half_width - centre)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)).
    inside = below_upper + above_lower + jnp.log(-jnp.expm1(-2 * half_width))
    is_last = level >= LEVELS - width
    return jnp.where(
        level < width, below_upper, jnp.where(is_last, above_lower, inside)
    )


@struct.dataclass
class DiscretizedLogistic:
    """Independent logistic distributions, integrated over the 256 levels.

    Kingma et al. (2016), appendix A; the end bins are open as in Salimans et al.
    (2017), equation 2.

    Attributes:
      location: the centres, in [0, 1].
      scale: scale in the same units; the standard deviation is pi / sqrt(3) times that.
    """

    PLACE = "location"

    location: Float[Array, "*batch H W C"]
    scale: Float[Array, "*batch H W C"]

    @property
    def mean(self) -> Float[Array, "*batch H W C"]:
        """The mean of the distribution clipped to [0, 1], which the levels share."""
        return clipped_logistic_mean(self.location, self.scale)

    @property
    def std(self) -> Float[Array, "*batch H W C"]:
        """The standard deviation, before clipping to [0, 1]."""
        return math.pi / math.sqrt(3) * self.scale

    def log_mass(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-probability in nats of the images' 8-bit levels."""
        return sum_pixels(log_level_mass(images, self.location, self.scale))

    def log_prob(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns `log_mass`: there is no density, only the levels' probabilities."""
        return self.log_mass(images)

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*batch H W C"]:
        """Draws one image of 8-bit levels for each element of the batch."""
        noise = jax.random.logistic(key, self.location.shape, self.location.dtype)
        levels = jnp.round((LEVELS - 1) * (self.location + self.scale * noise))
        return jnp.clip(levels, 0, LEVELS - 1) / (LEVELS - 1)


@struct.dataclass
class LogisticMixture:
    """One of K logistics for each pixel, integrated over the levels of its channels.

    The channels of a pixel have the component in common, and its location in a channel
    moves with the channels before, equation 3: for channel c by
    sum_{j<c} coefficient_cj (x_j - 1/2).

    Attributes:
      logits: log-odds of the components.
      location: the centres, where the channels before are at 1/2.
      scale: scale in the same units; the standard deviation is pi / sqrt(3) times that.
      coefficients: coefficients of the P = C (C-1) / 2 pairs of channels: (1,0), (2,0),
        (2,1).
      bits: bits of a level: there are 2^bits, each a range of as many of the image's
        256.
    """

    PLACE = "location"

    logits: Float[Array, "*batch H W K"]
    location: Float[Array, "*batch H W C K"]
    scale: Float[Array, "*batch H W C K"]
    coefficients: Float[Array, "*batch H W P K"]
    bits: int = struct.field(pytree_node=False, default=8)

    def _locations(
        self, value_of: Callable[[int, Array], Array]
    ) -> tuple[Float[Array, "*batch H W C K"], Float[Array, "*values H W C k"]]:
        """Returns where each channel lies given those before, and all their values.

        Args:
          value_of: function from a channel's number and location [...,K] to the value
            [...,k] that the channels after it are given, of each component or of all.
        """
        locations, values, pair = [], [], 0
        for channel in range(self.location.shape[-2]):
            location = self.location[..., channel, :]
            for value in values:
                location += self.coefficients[..., pair, :] * (value - 0.5)
                pair += 1
            locations.append(location)
            values.append(value_of(channel, location))
        return jnp.stack(locations, axis=-2), jnp.stack(values, axis=-2)

    def _means(self) -> Float[Array, "*batch H W C K"]:
        """Returns the means of components, each channel given those before."""

        def mean(channel: int, location: Array) -> Array:
            return clipped_logistic_mean(location, self.scale[..., channel, :])

        return self._locations(mean)[1]

    @property
    def mean(self) -> Float[Array, "*batch H W C"]:
        """The mean, of channels after the first to first order; clipped to [0, 1]."""
        weights = jax.nn.softmax(self.logits)
        mean = jnp.einsum("...k,...ck->...c", weights, self._means())
        # The weights sum to 1 but for rounding.
        return jnp.clip(mean, 0.0, 1.0)

    @property
    def std(self) -> Float[Array, "*batch H W C"]:
        """The standard deviation of each channel given the means of those before."""
        within = jnp.square(math.pi / math.sqrt(3) * self.scale)
        between = jnp.square(self._means() - self.mean[..., None])
        weights = jax.nn.softmax(self.logits)
        return jnp.sqrt(jnp.einsum("...k,...ck->...c", weights, within + between))

    def log_mass(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns the log-probability in nats of the images' 8-bit levels.

        Those within a level of fewer bits are equally likely; the log-probability of
        the level alone is log(2) (8 - bits) more for each number.
        """
        # What a channel is given of those before it is their level, and no more.
        values = level_centres(images, self.bits)[..., None] / (LEVELS - 1)
        locations, _ = self._locations(lambda channel, _: values[..., channel, :])
        by_channel = log_level_mass(values, locations, self.scale, self.bits)
        by_channel -= math.log(2) * (8 - self.bits)
        by_component = jnp.sum(by_channel, axis=-2) + jax.nn.log_softmax(self.logits)
        per_pixel = jax.scipy.special.logsumexp(by_component, axis=-1)
        return sum_pixels(per_pixel[..., None])

    def log_prob(self, images: Float[Array, "*images H W C"]) -> Float[Array, "*batch"]:
        """Returns `log_mass`: there is no density, only the levels' probabilities."""
        return self.log_mass(images)

    def sample(self, key: Key[Array, ""]) -> Float[Array, "*batch H W C"]:
        """Draws one image of levels for each element of the batch."""
        which_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(which_key, self.logits)[..., None]

        def choose(by_component: Array) -> Array:
            index = which if by_component.ndim == which.ndim else which[..., None]
            return jnp.take_along_axis(by_component, index, axis=-1)

        chosen = jax.tree.map(choose, self)
        location, scale = chosen.location, chosen.scale
        noise = jax.random.logistic(noise_key, location.shape, location.dtype)
        width = LEVELS >> self.bits

        def level(channel: int, place: Array) -> Array:
            value = place + scale[..., channel, :] * noise[..., channel, :]
            bin_ = jnp.floor(jnp.round((LEVELS - 1) * value) / width)
            last = LEVELS // width - 1
            centre = width * jnp.clip(bin_, 0, last) + (width - 1) / 2
            return centre / (LEVELS - 1)

        return chosen._locations(level)[1][..., 0]


def logistic_scale(scale_map: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns exp(map / 2) + ROUNDING_STD, the scale of a decoder's map."""
    return jnp.exp(0.5 * bounded(scale_map)) + ROUNDING_STD


class LearnedLogistic(nnx.Module):
    """A discretised logistic whose location and scale the decoder learns by pixel.

    location = sigmoid(first map); scale = exp(second map / 2) + ROUNDING_STD.
    """

    num_maps = 2

    def __call__(
        self, maps: tuple[Float[Array, "*batch H W C"], ...]
    ) -> DiscretizedLogistic:
        """Returns the distribution that the decoder's maps stand for."""
        location_map, scale_map = maps
        return DiscretizedLogistic(
            location=jax.nn.sigmoid(location_map),
            scale=logistic_scale(scale_map),
        )


class LearnedLogisticMixture(nnx.Module):
    """A mixture whose parameters the decoder learns for every pixel.

    For each component a map of the location, of the scale and of the weight, which is
    the mean of its channels, and where there are several channels of the coefficients:
    location = 1/2 + map / 4, scale = exp(map - 2) + ROUNDING_STD, coefficient =
    tanh(map); three channels have as many pairs. Maps of 0 have the mean and the spread
    of faces.

    Args:
      channels: channels of an image.
      num_components: K.
      bits: bits of a level.
    """

    def __init__(self, channels: int, num_components: int, bits: int):
        self.num_components = num_components
        self.bits = bits
        self.kinds = 3 if channels == 1 else 4
        self.num_maps = self.kinds * num_components

    def __call__(
        self, maps: tuple[Float[Array, "*batch H W C"], ...]
    ) -> LogisticMixture:
        """Returns the distribution that the decoder's maps stand for."""
        weight, location, scale, *coefficients = (
            jnp.stack(maps[kind :: self.kinds], axis=-1) for kind in range(self.kinds)
        )
        return LogisticMixture(
            logits=jnp.mean(weight, axis=-2),
            location=0.5 + location / 4,
            scale=logistic_scale(2 * scale - 4),
            coefficients=(
                jnp.tanh(coefficients[0]) if coefficients else location[..., :0, :]
            ),
            bits=self.bits,
        )


LOGISTIC = Option(lambda channels: LearnedLogistic())
LOGISTIC_MIXTURE = Option(
    LearnedLogisticMixture,
    {
        "num_components": whole(3, "Logistics in a mixture for each pixel."),
        "bits": whole(
            8,
            "Bits of the levels whose probability a mixture of logistics gives.",
            1,
            8,
        ),
    },
)
