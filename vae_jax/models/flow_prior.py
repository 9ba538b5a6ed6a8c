"""A flow over codes as the prior: a velocity, and the statistics of codes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.code_priors import SEQUENCE, check_heads
from vae_jax.models.contract import State
from vae_jax.models.flow_density import FlowDensity
from vae_jax.models.networks.velocity import Velocity
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.priors import CodeFrame, Encode
from vae_jax.options import Option, Refusal, Values, whole

# What is added to the variance of each number, so that none is 0.
SMALLEST = 1e-12
# By which correlations are shrunk at least: rounding may make those of an autoencoder's
# codes, which can lie in fewer dimensions than they have, more than there can be.
LEAST_SHRUNK = 1e-4


class FlowPrior(nnx.Module):
    """A velocity, and the statistics of the codes that it was trained on.

    Args:
      velocity: see `FlowDensity`.
      place_shape: T places, and d numbers at each.
      num_steps: of Heun's method.
    """

    def __init__(
        self,
        velocity: Callable[..., Array],
        place_shape: tuple[int, int],
        num_steps: int,
    ):
        self.velocity = velocity
        self.num_steps = num_steps
        places, dims = place_shape
        self.count = State(jnp.zeros(()))
        self.mean = State(jnp.zeros(places * dims))
        self.covariance = State(jnp.tile(jnp.eye(dims), (places, 1, 1)))

    def __call__(
        self, encode: Encode | None, labels: Float[Array, "*batch A"]
    ) -> FlowDensity:
        """Returns the distribution for each row of labels."""
        del encode
        found, identity = self.covariance[...], jnp.eye(self.covariance.shape[-1])
        # Correlations estimated from few codes are too strong. They are shrunk as if d
        # more codes without any had been seen.
        shrunk = len(identity) / (self.count[...] + len(identity))
        shrunk = jnp.maximum(shrunk, LEAST_SHRUNK)
        found = found * (1 - shrunk * (1 - identity)) + SMALLEST * identity
        return FlowDensity(
            self.velocity,
            self.mean[...],
            jnp.linalg.cholesky(found),
            labels,
            self.num_steps,
        )

    def update(self, posterior: DiagonalGaussian) -> None:
        """Takes the codes of a batch into the statistics.

        By the moments of posteriors, not by samples, and whatever the order of batches
        (Chan et al. 1979). Before the first batch the mean is 0 and the covariance I.
        """
        number = len(posterior.mean)
        count = self.count[...] + number
        share = number / count
        new = jnp.mean(posterior.mean, axis=0)
        from_new, apart = (
            x.reshape(*x.shape[:-1], *self.covariance.shape[:2])
            for x in (posterior.mean - new, new - self.mean[...])
        )
        variances = jnp.mean(jnp.exp(posterior.logvar), axis=0)
        own = jnp.einsum("bti,btj->tij", from_new, from_new, precision="highest")
        own = own / number + jax.vmap(jnp.diag)(variances.reshape(apart.shape))
        between = (1 - share) * jnp.einsum("ti,tj->tij", apart, apart)
        # As a step towards the batch's: rounding adds up less than in two shares.
        self.covariance[...] += share * (own - self.covariance[...] + between)
        self.mean[...] += share * (new - self.mean[...])
        self.count[...] = count


def _build(
    frame: CodeFrame,
    prior_width: int,
    prior_depth: int,
    prior_heads: int,
    prior_steps: int,
) -> FlowPrior:
    velocity = Velocity(
        frame.code_shape,
        frame.num_labels,
        prior_width,
        prior_depth,
        prior_heads,
        dtype=frame.dtype,
        rngs=frame.rngs,
    )
    return FlowPrior(velocity, velocity.place_shape, prior_steps)


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
