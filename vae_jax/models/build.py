"""From settings to a model, an objective, and the loss that the loop minimises."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vae_jax.models import likelihoods, mlp, objectives, priors
from vae_jax.models.autoencoder import AE
from vae_jax.models.objectives import Objective
from vae_jax.models.vae import VAE

MODELS = ("ae", "vae")
LIKELIHOODS = {
    "gaussian": likelihoods.LearnedGaussian,
}
# From the settings under `config.objective` to an objective.
OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "elbo": lambda settings: objectives.beta_elbo(settings.beta),
    "mse": lambda settings: objectives.mean_squared_error,
}
PRECISIONS = {
    "fp32": jnp.dtype("float32"),
    "bf16": jnp.dtype("bfloat16"),
    "fp16": jnp.dtype("float16"),
}

Params = Any
LossFn = Callable[..., tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]


def build_model(
    *,
    name: str,
    latent_dim: int,
    hidden_dim: int,
    likelihood: str,
    precision: str,
    image_shape: tuple[int, int, int],
    rngs: nnx.Rngs,
) -> AE | VAE:
    """Builds a model from the settings under `config.model` and what it is to see.

    Args:
      name: one of `MODELS`.
      latent_dim: dimensions of the code.
      hidden_dim: width of the hidden layers.
      likelihood: a key of `LIKELIHOODS`; an autoencoder has none.
      precision: a key of `PRECISIONS`, of the activations.
      image_shape: (height, width, channels).
      rngs: of the initial parameters: LeCun-normal weights, zero biases, float32.
    """
    dtype = PRECISIONS[precision]

    def encoder(features: int) -> mlp.Encoder:
        return mlp.Encoder(image_shape, hidden_dim, features, dtype=dtype, rngs=rngs)

    def decoder(num_maps: int) -> mlp.Decoder:
        return mlp.Decoder(
            latent_dim, hidden_dim, image_shape, num_maps, dtype=dtype, rngs=rngs
        )

    if name == "ae":
        return AE(encoder(latent_dim), decoder(num_maps=1))
    px = LIKELIHOODS[likelihood]()
    return VAE(
        encoder(2 * latent_dim),
        decoder(px.num_maps),
        px,
        priors.StandardNormal(latent_dim),
    )


def build_objective(settings: Any) -> Objective:
    """Returns the objective that the settings under `config.objective` describe."""
    return OBJECTIVES[settings.name](settings)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Splits a model into its static structure and a plain dict of parameters.

    Raises:
      ValueError: the model holds state other than parameters (random streams,
        batch statistics), which the compiled step would not carry.
    """
    graphdef, params = nnx.split(model, nnx.Param)
    return graphdef, nnx.to_pure_dict(params)


def build_loss_fn(graphdef: nnx.GraphDef, objective: Objective) -> LossFn:
    """Returns loss_fn(params, extra, batch, key, step) -> (loss, (metrics, extra)).

    It is all that the training loop knows of a model. `batch` holds 8-bit images
    [B,H,W,C] under "image".
    """

    def loss_fn(params, extra, batch, key, step):
        model = nnx.merge(graphdef, params)
        images = likelihoods.to_unit_interval(batch["image"])
        loss, metrics = objective(model(images, key), images, step)
        return loss, (metrics, extra)

    return loss_fn
