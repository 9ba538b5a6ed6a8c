"""The ELBO and its parts by image, from what a model returns."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.models.contract import Terms
from vae_jax.models.likelihoods import sum_pixels

Images = Float[Array, "B H W C"]
# By name, [B] or [B,...].
Figures = dict[str, Array]


def squared_error_per_image(terms: Terms, images: Images) -> Float[Array, " B"]:
    """Returns the mean over pixels, channels and samples of each image."""
    sums = sum_pixels(jnp.square(terms.mean - images))
    return jnp.mean(sums, axis=0) / images[0].size


def kl_per_image(terms: Terms) -> Float[Array, " B"]:
    """Returns KL(q(z|x) || p(z)) in nats, over all layers; sampled if not analytic."""
    return sum(
        (
            -jnp.mean(layer.log_ratio, axis=0)
            if layer.kl is None
            else jnp.sum(layer.kl, axis=-1)
            for layer in terms.layers
        ),
        start=jnp.zeros(terms.mean.shape[1]),
    )


def kl_by_dimension(terms: Terms) -> Float[Array, "B G"] | None:
    """Returns the KL in nats by group, over all layers; None where one is sampled."""
    by_layer = [layer.kl for layer in terms.layers]
    analytic = [kl for kl in by_layer if kl is not None]
    if not by_layer or len(analytic) < len(by_layer):
        return None
    return jnp.concatenate(analytic, axis=-1)


def bits_per_dim(terms: Terms) -> Float[Array, " B"]:
    """Returns the negative ELBO of the 8-bit levels, in bits per pixel and channel.

    The likelihood is the discretised one, which sums to 1 over the 256 levels; for a
    density on [0, 1] this is another figure than its ELBO on another scale.
    """
    assert terms.log_mass is not None
    elbo = jnp.mean(terms.log_mass, axis=0) - kl_per_image(terms)
    return -elbo / (math.prod(terms.mean.shape[2:]) * math.log(2))


def log_weights(terms: Terms) -> Float[Array, "S B"]:
    """Returns log p(x,z)/q(z|x) in nats, of each sample.

    Never with the analytic KL: an importance weight belongs to one z.
    """
    assert terms.log_px is not None
    return terms.log_px + sum(layer.log_ratio for layer in terms.layers)


def elbo_figures(terms: Terms, images: Images) -> Figures:
    """Returns elbo, log_px and kl in nats, never weighted, and mse, each [B].

    And `kl_by_dimension` [B,D], over all layers, where it is analytic; of several
    layers also the KL of each, `kl_layer_1` and so on, the first one first.
    """
    assert terms.log_px is not None, "a model without a likelihood has no ELBO"
    log_px = jnp.mean(terms.log_px, axis=0)
    kl = kl_per_image(terms)
    figures = {
        "elbo": log_px - kl,
        "log_px": log_px,
        "kl": kl,
        "mse": squared_error_per_image(terms, images),
    }
    by_dimension = kl_by_dimension(terms)
    if by_dimension is not None:
        figures["kl_by_dimension"] = by_dimension
        if len(terms.layers) > 1:
            for number, layer in enumerate(terms.layers, 1):
                assert layer.kl is not None
                figures[f"kl_layer_{number}"] = jnp.sum(layer.kl, axis=-1)
    return figures
