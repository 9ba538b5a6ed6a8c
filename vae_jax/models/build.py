"""From settings to a model, an objective, and the loss that the loop minimises."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vae_jax.models import likelihoods, objectives, priors
from vae_jax.models.autoencoder import AE
from vae_jax.models.classifier import Classifier
from vae_jax.models.contract import CodeShape, State, Variables, code_size
from vae_jax.models.labels import drop_labels, to_labels
from vae_jax.models.networks import conv, mlp, strided
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
# From those, the numbers in a code and the shape of an image to a prior.
PRIORS: dict[str, Callable[..., Any]] = {
    "normal": lambda settings, size, shape, rngs: priors.StandardNormal(size),
    "conditional": lambda settings, size, shape, rngs: priors.ConditionalNormal(
        size, len(label_names(settings)), rngs=rngs
    ),
    "mixture": lambda settings, size, shape, rngs: priors.MixtureOfGaussians(
        size, settings.prior_components, rngs=rngs
    ),
    "vamp": lambda settings, size, shape, rngs: priors.VampPrior(
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
    code_shape: CodeShape = (settings.latent_dim,)
    if settings.network == "conv":
        if settings.code_size:
            code_shape = (settings.code_size, settings.code_size, *code_shape)
        common |= {
            "code_size": settings.code_size,
            "widths": conv.stage_widths(
                image_shape[0], settings.width, settings.width_from, settings.code_size
            ),
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
        return AE(encoder, make_decoder(num_maps=1, **common), code_shape)
    if settings.name == "classifier":
        encoder = make_encoder(settings.latent_dim, condition_dim=0, **common)
        return Classifier(encoder, settings.latent_dim, num_labels, rngs=rngs)
    px = LIKELIHOODS[settings.likelihood](settings)
    return VAE(
        make_encoder(2 * settings.latent_dim, condition_dim=num_labels, **common),
        make_decoder(num_maps=px.num_maps, **common),
        px,
        PRIORS[settings.prior](settings, code_size(code_shape), image_shape, rngs),
        code_shape,
        num_labels,
    )


def label_dropout(settings: Any) -> float:
    """Returns the share of labels that training leaves out, see `drop_labels`."""
    return settings.attribute_dropout if settings.name == "vae" else 0.0


def build_objective(settings: Any, num_images: int) -> Objective:
    """Returns the objective that the settings under `config.objective` describe.

    Args:
      settings: see `settings.SETTINGS`.
      num_images: in the training split.
    """
    return OBJECTIVES[settings.name](settings, num_images)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Variables]:
    """Splits a model into its static structure and its arrays, see `Variables`.

    Raises:
      ValueError: the model holds variables other than parameters and `State` (random
        streams, batch statistics), which the compiled step would not carry.
    """
    graphdef, params, state = nnx.split(model, nnx.Param, State)
    return graphdef, Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(state))


def merge(graphdef: nnx.GraphDef, variables: Variables) -> Any:
    """Returns the model of a structure and its arrays; undoes `split`."""
    return nnx.merge(graphdef, variables.params, variables.state)


def moved_since_format_1(settings: Any, image_size: int) -> list[tuple[str, str]]:
    """Returns where a model's layers were in checkpoints of the first format.

    Args:
      settings: see `build_model`.
      image_size: height and width in pixels.

    Returns:
      Paths from the parameters on: where a layer was, and where it is.
    """
    return conv.moved_since_format_1(image_size) if settings.network == "conv" else []


def build_loss_fn(
    graphdef: nnx.GraphDef,
    objective: Objective,
    *,
    label_columns: tuple[int, ...] = (),
    label_dropout: float = 0.0,
    mirror: bool = False,
) -> LossFn:
    """Returns loss_fn(params, state, batch, key, step) -> (loss, (metrics, state)).

    It is all that the training loop knows of a model. `batch` holds 8-bit images
    [B,H,W,C] under "image" and booleans [B,N] under "attributes".

    Args:
      graphdef: the model's structure.
      objective: of its terms.
      label_columns: the attributes that it is given.
      label_dropout: see `drop_labels`.
      mirror: whether half of the images are turned left to right.
    """

    def loss_fn(params, state, batch, key, step):
        model = merge(graphdef, Variables(params, state))
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
        loss, metrics = objective(model, images, labels, key, step)
        return loss, (metrics, split(model)[1].state)

    return loss_fn
