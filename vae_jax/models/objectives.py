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
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from vae_jax.models.classifier import Prediction
from vae_jax.models.contract import Labels, Terms, flatten
from vae_jax.models.likelihoods import sum_pixels
from vae_jax.models.posteriors import DiagonalGaussian

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
      penalty: (model, terms, labels, key) -> figures of a batch as a whole or of the
        parameters; what they hold as "penalty" is added to the loss in training.
        Validation is without.
      num_samples: of z, for each image.
    """

    figures: Callable[[Any, Images], Figures]
    loss: Callable[[Figures, Int[Array, ""]], Scalar]
    penalty: Callable[..., Figures] = lambda model, terms, labels, key: {}
    num_samples: int = 1

    def __call__(
        self,
        model: Any,
        images: Images,
        labels: Labels,
        key: Key[Array, ""],
        step: Int[Array, ""],
    ) -> tuple[Scalar, dict[str, Scalar]]:
        """Returns the loss of a batch and what to log: every mean that is a scalar.

        A model with `contract.State` is given the terms to update it by.
        """
        terms = model(images, key, labels, self.num_samples)
        means = {
            name: jnp.mean(figure, axis=0)
            for name, figure in self.figures(terms, images).items()
        }
        penalties = self.penalty(model, terms, labels, key)
        if hasattr(model, "update_state"):
            model.update_state(terms)
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


def log_weights(terms: Terms) -> Float[Array, "S B"]:
    """Returns log p(x,z)/q(z|x) in nats, of each sample.

    Never with the analytic KL: an importance weight belongs to one z.
    """
    assert terms.log_px is not None
    return terms.log_px + sum(layer.log_ratio for layer in terms.layers)


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
    by_dimension = kl_by_dimension(terms)
    if by_dimension is not None:
        figures["kl_by_dimension"] = by_dimension
    return figures


def _first_codes(terms: Terms) -> Float[Array, "B N"]:
    """Returns the numbers in the first sample of each image's code."""
    return flatten(jax.tree.map(lambda samples: samples[0], terms.code))


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

    def penalty(model, terms: Terms, labels: Labels, key: Key[Array, ""]) -> Figures:
        codes, prior_key = _first_codes(terms), jax.random.fold_in(key, 1)
        drawn = model.prior_of(labels).sample(prior_key, len(codes))
        # The mean squared distance of two draws: twice the variance of all dimensions.
        distance = mmd(codes, drawn, 2.0 * codes.shape[-1])
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

    def penalty(model, terms: Terms, labels: Labels, key: Key[Array, ""]) -> Figures:
        del key
        (layer,), codes = terms.layers, _first_codes(terms)
        log_pz = model.prior_of(labels).log_prob(codes)
        parts = total_correlation_terms(codes, layer.posterior, log_pz, num_images)
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
        return {
            "mse": squared_error_per_image(terms, images),
            "code_norm": 0.5 * jnp.sum(jnp.square(_first_codes(terms)), axis=-1),
        }

    def loss(means: Figures, step: Int[Array, ""]) -> Scalar:
        del step
        return means["mse"] + code_weight * means["code_norm"]

    def penalty(model, terms: Terms, labels: Labels, key: Key[Array, ""]) -> Figures:
        if decoder_penalty == "l2":
            squares = _squared_norm(nnx.state(model.decoder, nnx.Param))
        else:
            squares = _squared_jacobian(model, terms, labels, key)
        return {"penalty": decoder_weight * squares}

    if decoder_penalty == "none":
        return Objective(figures, loss)
    return Objective(figures, loss, penalty)


def _squared_norm(tree: Any) -> Scalar:
    squares = (jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))
    return sum(squares, start=jnp.zeros(()))


def _squared_jacobian(
    model, terms: Terms, labels: Labels, key: Key[Array, ""]
) -> Scalar:
    """Estimates the squared Frobenius norm of the decoder's Jacobian, its mean."""
    code = jax.tree.map(lambda samples: samples[0], terms.code)
    mean, pull_back = jax.vjp(lambda code: model.decode(code, labels).mean, code)
    # E |J^T v|^2 = |J|^2 for v of unit covariance (Hutchinson 1989).
    (pulled,) = pull_back(jax.random.rademacher(key, mean.shape, mean.dtype))
    return jnp.mean(jnp.sum(jnp.square(flatten(pulled)), axis=-1))


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
