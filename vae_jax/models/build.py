"""From settings to a model, an objective, and the loss that the loop minimises."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vae_jax.models import likelihoods, losses, objectives, penalised_elbos, sharpening
from vae_jax.models.autoencoder import AUTOENCODER
from vae_jax.models.classifier import CLASSIFIER
from vae_jax.models.contract import Draw, State, Variables
from vae_jax.models.hierarchical import HIERARCHICAL
from vae_jax.models.labels import drop_labels, to_labels
from vae_jax.models.networks import stages
from vae_jax.models.networks.conv import CONV
from vae_jax.models.networks.ladder import LADDER
from vae_jax.models.networks.layers import Frame
from vae_jax.models.networks.mlp import MLP
from vae_jax.models.networks.strided import STRIDED
from vae_jax.models.objectives import Objective
from vae_jax.models.vae import VARIATIONAL_AUTOENCODER
from vae_jax.models.vq_vae import VQ_VAE
from vae_jax.options import choice, make, whole

NETWORKS = {"mlp": MLP, "conv": CONV, "ladder": LADDER, "strided": STRIDED}
MODELS = {
    "ae": AUTOENCODER,
    "vae": VARIATIONAL_AUTOENCODER,
    "hierarchical": HIERARCHICAL,
    "vq": VQ_VAE,
    "classifier": CLASSIFIER,
}
OBJECTIVES = {
    "elbo": objectives.ELBO,
    "capacity": objectives.CAPACITY,
    "iwae": objectives.IWAE,
    "mmd": penalised_elbos.MMD,
    "tc": penalised_elbos.TC,
    "quantised": penalised_elbos.QUANTISED,
    "flow": losses.FLOW,
    "mse": losses.MSE,
    "rae": losses.RAE,
    "cross_entropy": losses.CROSS_ENTROPY,
}
PRECISIONS = {
    "fp32": jnp.dtype("float32"),
    "bf16": jnp.dtype("bfloat16"),
    "fp16": jnp.dtype("float16"),
}

SETTINGS = {
    "name": choice(
        "vae",
        "Model: an autoencoder, a variational one, a hierarchical one, a VQ-VAE, or a "
        "classifier of attributes.",
        MODELS,
    ),
    "latent_dim": whole(
        100,
        "Numbers in a code, or at each place of a spatial one; or a classifier's "
        "features.",
    ),
    "network": choice(
        "mlp",
        "Networks: fully connected, convolutional, a ladder of latent layers, or a "
        "classifier's strided convolutions.",
        NETWORKS,
    ),
}

LossFn = Callable[..., tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]


def label_names(settings: Any) -> tuple[str, ...]:
    """Returns the attributes that a model with these settings knows."""
    return tuple(filter(None, settings.attributes.split(",")))


def build_model(
    settings: Any,
    *,
    objective: Any = None,
    precision: str,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
) -> Any:
    """Builds a model from the settings under `config.model` and what it is to see.

    Args:
      settings: see `settings.SETTINGS`.
      objective: the settings under `config.objective`, which may bring in parts that
        help in training; None for a model without them.
      precision: a key of `PRECISIONS`, of the activations.
      image_shape: (height, width, channels).
      rngs: random numbers of the initial parameters: LeCun-normal weights, zero biases,
        float32.
    """
    frame = Frame(
        settings=settings,
        image_shape=image_shape,
        latent_dim=settings.latent_dim,
        num_labels=len(label_names(settings)),
        has_dial=settings.realism,
        dtype=PRECISIONS[precision],
        rngs=rngs,
    )
    networks = make(NETWORKS, settings.network, settings, frame)
    model = make(MODELS, settings.name, settings, frame, networks)
    if objective is not None:
        sharpening.add_parts(model, objective, frame)
    return model


def label_dropout(settings: Any) -> float:
    """Returns the share of labels that training leaves out, see `drop_labels`."""
    knows_it = "attribute_dropout" in MODELS[settings.name].settings
    return settings.attribute_dropout if knows_it else 0.0


def build_objective(settings: Any, num_images: int) -> Objective:
    """Returns the objective that the settings under `config.objective` describe.

    Args:
      settings: see `settings.SETTINGS`.
      num_images: images in the training split.
    """
    return make(OBJECTIVES, settings.name, settings, num_images)


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


def unsaid_in_format_1(recorded: dict[str, Any]) -> dict[str, Any]:
    """Returns settings that runs of the first format had, and did not write down.

    Args:
      recorded: the config in their run.json.
    """
    if recorded.get("model", {}).get("network") != "conv":
        return {}
    size = recorded["dataset"]["size"]
    return {"model": {"width_from": stages.width_from_of_format_1(size)}}


def moved_since_format_1(settings: Any, image_size: int) -> list[tuple[str, str]]:
    """Returns where a model's layers were in checkpoints of the first format.

    Args:
      settings: see `build_model`.
      image_size: height and width in pixels.

    Returns:
      Paths from the parameters on: where a layer was, and where it is.
    """
    if settings.network != "conv":
        return []
    return stages.moved_since_format_1(image_size)


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
      objective: the objective, a function of the model's terms.
      label_columns: the attributes that it is given.
      label_dropout: see `drop_labels`.
      mirror: whether half of the images are turned left to right.
    """

    def loss_fn(params, state, batch, key, step):
        model = merge(graphdef, Variables(params, state))
        images = likelihoods.to_unit_interval(batch["image"])
        if mirror:
            mirrored = jax.random.bernoulli(
                jax.random.fold_in(key, Draw.MIRROR), 0.5, (len(images),)
            )
            images = jnp.where(
                mirrored[:, None, None, None], images[:, :, ::-1], images
            )
        labels = None
        if label_columns:
            labels = to_labels(batch["attributes"], label_columns)
            labels = drop_labels(
                jax.random.fold_in(key, Draw.LABELS), labels, label_dropout
            )
        loss, metrics = objective(model, images, labels, key, step)
        return loss, (metrics, split(model)[1].state)

    return loss_fn
