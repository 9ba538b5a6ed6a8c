"""The variational autoencoder of Kingma & Welling (2013), with labels or without."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models import (
    code_priors,
    flow_prior,
    likelihoods,
    logistics,
    masked_prior,
    priors,
)
from vae_jax.models.contract import (
    CodeShape,
    Draw,
    Labels,
    Layer,
    Terms,
    flatten,
    unflatten,
)
from vae_jax.models.labels import ATTRIBUTES
from vae_jax.models.networks.layers import Frame, Networks, decode_rows
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.options import Option, Refusal, Values, choice, make, share, switch

LIKELIHOODS = {
    "gaussian": likelihoods.GAUSSIAN,
    "shared_gaussian": likelihoods.SHARED_GAUSSIAN,
    "optimal_gaussian": likelihoods.OPTIMAL_GAUSSIAN,
    "fixed_gaussian": likelihoods.FIXED_GAUSSIAN,
    "bernoulli": likelihoods.BERNOULLI,
    "logistic": logistics.LOGISTIC,
    "logistic_mixture": logistics.LOGISTIC_MIXTURE,
}
PRIORS = {
    "normal": priors.NORMAL,
    "conditional": priors.CONDITIONAL,
    "mixture": priors.MIXTURE,
    "vamp": priors.VAMP,
    "flow": flow_prior.FLOW,
    "uniform": code_priors.UNIFORM,
    "transformer": code_priors.TRANSFORMER,
    "masked": masked_prior.MASKED,
}
LIKELIHOOD = choice("gaussian", "Likelihood p(x|z).", LIKELIHOODS)
PRIOR = choice(
    "normal", "Prior p(z); an autoencoder's is a flow, or it has none.", PRIORS
)


class VAE(nnx.Module):
    """q(z|x,y) from an encoder, p(x|z,y) from a decoder and a likelihood, and p(z|y).

    With labels y this is the conditional VAE of Sohn et al. (2015), or where the prior
    alone is told them a VAE with a conditional prior. Labels are 1, -1, or 0 for
    unknown (models/labels.py); wherever they are None all are unknown.

    With a dial the decoder is also told how sharp an image is to be: 0 asks for the
    likelihood's calibrated mean, 1 for what sharpening makes of it, and training for
    all between (models/sharpening.py). It makes every map twice, and the second is
    added as far as the dial is turned: one number among those of a code moves a decoder
    too little.

    Attributes:
      realism: setting of the dial where nothing else is said.

    Args:
      encoder: images [B,H,W,C] and T labels [B,T] to [B,...,2D], means and
        log-variances of a posterior over codes [B,...,D].
      decoder: codes with T labels and the dial at each place, [N,...,D+T+1], to
        `likelihood.num_maps` maps of the image's shape; with a dial twice as many.
      likelihood: maps to a distribution over images.
      prior: see models/priors.py.
      code_shape: (D,), or (h, w, D).
      num_labels: A.
      num_told: T, A or 0, those that encoder and decoder are told; the prior is told
        all.
      has_dial: whether there is one.
      code_resolutions: see `Networks`.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        likelihood: Any,
        prior: Any,
        code_shape: CodeShape,
        num_labels: int = 0,
        num_told: int = 0,
        has_dial: bool = False,
        code_resolutions: tuple[int, ...] = (),
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior
        self.code_shape = code_shape
        self.num_labels = num_labels
        self.num_told = num_told
        self.has_dial = has_dial
        self.code_resolutions = code_resolutions
        self.realism = 0.0

    def _labels(self, labels: Labels, *batch: Any) -> Array:
        if labels is None:
            return jnp.zeros((*batch, self.num_labels))
        return jnp.broadcast_to(labels, (*batch, self.num_labels))

    def _told(self, labels: Labels, *batch: Any) -> Array:
        return self._labels(labels, *batch)[..., : self.num_told]

    def posterior(
        self, images: Float[Array, "B H W C"], labels: Labels = None
    ) -> DiagonalGaussian:
        """Returns q(z|x,y) of each image, over the N numbers in its code."""
        features = self.encoder(images, self._told(labels, images.shape[0]))
        mean, logvar = jnp.split(features, 2, axis=-1)
        return DiagonalGaussian(flatten(mean), flatten(logvar))

    def encode(
        self,
        images: Float[Array, "B H W C"],
        labels: Labels = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B ..."]:
        """Returns the posterior's mean of each image, or a sample of it by `key`."""
        posterior = self.posterior(images, labels)
        z = posterior.mean if key is None else posterior.sample(key, 1)[0]
        return unflatten(z, self.code_shape)

    def decode(
        self,
        code: Float[Array, "*batch_code"],
        labels: Labels = None,
        realism: Float[Array, " B"] | None = None,
    ) -> Any:
        """Returns p(x|z,y) of each code; `realism` sets the dial for each image."""
        rank = len(self.code_shape)
        batch = code.shape[: code.ndim - rank]
        known = self._told(labels, *batch)
        if realism is not None and not self.has_dial:
            raise ValueError("realism is given, and the decoder has no dial")
        dial = jnp.asarray(self.realism if realism is None else realism)
        dial = jnp.broadcast_to(dial, batch)
        if self.has_dial:
            known = jnp.concatenate([known, dial[..., None]], axis=-1)
        for _ in self.code_shape[:-1]:
            known = known[..., None, :]
        known = jnp.broadcast_to(known, (*code.shape[:-1], known.shape[-1]))
        codes = jnp.concatenate([code, known], axis=-1)
        maps = decode_rows(self.decoder, codes, rank)
        if self.has_dial:
            turned, number = dial[..., None, None, None], self.likelihood.num_maps
            pairs = zip(maps[:number], maps[number:], strict=True)
            maps = tuple(calm + turned * added for calm, added in pairs)
        return self.likelihood(maps)

    def prior_of(self, labels: Labels = None) -> Any:
        """Returns p(z|y) over the N numbers in a code, see `contract.Prior`."""
        batch = () if labels is None else labels.shape[:-1]
        return self.prior(self.posterior, self._labels(labels, *batch))

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Labels = None,
        num_samples: int = 1,
        realism: Float[Array, " B"] | None = None,
    ) -> Terms:
        """Returns the terms of the objective.

        Args:
          images: images in [0, 1].
          key: random key of the posterior's samples, and of a prior that is estimated.
          labels: labels of the images.
          num_samples: S, the samples of z for each image.
          realism: setting of the dial for each image, from 0 to 1, where the model has
            one.
        """
        posterior, prior = self.posterior(images, labels), self.prior_of(labels)
        z = posterior.sample(key, num_samples)
        code = unflatten(z, self.code_shape)
        px = self.decode(code, labels, realism)
        # What an objective does not read costs nothing in a compiled step.
        return Terms(
            mean=px.mean,
            code=code,
            log_px=px.log_prob(images),
            log_mass=px.log_mass(images),
            px=px,
            layers=(
                Layer(
                    posterior=posterior,
                    kl=prior.kl_from(posterior),
                    log_ratio=prior.log_ratio(
                        posterior, z, jax.random.fold_in(key, Draw.PRIOR)
                    ),
                ),
            ),
        )

    def update_state(self, terms: Terms) -> None:
        """Moves what a prior keeps of codes on, by the posteriors of a batch."""
        (layer,) = terms.layers
        if hasattr(self.prior, "update"):
            self.prior.update(layer.posterior)


def _build(
    frame: Frame, networks: Networks, likelihood: str, prior: str, **others: Any
) -> VAE:
    assert networks.make_decoder is not None
    px = make(LIKELIHOODS, likelihood, frame.settings, frame.image_shape[-1])
    # A flow is learned over the codes of a model that may know no labels.
    num_told = 0 if prior == "flow" else frame.num_labels
    return VAE(
        networks.make_encoder(2 * frame.latent_dim, condition_dim=num_told),
        networks.make_decoder(
            num_maps=px.num_maps * (1 + frame.has_dial),
            condition_dim=num_told + frame.has_dial,
        ),
        px,
        make(PRIORS, prior, frame.settings, frame, networks.code_shape),
        networks.code_shape,
        frame.num_labels,
        num_told,
        frame.has_dial,
        networks.code_resolutions,
    )


DROPOUT = share(
    0.1,
    "Share of the images that train without labels, and mean share of the labels left "
    "out of the others.",
)


def check_labels(values: Values) -> Refusal | None:
    """Refuses what is said of labels where there are none."""
    dropped = values["model.attribute_dropout"] != DROPOUT.default
    if dropped and not values["model.attributes"]:
        reason = "it goes with model.attributes, which are none"
        return "model.attribute_dropout", reason
    return None


def check_prior(values: Values, terms: str) -> Refusal | None:
    """Refuses a prior over codes of another kind than the model's."""
    if PRIORS[values["model.prior"]].terms == terms:
        return None
    allowed = [name for name, option in PRIORS.items() if option.terms == terms]
    reason = f"with model.name {values['model.name']} allowed is {', '.join(allowed)}"
    return "model.prior", reason


def _check(values: Values) -> Refusal | None:
    refused = check_prior(values, terms="") or check_labels(values)
    if refused is not None:
        return refused
    if not values["model.realism"] or values["objective.name"] == "flow":
        return None
    weights = ("perceptual_weight", "adversarial_weight")
    if not any(values[f"objective.{w}"] for w in weights):
        reason = f"it goes with objective.{' or objective.'.join(weights)}, which are 0"
        return "model.realism", reason
    return None


VARIATIONAL_AUTOENCODER = Option(
    _build,
    {
        "likelihood": LIKELIHOOD,
        "prior": PRIOR,
        "attributes": ATTRIBUTES,
        "attribute_dropout": DROPOUT,
        "realism": switch(
            False,
            "Decoder with a dial, from 0, the likelihood's mean, to 1, as sharp as the "
            "weights of sharpening make it; training draws it anew for each image.",
        ),
    },
    check=_check,
    terms="likelihoods",
)
