"""What a training begins with: its settings resolved and checked, and its pictures.

What a user has got wrong is said here, before training begins.
"""

import functools
from pathlib import Path
from typing import Any

import jax

from vae_jax import config as config_lib
from vae_jax import experiment, nesting, other_runs, processes, record
from vae_jax.config import Config
from vae_jax.data import cache, crops, places
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path
from vae_jax.models import build
from vae_jax.settings import SETTINGS
from vae_jax.training import growth, optimizers


def load_dataset(settings: Config, fingerprint: str | None = None) -> cache.Dataset:
    """Returns the data set that the settings under `config.dataset` name.

    Args:
      settings: these.
      fingerprint: fingerprint of the pictures that a run began with, see `cache.load`.
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


def resolve(config: Config, workdir: Path) -> tuple[Config, cache.Dataset]:
    """Returns the resolved config of a training, and its data set.

    Args:
      config: settings that `config.validate` has passed.
      workdir: new, or of a run to go on with.

    Raises:
      UserError: the run in the workdir is of other settings or pictures, or a setting
        does not fit the pictures, the devices or the run to start from.
    """
    if config.train.batch_size % jax.device_count():
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}; it must be a "
            f"multiple of the {jax.device_count()} devices"
        )
    for size, _, batch_size in growth.parse(config.train.stages):
        if (batch_size or 0) % jax.device_count():
            raise UserError(
                f"config.train.stages is {config.train.stages!r}; the {batch_size} "
                f"images of an update at {size} pixels must be a multiple of the "
                f"{jax.device_count()} devices"
            )
    resumes, fingerprint = record.exists(workdir), None
    if resumes:
        fingerprint = record.read_recipe(workdir)["fingerprint"]
        recorded = record.read_config(workdir)
        record.check_config(workdir, recorded, config)
        config = config.copy_and_resolve_references()
        # What "auto" stood for when the run began, whatever is there now.
        given, before = map(config_lib.flatten, (config, recorded))
        config.update_from_flattened_dict(
            {
                name: before[name]
                for name, setting in SETTINGS.items()
                if given[name] == "auto" and not setting.resumable
            }
        )
        config.objective.guide = recorded.objective.guide
    else:
        _check_new_workdir(config, workdir)
    config = _without_auto(config)
    dataset = load_dataset(config.dataset, fingerprint)
    if config.model.attributes == "auto":
        config.model.attributes = ",".join(dataset.attribute_names)
    num_train = len(dataset.splits["train"].images)
    if config.train.num_steps is None:
        config.train.num_steps = num_steps_of(config, num_train)
    nesting.check(config)
    _check_parts(config)
    # A run that was ended before its first checkpoint begins anew.
    if not record.has_checkpoint(workdir):
        if config.init_from is not None:
            other_runs.check_init_from(config)
        if config.objective.perceptual_weight:
            other_runs.check_guide(config)
    label_columns(config, dataset)
    if config.objective.name == "tc" and num_train < 2:
        raise UserError(
            "config.objective.name is 'tc', which compares the codes of training "
            f"pictures: 2 at least, and {config.dataset.name} has {num_train}"
        )
    if resumes:
        record.check_extent(workdir, config.train.num_steps, dataset.recipe)
    _tell_schedule(config, record.read_config(workdir) if resumes else config)
    return config, dataset


def num_steps_of(config: Config, num_train: int) -> int:
    """Returns the steps that `config.train.num_epochs` comes to.

    Args:
      config: settings of the training.
      num_train: images in an epoch.

    Raises:
      UserError: they are more than `config.train.num_steps` may be.
    """
    train, allowed = config.train, SETTINGS["train.num_steps"]
    number = train.num_epochs * num_train / train.batch_size
    if number <= 2**31:
        number = growth.num_steps_for(
            train.stages, train.batch_size, train.num_epochs * num_train
        )
    if not allowed.accepts(number):
        raise UserError(
            f"config.train.num_epochs is {train.num_epochs:g}, which is {number:.3g} "
            f"updates; allowed is {allowed.allowed}"
        )
    return number


def _check_new_workdir(config: Config, workdir: Path) -> None:
    """Raises UserError where a run would be written among pictures."""
    picture = places.find_picture(workdir)
    if picture is not None:
        raise UserError(
            f"workdir is {str(workdir)!a}, which holds no run but pictures "
            f"({ascii(str(picture.relative_to(workdir)))}), and nothing is written "
            "there; choose another"
        )
    if config.dataset.name == "folder" and config.dataset.data_dir is not None:
        pictures = local_path(config.dataset.data_dir, "config.dataset.data_dir")
        if pictures.resolve() in workdir.resolve().parents:
            raise UserError(
                f"workdir is {str(workdir)!a}, within the pictures to train on, and "
                "what is drawn there would be one of them; choose another"
            )


def _without_auto(config: Config) -> Config:
    """Returns the config with every "auto" but the feed's replaced by what it is."""
    config = config.copy_and_resolve_references()
    name = cache.resolve_name(config.dataset.name, config.dataset.data_dir)
    if config.dataset.name == "auto":
        absent = (
            ""
            if name == "celeb_a"
            else ", drawn faces, because celeb_a is not prepared.\nFor CelebA instead: "
            + cache.how_to_prepare_celeb_a(config.dataset.data_dir)
        )
        print(f"config.dataset.name is auto: training on {name}{absent}\n")
    config.dataset.name = name
    config.dataset.crop = crops.resolve_crop(config.dataset.crop, name)
    if config.dataset.data_dir is not None:
        # run.json is read from other folders, too.
        data_dir = local_path(config.dataset.data_dir, "config.dataset.data_dir")
        config.dataset.data_dir = str(data_dir.absolute())
    if config.precision == "auto":
        config.precision = "fp32" if jax.default_backend() == "cpu" else "bf16"
    return config


def attribute_index(
    names: tuple[str, ...], name: str, setting: str, dataset: str
) -> int:
    """Returns an attribute's place among those of a data set.

    Args:
      names: names of all its attributes.
      name: the attribute that is looked for.
      setting: or flag that has the name, for errors.
      dataset: the data set's name, for errors.

    Raises:
      UserError: it has no such attribute.
    """
    if name not in names:
        raise UserError(
            f"{setting} has {name!r}; the attributes of {dataset} are "
            f"{', '.join(names) or 'none'}"
        )
    return names.index(name)


def label_columns(config: Config, dataset: cache.Dataset) -> tuple[int, ...]:
    """Returns where the data set has the attributes that a model is to know.

    Raises:
      UserError: the data set has no attribute of that name.
    """
    names, setting = dataset.attribute_names, "config.model.attributes"
    return tuple(
        attribute_index(names, name, setting, config.dataset.name)
        for name in build.label_names(config.model)
    )


def _check_parts(config: Config) -> None:
    """Raises UserError where a setting names what is no part of the model."""
    settings = {
        "parts.frozen": experiment.names_of_parts(config.parts.frozen),
        "parts.optimizer": config_lib.parse_optimizers(config.parts.optimizer),
        "parts.initialised": experiment.names_of_parts(config.parts.initialised),
    }
    if not any(settings.values()):
        return
    _, shapes = experiment.abstract_model(config)
    parts = sorted({*shapes.params, *shapes.state})
    for setting, named in settings.items():
        for name in named:
            if name not in parts:
                raise UserError(
                    f"config.{setting} has {name!r}; the parts of this model are "
                    f"{', '.join(parts)}"
                )
    if set(settings["parts.frozen"]) >= set(shapes.params):
        raise UserError(
            f"config.parts.frozen is {config.parts.frozen!r}, which is the "
            "whole model: nothing would be trained"
        )


def _tell_schedule(config: Config, before: Config) -> None:
    """Prints what the number of steps does to the learning rate, where it does.

    Args:
      config: resolved.
      before: the config that the run had so far.
    """
    optimizer, num_steps = config.optimizer, config.train.num_steps
    schedule, asked = optimizer.schedule, optimizer.warmup_steps
    warmup_steps = optimizers.warmup_of(schedule, asked, num_steps)
    if warmup_steps < asked:
        print(
            f"note: config.optimizer.warmup_steps is {asked}, and the run has "
            f"{num_steps} step(s): the learning rate rises over {warmup_steps} of them"
        )
    if schedule == "cosine" and num_steps > before.train.num_steps:
        end = before.train.num_steps
        rate: Any = optimizers.learning_rate_schedule(
            optimizer.learning_rate, schedule, asked, num_steps
        )
        print(
            f"note: the cosine of the learning rate was to end at step {end}, at 0, "
            f"and now ends at step {num_steps}: at step {end} it is {rate(end):.3g}"
        )
