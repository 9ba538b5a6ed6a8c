"""Diagonal Gaussians over the numbers in a code: posteriors, and parts of priors."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key


@struct.dataclass
class DiagonalGaussian:
    """N(mean, diag(exp(logvar))), the posterior of Kingma & Welling (2013).

    Attributes:
      mean: the means.
      logvar: the logarithms of the *variances*; the standard deviation is
        `exp(logvar / 2)` everywhere.
    """

    mean: Float[Array, "*batch D"]
    logvar: Float[Array, "*batch D"]

    @property
    def std(self) -> Float[Array, "*batch D"]:
        """The standard deviations."""
        return jnp.exp(0.5 * self.logvar)

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        temperature: float | Float[Array, "*number"] = 1.0,
    ) -> Float[Array, "S *batch D"]:
        """Draws reparametrised samples, differentiable in mean and logvar.

        Args:
          key: random key of the noise.
          num_samples: S.
          temperature: factor on the standard deviations, one or one for each of D.
        """
        noise = jax.random.normal(key, (num_samples, *self.mean.shape), self.mean.dtype)
        return self.mean + temperature * (self.std * noise)

    def log_prob_by_dimension(
        self, z: Float[Array, "*sample D"]
    ) -> Float[Array, "*sample_batch D"]:
        """Returns the log-density in nats of each of z's dimensions."""
        scaled = jnp.square(z - self.mean) * jnp.exp(-self.logvar)
        return -0.5 * (scaled + self.logvar + jnp.log(2 * jnp.pi))

    def log_prob(self, z: Float[Array, "*sample D"]) -> Float[Array, "*sample_batch"]:
        """Returns the log-density of z in nats, summed over dimensions."""
        return jnp.sum(self.log_prob_by_dimension(z), axis=-1)

    def log_ratio(
        self,
        posterior: "DiagonalGaussian",
        z: Float[Array, "*sample D"],
        key: Any = None,
    ) -> Float[Array, "*sample_batch"]:
        """Returns log p(z) - log q(z|x) in nats, exact, whatever the key.

        p(z) is this distribution. Subtracted dimension by dimension: the difference of
        the sums would lose digits.
        """
        log_q = posterior.log_prob_by_dimension(z)
        return jnp.sum(self.log_prob_by_dimension(z) - log_q, axis=-1)

    def kl_from(self, posterior: "DiagonalGaussian") -> Float[Array, "*batch D"]:
        """Returns KL(posterior || self) by dimension, in nats.

        For N(0, I) it is Kingma & Welling (2013), appendix B:
        -1/2 (1 + log s^2 - m^2 - s^2) with s^2 = exp(logvar).
        """
        log_ratio = posterior.logvar - self.logvar
        scaled = jnp.square(posterior.mean - self.mean) * jnp.exp(-self.logvar)
        return 0.5 * (scaled + jnp.exp(log_ratio) - 1.0 - log_ratio)
