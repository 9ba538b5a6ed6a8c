"""From settings to a model, an objective, and the loss that the loop minimises."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vae_jax.models import conv, likelihoods, mlp, objectives, priors, strided
from vae_jax.models.autoencoder import AE
from vae_jax.models.classifier import Classifier
from vae_jax.models.labels import drop_labels, to_labels
from vae_jax.models.objectives import Objective
from vae_jax.models.vae import VAE

MODELS = ("ae", "vae", "classifier")
# "strided" only recognises: it has no decoder, and goes with the classifier.
NETWORKS = ("mlp", "conv", "strided")
# From the settings under `config.model` to a likelihood.
LIKELIHOODS: dict[str, Callable[[Any], Any]] = {
    "gaussian": lambda settings: likelihoods.LearnedGaussian(),
    "shared_gaussian": lambda settings: likelihoods.SharedGaussian(),
    "optimal_gaussian": lambda settings: likelihoods.SharedGaussian(optimal=True),
    "fixed_gaussian": lambda settings: likelihoods.FixedGaussian(settings.std),
    "bernoulli": lambda settings: likelihoods.BernoulliPixels(),
    "logistic": lambda settings: likelihoods.LearnedLogistic(),
}
PRIORS: dict[str, Callable[..., Any]] = {
    "normal": lambda settings, shape, rngs: priors.StandardNormal(settings.latent_dim),
    "conditional": lambda settings, shape, rngs: priors.ConditionalNormal(
        settings.latent_dim, len(label_names(settings)), rngs=rngs
    ),
    "mixture": lambda settings, shape, rngs: priors.MixtureOfGaussians(
        settings.latent_dim, settings.prior_components, rngs=rngs
    ),
    "vamp": lambda settings, shape, rngs: priors.VampPrior(
        shape, settings.prior_components, rngs=rngs
    ),
}
# From the settings under `config.objective` and the number of training pictures.
OBJECTIVES: dict[str, Callable[[Any, int], Objective]] = {
    "elbo": lambda settings, num_images: objectives.beta_elbo(
        settings.beta,
        warmup_steps=settings.kl_warmup_steps,
        free_bits=settings.free_bits,
        num_samples=settings.num_samples,
    ),
    "capacity": lambda settings, num_images: objectives.capacity_elbo(
        settings.capacity, gamma=settings.gamma, num_steps=settings.capacity_steps
    ),
    "iwae": lambda settings, num_images: objectives.importance_weighted(
        settings.num_samples
    ),
    "mmd": lambda settings, num_images: objectives.mmd_elbo(
        settings.beta, weight=settings.mmd_weight
    ),
    "tc": lambda settings, num_images: objectives.tc_elbo(
        settings.beta, num_images=num_images
    ),
    "mse": lambda settings, num_images: objectives.mean_squared_error(),
    "rae": lambda settings, num_images: objectives.mean_squared_error(
        settings.code_weight,
        decoder_penalty=settings.decoder_penalty,
        decoder_weight=settings.decoder_weight,
    ),
    "cross_entropy": lambda settings, num_images: objectives.cross_entropy(),
}
PRECISIONS = {
    "fp32": jnp.dtype("float32"),
    "bf16": jnp.dtype("bfloat16"),
    "fp16": jnp.dtype("float16"),
}

Params = Any
LossFn = Callable[..., tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]


def label_names(settings: Any) -> tuple[str, ...]:
    """Returns the attributes that a model with these settings knows."""
    return tuple(filter(None, settings.attributes.split(",")))


def build_model(
    settings: Any,
    *,
    precision: str,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
) -> AE | VAE | Classifier:
    """Builds a model from the settings under `config.model` and what it is to see.

    Args:
      settings: see `settings.SETTINGS`.
      precision: a key of `PRECISIONS`, of the activations.
      image_shape: (height, width, channels).
      rngs: of the initial parameters: LeCun-normal weights, zero biases, float32.
    """
    num_labels = len(label_names(settings))
    common = {"dtype": PRECISIONS[precision], "rngs": rngs}
    if settings.network == "conv":
        common |= {
            "width": settings.width,
            "depth": settings.depth,
            "norm": settings.norm,
            "remat": settings.remat,
        }
        make_encoder = functools.partial(conv.Encoder, image_shape)
        make_decoder = functools.partial(
            conv.Decoder,
            settings.latent_dim + num_labels,
            image_shape,
            upsampling=settings.upsampling,
        )
    elif settings.network == "strided":
        encoder = strided.StridedEncoder(
            image_shape, settings.latent_dim, width=settings.width, **common
        )
        return Classifier(encoder, settings.latent_dim, num_labels, rngs=rngs)
    else:
        make_encoder = functools.partial(mlp.Encoder, image_shape, settings.hidden_dim)
        make_decoder = functools.partial(
            mlp.Decoder,
            settings.latent_dim + num_labels,
            settings.hidden_dim,
            image_shape,
        )
    if settings.name == "ae":
        encoder = make_encoder(settings.latent_dim, condition_dim=0, **common)
        return AE(encoder, make_decoder(num_maps=1, **common))
    if settings.name == "classifier":
        encoder = make_encoder(settings.latent_dim, condition_dim=0, **common)
        return Classifier(encoder, settings.latent_dim, num_labels, rngs=rngs)
    px = LIKELIHOODS[settings.likelihood](settings)
    return VAE(
        make_encoder(2 * settings.latent_dim, condition_dim=num_labels, **common),
        make_decoder(num_maps=px.num_maps, **common),
        px,
        PRIORS[settings.prior](settings, image_shape, rngs),
        num_labels,
    )


def build_objective(settings: Any, num_images: int) -> Objective:
    """Returns the objective that the settings under `config.objective` describe.

    Args:
      settings: see `settings.SETTINGS`.
      num_images: in the training split.
    """
    return OBJECTIVES[settings.name](settings, num_images)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Splits a model into its static structure and a plain dict of parameters.

    Raises:
      ValueError: the model holds state other than parameters (random streams,
        batch statistics), which the compiled step would not carry.
    """
    graphdef, params = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


def build_loss_fn(
    graphdef: nnx.GraphDef,
    objective: Objective,
    *,
    label_columns: tuple[int, ...] = (),
    label_dropout: float = 0.0,
    mirror: bool = False,
) -> LossFn:
    """Returns loss_fn(params, extra, batch, key, step) -> (loss, (metrics, extra)).

    It is all that the training loop knows of a model. `batch` holds 8-bit images
    [B,H,W,C] under "image" and booleans [B,N] under "attributes".

    Args:
      graphdef: the model's structure.
      objective: of its terms.
      label_columns: the attributes that it is given.
      label_dropout: see `drop_labels`.
      mirror: whether half of the images are turned left to right.
    """

    def loss_fn(params, extra, batch, key, step):
        model = nnx.merge(graphdef, params)
        images = likelihoods.to_unit_interval(batch["image"])
        if mirror:
            mirrored = jax.random.bernoulli(
                jax.random.fold_in(key, 3), 0.5, (len(images),)
            )
            images = jnp.where(
                mirrored[:, None, None, None], images[:, :, ::-1], images
            )
        labels = None
        if label_columns:
            labels = to_labels(batch["attributes"], label_columns)
            labels = drop_labels(jax.random.fold_in(key, 2), labels, label_dropout)
        terms = model(images, key, labels, objective.num_samples)
        loss, metrics = objective(terms, images, step)
        return loss, (metrics, extra)

    return loss_fn
