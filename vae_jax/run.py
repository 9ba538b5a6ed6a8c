"""Runs and their workdirs: `train` makes one, `load` opens one.

A workdir holds run.json (what was run, on what), metrics.jsonl, timing.jsonl,
checkpoints/, images/ and eval.json.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vae_jax import config as config_lib
from vae_jax import parts, processes, record, sharding
from vae_jax.config import Config
from vae_jax.data import batches, cache, crops, places
from vae_jax.errors import UserError
from vae_jax.evaluation import evaluate
from vae_jax.models import build
from vae_jax.models.labels import to_labels
from vae_jax.report.writer import Writer, writing
from vae_jax.training import loop
from vae_jax.training import step as step_lib
from vae_jax.training.checkpoint import Checkpoints, differences


@dataclass(frozen=True)
class Run:
    """A trained model with all that is needed to look into it.

    Attributes:
      workdir: its folder.
      config: the resolved settings.
      step: of the checkpoint that was loaded.
      params: "ema" and "raw" parameters, on one device of this process.
      graphdef: the model's structure; see `model`.
      dataset: the data set that it was trained on.
    """

    workdir: Path
    config: Config
    step: int
    params: dict[str, build.Params]
    graphdef: nnx.GraphDef
    dataset: cache.Dataset

    def model(self, params: str = "ema") -> Any:
        """Returns the model with its "ema" or "raw" parameters, ready to call."""
        return nnx.merge(self.graphdef, self.params[params])

    def labels(self, split: str) -> jax.Array | None:
        """Returns what the model is told of a split's pictures, [N,A], or None."""
        columns = label_columns(self.config, self.dataset)
        attributes = jnp.asarray(self.dataset.splits[split].attributes)
        return to_labels(attributes, columns) if columns else None

    def image_path(self, name: str) -> Path:
        """Returns where a picture of this run goes."""
        path = self.workdir / "images" / name
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        return path


def label_columns(config: Config, dataset: cache.Dataset) -> tuple[int, ...]:
    """Returns where the data set has the attributes that a model knows.

    Raises:
      UserError: the data set has no attribute of that name.
    """
    return tuple(
        attribute_index(dataset, name, "config.model.attributes")
        for name in build.label_names(config.model)
    )


def attribute_index(dataset: cache.Dataset, name: str, setting: str) -> int:
    """Returns an attribute's place, or raises UserError in the name of `setting`."""
    if name not in dataset.attribute_names:
        raise UserError(
            f"{setting} has {name!r}; the attributes of {dataset.recipe['name']} are "
            f"{', '.join(dataset.attribute_names) or 'none'}"
        )
    return dataset.attribute_names.index(name)


def _check_init_from(config: Config) -> None:
    """Raises UserError where `config.init_from` has no parameters for this model."""
    _, expected = parts.abstract_model(config)
    _, found = parts.abstract_model(record.read_config(Path(config.init_from)))
    different = differences(expected, found)
    if different:
        raise UserError(
            f"config.init_from is {config.init_from!r}, whose parameters do not "
            "fit this model:\n  " + "\n  ".join(different)
        )


def _resolve(config: Config) -> Config:
    """Returns the config with every "auto" but the feed's replaced by what it is."""
    config = config.copy_and_resolve_references()
    name = cache.resolve_name(config.dataset.name, config.dataset.data_dir)
    if config.dataset.name == "auto":
        absent = (
            ""
            if name == "celeb_a"
            else ", drawn faces, because celeb_a is not prepared.\nFor CelebA: "
            + cache.HOW_TO_PREPARE_CELEB_A
        )
        print(f"config.dataset.name is auto: training on {name}{absent}\n")
    config.dataset.name = name
    config.dataset.crop = crops.resolve_crop(config.dataset.crop, name)
    if config.dataset.data_dir is not None:
        # run.json is read from other folders, too.
        data_dir = Path(config.dataset.data_dir).expanduser().absolute()
        config.dataset.data_dir = str(data_dir)
    if config.precision == "auto":
        config.precision = "fp32" if jax.default_backend() == "cpu" else "bf16"
    return config


def _check(config: Config, workdir: Path) -> tuple[Config, cache.Dataset]:
    """Returns the resolved config and its data set, or says what is wrong with it."""
    if config.train.batch_size % jax.device_count():
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}; it must be a "
            f"multiple of the {jax.device_count()} devices"
        )
    resumes = record.exists(workdir)
    if resumes:
        recorded = record.read_config(workdir)
        record.check_config(workdir, recorded, config)
        config = config.copy_and_resolve_references()
        config.dataset.name = recorded.dataset.name
        config.dataset.crop = recorded.dataset.crop
        config.precision = recorded.precision
    elif (picture := places.find_picture(workdir)) is not None:
        raise UserError(
            f"--workdir is {str(workdir)!a}, which holds no run but pictures "
            f"({ascii(str(picture.relative_to(workdir)))}), and nothing is written "
            "there; choose another"
        )
    elif config.dataset.name == "folder" and config.dataset.data_dir is not None:
        pictures = Path(config.dataset.data_dir).expanduser().absolute()
        if pictures in workdir.absolute().parents:
            raise UserError(
                f"--workdir is {str(workdir)!a}, within the pictures to train on, and "
                "what is drawn there would be one of them; choose another"
            )
    config = _resolve(config)
    dataset = parts.load_dataset(config.dataset)
    if config.model.attributes == "auto":
        config.model.attributes = ",".join(dataset.attribute_names)
    if config.init_from is not None and not resumes:
        _check_init_from(config)
    label_columns(config, dataset)
    num_train = len(dataset.splits["train"].images)
    if config.train.num_steps is None:
        examples = config.train.num_epochs * num_train
        config.train.num_steps = math.ceil(examples / config.train.batch_size)
    warmup_steps = config.optimizer.warmup_steps
    if config.optimizer.schedule == "cosine" and config.train.num_steps <= warmup_steps:
        raise UserError(
            f"config.train.num_steps is {config.train.num_steps}; with "
            "config.optimizer.schedule=cosine it must be more than "
            f"config.optimizer.warmup_steps, {warmup_steps}"
        )
    if resumes:
        record.check_extent(workdir, config.train.num_steps, dataset.recipe)
    return config, dataset


def train(config: Config, workdir: Path) -> Run:
    """Trains in a workdir, from the start or from where the run there stands.

    Args:
      config: from `config.default_config()` or a recipe.
      workdir: made where it is absent.

    Raises:
      UserError: a setting is refused, or the workdir holds a run of other settings,
        only damaged checkpoints or another process that trains, or is not writable.
    """
    config_lib.validate(config)
    processes.join(config.distributed)
    with processes.needing_all():
        return _train(config, workdir)


def _train(config: Config, workdir: Path) -> Run:
    settings = config_lib.flatten(config)
    del settings["distributed"]
    processes.check_agreement(
        {"config": json.dumps(settings), "--workdir": str(workdir.absolute())}
    )
    config, dataset = _check(config, workdir)
    processes.check_agreement({"data set": json.dumps(dataset.recipe)})
    graphdef, params = parts.abstract_model(config)
    train_split = dataset.splits["train"]
    feed = batches.resolve_feed(config.dataset.feed, train_split)
    if processes.any_of(feed == "stream"):
        feed = "stream"
    objective = build.build_objective(config.objective, len(train_split.images))
    columns = label_columns(config, dataset)
    evaluator = evaluate.build_evaluator(
        graphdef,
        evaluate.objective_figures(objective),
        seed=config.seed,
        batch_size=config.eval.batch_size,
        label_columns=columns,
    )
    with Checkpoints(workdir / "checkpoints", writable=True) as checkpoints:
        like = parts.state_shapes(config, params, config.train.sharding)
        state = checkpoints.restore("latest", like)
        if state is None:
            given = None
            if config.init_from is not None:
                given = jax.device_get(load(config.init_from).params["ema"])
            shardings = jax.tree.map(lambda a: a.sharding, like)
            state = parts.initial_state(config, shardings, given)
        else:
            print(f"going on from step {state.step} of {workdir}")
        processes.on_first(
            lambda: record.write(workdir, config, dataset.recipe, params)
        )
        written = workdir / "run.json"
        processes.check_agreement(
            {str(written): written.read_text() if written.exists() else ""}
        )
        with Writer(
            workdir,
            int(state.step),
            tensorboard=config.log.tensorboard,
            muted=not processes.is_first(),
        ) as writer:
            state = loop.train(
                state,
                step_lib.build_update(
                    build.build_loss_fn(
                        graphdef,
                        objective,
                        label_columns=columns,
                        label_dropout=config.model.attribute_dropout
                        if config.model.name == "vae"
                        else 0.0,
                        mirror=config.train.mirror,
                    ),
                    parts.build_optimizer(config),
                    ema_decay=config.ema.decay,
                    seed=config.seed,
                ),
                batches.build_feed(
                    feed,
                    train_split,
                    seed=config.seed,
                    batch_size=config.train.batch_size,
                    places=sharding.places_here(
                        sharding.data_mesh(), config.train.batch_size
                    ),
                ),
                num_steps=config.train.num_steps,
                batch_size=config.train.batch_size,
                steps_per_epoch=len(train_split.images) / config.train.batch_size,
                cadence=loop.Cadence(
                    dispatch=config.train.steps_per_dispatch,
                    log=config.log.every_steps,
                    evaluate=config.eval.every_steps,
                    checkpoint=config.checkpoint.every_steps,
                ),
                validate=lambda params: evaluate.means(
                    objective,
                    evaluator(params, dataset.splits["validation"], "validating"),
                ),
                writer=writer,
                checkpoints=checkpoints,
            )
    return Run(
        workdir=workdir,
        config=config,
        step=int(state.step),
        params=sharding.on_one_device({"ema": state.ema_params, "raw": state.params}),
        graphdef=graphdef,
        dataset=dataset,
    )


def load(workdir: str | Path, checkpoint: str = "latest") -> Run:
    """Opens a trained run.

    Args:
      workdir: of the run.
      checkpoint: "latest", or "best" by the validation loss of the EMA parameters.

    Raises:
      UserError: there is no run, no whole checkpoint, or no data set.
    """
    workdir = Path(workdir)
    config = record.read_config(workdir)
    dataset = parts.load_dataset(config.dataset)
    other = record.other_pictures(workdir, dataset.recipe)
    if other:
        print(f"note: {other}")
    graphdef, params = parts.abstract_model(config)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        like = parts.state_shapes(config, params, "data_parallel")
        state = checkpoints.restore(checkpoint, like)
    if state is None:
        raise UserError(f"{workdir} holds no checkpoint yet")
    return Run(
        workdir=workdir,
        config=config,
        step=int(state.step),
        params=sharding.on_one_device({"ema": state.ema_params, "raw": state.params}),
        graphdef=graphdef,
        dataset=dataset,
    )
