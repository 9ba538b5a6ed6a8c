"""New images from a trained model."""

import functools

import jax
from jaxtyping import Array, ArrayLike, Float, Key

from vae_jax.models.vae import VAE


@functools.partial(jax.jit, static_argnames="num_samples")
def sample_prior(
    model: VAE,
    key: Key[Array, ""],
    num_samples: int,
    temperature: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, "N H W C"]:
    """Returns the means of p(x|z) at samples z of the prior.

    The means and not samples of p(x|z), whose independent pixels would add the
    decoder's noise to every picture.

    Args:
      model: a VAE.
      key: of the samples.
      num_samples: N.
      temperature: factor on z; below 1 keeps nearer to the prior's mode.
    """
    z = temperature * model.prior.sample(key, num_samples)
    return model.decode(z).mean
