"""Runs and their workdirs: `train` makes one, `load` opens one.

A workdir holds run.json (what was run, on what), metrics.jsonl, timing.jsonl,
checkpoints/, images/ and eval.json.
"""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vae_jax import config as config_lib
from vae_jax import phases, processes, record, resolve, sharding
from vae_jax.config import Config
from vae_jax.data import cache
from vae_jax.data.reduced import reduced, reduced_recipe
from vae_jax.errors import UserError
from vae_jax.experiment import (
    Experiment,
    assemble_at,
    fitting,
    moved_since_format_1,
)
from vae_jax.local_paths import local_path
from vae_jax.models import build, guide
from vae_jax.models.contract import Variables
from vae_jax.models.labels import to_labels
from vae_jax.report.drawing import FORMATS
from vae_jax.report.writer import OnLine
from vae_jax.storage import writing
from vae_jax.training.checkpoint import Checkpoints
from vae_jax.training.step import TrainState


@dataclass(frozen=True)
class Run:
    """A trained model with all that is needed to look into it.

    The pictures that it was trained on need not be there: they are opened when asked
    for.

    Attributes:
      workdir: its folder.
      experiment: the experiment that its settings describe.
      step: step of the checkpoint that was loaded.
      variables: variables with "ema" and with "raw" parameters, on one device of this
        process.
      recipe: recipe of the pictures, as run.json has it, see `cache.Dataset`.
      open_dataset: opens them; see `dataset_for`.
      checkpoint: the checkpoint that was asked for, "latest" or "best".
      realism: setting of the dial of a model that has one, from 0 to 1.
      picture_format: format of still pictures that are written, see `drawing.FORMATS`.
      was_stopped: whether its training was asked to stop, in its last step too.
    """

    workdir: Path
    experiment: Experiment
    step: int
    variables: dict[str, Variables]
    recipe: dict[str, Any]
    open_dataset: Callable[[], cache.Dataset]
    checkpoint: str = "latest"
    realism: float = 0.0
    picture_format: str = FORMATS[0]
    was_stopped: bool = False

    @property
    def config(self) -> Config:
        """The resolved settings."""
        return self.experiment.config

    @property
    def dataset(self) -> cache.Dataset:
        """The data set that the run was trained on, opened when it is first needed."""
        return self.dataset_for("what was asked for")

    def dataset_for(self, purpose: str) -> cache.Dataset:
        """Returns the data set that the run was trained on.

        Args:
          purpose: the purpose that it is needed for.

        Raises:
          UserError: it is not there; the message begins with the purpose.
        """
        try:
            return self.open_dataset()
        except UserError as error:
            raise UserError(
                f"{purpose} needs the pictures that the run in {self.workdir} was "
                f"trained on; config.dataset.data_dir says where they are now: "
                f"{error}"
            ) from error

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """The attributes of the run's pictures."""
        # Earlier programs did not write them down.
        names = self.recipe.get("attribute_names")
        if names is None:
            names = self.dataset_for("the names of attributes").attribute_names
        return tuple(names)

    @property
    def num_train(self) -> int:
        """How many pictures the run was trained on."""
        return self.recipe["pictures"]["train"]

    def model(self, kind: str = "ema") -> Any:
        """Returns the model with its "ema" or "raw" parameters, ready to call."""
        model = build.merge(self.experiment.graphdef, self.variables[kind])
        if self.realism and not self.config.model.realism:
            raise UserError(
                f"realism is {self.realism}; it goes with a run of "
                f"config.model.realism=True, and that in {self.workdir} is of False"
            )
        if self.realism:
            model.realism = self.realism
        return model

    def labels(
        self, split: str, which: Any = slice(None)
    ) -> Float[np.ndarray, "N A"] | None:
        """Returns what the model is told of a split's pictures; None where nothing.

        Args:
          split: a key of the data set's splits.
          which: an index of N of its pictures.
        """
        if not build.label_names(self.config.model):
            return None
        attributes = self.dataset.splits[split].attributes[which]
        return np.asarray(to_labels(jnp.asarray(attributes), self.label_columns()))

    def label_columns(self) -> tuple[int, ...]:
        """Returns where the data set has the attributes that the model knows."""
        if not build.label_names(self.config.model):
            return ()
        return resolve.label_columns(self.config, self.dataset)

    def attributes(self, split: str) -> np.ndarray:
        """Returns which of `attribute_names` a split's pictures have, [N,A] bool.

        Raises:
          UserError: the pictures are not there, or others than the run was trained on,
            without one of these.
        """
        there, name = self.dataset.attribute_names, self.recipe["name"]
        columns = [
            resolve.attribute_index(there, each, "run.json", name)
            for each in self.attribute_names
        ]
        return self.dataset.splits[split].attributes[:, columns]

    def attribute_index(self, name: str, flag: str) -> int:
        """Returns an attribute's place, or raises UserError in the name of `flag`."""
        return resolve.attribute_index(
            self.attribute_names, name, flag, self.recipe["name"]
        )

    def image_path(self, name: str) -> Path:
        """Returns where a picture of this run goes; its name says where a dial is.

        Args:
          name: name of the file, without its suffix.
        """
        path = self.workdir / "images" / f"{name}.{self.picture_format}"
        if self.realism:
            path = path.with_stem(f"{path.stem}_realism_{self.realism:g}")
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        return path


def train(
    config: Config,
    workdir: str | os.PathLike[str],
    on_line: OnLine | None = None,
) -> Run:
    """Trains in a workdir, from the start or from where the run there stands.

    Args:
      config: settings, from `config.default_config()` or a recipe.
      workdir: made where it is absent.
      on_line: called with each line of metrics.jsonl as it is written, {"step": 50,
        "split": "train", "elbo": ...}, in the first of several processes; to draw
        curves while they grow, say. What it returns is ignored. What it raises
        ends the training at once, without saving: the same call then goes on from the
        last checkpoint.

    Raises:
      UserError: a setting is refused, or the workdir holds a run of other settings,
        only damaged checkpoints or another process that trains, or is not writable.
    """
    config_lib.validate(config)
    workdir = local_path(workdir, "workdir")
    processes.join(config.distributed)
    with processes.needing_all():
        return _train(config, workdir, on_line)


def _train(config: Config, workdir: Path, on_line: OnLine | None) -> Run:
    settings = config_lib.flatten(config)
    del settings["distributed"]
    processes.check_agreement(
        {"config": json.dumps(settings), "workdir": str(workdir.absolute())}
    )
    config, dataset = resolve.resolve(config, workdir)
    processes.check_agreement({"data set": json.dumps(dataset.recipe)})
    recipe = {**dataset.recipe, "attribute_names": [*dataset.attribute_names]}
    with Checkpoints(workdir / "checkpoints", writable=True) as checkpoints:
        assembled, state, was_stopped = phases.train(
            config, workdir, recipe, dataset, checkpoints, _given, on_line
        )
    seen = functools.cache(lambda: reduced(dataset, assembled.phase.size))
    run = _run_of(state, workdir, assembled, recipe, seen)
    return replace(run, was_stopped=was_stopped)


def _given(assembled: Experiment) -> dict[str, Any]:
    """Returns the arrays, by name, that a run starts from other than at random."""
    config, given = assembled.config, {}
    if config.init_from is not None:
        there = _load_named("init_from", config.init_from)
        if "averaged_from" in there.recipe:
            raise UserError(
                f"config.init_from is {config.init_from!r}, a run that has not grown "
                f"to its last size at step {there.step}; allowed is one that has"
            )
        last = there.config.train.num_steps
        if there.step < last:
            print(f"note: {there.workdir} stands at step {there.step} of {last}")
        given |= fitting(assembled.shapes, there.variables["ema"])
    if config.objective.perceptual_weight:
        there = _load_named("objective.guide", config.objective.guide)
        arrays = guide.arrays_of(there.variables["ema"])
        given |= {f"state/guide/arrays/{n}": a for n, a in arrays.items()}
    return jax.device_get(given)


def _load_named(setting: str, workdir: str) -> Run:
    """Opens the run that a setting names, or raises UserError in its name."""
    try:
        return load(workdir)
    except UserError as error:
        raise UserError(f"config.{setting} is {workdir!r}: {error}") from error


def _run_of(
    state: TrainState,
    workdir: Path,
    assembled: Experiment,
    recipe: dict[str, Any],
    open_dataset: Callable[[], cache.Dataset],
) -> Run:
    kinds = {"ema": state.ema_params, "raw": state.params}
    return Run(
        workdir=workdir,
        experiment=assembled,
        step=int(state.step),
        variables={
            kind: sharding.on_one_device(Variables(params, state.state))
            for kind, params in kinds.items()
        },
        recipe=reduced_recipe(recipe, assembled.phase.size),
        open_dataset=open_dataset,
    )


def load(
    workdir: str | os.PathLike[str],
    checkpoint: str = "latest",
    data_dir: str | os.PathLike[str] | None = None,
) -> Run:
    """Opens a trained run, without its pictures.

    Args:
      workdir: workdir of the run.
      checkpoint: "latest", or "best" by the validation loss of the EMA parameters.
      data_dir: folder where the pictures are now, as in `config.dataset.data_dir`; None
        where they were.

    Raises:
      UserError: there is no run, no whole checkpoint or no such folder.
    """
    workdir = local_path(workdir, "workdir")
    config, recipe = record.read_config(workdir), record.read_recipe(workdir)
    if data_dir is not None:
        place = local_path(data_dir, "data_dir").absolute()
        # Where it is mistyped, faces would be drawn.
        if not place.is_dir():
            raise UserError(f"data_dir is {str(data_dir)!r}; allowed is a folder")
        config.dataset.data_dir = str(place)

    @functools.cache
    def open_dataset():
        dataset = resolve.load_dataset(config.dataset, recipe["fingerprint"])
        other = record.other_pictures(workdir, dataset.recipe)
        if other:
            print(f"note: {other}")
        return reduced(dataset, assembled.phase.size)

    of_step = functools.cache(
        functools.partial(assemble_at, config, recipe["pictures"]["train"])
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore(
            checkpoint,
            lambda step: of_step(step).state_shapes("data_parallel"),
            moved_since_format_1(config),
        )
    if state is None:
        raise UserError(f"{workdir} holds no checkpoint yet")
    assembled = of_step(int(state.step))
    run = _run_of(state, workdir, assembled, recipe, open_dataset)
    return replace(run, checkpoint=checkpoint)
