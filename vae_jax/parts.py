"""What settings stand for: the data set, the model, the optimiser and the state."""

import functools
from typing import Any

import jax
import optax
from flax import nnx

from vae_jax import processes, sharding
from vae_jax.config import Config
from vae_jax.data import cache
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.training import step


def load_dataset(settings: Config, fingerprint: str | None = None) -> cache.Dataset:
    """Returns the data set that the settings under `config.dataset` name.

    Args:
      settings: these.
      fingerprint: of the pictures that a run began with, see `cache.load`.
    """
    load = functools.partial(
        cache.load,
        settings.name,
        settings.data_dir,
        crop=settings.crop,
        resampler=settings.resampler,
        size=settings.size,
        channels=settings.channels,
        fingerprint=fingerprint,
    )
    if jax.process_count() > 1:
        # What is missing is drawn and decoded once, not in all at the same time.
        processes.on_first(lambda: load() and None)
    return load()


def _build_model(config: Config, rngs: nnx.Rngs) -> Any:
    size = config.dataset.size
    return build.build_model(
        config.model,
        precision=config.precision,
        image_shape=(size, size, config.dataset.channels),
        rngs=rngs,
    )


def build_optimizer(config: Config) -> optax.GradientTransformation:
    """Returns the optimiser of the whole training."""
    return step.build_optimizer(**config.optimizer, num_steps=config.train.num_steps)


def abstract_model(config: Config) -> tuple[nnx.GraphDef, build.Params]:
    """Returns the model's structure and its parameters' shapes."""
    return build.split(nnx.eval_shape(lambda: _build_model(config, nnx.Rngs(0))))


def _new_state(config: Config, params: build.Params):
    return step.create_state(
        params, build_optimizer(config), float16=config.precision == "fp16"
    )


def state_shapes(config: Config, params: build.Params, kind: str) -> step.TrainState:
    """Returns the state's shapes and shardings.

    Args:
      config: resolved.
      params: or their shapes.
      kind: of `sharding.STATE_SHARDINGS`.
    """
    mesh = sharding.data_mesh()
    lay = sharding.STATE_SHARDINGS[kind]
    shapes = jax.eval_shape(lambda p: _new_state(config, p), params)
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=lay(mesh, a.shape)),
        shapes,
    )


def initial_state(
    config: Config, shardings: Any, params: build.Params | None
) -> step.TrainState:
    """Returns the state before the first update.

    Args:
      config: resolved.
      shardings: of its leaves.
      params: to start from, on the host; None for new ones.
    """

    # One program: leaf by leaf its zeros and copies would be one each.
    @functools.partial(jax.jit, out_shardings=shardings)
    def initialise(params):
        if params is None:
            rngs = nnx.Rngs(key(config.seed, Stream.INIT))
            params = build.split(_build_model(config, rngs))[1]
        return _new_state(config, params)

    return initialise(params)
