"""Figures of a trained model, as pure functions of its terms."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.models.contract import Terms
from vae_jax.models.elbo import kl_per_image


def bits_per_dim(terms: Terms) -> Float[Array, " B"]:
    """Returns the negative ELBO of the 8-bit levels, in bits per pixel and channel.

    The likelihood is the discretised one, which sums to 1 over the 256 levels; for a
    density on [0, 1] this is another figure than its ELBO on another scale.
    """
    assert terms.log_mass is not None
    elbo = jnp.mean(terms.log_mass, axis=0) - kl_per_image(terms)
    return -elbo / (math.prod(terms.mean.shape[2:]) * math.log(2))
