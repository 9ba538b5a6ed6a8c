"""From a model's terms to the loss that training minimises and the metrics it logs.

An objective says which figures it takes of each image, and makes a loss of their means
over a batch or a split: so that a bound on the batch's mean KL and a schedule mean the
same in training and in validation. Nothing but objectives averages and weighs terms.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vae_jax.models import sharpening
from vae_jax.models.contract import Draw, Labels, Terms
from vae_jax.models.elbo import (
    Figures,
    Images,
    elbo_figures,
    log_weights,
)
from vae_jax.models.sharpening import Sharpening
from vae_jax.options import Option, Refusal, Values, weight, whole

Scalar = Float[Array, ""]


@dataclass(frozen=True)
class Objective:
    """What training minimises.

    Attributes:
      figures: (what the model returns, images) -> figures by image, [B] or [B,D].
      code_figures: (model, terms, labels, key) -> more such figures, those that the
        model makes of the codes.
      loss: (the figures' means, step) -> the loss, without the penalty.
      penalty: (model, terms, labels, key) -> figures of a batch as a whole or of the
        parameters; what they hold as "penalty" is added to the loss in training.
        Validation is without.
      num_samples: samples of z for each image.
      sharpening: the pull on reconstructions beside the loss; None for nothing.
        Validation is without.
    """

    figures: Callable[[Any, Images], Figures]
    loss: Callable[[Figures, Int[Array, ""]], Scalar]
    code_figures: Callable[..., Figures] = lambda model, terms, labels, key: {}
    penalty: Callable[..., Figures] = lambda model, terms, labels, key: {}
    num_samples: int = 1
    sharpening: Sharpening | None = None

    def by_image(
        self,
        model: Any,
        terms: Any,
        images: Images,
        labels: Labels,
        key: Key[Array, ""],
    ) -> Figures:
        """Returns all figures of each image, of what the model returned for them."""
        figures = self.figures(terms, images)
        return figures | self.code_figures(model, terms, labels, key)

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
        drawn, shares, pulled = {}, None, slice(None)
        if getattr(model, "has_dial", False):
            dial_key = jax.random.fold_in(key, Draw.DIAL)
            shares = jax.random.uniform(dial_key, (len(images),))
            drawn["realism"] = shares
        if getattr(model, "dropped", ()):
            left = model.layers_left(len(images))
            # What all layers tell is sharp by itself, and comes last.
            pulled = slice(np.count_nonzero(left < len(model.code_shape)))
            drawn["layers_left"] = left
        terms = model(images, key, labels, self.num_samples, **drawn)
        figures = self.by_image(model, terms, images, labels, key)
        means = {name: jnp.mean(figure, axis=0) for name, figure in figures.items()}
        penalties = self.penalty(model, terms, labels, key)
        if hasattr(model, "update_state"):
            model.update_state(terms)
        loss = self.loss(means, step) + penalties.get("penalty", 0.0)
        if self.sharpening is not None:
            added, seen = self.sharpening(model, terms, images, step, shares, pulled)
            loss, penalties = loss + added, penalties | seen
        scalars = {name: mean for name, mean in means.items() if mean.ndim == 0}
        return loss, {"loss": loss, **scalars, **penalties}


def _ramp(step: Int[Array, ""], num_steps: int) -> Scalar:
    """Rises from 0 to 1 over `num_steps`; 1 at once where there are none."""
    return jnp.minimum(1.0, step / num_steps) if num_steps else jnp.float32(1)


def beta_elbo(
    beta: float = 1.0,
    *,
    kl_warmup_steps: int = 0,
    free_bits: float = 0.0,
    num_samples: int = 1,
) -> Objective:
    """The negative ELBO with its KL weighted, in nats an image.

    -E_q[log p(x|z)] + beta KL(q(z|x) || p(z)): Kingma & Welling (2013), equation 3;
    Higgins et al. (2017), equation 4.

    Args:
      beta: weight of the KL.
      kl_warmup_steps: beta rises from 0 over so many (Bowman et al. 2016; Sønderby et
        al. 2016).
      free_bits: nats below which the mean KL of a dimension costs nothing, sum_d
        max(free_bits, mean KL_d): Kingma et al. (2016), equation 15, with each
        dimension a group of its own.
      num_samples: samples of z for each image.
    """

    def loss(means: Figures, step: Int[Array, ""]) -> Scalar:
        kl = means["kl"]
        if free_bits:
            kl = jnp.sum(jnp.maximum(free_bits, means["kl_by_dimension"]))
        return beta * _ramp(step, kl_warmup_steps) * kl - means["log_px"]

    return Objective(elbo_figures, loss, num_samples=num_samples)


def capacity_elbo(capacity: float, *, capacity_steps: int, gamma: float) -> Objective:
    """Controlled capacity: -E_q[log p(x|z)] + gamma |KL - C(step)|, in nats an image.

    Burgess et al. (2018), equation 8, on the mean KL. C rises from 0 to `capacity`
    over `capacity_steps`.
    """

    def loss(means: Figures, step: Int[Array, ""]) -> Scalar:
        target = capacity * _ramp(step, capacity_steps)
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


def _check_iwae(values: Values) -> Refusal | None:
    if values["objective.num_samples"] == 1:
        return "objective.num_samples", "iwae with one sample is elbo; 5 is usual"
    return None


def with_sharpening(option: Option) -> Option:
    """Returns an option whose objective may pull at the reconstructions as well.

    Args:
      option: option of an objective that takes likelihoods.
    """

    def make(num_images: int, **own: Any) -> Objective:
        # The others are of the parts that sharpen, see `sharpening.add_parts`.
        sharp = {name: own.pop(name) for name in sharpening.SETTINGS}
        pulls = Sharpening(
            **{each.name: sharp[each.name] for each in fields(Sharpening)}
        )
        objective = option.make(num_images, **own)
        if not pulls.perceptual_weight and not pulls.adversarial_weight:
            return objective
        return replace(objective, sharpening=pulls)

    def check(values: Values) -> Refusal | None:
        return option.check(values) or sharpening.check(values)

    settings = {**option.settings, **sharpening.SETTINGS}
    return replace(option, make=make, settings=settings, check=check)


BETA = weight(
    1.0, "Weight of the KL (elbo, mmd), or of the total correlation (tc), in the ELBO."
)
NUM_SAMPLES = whole(1, "Samples of z for each image in training (elbo, iwae, flow).")
# What makes an objective is given the number of training images as well.
ELBO = with_sharpening(
    Option(
        lambda num_images, **own: beta_elbo(**own),
        {
            "beta": BETA,
            "kl_warmup_steps": whole(
                0, "Steps over which the weight of the KL rises from 0.", low=0
            ),
            "free_bits": weight(
                0.0,
                "Nats of the mean KL of each dimension, or of each layer of a stack, "
                "that cost nothing.",
            ),
            "num_samples": NUM_SAMPLES,
        },
        terms="likelihoods",
    )
)
CAPACITY = with_sharpening(
    Option(
        lambda num_images, **own: capacity_elbo(**own),
        {
            "capacity": weight(25.0, "Nats at which the mean KL is held in the end."),
            "capacity_steps": whole(
                5000, "Steps over which the capacity rises from 0.", low=0
            ),
            "gamma": weight(
                100.0, "Weight of the distance between the mean KL and the capacity."
            ),
        },
        terms="likelihoods",
    )
)
IWAE = with_sharpening(
    Option(
        lambda num_images, **own: importance_weighted(**own),
        {"num_samples": NUM_SAMPLES},
        check=_check_iwae,
        terms="likelihoods",
    )
)
