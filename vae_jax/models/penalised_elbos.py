"""ELBOs with a penalty on codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from vae_jax.models.contract import Draw, Labels, Terms
from vae_jax.models.elbo import Figures, elbo_figures
from vae_jax.models.objectives import BETA, Objective, beta_elbo, with_sharpening
from vae_jax.models.penalties import first_codes, mmd, total_correlation_terms
from vae_jax.options import Option, Refusal, Values, weight


def mmd_elbo(beta: float, *, mmd_weight: float) -> Objective:
    """The ELBO with a penalty on the MMD between codes and prior, in nats an image.

    -E_q[log p(x|z)] + beta KL + mmd_weight MMD^2(q(z), p(z)): InfoVAE (Zhao et al.
    2019), equation 6, with beta = 1 - alpha and mmd_weight = alpha + lambda - 1; with
    beta = 0 the WAE-MMD of Tolstikhin et al. (2018), with a probabilistic encoder.
    """

    def penalty(model, terms: Terms, labels: Labels, key: Key[Array, ""]) -> Figures:
        codes, prior_key = first_codes(terms), jax.random.fold_in(key, Draw.PRIOR)
        drawn = model.prior_of(labels).sample(prior_key, len(codes))
        # The mean squared distance of two draws: twice the variance of all dimensions.
        distance = mmd(codes, drawn, 2.0 * codes.shape[-1])
        return {"mmd": distance, "penalty": mmd_weight * distance}

    return Objective(elbo_figures, beta_elbo(beta).loss, penalty=penalty)


def tc_elbo(beta: float, *, num_images: int) -> Objective:
    """The ELBO with the total correlation weighted by beta, in nats an image.

    -E_q[log p(x|z)] + MI + beta TC + dimension-wise KL: Chen et al. (2018), equation 4
    with alpha = gamma = 1. Since the three add up to the KL, it is the ELBO with a
    penalty of beta - 1 on the total correlation.

    Args:
      beta: weight of the total correlation.
      num_images: images in the training split.
    """

    def penalty(model, terms: Terms, labels: Labels, key: Key[Array, ""]) -> Figures:
        (layer,), codes = terms.layers, first_codes(terms)
        assert layer.posterior is not None
        log_pz = model.prior_of(labels).log_prob(codes)
        parts = total_correlation_terms(codes, layer.posterior, log_pz, num_images)
        return parts | {"penalty": (beta - 1) * parts["total_correlation"]}

    return Objective(elbo_figures, beta_elbo().loss, penalty=penalty)


def quantised_elbo(pull_weight: float) -> Objective:
    """The negative ELBO of a code from a finite set, and what keeps code and set near.

    -log p(x|z) - log p(z) + pull_weight sum_places (|sg(e) - c|^2 + commitment
    |e - sg(c)|^2), in nats an image: van den Oord et al. (2017), equation 3, whose
    likelihood is here the model's own.

    Args:
      pull_weight: nats for a squared distance of 1 between the codes c and vectors e,
        where it moves c, which averaged codes do not need; `commitment` times as many
        where it moves e.
    """

    def penalty(model, terms: Terms, labels: Labels, key: Key[Array, ""]) -> Figures:
        code = jax.tree.map(lambda vectors: vectors[0], terms.code)
        mean = jnp.mean(model.pull(code))
        return {"pull": mean, "penalty": pull_weight * mean}

    return Objective(elbo_figures, lambda means, step: -means["elbo"], penalty=penalty)


def _check_prior_of_all(values: Values) -> Refusal | None:
    """Refuses a prior for each label where codes of a batch are compared with one."""
    if values["model.prior"] == "conditional":
        return (
            "model.prior",
            f"{values['objective.name']} compares all codes of a batch with one prior, "
            "and conditional has one for each label",
        )
    return None


def _check_mmd(values: Values) -> Refusal | None:
    if values["train.batch_size"] == 1:
        reason = "mmd compares the codes of a batch: at least 2"
        return "train.batch_size", reason
    return _check_prior_of_all(values)


MMD = with_sharpening(
    Option(
        lambda num_images, **own: mmd_elbo(**own),
        {
            "beta": BETA,
            "mmd_weight": weight(
                1000.0, "Weight of the MMD between codes and draws of the prior."
            ),
        },
        check=_check_mmd,
        terms="likelihoods",
    )
)
TC = with_sharpening(
    Option(
        lambda num_images, **own: tc_elbo(**own, num_images=num_images),
        {"beta": BETA},
        check=_check_prior_of_all,
        terms="likelihoods",
    )
)
QUANTISED = with_sharpening(
    Option(
        lambda num_images, **own: quantised_elbo(**own),
        {
            "pull_weight": weight(
                30.0,
                "Weight of the pull on codes that learn by gradient, in nats for a "
                "squared distance of 1; that on vectors is model.commitment times it.",
            )
        },
        terms="codes",
    )
)
