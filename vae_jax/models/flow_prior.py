"""A flow over codes as the prior: a velocity, and the statistics of codes."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.code_priors import SEQUENCE, check_heads
from vae_jax.models.contract import State, code_size
from vae_jax.models.flow_density import FlowDensity
from vae_jax.models.networks.layers import Frame
from vae_jax.models.networks.velocity import Velocity
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.priors import Encode
from vae_jax.options import Option, Refusal, Values, whole

# Variance by which codes are standardised, at least.
SMALLEST = 1e-12


class FlowPrior(nnx.Module):
    """A velocity, and the statistics of the codes that it was trained on.

    Args:
      velocity: see `FlowDensity`.
      code_size: N.
      num_steps: steps of Heun's method.
    """

    def __init__(self, velocity: Callable[..., Array], code_size: int, num_steps: int):
        self.velocity = velocity
        self.num_steps = num_steps
        self.count = State(jnp.zeros(()))
        self.mean = State(jnp.zeros(code_size))
        self.variance = State(jnp.ones(code_size))

    def __call__(
        self, encode: Encode | None, labels: Float[Array, "*batch A"]
    ) -> FlowDensity:
        """Returns the distribution for each row of labels."""
        return FlowDensity(
            self.velocity,
            self.mean[...],
            # The codes of an autoencoder may be the same in one of their numbers.
            jnp.sqrt(jnp.maximum(self.variance[...], SMALLEST)),
            labels,
            self.num_steps,
        )

    def update(self, posterior: DiagonalGaussian) -> None:
        """Takes the codes of a batch into the statistics.

        By the moments of posteriors, not by samples, and whatever the order of batches
        (Chan et al. 1979). Before the first batch the mean is 0 and the variance 1.
        """
        number = len(posterior.mean)
        count = self.count[...] + number
        share = number / count
        new = jnp.mean(posterior.mean, axis=0)
        spread = jnp.var(posterior.mean, axis=0) + jnp.mean(
            jnp.exp(posterior.logvar), axis=0
        )
        apart = new - self.mean[...]
        self.variance[...] = (
            (1 - share) * self.variance[...]
            + share * spread
            + share * (1 - share) * jnp.square(apart)
        )
        self.mean[...] = self.mean[...] + share * apart
        self.count[...] = count


def _build(
    frame: Frame,
    code_shape: tuple[int, ...],
    prior_width: int,
    prior_depth: int,
    prior_heads: int,
    prior_steps: int,
) -> FlowPrior:
    velocity = Velocity(
        code_shape,
        frame.num_labels,
        prior_width,
        prior_depth,
        prior_heads,
        dtype=frame.dtype,
        rngs=frame.rngs,
    )
    return FlowPrior(velocity, code_size(code_shape), prior_steps)


def _check(values: Values) -> Refusal | None:
    if values["objective.name"] != "flow":
        return "model.prior", "it is learned with objective.name flow"
    if values["eval.importance_samples"] != 1:
        reason = "log p(z) of model.prior flow is an estimate, and allowed is 1"
        return "eval.importance_samples", reason
    return check_heads(values)


FLOW = Option(
    _build,
    {
        **SEQUENCE,
        "prior_steps": whole(32, "Steps of Heun's method from noise to a code."),
    },
    check=_check,
)
