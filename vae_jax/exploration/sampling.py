"""New images from a trained model: codes of its prior, or of a fitted density."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, UInt8
from sklearn.mixture import GaussianMixture

from vae_jax.models.autoencoder import AE
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.models.vae import VAE

Labels = Float[Array, "*labelled A"] | None


@functools.partial(jax.jit, static_argnames="num_samples")
def sample_prior(
    model: VAE,
    key: Key[Array, ""],
    num_samples: int,
    labels: Labels = None,
    temperature: Float[ArrayLike, ""] = 1.0,
) -> Float[Array, "N H W C"]:
    """Returns the means of p(x|z,y) at samples z of the prior.

    The means and not samples of p(x|z,y), whose independent pixels would add the
    decoder's noise to every picture.

    Args:
      model: a VAE.
      key: of the samples.
      num_samples: N.
      labels: [A], the same for all images; None for unknown ones.
      temperature: factor on z; below 1 keeps nearer to the mode of N(0, I).
    """
    z = temperature * model.prior_of(labels).sample(key, num_samples)
    return model.decode(z, labels).mean


@jax.jit
def _encode(model, images, labels, key):
    images = to_unit_interval(images)
    if isinstance(model, VAE):
        return model.encode(images, labels).sample(key, 1)[0]
    return model.encode(images)


def encode_images(
    model: AE | VAE,
    images: UInt8[np.ndarray, "N H W C"],
    key: Key[Array, ""],
    labels: Float[Array, "N A"] | None = None,
    batch_size: int = 250,
) -> Float[np.ndarray, "N D"]:
    """Returns a code for each image: of a VAE, one sample of its posterior.

    Samples and not means, so that together they are draws of the aggregate posterior,
    the codes that the decoder was trained on.
    """
    parts = []
    for first in range(0, len(images), batch_size):
        here = slice(first, first + batch_size)
        part_labels = None if labels is None else labels[here]
        part_key = jax.random.fold_in(key, first)
        parts.append(_encode(model, jnp.asarray(images[here]), part_labels, part_key))
    return np.concatenate(jax.device_get(parts))


def fit_codes(
    codes: Float[np.ndarray, "N D"], num_components: int, seed: int
) -> GaussianMixture:
    """Fits Gaussians of full covariance to codes, by expectation maximisation.

    The ex-post density of Ghosh et al. (2020), section 4: it gives an autoencoder a
    way to sample, and a VAE one that its prior's mismatch does not spoil.

    Args:
      codes: of real images.
      num_components: 1 is a Gaussian with the codes' mean and covariance.
      seed: of the initial components.
    """
    mixture = GaussianMixture(num_components, random_state=seed)
    return mixture.fit(codes.astype(np.float64))


def sample_fitted(
    model: AE | VAE,
    fitted: GaussianMixture,
    num_samples: int,
    labels: Labels = None,
) -> Float[Array, "N H W C"]:
    """Returns the decoded means at samples of `fitted`, its components shuffled.

    Args:
      model: whose codes `fitted` was fitted to.
      fitted: from `fit_codes`; its seed decides the samples.
      num_samples: N.
      labels: [A], as of `sample_prior`.
    """
    codes, _ = fitted.sample(num_samples)
    order = np.random.default_rng(fitted.random_state).permutation(num_samples)
    z = jnp.asarray(codes[order], jnp.float32)
    if isinstance(model, VAE):
        return model.decode(z, labels).mean
    return model.decode(z)
