"""Images as cosines of their patches, so scaled that all have about unit variance.

Layers that read and write these learn at one rate, whatever the frequency.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import depth_to_space, space_to_depth


@functools.cache
def cosine_basis(patch: int) -> Float[np.ndarray, "P P"]:
    """Returns patterns of `patch` x `patch` pixels, as large as faces have of each.

    The rows are orthogonal, two-dimensional cosines (Ahmed et al. 1974), each as high
    as it is in patches of gray faces of unit variance: that falls with its frequency f
    about as (1 + f)^-2.4.
    """
    k = np.arange(patch)
    cosines = np.sqrt(2) * np.cos(np.pi * np.outer(k, 2 * k + 1) / (2 * patch))
    cosines[0] = 1
    waves = np.einsum("ui,vj->uvij", cosines, cosines).reshape(patch**2, patch**2)
    frequency = np.hypot(*np.meshgrid(k, k)).ravel()
    return (waves * (1 + frequency[:, None]) ** -2.4).astype(np.float32)


def to_cosines(images: Float[Array, "B H W C"], patch: int) -> Float[Array, "B h w F"]:
    """Returns the coefficients of each patch; F = P^2 C.

    The coefficients of faces have a variance of about 1, since that of gray faces is
    1/16.
    """
    basis = cosine_basis(patch)
    dual = basis / np.sum(np.square(basis), axis=1, keepdims=True)
    patches = space_to_depth(4 * (images - 0.5), patch)
    by_channel = patches.reshape(*patches.shape[:3], patch**2, -1)
    coefficients = jnp.einsum("bhwpc,fp->bhwfc", by_channel, dual)
    return coefficients.reshape(patches.shape)


def from_cosines(
    coefficients: Float[Array, "B h w F"], patch: int
) -> Float[Array, "B H W C"]:
    """Returns the maps whose patches have these coefficients."""
    shape = coefficients.shape
    by_channel = coefficients.reshape(*shape[:3], patch**2, -1)
    patches = jnp.einsum("bhwfc,fp->bhwpc", by_channel, cosine_basis(patch))
    return depth_to_space(patches.reshape(shape), patch)
