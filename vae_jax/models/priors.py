"""p(z): the priors."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models.posteriors import DiagonalGaussian


class StandardNormal(nnx.Module):
    """N(0, I) over `latent_dim` dimensions."""

    def __init__(self, latent_dim: int):
        self.latent_dim = latent_dim

    def sample(self, key: Key[Array, ""], num_samples: int) -> Float[Array, "S D"]:
        """Draws independent samples."""
        return jax.random.normal(key, (num_samples, self.latent_dim))

    def log_prob(self, z: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
        """Returns the log-density of z in nats, summed over dimensions."""
        return -0.5 * jnp.sum(jnp.square(z) + jnp.log(2 * jnp.pi), axis=-1)

    def kl(self, posterior: DiagonalGaussian) -> Float[Array, "*batch D"]:
        """Returns KL(posterior || prior) by dimension, in nats.

        Kingma & Welling (2013), appendix B:
        -1/2 (1 + log s^2 - m^2 - s^2) with s^2 = exp(logvar).
        """
        mean, logvar = posterior.mean, posterior.logvar
        return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
