"""What --help prints: one screen about all modes, or about one of them."""

import re
import textwrap
from collections.abc import Mapping, Sequence

from absl import flags

from vae_jax.commands.flags import VALUES, Command
from vae_jax.errors import UserError

WIDTH = 80
PROGRAM = "python -m vae_jax.main"
_HELP = re.compile(r"--?(help|helpshort|h|\?)(=.*)?", re.DOTALL)
OVERVIEW = """\
vae_jax trains autoencoders of faces and looks inside them.

  {program} --config=configs/vae.py           # trains a model
  {program} --mode=sample --workdir=runs/vae  # looks inside it
  {program} --mode=sample --help              # lists its flags

Modes:
{modes}

Every setting of a recipe in configs/ can be given on the command line, such as
--config.train.num_steps=2000. docs/settings.md lists the settings, and
docs/usage.md shows every mode at work."""
RECIPE = "The recipe, a file such as configs/vae.py. It is needed."
TRAINED = "It is needed."
NEW = "Default: runs/ and the name of the recipe."
SETTINGS = "--config.NAME=VALUE gives any setting of the recipe, see docs/settings.md."
ELSEWHERE = "--config.dataset.data_dir=PATH says where the data set of the run is now."


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Says whether help is among the arguments of a command line."""
    return any(_HELP.fullmatch(argument) for argument in arguments)


def screen(commands: Mapping[str, Command], argv: Sequence[str]) -> str:
    """Returns what --help prints: about the mode of a command line, or about all.

    Args:
      commands: the commands by mode.
      argv: the program's name and its arguments.

    Raises:
      UserError: there is no such mode.
    """
    values = flags.FlagValues()
    mode = flags.DEFINE_enum("mode", None, [*commands], "", flag_values=values)
    try:
        values([a for a in argv if not _HELP.fullmatch(a)], known_only=True)
    except flags.Error as error:
        raise UserError(str(error)) from error
    if mode.value is None:
        return overview(commands)
    return of_mode(mode.value, commands[mode.value])


def overview(commands: Mapping[str, Command]) -> str:
    """Returns the screen about all modes."""
    modes = [_row(mode, command.meaning, 15) for mode, command in commands.items()]
    return OVERVIEW.format(program=PROGRAM, modes="\n".join(modes))


def of_mode(mode: str, command: Command) -> str:
    """Returns the screen about one mode: its flags, their defaults, an example."""
    trains = mode == "train"
    rows = {"config": RECIPE} if trains else {}
    named = {"workdir": NEW if trains else TRAINED, **command.flags}
    rows |= {name: f"{_meaning(name)} {ends}" for name, ends in named.items()}
    indent = max(map(len, rows)) + 6
    return "\n".join(
        [
            f"--mode={mode}: {command.meaning}",
            "",
            *(_row(f"--{name}", meaning, indent) for name, meaning in rows.items()),
            "",
            SETTINGS if trains else ELSEWHERE,
            "",
            f"  {PROGRAM} {'' if trains else f'--mode={mode} '}\\",
            f"    {command.example}",
        ]
    )


def _row(name: str, meaning: str, indent: int) -> str:
    return textwrap.fill(
        meaning,
        WIDTH,
        initial_indent=f"  {name}".ljust(indent),
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )


def _meaning(name: str) -> str:
    # absl puts the choices of a flag in front, <latest|best>: say.
    return (VALUES[name].help or "").rpartition(">: ")[2]
