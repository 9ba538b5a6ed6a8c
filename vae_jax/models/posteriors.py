"""Diagonal Gaussians over codes: the posteriors q(z|x), and what priors are made of."""

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

    def sample(
        self, key: Key[Array, ""], num_samples: int
    ) -> Float[Array, "S *batch D"]:
        """Draws reparametrised samples, differentiable in mean and logvar."""
        noise = jax.random.normal(key, (num_samples, *self.mean.shape), self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def log_prob_by_dimension(
        self, z: Float[Array, "*sample D"]
    ) -> Float[Array, "*sample_batch D"]:
        """Returns the log-density in nats of each of z's dimensions."""
        scaled = jnp.square(z - self.mean) * jnp.exp(-self.logvar)
        return -0.5 * (scaled + self.logvar + jnp.log(2 * jnp.pi))

    def log_prob(self, z: Float[Array, "*sample D"]) -> Float[Array, "*sample_batch"]:
        """Returns the log-density of z in nats, summed over dimensions."""
        return jnp.sum(self.log_prob_by_dimension(z), axis=-1)

    def kl(self, other: "DiagonalGaussian") -> Float[Array, "*batch D"]:
        """Returns KL(self || other) by dimension, in nats.

        For N(0, I) it is Kingma & Welling (2013), appendix B:
        -1/2 (1 + log s^2 - m^2 - s^2) with s^2 = exp(logvar).
        """
        log_ratio = self.logvar - other.logvar
        scaled = jnp.square(self.mean - other.mean) * jnp.exp(-other.logvar)
        return 0.5 * (scaled + jnp.exp(log_ratio) - 1.0 - log_ratio)
