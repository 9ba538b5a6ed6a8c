"""The flags that several modes share, and what a mode of the command line is.

The flags of the commands have a place of their own, `VALUES`: importing a command as a
function, in a notebook say, defines no flag of the program. `main` adds them to those.
"""

import functools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from absl import flags

from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path, split_paths
from vae_jax.report.drawing import FORMATS

VALUES = flags.FlagValues()
# Where nothing is parsed, every flag has its default.
VALUES.mark_as_parsed()
LARGEST_SEED = 2**31 - 1
# Number that codes are multiplied by at most; beyond, float32 may overflow.
LARGEST = 1e6
Name = TypeVar("Name", str, int)


@dataclass(frozen=True)
class Command:
    """A mode of the command line.

    Attributes:
      meaning: one sentence about what it does, for the help.
      example: what follows --mode=NAME in an example, for the help.
      flags: the names of the flags that go with it; each with a sentence on what holds
        where it is not given, for the help.
      work: takes the settings of --config, or None, and the workdir; returns the files
        that it has written.
      several_processes: whether several processes may do it together.
    """

    meaning: str
    example: str
    flags: Mapping[str, str]
    work: Callable[[Config | None, Path], list[Path]]
    several_processes: bool = False


def check_given(commands: Mapping[str, Command], mode: str) -> None:
    """Raises UserError where a flag is given that a mode has no use for.

    Args:
      commands: every command, by mode.
      mode: the mode that is to be done.
    """
    for name in VALUES:
        modes = [each for each, command in commands.items() if name in command.flags]
        # What no command names goes with all of them.
        if VALUES[name].present and modes and mode not in modes:
            told = VALUES[name].value
            if isinstance(told, list):
                told = ",".join(map(str, told))
            elif isinstance(told, Path):
                told = str(told)
            raise UserError(
                f"--{name} is {told!r}; it goes with --mode={' or '.join(modes)}, and "
                f"that is {mode}"
            )


class Parser(flags.ArgumentParser[Any]):
    """Turns the text of a flag into its value, see `define`."""

    def __init__(self, name: str, convert: Callable[[Any, str], Any], form: str):
        super().__init__()
        self.syntactic_help = form
        self._name, self._convert = f"--{name}", convert

    def parse(self, argument: Any) -> Any:
        """Returns the value, or raises UserError in the flag's name."""
        return self._convert(argument, self._name)


def define(
    name: str,
    meaning: str,
    convert: Callable[[Any, str], Any],
    form: str,
    default: str | None = None,
) -> flags.FlagHolder[Any]:
    """Defines a flag whose value is what a function makes of its text, or None.

    Args:
      name: the flag's name.
      meaning: words for the help.
      convert: function of the text, and of --name, to raise UserError in.
      form: form of the text, for the help.
      default: such a text, or None.
    """
    parser = Parser(name, convert, form)
    return flags.DEFINE(parser, name, default, meaning, flag_values=VALUES)


def define_path(name: str, meaning: str) -> flags.FlagHolder[Path | None]:
    """Defines a flag whose value is a path on this machine, or None."""
    return define(name, meaning, local_path, "a path")


def define_numbers(
    name: str, meaning: str, kind: type[int] | type[float], default: str | None = None
) -> flags.FlagHolder[Any]:
    """Defines a flag whose value is a list of numbers of a kind, or None."""
    form, numbers = "numbers with commas between", functools.partial(_numbers, kind)
    return define(name, meaning, numbers, form, default)


def _numbers(kind: type[int] | type[float], text: str, name: str) -> list[Any]:
    try:
        numbers = [kind(each) for each in text.split(",")]
        if kind is float and not all(abs(n) <= LARGEST for n in numbers):
            raise ValueError("one is too large, or none")
        return numbers
    except ValueError as error:
        allowed = f"numbers with commas between, none above {LARGEST:g}"
        if kind is int:
            allowed = "whole numbers with commas between"
        raise UserError(f"{name} is {text!r}; allowed are {allowed}") from error


def parse_numbers(
    text: str, flag: str, name_of: Callable[[str], Name]
) -> dict[Name, float]:
    """Returns what "Smiling,Male=-0.5" stands for: {"Smiling": 1, "Male": -0.5}.

    Args:
      text: the text that was given.
      flag: the flag's name, for errors.
      name_of: turns the text of a name into the name, or raises UserError.

    Raises:
      UserError: a name is not known or there twice, or what follows is no number.
    """
    numbers: dict[Name, float] = {}
    for part in text.split(","):
        told_name, equals, value = part.partition("=")
        name = name_of(told_name)
        try:
            number = float(value) if equals else 1.0
        except ValueError:
            number = math.nan
        # NaN is not below, either.
        if not abs(number) <= LARGEST or name in numbers:
            raise UserError(
                f"{flag} has {part!r}; allowed is NAME or NAME=NUMBER, each once, "
                f"no number above {LARGEST:g}"
            )
        numbers[name] = number
    return numbers


WORKDIR = define_path("workdir", "The folder of the run.")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "latest",
    ["latest", "best"],
    "The checkpoint, latest or best (by the validation loss).",
    flag_values=VALUES,
)
NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    None,
    "The number of images to draw.",
    lower_bound=1,
    upper_bound=1_000_000,
    flag_values=VALUES,
)
SEED = flags.DEFINE_integer(
    "seed",
    0,
    "The seed of the random numbers.",
    lower_bound=0,
    upper_bound=LARGEST_SEED,
    flag_values=VALUES,
)
PICTURES = flags.DEFINE_string(
    "pictures",
    None,
    "Picture files of your own, with commas between.",
    flag_values=VALUES,
)
INDICES = define_numbers(
    "indices", "The indices of test images, from 0, with commas between.", int
)
UP_TO = flags.DEFINE_integer(
    "up_to",
    None,
    "The finest resolution whose codes count as coarse.",
    lower_bound=1,
    flag_values=VALUES,
)
FORMAT = flags.DEFINE_enum(
    "format",
    None,
    FORMATS,
    "The format of the picture, png, pdf or svg.",
    flag_values=VALUES,
)
REALISM = flags.DEFINE_float(
    "realism",
    None,
    "The dial from 0, calibrated, to 1, sharp.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=VALUES,
)
# NaN passes any bound.
flags.register_validator(
    "realism",
    lambda value: value is None or not math.isnan(value),
    "allowed is a number from 0 to 1",
    flag_values=VALUES,
)
ATTRIBUTE = flags.DEFINE_string(
    "attribute", None, "The attribute that is edited.", flag_values=VALUES
)
JUDGE = define(
    "judge",
    "The workdir of a classifier (configs/judge.py) that judges what the run makes.",
    functools.partial(split_paths, is_there=os.path.isdir),
    "paths with commas between",
)
