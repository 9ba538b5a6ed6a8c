"""A run's config: all settings at once, and the combinations that are refused.

A recipe in configs/ takes `default_config()` and changes what differs. Everything is
checked before any work begins; past this file and `run.py`, functions take plain
arguments.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import ml_collections
from ml_collections import config_dict

from vae_jax.errors import UserError
from vae_jax.models.networks import conv
from vae_jax.settings import ONLY_WITH, RESUMABLE, SETTINGS

# A ConfigDict, whose attributes ml_collections types as all that they may be.
Config: TypeAlias = Any


def default_config() -> Config:
    """Returns all settings at their defaults: the notebook's VAE.

    The config is locked: a misspelt name raises at once.
    """
    config: Config = ml_collections.ConfigDict()
    for name, setting in SETTINGS.items():
        section, _, leaf = name.rpartition(".")
        if section and section not in config:
            config[section] = ml_collections.ConfigDict()
        (config[section] if section else config)[leaf] = (
            setting.default
            if setting.optional_type is None
            else config_dict.placeholder(setting.optional_type)
        )
    return config.lock()


def flatten(config: Config) -> dict[str, Any]:
    """Returns the settings by their dotted names, in the order of `SETTINGS`."""
    values = {}
    for name in SETTINGS:
        value = config
        for part in name.split("."):
            value = value[part]
        values[name] = value
    return values


def check_name(name: str) -> None:
    """Raises UserError where `name` ("model.latent_dim") is no setting."""
    if name in SETTINGS:
        return
    section = name.rpartition(".")[0]
    nearby = [s for s in SETTINGS if s.rpartition(".")[0] == section] or SETTINGS
    raise UserError(f"config.{name} is no setting; allowed are {', '.join(nearby)}")


def validate(config: Config) -> None:
    """Raises UserError at the first setting out of range or refused combination."""
    values = flatten(config)
    for name, value in values.items():
        setting = SETTINGS[name]
        if not setting.accepts(value):
            raise UserError(f"config.{name} is {value!r}; allowed is {setting.allowed}")

    def refuse(name: str, reason: str) -> None:
        raise UserError(f"config.{name} is {values[name]!r}; {reason}")

    for name, (chooser, choices) in ONLY_WITH.items():
        if values[name] != SETTINGS[name].default and values[chooser] not in choices:
            refuse(
                name,
                f"it goes with {chooser} {' or '.join(choices)}, "
                f"and that is {values[chooser]}",
            )
    objectives_of = {"ae": ("mse", "rae"), "classifier": ("cross_entropy",)}
    for model, objectives in objectives_of.items():
        if (values["model.name"] == model) != (values["objective.name"] in objectives):
            refuse(
                "objective.name",
                f"model {values['model.name']} has no such objective: ae goes with mse "
                "and rae, classifier with cross_entropy, vae with the others",
            )
    if values["model.network"] == "strided" and values["model.name"] != "classifier":
        refuse("model.network", "it has no decoder: it goes with model.name classifier")
    if values["model.network"] in ("conv", "strided"):
        try:
            conv.resolutions(values["dataset.size"])
        except ValueError as error:
            refuse(
                "dataset.size", f"with model.network {values['model.network']}, {error}"
            )
        try:
            conv.resolutions(values["dataset.size"], values["model.code_size"])
        except ValueError as error:
            refuse("model.code_size", str(error))
    _check_attributes(values, refuse)
    if values["objective.free_bits"] and values["model.prior"] in ("mixture", "vamp"):
        refuse(
            "objective.free_bits",
            f"the KL to model.prior {values['model.prior']} is sampled and has no "
            "dimensions",
        )
    if values["objective.name"] == "iwae" and values["objective.num_samples"] == 1:
        refuse("objective.num_samples", "iwae with one sample is elbo; 5 is usual")
    if values["objective.name"] == "iwae" and (
        values["model.likelihood"] == "optimal_gaussian"
    ):
        refuse(
            "model.likelihood",
            "its gradient is that of a mean over samples, which iwae weighs; "
            "shared_gaussian goes with iwae",
        )
    if values["objective.name"] == "mmd" and values["train.batch_size"] == 1:
        refuse("train.batch_size", "mmd compares the codes of a batch: at least 2")
    if values["optimizer.name"] == "adam" and values["optimizer.weight_decay"]:
        refuse("optimizer.weight_decay", "adam has none: set it to 0 or use adamw")
    for name, base in (
        ("log.every_steps", "train.steps_per_dispatch"),
        ("eval.every_steps", "log.every_steps"),
        ("checkpoint.every_steps", "log.every_steps"),
    ):
        if values[name] % values[base]:
            refuse(name, f"it must be a multiple of {base}, {values[base]}")


def _check_attributes(values: dict[str, Any], refuse: Callable[[str, str], None]):
    names = values["model.attributes"].split(",")
    conditional = bool(values["model.attributes"])
    if conditional and (len(set(names)) < len(names) or "" in names):
        refuse("model.attributes", "each is named once, with single commas between")
    if conditional and values["model.prior"] == "vamp":
        refuse("model.attributes", "vamp's pseudo-inputs have no labels")
    if not conditional and values["model.name"] == "classifier":
        refuse("model.attributes", "a classifier needs some; auto is all there are")
    if not conditional and values["model.prior"] == "conditional":
        refuse("model.prior", "it needs model.attributes to be conditioned on")
    dropout = SETTINGS["model.attribute_dropout"].default
    if not conditional and values["model.attribute_dropout"] != dropout:
        refuse(
            "model.attribute_dropout", "it goes with model.attributes, which are none"
        )
    if values["objective.name"] in ("mmd", "tc") and (
        values["model.prior"] == "conditional"
    ):
        refuse(
            "model.prior",
            f"{values['objective.name']} compares all codes of a batch with one prior, "
            "and conditional has one for each label",
        )


def resumed_differences(recorded: Config, given: Config) -> list[str]:
    """Returns what keeps `given` from resuming a run, as "key: recorded, given".

    Args:
      recorded: the run's resolved config.
      given: the config to go on with; "auto" agrees with whatever was resolved.
    """
    old, new = flatten(recorded), flatten(given)
    return [
        f"{name}: {old[name]!r} in the run, {new[name]!r} given"
        for name in SETTINGS
        if name not in RESUMABLE and new[name] not in (old[name], "auto")
    ]
