"""What objectives penalise of a batch's codes, and of a decoder."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models.contract import Labels, Terms, flatten
from vae_jax.models.posteriors import DiagonalGaussian

Scalar = Float[Array, ""]
# The scales of `mmd`, about those of two draws of the prior (Tolstikhin et al. 2018).
MMD_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def mmd(
    x: Float[Array, "N D"], y: Float[Array, "M D"], scale: Float[Array, ""] | float
) -> Scalar:
    """Returns the unbiased estimate of the squared MMD between two samples.

    Gretton et al. (2012), equation 3, with the sum of inverse multiquadratics c / (c +
    |x - y|^2), c = scale s for s in `MMD_SCALES` (Tolstikhin et al. 2018, section 4).

    Args:
      x: one sample of at least two.
      y: the other.
      scale: the squared distance that is usual between two of them.
    """

    def kernel(a, b):
        squares = jnp.sum(jnp.square(a[:, None] - b[None]), axis=-1)
        return sum(s * scale / (s * scale + squares) for s in MMD_SCALES)

    def mean_of_pairs(a):
        n = len(a)
        # Every kernel is 1 at distance 0: the diagonal goes.
        return (jnp.sum(kernel(a, a)) - n * len(MMD_SCALES)) / (n * (n - 1))

    return mean_of_pairs(x) + mean_of_pairs(y) - 2 * jnp.mean(kernel(x, y))


def total_correlation_terms(
    z: Float[Array, "B D"],
    posterior: DiagonalGaussian,
    log_pz: Float[Array, " B"],
    num_images: int,
) -> dict[str, Scalar]:
    """Decomposes the mean KL: Chen et al. (2018), equation 2, in nats.

    With q(z) the mean of q(z|x) over a data set, `mutual_information` is KL(q(z,x) ||
    q(z) q(x)), `total_correlation` KL(q(z) || prod_d q(z_d)), `dimension_kl` the sum
    over d of KL(q(z_d) || p(z_d)); their sum is the mean of log q(z|x) - log p(z).

    q(z_i) is estimated by 1/N q(z_i|x_i) + (N-1)/N times the mean of q(z_i|x_j) over
    the others of the batch, which is unbiased for q and exact where the batch is the
    data set (stratified sampling, ibid., appendix C.2). Its logarithm is biased down:
    64 of 20,000 images with 10 dimensions and a KL of 7 nats give 1.4 nats too much
    mutual information and 1.2 too little total correlation. No estimate of the former
    exceeds log N.

    Args:
      z: a sample of each image's posterior.
      posterior: posterior of the batch, parameters [B,D].
      log_pz: log p(z) of the samples.
      num_images: N, of the data set.
    """
    batch = len(z)
    log_q = posterior.log_prob_by_dimension(z[:, None])
    own = jnp.eye(batch, dtype=bool)
    log_weight = jnp.where(
        own,
        -math.log(num_images),
        math.log((num_images - 1) / (num_images * max(1, batch - 1))),
    )
    joint = jnp.sum(log_q, axis=-1)
    log_qz = jax.scipy.special.logsumexp(joint + log_weight, axis=1)
    log_marginals = jnp.sum(
        jax.scipy.special.logsumexp(log_q + log_weight[..., None], axis=1), axis=-1
    )
    log_qz_given_x = jnp.diagonal(joint)
    return {
        "mutual_information": jnp.mean(log_qz_given_x - log_qz),
        "total_correlation": jnp.mean(log_qz - log_marginals),
        "dimension_kl": jnp.mean(log_marginals - log_pz),
    }


def first_codes(terms: Terms) -> Float[Array, "B N"]:
    """Returns the numbers in the first sample of each image's code."""
    return flatten(jax.tree.map(lambda samples: samples[0], terms.code))


def squared_parameters(module: nnx.Module) -> Scalar:
    """Returns the sum of squares of a module's parameters."""
    tree = nnx.state(module, nnx.Param)
    squares = (jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))
    return sum(squares, start=jnp.zeros(()))


def squared_jacobian(
    model: Any, terms: Terms, labels: Labels, key: Key[Array, ""]
) -> Scalar:
    """Estimates the squared Frobenius norm of the decoder's Jacobian, its mean."""
    code = jax.tree.map(lambda samples: samples[0], terms.code)
    mean, pull_back = jax.vjp(lambda code: model.decode(code, labels).mean, code)
    # E |J^T v|^2 = |J|^2 for v of unit covariance (Hutchinson 1989).
    (pulled,) = pull_back(jax.random.rademacher(key, mean.shape, mean.dtype))
    return jnp.mean(jnp.sum(jnp.square(flatten(pulled)), axis=-1))
