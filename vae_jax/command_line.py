"""A recipe and its overridden settings, from the arguments of a command line."""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from vae_jax import config as config_lib
from vae_jax.errors import UserError
from vae_jax.settings import SETTINGS


def parse_flags(
    values: flags.FlagValues, config: flags.FlagHolder[Any], argv: list[str]
) -> list[str]:
    """Parses flags, --config and --config.a.b=value among them; returns the rest.

    Args:
      values: where the flags are defined.
      config: the flag "config" among them, of `DEFINE_config_file`.
      argv: the program's name and its arguments.

    Raises:
      UserError: of whatever is wrong with a flag or a recipe, in one line.
    """
    typed, nones = argv[:1], {}
    for argument in argv[1:]:
        flag, _, value = argument.lstrip("-").partition("=")
        if flag == "config":
            recipe = Path(value.split(":")[0])
            if not recipe.is_file():
                raise UserError(f"--config is {value!r}, which is no file")
            # Recipes import one another, wherever the command is run.
            sys.path.append(str(recipe.resolve().parents[1]))
        if flag.startswith("config."):
            name = flag.removeprefix("config.")
            config_lib.check_name(name)
            # ml_collections knows no None: it would look for a number, or a path.
            if value == "None" and SETTINGS[name].optional_type:
                nones[name] = None
                continue
            nones.pop(name, None)
        typed.append(argument)
    try:
        rest = values(typed)
    except AttributeError as error:
        raise UserError(f"the recipe sets what is no setting: {error}") from error
    except (
        flags.Error,
        OSError,
        ImportError,
        ValueError,
        TypeError,
        LookupError,
    ) as error:
        # ml_collections puts a recipe's whole traceback into some of its messages.
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(" ".join(lines[:1] + lines[1:][-1:])) from error
    if config.value is not None:
        config.value.update_from_flattened_dict(nones)
    return rest
