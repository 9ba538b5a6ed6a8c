"""An experiment: the model, the objective and the optimiser that settings stand for.

Training, evaluation, sweeps and benchmarks all begin here.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from vae_jax import sharding, trees
from vae_jax.config import Config, flatten, optimizer_by_part
from vae_jax.evaluation import evaluate
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.contract import Variables
from vae_jax.models.objectives import Objective
from vae_jax.training import growth, optimizers, step
from vae_jax.trees import by_name


@dataclass(frozen=True)
class Experiment:
    """What a config stands for, before there are images or trained parameters.

    Attributes:
      config: the resolved settings.
      graphdef: the model's structure.
      shapes: shapes of its variables.
      objective: what training minimises.
      optimizer: the optimiser of the whole training.
      frozen: parts of the model that are not trained.
      phase: the phase of the training that it is, the only one or one of several.
      first_steps: step at which each parameter starts to train, by name, in a training
        in phases; empty otherwise.
    """

    config: Config
    graphdef: nnx.GraphDef
    shapes: Variables
    objective: Objective
    optimizer: optax.GradientTransformation
    frozen: tuple[str, ...]
    phase: growth.Phase
    first_steps: Mapping[str, int]

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
          shardings: shardings of the state's leaves; None leaves them to XLA.
        """

        # One program: leaf by leaf its zeros and copies would be one each.
        @functools.partial(jax.jit, out_shardings=shardings)
        def initialise(given):
            return self._state_of(trees.replace(self._new_variables(), given))

        return initialise(given or {})

    def grown_state(
        self, before: step.TrainState, shardings: Any = None
    ) -> step.TrainState:
        """Returns the state that a phase begins with: what there was, and what is new.

        Skipped updates are counted anew: the warm-ups of averages are known from their
        number, and those in a row saw images of one size.

        Args:
          before: the last state of the phase before; its arrays are taken over.
          shardings: shardings of the state's leaves; None leaves them to XLA.
        """

        @functools.partial(jax.jit, out_shardings=shardings)
        def grow(before):
            new = self._state_of(self._new_variables())
            grown = trees.replace(new, by_name(before))
            return grown.replace(skipped=new.skipped, faults=new.faults)

        return grow(before)

    def _new_variables(self) -> Variables:
        rngs = nnx.Rngs(key(self.config.seed, Stream.INIT))
        return build.split(_build_model(self.config, rngs))[1]

    def state_shapes(self, kind: str) -> step.TrainState:
        """Returns the state's shapes and shardings, of `sharding.STATE_SHARDINGS`."""
        mesh, lay = sharding.data_mesh(), sharding.STATE_SHARDINGS[kind]
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(
                a.shape, a.dtype, sharding=lay(mesh, a.shape)
            ),
            jax.eval_shape(self._state_of, self.shapes),
        )

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
          label_columns: columns of a batch's attributes that the model is given.
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
            first_steps=self.first_steps,
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


def phases_of(config: Config) -> list[growth.Phase]:
    """Returns the phases of a training, one where its images do not grow."""
    train, size = config.train, config.dataset.size
    return growth.plan(train.stages, size, train.batch_size, train.num_steps)


def at_size(config: Config, size: int) -> Config:
    """Returns the config of a phase whose images have a size."""
    if config.dataset.size == size:
        return config
    config = config.copy_and_resolve_references()
    config.dataset.size = size
    return config


def assemble(
    config: Config, num_images: int, phase: growth.Phase | None = None
) -> Experiment:
    """Returns the experiment that a config stands for.

    Args:
      config: resolved.
      num_images: images in the training split.
      phase: one of its `phases_of`; None for the last.
    """
    phase = phase or phases_of(config)[-1]
    own = at_size(config, phase.size)
    graphdef, shapes = abstract_model(own)
    first_steps = _first_steps(config, phase)
    return Experiment(
        config=own,
        graphdef=graphdef,
        shapes=shapes,
        objective=build.build_objective(config.objective, num_images),
        optimizer=_build_optimizer(config, first_steps),
        frozen=names_of_parts(config.parts.frozen),
        phase=phase,
        first_steps=first_steps,
    )


def assemble_at(config: Config, num_images: int, step: int) -> Experiment:
    """Returns the experiment that a checkpoint of a step is of, see `assemble`."""
    return assemble(config, num_images, growth.phase_at(phases_of(config), step))


def moved_since_format_1(config: Config) -> list[tuple[str, str]]:
    """Returns where parameters were in earlier checkpoints, see `Checkpoints`."""
    return build.moved_since_format_1(config.model, config.dataset.size)


def shapes_at(config: Config, phase: growth.Phase) -> Variables:
    """Returns the shapes of the variables that a phase of a training has."""
    return abstract_model(at_size(config, phase.size))[1]


def _first_steps(config: Config, phase: growth.Phase) -> dict[str, int]:
    """Returns the step from which on each parameter is trained, see `Experiment`."""
    if not config.train.stages:
        return {}
    began = [each for each in phases_of(config) if each.first <= phase.first]
    return {
        name: each.first
        for each in began[::-1]
        for name in by_name(shapes_at(config, each).params)
    }


def abstract_model(config: Config) -> tuple[nnx.GraphDef, Variables]:
    """Returns a model's structure and the shapes of its variables."""
    return build.split(nnx.eval_shape(lambda: _build_model(config, nnx.Rngs(0))))


def fitting(shapes: Variables, there: Variables) -> dict[str, Any]:
    """Returns the arrays of another model that fit this one, by name and shape.

    Args:
      shapes: shapes of this model's variables.
      there: variables of the other.
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


def _build_optimizer(
    config: Config, first_steps: Mapping[str, int]
) -> optax.GradientTransformation:
    own, num_steps = optimizer_by_part(flatten(config)), config.train.num_steps

    def build_one(
        settings: dict[str, Any], first_step: int = 0
    ) -> optax.GradientTransformation:
        changed = {**config.optimizer, **settings}
        return optimizers.build_optimizer(
            **changed, num_steps=num_steps, first_step=first_step
        )

    if first_steps:
        # What is new begins with averages of its own, and counts its own updates:
        # without, Adam's first steps would be several times too long.
        def group(name: str) -> str:
            part = name.split("/")[0]
            return f"{part if part in own else ''}@{first_steps[name]}"

        return optax.partition(
            {
                f"{part}@{first}": build_one(own.get(part, {}), first)
                for first in {*first_steps.values()}
                for part in ("", *own)
            },
            lambda params: trees.map_names(group, params),
        )
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
