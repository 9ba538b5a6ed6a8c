"""p(z): the priors.

A prior is a module that is called with the VAE's encoder and labels and returns a
distribution over codes with `sample` and `log_prob`: most need neither, VampPrior is
made of the first and ConditionalNormal of the second.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Key

from vae_jax.models.posteriors import DiagonalGaussian

Encode = Callable[[Float[Array, "K H W C"]], DiagonalGaussian]


@struct.dataclass
class Mixture:
    """sum_k softmax(logits)_k components_k over codes of D dimensions.

    Attributes:
      logits: of the weights.
      components: parameters [K,D].
    """

    logits: Float[Array, " K"]
    components: DiagonalGaussian

    def sample(self, key: Key[Array, ""], num_samples: int) -> Float[Array, "S D"]:
        """Draws independent samples, each from a component of its own."""
        which_key, noise_key = jax.random.split(key)
        which = jax.random.categorical(which_key, self.logits, shape=(num_samples,))
        return jax.tree.map(lambda a: a[which], self.components).sample(noise_key, 1)[0]

    def log_prob(self, z: Float[Array, "*batch D"]) -> Float[Array, "*batch"]:
        """Returns the log-density of z in nats, summed over dimensions."""
        by_component = self.components.log_prob(z[..., None, :])
        weighted = by_component + jax.nn.log_softmax(self.logits)
        return jax.scipy.special.logsumexp(weighted, axis=-1)


class StandardNormal(nnx.Module):
    """N(0, I) over `latent_dim` dimensions."""

    def __init__(self, latent_dim: int):
        self.latent_dim = latent_dim

    def __call__(
        self, encode: Encode, labels: Float[Array, "*batch A"]
    ) -> DiagonalGaussian:
        """Returns the distribution, the same whatever the arguments."""
        del encode, labels
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
        del encode
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
        del encode, labels
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
        del labels
        components = encode(jax.nn.sigmoid(self.pseudo_inputs[...]))
        return Mixture(jnp.zeros(len(components.mean)), components)
