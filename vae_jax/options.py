"""How the options of an experiment declare their settings, beside their code.

An option is what a setting chooses by its name: a network, a prior, an objective. It is
a line in a table, `{"vamp": Option(make, {"prior_components": whole(64, "...")})}`; the
setting that chooses from the table brings in the settings of all its options, and each
goes with the options that declare it, and with no other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from vae_jax import local_paths

# Values of settings by their dotted names.
Values: TypeAlias = Mapping[str, Any]
# The setting that is refused, and why.
Refusal: TypeAlias = tuple[str, str]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Option:
    """One choice of a setting.

    Attributes:
      make: function that makes what is chosen from what all options of the table are
        given, and its own settings as keyword arguments.
      settings: the option's own settings, by their names within the section of the
        setting that chooses it.
      check: returns what is wrong with all settings where this option is chosen, None
        where nothing is.
      terms: kind of the terms that a model returns, that an objective reads, or that
        a prior goes with. An objective without one reads codes alone, and trains a
        prior over them.
    """

    make: Callable[..., Any]
    settings: Mapping[str, "Setting"] = field(default_factory=dict)
    check: Callable[[Values], Refusal | None] = lambda values: None
    terms: str = ""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
      default: its value where a recipe says nothing.
      meaning: a phrase for a newcomer, the noun first.
      allowed: the values that are allowed, in words.
      accepts: says whether a value is allowed.
      optional_type: type of a value other than None, where None is the default.
      options: options that its values choose.
      resumable: whether a run may go on with another value.
    """

    default: Any
    meaning: str
    allowed: str
    accepts: Callable[[Any], bool]
    optional_type: type | None = None
    options: Mapping[str, Option] | None = None
    resumable: bool = False


def resumable(setting: Setting) -> Setting:
    """Returns a setting that may change when a run goes on."""
    return replace(setting, resumable=True)


def optional(value_type: type, setting: Setting) -> Setting:
    """Returns a setting whose default is None."""
    return replace(
        setting,
        default=None,
        allowed=f"{setting.allowed}, or None",
        accepts=lambda value: value is None or setting.accepts(value),
        optional_type=value_type,
    )


def whole(default: int, meaning: str, low: int = 1, high: int = 2**31 - 1) -> Setting:
    """Declares a whole number."""
    bound = f"of at least {low}" if high == 2**31 - 1 else f"from {low} to {high}"
    return Setting(
        default,
        meaning,
        f"a whole number {bound}",
        lambda value: isinstance(value, int) and low <= value <= high,
    )


def real(
    default: float, meaning: str, allowed: str, accepts: Callable[[float], bool]
) -> Setting:
    """Declares a finite number."""
    return Setting(
        default, meaning, allowed, lambda value: math.isfinite(value) and accepts(value)
    )


def positive(default: float, meaning: str) -> Setting:
    """Declares a number above 0."""
    return real(default, meaning, "a number above 0", lambda value: value > 0)


def weight(default: float, meaning: str) -> Setting:
    """Declares a number of at least 0."""
    return real(default, meaning, "a number of at least 0", lambda value: value >= 0)


def share(default: float, meaning: str) -> Setting:
    """Declares a number of at least 0 and below 1."""
    allowed = "a number of at least 0 and below 1"
    return real(default, meaning, allowed, lambda value: 0 <= value < 1)


def choice(default: str, meaning: str, options: Any) -> Setting:
    """Declares one of several names; the options of a table bring settings in.

    What a program adds to the table is allowed as well.
    """
    chosen = options if isinstance(options, Mapping) else {}
    is_table = any(isinstance(option, Option) for option in chosen.values())
    return Setting(
        default,
        meaning,
        "one of " + ", ".join(options),
        lambda value: value in tuple(options),
        options=chosen if is_table else None,
    )


def switch(default: bool, meaning: str) -> Setting:
    """Declares a truth."""
    return Setting(
        default, meaning, "True or False", lambda value: isinstance(value, bool)
    )


def text(
    default: str,
    meaning: str,
    allowed: str,
    accepts: Callable[[str], bool] = lambda value: True,
) -> Setting:
    """Declares a text."""
    return Setting(
        default,
        meaning,
        allowed,
        lambda value: isinstance(value, str) and accepts(value),
    )


def parse_by_resolution(
    spec: str, number: Callable[[str], Number]
) -> dict[int, Number]:
    """Returns what "8:0.25,16:0.4" says, {8: 0.25, 16: 0.4}.

    Args:
      spec: value of a setting or a flag.
      number: function from the text of a number to it, float say.

    Raises:
      ValueError: it says nothing of the kind, or has a resolution twice.
    """
    pairs = [part.split(":") for part in spec.split(",")]
    found = {int(at): number(told) for at, told in pairs}
    if len(found) < len(pairs):
        raise ValueError(f"a resolution of {spec!r} is there twice")
    return found


def path(meaning: str) -> Setting:
    """Declares a path on this machine, or None."""
    return optional(str, text("", meaning, local_paths.ALLOWED, local_paths.is_local))


def gather(declared: Mapping[str, Setting]) -> dict[str, Setting]:
    """Returns settings with those of the options they choose, by dotted names.

    What several options declare is one setting: its meanings are told in turn.
    """
    found: dict[str, Setting] = {}
    for name, setting in declared.items():
        found[name] = setting
        section = name.rpartition(".")[0]
        for option in (setting.options or {}).values():
            of_option = {f"{section}.{own}": s for own, s in option.settings.items()}
            for own, its in gather(of_option).items():
                before = found.setdefault(own, its)
                assert (before.default, before.allowed) == (its.default, its.allowed)
                if its.meaning not in before.meaning:
                    meaning = f"{before.meaning} {its.meaning}"
                    found[own] = replace(before, meaning=meaning)
    return found


def goes_with(settings: Mapping[str, Setting]) -> dict[str, tuple[str, list[str]]]:
    """Returns which choices bring a setting in, as (chooser, names of options).

    Settings that are always there are left out.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for chooser, setting in settings.items():
        section = chooser.rpartition(".")[0]
        for name, option in (setting.options or {}).items():
            for own in option.settings:
                found.setdefault(f"{section}.{own}", (chooser, []))[1].append(name)
    return found


def make(table: Mapping[str, Option], name: str, settings: Any, *context: Any) -> Any:
    """Makes what the option `name` of a table stands for.

    Args:
      table: the options.
      name: name of one of them.
      settings: the section of the config that holds the options' own.
      *context: arguments that every option of the table is given.
    """
    option = table[name]
    return option.make(*context, **{own: settings[own] for own in option.settings})
