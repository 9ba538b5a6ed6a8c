"""From a model's terms to the loss that training minimises and the metrics it logs.

An objective is a function (terms, images, step) -> (loss, metrics), all scalars, means
over the batch. Only here are terms averaged and weighted.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vae_jax.models.terms import Terms

Scalar = Float[Array, ""]
Objective = Callable[
    [Terms, Float[Array, "B H W C"], Int[Array, ""]], tuple[Scalar, dict[str, Scalar]]
]


def mean_squared_error(
    terms: Terms, images: Float[Array, "B H W C"], step: Int[Array, ""]
) -> tuple[Scalar, dict[str, Scalar]]:
    """The autoencoder's loss: the mean over pixels, channels and images."""
    del step
    loss = jnp.mean(jnp.square(terms.mean - images))
    return loss, {"loss": loss, "mse": loss}


def kl_per_image(terms: Terms) -> Float[Array, "B"]:
    """Returns KL(q(z|x) || p(z)) in nats, over all layers; sampled if not analytic."""
    return sum(
        (
            jnp.mean(latent.log_qz - latent.log_pz, axis=0)
            if latent.kl is None
            else jnp.sum(latent.kl, axis=-1)
            for latent in terms.layers
        ),
        start=jnp.zeros(terms.mean.shape[1]),
    )


def beta_elbo(beta: float | Scalar) -> Objective:
    """The negative ELBO with its KL weighted by beta, in nats an image.

    -E_q[log p(x|z)] + beta KL(q(z|x) || p(z)): Kingma & Welling (2013), equation 3;
    Higgins et al. (2017), equation 4. The `elbo` among the metrics is never weighted.
    """

    def objective(
        terms: Terms, images: Float[Array, "B H W C"], step: Int[Array, ""]
    ) -> tuple[Scalar, dict[str, Scalar]]:
        del step
        assert terms.log_px is not None, "a model without a likelihood has no ELBO"
        log_px = jnp.mean(terms.log_px)
        kl = jnp.mean(kl_per_image(terms))
        loss = beta * kl - log_px
        return loss, {
            "loss": loss,
            "elbo": log_px - kl,
            "log_px": log_px,
            "kl": kl,
            "mse": jnp.mean(jnp.square(terms.mean - images)),
        }

    return objective
