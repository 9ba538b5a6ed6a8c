"""p(z): the priors.

A prior is a module that is called with the VAE's posterior of images and with labels,
and returns a distribution over the numbers in a code: a `contract.Prior` that also has
`log_ratio(posterior, z, key)` and `kl_from(posterior)`. Most need neither argument,
VampPrior is made of the first and ConditionalNormal of the second. One with
`contract.State` has `update(posterior)`, see `VAE.update_state`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Key

from vae_jax.models.contract import code_size
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.options import Option, Refusal, Values, whole

# Function from images to the posterior of each.
Encode = Callable[[Float[Array, "K H W C"]], DiagonalGaussian]


@struct.dataclass
class Mixture:
    """sum_k softmax(logits)_k components_k over codes of D dimensions.

    Attributes:
      logits: log-odds of the components, whose weights are their softmax.
      components: parameters [K,D].
    """

    logits: Float[Array, " K"]
    components: DiagonalGaussian

    @property
    def mean(self) -> Float[Array, " D"]:
        """The mean of each dimension."""
        return jax.nn.softmax(self.logits) @ self.components.mean

    @property
    def std(self) -> Float[Array, " D"]:
        """The standard deviation of each dimension, over all components."""
        within = jnp.exp(self.components.logvar)
        between = jnp.square(self.components.mean - self.mean)
        return jnp.sqrt(jax.nn.softmax(self.logits) @ (within + between))

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        temperature: float | Float[Array, ""] = 1.0,
    ) -> Float[Array, "S D"]:
        """Draws independent samples, each from a component of its own.

        Args:
          key: random key of the components and the noise.
          num_samples: S.
          temperature: factor on the components' standard deviations; their weights stay
            as they are.
        """
        which_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(which_key, self.logits, shape=(num_samples,))
        drawn = jax.tree.map(lambda a: a[which], self.components)
        return drawn.sample(noise_key, 1, temperature)[0]

    def _sum(self, by_component: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
        weighted = by_component + jax.nn.log_softmax(self.logits)
        return jax.scipy.special.logsumexp(weighted, axis=-1)

    def log_prob(self, z: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
        """Returns the log-density of z in nats, summed over dimensions."""
        return self._sum(self.components.log_prob(z[..., None, :]))

    def log_ratio(
        self, posterior: DiagonalGaussian, z: Float[Array, "*sample D"], key: Any = None
    ) -> Float[Array, "*sample"]:
        """Returns log p(z) - log q(z|x) in nats, see `DiagonalGaussian.log_ratio`."""
        log_q = posterior.log_prob_by_dimension(z)[..., None, :]
        log_p = self.components.log_prob_by_dimension(z[..., None, :])
        return self._sum(jnp.sum(log_p - log_q, axis=-1))

    def kl_from(self, posterior: DiagonalGaussian) -> None:
        """Returns None: the KL to a mixture is not analytic."""


class StandardNormal(nnx.Module):
    """N(0, I) over `latent_dim` dimensions."""

    def __init__(self, latent_dim: int):
        self.latent_dim = latent_dim

    def __call__(
        self, encode: Encode, labels: Float[Array, "*batch A"]
    ) -> DiagonalGaussian:
        """Returns the distribution, the same whatever the arguments."""
        return DiagonalGaussian(jnp.zeros(self.latent_dim), jnp.zeros(self.latent_dim))


class ConditionalNormal(nnx.Module):
    """N(m(y), diag(s^2(y))) with means and log-variances linear in the labels y.

    The conditional prior of Sohn et al. (2015), equation 4. It starts as N(0, I).
    """

    def __init__(self, latent_dim: int, num_labels: int, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(
            num_labels, 2 * latent_dim, kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(
        self, encode: Encode, labels: Float[Array, "*batch A"]
    ) -> DiagonalGaussian:
        """Returns the distribution for each row of labels."""
        mean, logvar = jnp.split(self.linear(labels), 2, axis=-1)
        return DiagonalGaussian(mean, logvar)


class MixtureOfGaussians(nnx.Module):
    """Diagonal Gaussians whose means, variances and weights are learned.

    They start with standard normal means and unit variances.
    """

    def __init__(self, latent_dim: int, num_components: int, *, rngs: nnx.Rngs):
        shape = (num_components, latent_dim)
        self.mean = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.logvar = nnx.Param(jnp.zeros(shape))
        self.logits = nnx.Param(jnp.zeros(num_components))

    def __call__(self, encode: Encode, labels: Float[Array, "*batch A"]) -> Mixture:
        """Returns the distribution, the same whatever the arguments."""
        return Mixture(
            self.logits[...], DiagonalGaussian(self.mean[...], self.logvar[...])
        )


class VampPrior(nnx.Module):
    """The mean of the posteriors of K learned images (Tomczak & Welling 2018).

    Equation 8: p(z) = 1/K sum_k q(z | u_k), the pseudo-inputs u_k in [0, 1]. They start
    as noise: started at training pictures they fit no better, and where posteriors are
    narrow every sample is the reconstruction of one of them.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_components: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.pseudo_inputs = nnx.Param(
            jax.random.normal(rngs.params(), (num_components, *image_shape))
        )

    def __call__(self, encode: Encode, labels: Float[Array, "*batch A"]) -> Mixture:
        """Returns the distribution that the encoder makes of the pseudo-inputs."""
        components = encode(jax.nn.sigmoid(self.pseudo_inputs[...]))
        return Mixture(jnp.zeros(len(components.mean)), components)


def _check_conditional(values: Values) -> Refusal | None:
    if not values["model.attributes"]:
        return "model.prior", "it needs model.attributes to be conditioned on"
    return None


def _check_sampled_kl(values: Values) -> Refusal | None:
    if values["objective.free_bits"]:
        prior = values["model.prior"]
        reason = f"the KL to model.prior {prior} is sampled and has no dimensions"
        return "objective.free_bits", reason
    return None


def _check_vamp(values: Values) -> Refusal | None:
    if values["model.attributes"]:
        return "model.attributes", "vamp's pseudo-inputs have no labels"
    return _check_sampled_kl(values)


_COMPONENTS = {
    "prior_components": whole(64, "Components of the prior (mixture, vamp).")
}
# What makes a prior is given the frame of the model and the shape of its codes.
NORMAL = Option(lambda frame, code_shape: StandardNormal(code_size(code_shape)))
CONDITIONAL = Option(
    lambda frame, code_shape: ConditionalNormal(
        code_size(code_shape), frame.num_labels, rngs=frame.rngs
    ),
    check=_check_conditional,
)
MIXTURE = Option(
    lambda frame, code_shape, prior_components: MixtureOfGaussians(
        code_size(code_shape), prior_components, rngs=frame.rngs
    ),
    _COMPONENTS,
    check=_check_sampled_kl,
)
VAMP = Option(
    lambda frame, code_shape, prior_components: VampPrior(
        frame.image_shape, prior_components, rngs=frame.rngs
    ),
    _COMPONENTS,
    check=_check_vamp,
)
