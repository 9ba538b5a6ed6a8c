"""Cyclical annealing of the KL: an example of an option, see docs/extending.md."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from vae_jax.models.elbo import Figures, elbo_figures
from vae_jax.models.objectives import Objective, Scalar, with_sharpening
from vae_jax.options import Option, whole


def cyclical_elbo(period: int) -> Objective:
    """The negative ELBO whose KL's weight rises and starts again (Fu et al. 2019).

    Args:
      period: steps in which the weight rises from 0 to 1 and stays there as long.
    """

    def loss(means: Figures, step: Int[Array, ""]) -> Scalar:
        weight = jnp.minimum(1.0, 2 * (step % period) / period)
        return weight * means["kl"] - means["log_px"]

    return Objective(elbo_figures, loss)


CYCLICAL = with_sharpening(
    Option(
        lambda num_images, period: cyclical_elbo(period),
        {"period": whole(2000, "Steps of one cycle of the weight of the KL.")},
        terms="likelihoods",
    )
)
