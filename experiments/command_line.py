"""The experiments' flags, and the settings of recipes among them."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from absl import flags, logging
from ml_collections import config_flags

from vae_jax import config as config_lib
from vae_jax.command_line import (
    Parser,
    exit_status,
    keep_compiled_programs,
    parse_flags,
    quieten_failed_saves,
)
from vae_jax.commands.flags import LARGEST_SEED
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path
from vae_jax.report import drawing

# Settings by dotted name, values as one would type them: {"model.latent_dim": 64}.
Settings: TypeAlias = Mapping[str, Any]

OVERRIDE = re.compile(r"--config\.([^=]+)=(.*)", re.DOTALL)


def new_parser(module: str, description: str | None) -> Parser:
    """Returns a parser with --out and --format, the same in all experiments.

    Args:
      module: experiments.beta, say, whose results go to runs/beta.
      description: description of the experiment.
    """
    parser = Parser(module, description)
    parser.epilog = (
        "Every setting of the recipe can be overridden: --config.train.num_steps=1000."
    )
    out = Path("runs") / module.rpartition(".")[2]
    add_path_flag(parser, "--out", f"Folder of the results; {out}.", out)
    parser.add_argument(
        "--format",
        choices=drawing.FORMATS,
        default=drawing.FORMATS[0],
        help="Format of pictures; in a pdf or svg words stay words. Default: png.",
    )
    return parser


def add_path_flag(
    parser: argparse.ArgumentParser, flag: str, help: str, default: Path | None = None
) -> None:
    """Adds a flag whose value is a path on this machine, see `local_path`."""
    parser.add_argument(
        flag, type=lambda text: local_path(text, flag), default=default, help=help
    )


def add_judged_flags(parser: argparse.ArgumentParser, workdir: str) -> None:
    """Adds --workdir, --judge and --seed, of an experiment with one trained run.

    Args:
      parser: parser of the experiment, which then takes no settings of a recipe.
      workdir: workdir of the run where none is given.
    """
    parser.epilog = None
    add_path_flag(parser, "--workdir", f"Workdir of the run; {workdir}.", Path(workdir))
    parser.add_argument(
        "--judge",
        type=lambda text: local_path(text, "--judge"),
        required=True,
        help="Workdir of a classifier (configs/judge.py).",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="Seed of the samples; 0.")


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed is a whole number from 0 to {LARGEST_SEED}"
        )
    return int(text)


def add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --config, --seeds and --dry_run."""
    parser.add_argument(
        "--config", default="configs/vae.py", help="The recipe; configs/vae.py."
    )
    parser.add_argument(
        "--seeds",
        type=listed,
        default="0,1,2",
        help="Seeds with commas between; 0,1,2.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Prints a command for each run and does nothing else. Run those anywhere, "
        "then this one again without the flag: it makes the table.",
    )


def listed(text: str) -> list[str]:
    """Returns the values of a flag such as --seeds=0,1,2.

    Raises:
      ArgumentTypeError: a value is empty or there twice.
    """
    values = text.split(",")
    if "" in values or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed are values with commas between, each once"
        )
    return values


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, dict[str, str]]:
    """Returns the experiment's own flags, and the settings of --config.a.b=value.

    Raises:
      UserError: a flag is unknown or its value is not allowed.
    """
    options, rest = parser.parse_known_args(argv)
    settings = {}
    for argument in rest:
        override = OVERRIDE.fullmatch(argument)
        if override is None:
            raise UserError(
                f"{argument!r} is no flag here; settings look like "
                "--config.train.num_steps=1000, and --help tells the rest"
            )
        settings[override[1]] = override[2]
    return options, settings


def cli(main: Callable[[], None]) -> NoReturn:
    """Runs `main`; a user's mistake ends with its message and exit status 2."""
    logging.set_verbosity(logging.WARNING)
    quieten_failed_saves()
    keep_compiled_programs()
    sys.exit(exit_status("experiments", main))


def config_arguments(recipe: str, settings: Settings) -> list[str]:
    """Returns the flags of `vae_jax.main` for a recipe under settings."""
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    return [f"--config={recipe}", *overrides]


def read_config(recipe: str, settings: Settings) -> Config:
    """Returns the config that `vae_jax.main` makes of `config_arguments`.

    Raises:
      UserError: the recipe is no file, or a setting or value is not allowed.
    """
    argv = ["experiments", *config_arguments(recipe, settings)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=argv
    )
    parse_flags(values, holder, argv)
    config: Config = holder.value
    config_lib.validate(config)
    return config
