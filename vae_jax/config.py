"""A run's config: all settings at once, and the combinations that are refused.

A recipe in configs/ takes `default_config()` and changes what differs. Everything is
checked before any work begins.
"""

import difflib
from collections.abc import Iterator
from typing import Any, TypeAlias

import ml_collections
from ml_collections import config_dict

from vae_jax.errors import UserError
from vae_jax.models import sharpening
from vae_jax.models.build import MODELS, OBJECTIVES
from vae_jax.options import Refusal, Values
from vae_jax.settings import ONLY_WITH, SETTINGS
from vae_jax.training.optimizers import OPTIMIZERS

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
    meant = "".join(
        f"did you mean config.{each}? "
        for each in difflib.get_close_matches(name, SETTINGS, 1)
    )
    raise UserError(
        f"config.{name} is no setting; {meant}allowed are {', '.join(nearby)}"
    )


def check_ranges(config: Config) -> None:
    """Raises UserError at the first setting that is out of its range."""
    for name, value in flatten(config).items():
        if not SETTINGS[name].accepts(value):
            allowed = SETTINGS[name].allowed
            raise UserError(f"config.{name} is {value!r}; allowed is {allowed}")


def validate(config: Config) -> None:
    """Raises UserError at the first setting out of range or refused combination."""
    check_ranges(config)
    values = flatten(config)

    def refuse(name: str, reason: str) -> None:
        raise UserError(f"config.{name} is {values[name]!r}; {reason}")

    for refusal in refusals(values):
        refuse(*refusal)
    for part in parse_optimizers(values["parts.optimizer"]):
        if part in values["parts.frozen"].split(","):
            refuse("parts.optimizer", f"{part} is frozen and has no use for it")
    for part, own in optimizer_by_part(values).items():
        merged = values | {f"optimizer.{each}": value for each, value in own.items()}
        refusal = OPTIMIZERS[merged["optimizer.name"]].check(merged)
        if refusal is not None:
            refuse("parts.optimizer", f"of {part}, {refusal[0]}: {refusal[1]}")
    # Not one of `refusals`, which models that have left their run pass as well.
    is_learned = values["model.name"] == "vq" and values["model.prior"] != "uniform"
    if is_learned and values["init_from"] is None:
        refuse(
            "init_from",
            f"model.prior {values['model.prior']} is learned over the codes of a run "
            "of a VQ-VAE; allowed is its workdir",
        )
    if values["parts.initialised"] and values["init_from"] is None:
        refuse("parts.initialised", "it goes with init_from, which is None")
    for name, base in (
        ("log.every_steps", "train.steps_per_dispatch"),
        ("eval.every_steps", "log.every_steps"),
        ("checkpoint.every_steps", "log.every_steps"),
    ):
        if values[name] % values[base]:
            refuse(name, f"it must be a multiple of {base}, {values[base]}")


def refusals(values: Values) -> Iterator[Refusal]:
    """Yields the settings that do not go with the options that were chosen, and why.

    Args:
      values: all settings, each in its range, by their dotted names.
    """
    for name, (chooser, choices) in ONLY_WITH.items():
        if values[name] != SETTINGS[name].default and values[chooser] not in choices:
            yield (
                name,
                f"it goes with {chooser} {' or '.join(choices)}, "
                f"and that is {values[chooser]}",
            )
    model = MODELS[values["model.name"]]
    read = (model.terms, "") if "prior" in model.settings else (model.terms,)
    objectives = [name for name, option in OBJECTIVES.items() if option.terms in read]
    if values["objective.name"] not in objectives:
        yield (
            "objective.name",
            f"with model.name {values['model.name']} allowed is "
            f"{' or '.join(objectives)}",
        )
    for name, setting in SETTINGS.items():
        if setting.options is not None:
            refusal = setting.options[values[name]].check(values)
            if refusal is not None:
                yield refusal


def optimizer_by_part(values: Values) -> dict[str, dict[str, Any]]:
    """Returns the settings of the optimiser that parts of the model have of their own.

    Args:
      values: all settings, by their dotted names.
    """
    own = parse_optimizers(values["parts.optimizer"])
    if values["objective.adversarial_weight"]:
        own["critic"] = sharpening.OPTIMIZER | own.get("critic", {})
    return own


def parse_optimizers(text: str) -> dict[str, dict[str, Any]]:
    """Returns what `config.parts.optimizer` says: settings by part of the model.

    Raises:
      UserError: it is not PART.SETTING=VALUE with commas between.
    """
    found: dict[str, dict[str, Any]] = {}
    for each in filter(None, text.split(",")):
        name, _, value = each.partition("=")
        part, _, own = name.rpartition(".")
        setting = SETTINGS.get(f"optimizer.{own}")
        if not part or setting is None:
            raise UserError(
                f"config.parts.optimizer has {each!r}; allowed is PART.SETTING=VALUE "
                "with a SETTING of "
                f"{', '.join(default_config().optimizer)}"
            )
        kind = setting.optional_type or type(setting.default)
        try:
            parsed = None if value == "None" else kind(value)
            if not setting.accepts(parsed):
                raise ValueError
        except (ValueError, TypeError) as error:
            raise UserError(
                f"config.parts.optimizer has {each!r}; allowed is {setting.allowed}"
            ) from error
        if own in found.setdefault(part, {}):
            raise UserError(
                f"config.parts.optimizer has {part}.{own} twice; allowed is once"
            )
        found[part][own] = parsed
    return found


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
        if not SETTINGS[name].resumable and new[name] not in (old[name], "auto")
    ]
