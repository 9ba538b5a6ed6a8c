"""q(z|x): the approximate posteriors."""

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
        noise = jax.random.normal(key, (num_samples, *self.mean.shape))
        return self.mean + jnp.exp(0.5 * self.logvar) * noise

    def log_prob(self, z: Float[Array, "*sample D"]) -> Float[Array, "*sample_batch"]:
        """Returns the log-density of z in nats, summed over dimensions."""
        scaled = jnp.square(z - self.mean) * jnp.exp(-self.logvar)
        return -0.5 * jnp.sum(scaled + self.logvar + jnp.log(2 * jnp.pi), axis=-1)
