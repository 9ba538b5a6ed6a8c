"""An experiment: the model, the objective and the optimiser that settings stand for.

Training, evaluation, sweeps and benchmarks all begin here.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from vae_jax import sharding
from vae_jax.config import Config, flatten, optimizer_by_part
from vae_jax.evaluation import evaluate
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.contract import Variables
from vae_jax.models.objectives import Objective
from vae_jax.training import optimizers, step


@dataclass(frozen=True)
class Experiment:
    """What a config stands for, before there are images or trained parameters.

    Attributes:
      config: the resolved settings.
      graphdef: the model's structure.
      shapes: of its variables.
      objective: what training minimises.
      optimizer: of the whole training.
      frozen: parts of the model that are not trained.
    """

    config: Config
    graphdef: nnx.GraphDef
    shapes: Variables
    objective: Objective
    optimizer: optax.GradientTransformation
    frozen: tuple[str, ...]

    @property
    def compiler_options(self) -> dict[str, Any] | None:
        """XLA's options for programs that train or evaluate."""
        return (
            {"xla_gpu_deterministic_ops": True} if self.config.deterministic else None
        )

    def initial_state(
        self, given: dict[str, Any] | None = None, shardings: Any = None
    ) -> step.TrainState:
        """Returns the state before the first update.

        Args:
          given: arrays on the host to start from, by name, see `by_name`; others are
            new.
          shardings: of the state's leaves; None leaves them to XLA.
        """

        # One program: leaf by leaf its zeros and copies would be one each.
        @functools.partial(jax.jit, out_shardings=shardings)
        def initialise(given):
            rngs = nnx.Rngs(key(self.config.seed, Stream.INIT))
            variables = build.split(_build_model(self.config, rngs))[1]
            names = by_name(variables)
            leaves = [given.get(name, new) for name, new in names.items()]
            structure = jax.tree.structure(variables)
            return self._state_of(jax.tree.unflatten(structure, leaves))

        return initialise(given or {})

    def state_shapes(self, kind: str) -> step.TrainState:
        """Returns the state's shapes and shardings, of `sharding.STATE_SHARDINGS`."""
        mesh, lay = sharding.data_mesh(), sharding.STATE_SHARDINGS[kind]
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(
                a.shape, a.dtype, sharding=lay(mesh, a.shape)
            ),
            jax.eval_shape(self._state_of, self.shapes),
        )

    def moved_since_format_1(self) -> list[tuple[str, str]]:
        """Returns where parameters were in earlier checkpoints, see `Checkpoints`."""
        size = self.config.dataset.size
        return build.moved_since_format_1(self.config.model, size)

    def _state_of(self, variables: Variables) -> step.TrainState:
        float16 = self.config.precision == "fp16"
        return step.create_state(
            variables.params,
            variables.state,
            self.optimizer,
            float16=float16,
            frozen=self.frozen,
        )

    def loss_fn(self, label_columns: tuple[int, ...] = ()) -> build.LossFn:
        """Returns the loss of a batch, see `build.build_loss_fn`.

        Args:
          label_columns: where a batch has the attributes that the model is given.
        """
        return build.build_loss_fn(
            self.graphdef,
            self.objective,
            label_columns=label_columns,
            label_dropout=build.label_dropout(self.config.model),
            mirror=self.config.train.mirror,
        )

    def update(self, label_columns: tuple[int, ...] = ()) -> Callable:
        """Returns one step of training, see `step.build_update` and `loss_fn`."""
        return step.build_update(
            self.loss_fn(label_columns),
            self.optimizer,
            ema_decay=self.config.ema.decay,
            seed=self.config.seed,
            frozen=self.frozen,
        )

    def evaluator(
        self,
        per_image: evaluate.PerImage | None = None,
        label_columns: tuple[int, ...] = (),
    ) -> Callable[..., dict[str, np.ndarray]]:
        """Returns what evaluates a split, see `evaluate.build_evaluator`.

        Args:
          per_image: figures of an image; None for the objective's.
          label_columns: see `loss_fn`.
        """
        return evaluate.build_evaluator(
            self.graphdef,
            per_image or evaluate.objective_figures(self.objective),
            seed=self.config.seed,
            batch_size=self.config.eval.batch_size,
            label_columns=label_columns,
            compiler_options=self.compiler_options,
        )


def assemble(config: Config, num_images: int) -> Experiment:
    """Returns the experiment that a config stands for.

    Args:
      config: resolved.
      num_images: in the training split.
    """
    graphdef, shapes = abstract_model(config)
    return Experiment(
        config=config,
        graphdef=graphdef,
        shapes=shapes,
        objective=build.build_objective(config.objective, num_images),
        optimizer=_build_optimizer(config),
        frozen=names_of_parts(config.parts.frozen),
    )


def abstract_model(config: Config) -> tuple[nnx.GraphDef, Variables]:
    """Returns a model's structure and the shapes of its variables."""
    return build.split(nnx.eval_shape(lambda: _build_model(config, nnx.Rngs(0))))


def by_name(variables: Variables) -> dict[str, Any]:
    """Returns a model's arrays by their names, "params/encoder/head/bias" and so on."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def fitting(shapes: Variables, there: Variables) -> dict[str, Any]:
    """Returns the arrays of another model that fit one, by name and shape.

    Args:
      shapes: of the one.
      there: the other's.
    """
    found = by_name(there)
    return {
        name: found[name]
        for name, array in by_name(shapes).items()
        if name in found and found[name].shape == array.shape
    }


def names_of_parts(setting: str) -> tuple[str, ...]:
    """Returns the parts of a model that a setting names, commas between."""
    return tuple(filter(None, setting.split(",")))


def _build_optimizer(config: Config) -> optax.GradientTransformation:
    own, num_steps = optimizer_by_part(flatten(config)), config.train.num_steps

    def build_one(settings: dict[str, Any]) -> optax.GradientTransformation:
        changed = {**config.optimizer, **settings}
        return optimizers.build_optimizer(**changed, num_steps=num_steps)

    if not own:
        return build_one({})
    return optax.partition(
        {"": build_one({}), **{part: build_one(own[part]) for part in own}},
        lambda params: {part: part if part in own else "" for part in params},
    )


def _build_model(config: Config, rngs: nnx.Rngs) -> Any:
    size = config.dataset.size
    return build.build_model(
        config.model,
        objective=config.objective,
        precision=config.precision,
        image_shape=(size, size, config.dataset.channels),
        rngs=rngs,
    )
