"""From a model's terms to the loss that training minimises and the metrics it logs.

An objective says which figures it takes of each image, and makes a loss of their means
over a batch or a split: so that a bound on the batch's mean KL and a schedule mean the
same in training and in validation. Only here are terms averaged and weighted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vae_jax.models.classifier import Prediction
from vae_jax.models.likelihoods import sum_pixels
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.terms import Terms

Scalar = Float[Array, ""]
Images = Float[Array, "B H W C"]
Figures = dict[str, Array]
# The scales of `mmd`, about those of two draws of the prior (Tolstikhin et al. 2018).
MMD_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Attributes:
      figures: (what the model returns, images) -> figures by image, [B] or [B,D].
      loss: (the figures' means, step) -> the loss, without the penalty.
      penalty: terms -> figures of a batch as a whole or of the parameters; what they
        hold as "penalty" is added to the loss in training. Validation is without.
      num_samples: of z, for each image.
    """

    figures: Callable[[Any, Images], Figures]
    loss: Callable[[Figures, Int[Array, ""]], Scalar]
    penalty: Callable[[Any], Figures] = lambda terms: {}
    num_samples: int = 1

    def __call__(
        self, terms: Any, images: Images, step: Int[Array, ""]
    ) -> tuple[Scalar, dict[str, Scalar]]:
        """Returns the loss of a batch and what to log: every mean that is a scalar."""
        means = {
            name: jnp.mean(figure, axis=0)
            for name, figure in self.figures(terms, images).items()
        }
        penalties = self.penalty(terms)
        loss = self.loss(means, step) + penalties.get("penalty", 0.0)
        scalars = {name: mean for name, mean in means.items() if mean.ndim == 0}
        return loss, {"loss": loss, **scalars, **penalties}


def squared_error_per_image(terms: Terms, images: Images) -> Float[Array, " B"]:
    """Returns the mean over pixels, channels and samples of each image."""
    sums = sum_pixels(jnp.square(terms.mean - images))
    return jnp.mean(sums, axis=0) / images[0].size


def kl_per_image(terms: Terms) -> Float[Array, " B"]:
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


def log_weights(terms: Terms) -> Float[Array, "S B"]:
    """Returns log p(x,z)/q(z|x) in nats, of each sample.

    Never with the analytic KL: an importance weight belongs to one z.
    """
    assert terms.log_px is not None
    ratio = sum(latent.log_pz - latent.log_qz for latent in terms.layers)
    return terms.log_px + ratio


def elbo_figures(terms: Terms, images: Images) -> Figures:
    """Returns elbo, log_px and kl in nats, never weighted, and mse, each [B].

    And `kl_by_dimension` [B,D], over all layers, where it is analytic.
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
    by_dimension = [latent.kl for latent in terms.layers if latent.kl is not None]
    if len(by_dimension) == len(terms.layers):
        figures["kl_by_dimension"] = jnp.concatenate(by_dimension, axis=-1)
    return figures


def _ramp(step: Int[Array, ""], num_steps: int) -> Scalar:
    """Rises from 0 to 1 over `num_steps`; 1 at once where there are none."""
    return jnp.minimum(1.0, step / num_steps) if num_steps else jnp.float32(1)


def beta_elbo(
    beta: float = 1.0,
    *,
    warmup_steps: int = 0,
    free_bits: float = 0.0,
    num_samples: int = 1,
) -> Objective:
    """The negative ELBO with its KL weighted, in nats an image.

    -E_q[log p(x|z)] + beta KL(q(z|x) || p(z)): Kingma & Welling (2013), equation 3;
    Higgins et al. (2017), equation 4.

    Args:
      beta: weight of the KL.
      warmup_steps: beta rises from 0 over so many (Bowman et al. 2016; Sønderby et al.
        2016).
      free_bits: nats below which the mean KL of a dimension costs nothing, sum_d
        max(free_bits, mean KL_d): Kingma et al. (2016), equation 15, with each
        dimension a group of its own.
      num_samples: of z, for each image.
    """

    def loss(means: Figures, step: Int[Array, ""]) -> Scalar:
        kl = means["kl"]
        if free_bits:
            kl = jnp.sum(jnp.maximum(free_bits, means["kl_by_dimension"]))
        return beta * _ramp(step, warmup_steps) * kl - means["log_px"]

    return Objective(elbo_figures, loss, num_samples=num_samples)


def capacity_elbo(capacity: float, *, gamma: float, num_steps: int) -> Objective:
    """Controlled capacity: -E_q[log p(x|z)] + gamma |KL - C(step)|, in nats an image.

    Burgess et al. (2018), equation 8, on the mean KL. C rises from 0 to `capacity`
    over `num_steps`.
    """

    def loss(means: Figures, step: Int[Array, ""]) -> Scalar:
        target = capacity * _ramp(step, num_steps)
        return gamma * jnp.abs(means["kl"] - target) - means["log_px"]

    return Objective(elbo_figures, loss)


def importance_weighted(num_samples: int) -> Objective:
    """The negative importance-weighted bound, in nats an image.

    -log 1/k sum_k p(x,z_k)/q(z_k|x): Burda et al. (2016), equation 8.

    Args:
      num_samples: k; with 1 it is the ELBO by a sampled KL.
    """

    def figures(terms: Terms, images: Images) -> Figures:
        weights = log_weights(terms)
        bound = jax.scipy.special.logsumexp(weights, axis=0) - math.log(len(weights))
        return elbo_figures(terms, images) | {"iwae": bound}

    return Objective(
        figures,
        lambda means, step: -means["iwae"],
        num_samples=num_samples,
    )


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


def mmd_elbo(beta: float, *, weight: float) -> Objective:
    """The ELBO with a penalty on the MMD between codes and prior, in nats an image.

    -E_q[log p(x|z)] + beta KL + weight MMD^2(q(z), p(z)): InfoVAE (Zhao et al. 2019),
    equation 6, with beta = 1 - alpha and weight = alpha + lambda - 1; with beta = 0 the
    WAE-MMD of Tolstikhin et al. (2018), with a probabilistic encoder.
    """

    def penalty(terms: Terms) -> Figures:
        prior_z = terms.aux["prior_z"]
        # The mean squared distance of two draws: twice the variance of all dimensions.
        scale = 2.0 * prior_z.shape[-1]
        distance = mmd(terms.layers[0].z[0], prior_z, scale)
        return {"mmd": distance, "penalty": weight * distance}

    return Objective(elbo_figures, beta_elbo(beta).loss, penalty)


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
      posterior: of the batch, parameters [B,D].
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


def tc_elbo(beta: float, *, num_images: int) -> Objective:
    """The ELBO with the total correlation weighted by beta, in nats an image.

    -E_q[log p(x|z)] + MI + beta TC + dimension-wise KL: Chen et al. (2018), equation 4
    with alpha = gamma = 1. Since the three add up to the KL, it is the ELBO with a
    penalty of beta - 1 on the total correlation.

    Args:
      beta: weight of the total correlation.
      num_images: in the training split.
    """

    def penalty(terms: Terms) -> Figures:
        (latent,) = terms.layers
        parts = total_correlation_terms(
            latent.z[0], latent.posterior, latent.log_pz[0], num_images
        )
        return parts | {"penalty": (beta - 1) * parts["total_correlation"]}

    return Objective(elbo_figures, beta_elbo().loss, penalty)


def mean_squared_error(
    code_weight: float = 0.0,
    *,
    decoder_penalty: str = "none",
    decoder_weight: float = 0.0,
) -> Objective:
    """The autoencoder's loss: the mean over pixels, channels and images.

    With weights the regularised autoencoder of Ghosh et al. (2020), equation 4:
    mse + code_weight |z|^2 / 2 + decoder_weight R.

    Args:
      code_weight: of half the code's squared norm.
      decoder_penalty: R: "none", "l2", the squares of the decoder's parameters, or
        "gradient", the squares of its Jacobian.
      decoder_weight: of R.
    """

    def figures(terms: Terms, images: Images) -> Figures:
        code = terms.aux["code"]
        return {
            "mse": squared_error_per_image(terms, images),
            "code_norm": 0.5 * jnp.sum(jnp.square(code), axis=-1),
        }

    def loss(means: Figures, step: Int[Array, ""]) -> Scalar:
        del step
        return means["mse"] + code_weight * means["code_norm"]

    def penalty(terms: Terms) -> Figures:
        return {
            "penalty": decoder_weight
            * jnp.mean(terms.aux[f"decoder_{decoder_penalty}"])
        }

    if decoder_penalty == "none":
        return Objective(figures, loss)
    return Objective(figures, loss, penalty)


def cross_entropy() -> Objective:
    """The classifier's loss: -log p(y|x) in nats an attribute, their mean."""

    def figures(prediction: Prediction, images: Images) -> Figures:
        del images
        logits, labels = prediction.logits, prediction.labels
        right = (labels * logits > 0).astype(jnp.float32)
        return {
            "cross_entropy": jnp.mean(jax.nn.softplus(-labels * logits), axis=-1),
            "accuracy": jnp.mean(right, axis=-1),
            "accuracy_by_attribute": right,
        }

    return Objective(figures, lambda means, step: means["cross_entropy"])
