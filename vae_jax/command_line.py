"""What a command line has before its work: flags, settings, compiled programs."""

import argparse
import io
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import filelock
import jax
from absl import flags
from ml_collections import config_flags

from vae_jax import config as config_lib
from vae_jax import record, storage
from vae_jax.errors import UserError, naming_files
from vae_jax.local_paths import local_path
from vae_jax.settings import SETTINGS

# Bytes that all compiled programs may take together; a recipe has some 300 kB of them.
COMPILED_BYTES = 2**30
# What absl says of a setting whose text is no value of its type.
REFUSED = re.compile(r"flag --config\.(?P<name>[^=]+)=(?P<value>.*?): ")


class Parser(argparse.ArgumentParser):
    """A parser of flags whose errors are for the command to tell.

    Args:
      module: the module that is run, vae_jax.export say.
      description: description of what it does.
    """

    def __init__(self, module: str, description: str | None):
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises UserError instead of printing the usage and leaving."""
        raise UserError(f"{message}; --help says more")


def print_any_name() -> None:
    """Has names of files printed that are no text, which are an error otherwise."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def exit_status(program: str, work: Callable[[], object]) -> int:
    """Does the work of a command line; a user's mistake ends with its message.

    Args:
      program: name of the program, for its messages.
      work: the work, the parsing of flags included.

    Returns:
      0, or 2 if the user has to change something, or 130 after Ctrl-C.
    """
    print_any_name()
    try:
        with naming_files():
            work()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"{program}: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    return 0


def define_config() -> flags.FlagHolder[Any]:
    """Defines --config, the recipe; ends the program where --flagfile is no file."""
    try:
        return config_flags.DEFINE_config_file(
            "config", None, "The recipe: a file such as configs/vae.py."
        )
    except flags.Error as error:
        # ml_collections reads it already here.
        print(f"vae_jax: {error}", file=sys.stderr)
        sys.exit(2)


def parse_flags(
    values: flags.FlagValues, config: flags.FlagHolder[Any], argv: list[str]
) -> list[str]:
    """Parses flags, --config and --config.a.b=value among them; returns the rest.

    Without --config the settings are those of the run in --workdir.

    Args:
      values: the flags, as they are defined.
      config: the flag "config" among them, of `DEFINE_config_file`.
      argv: the program's name and its arguments.

    Raises:
      UserError: of whatever is wrong with a flag or a recipe, in one line.
    """
    typed, settings, asked, nones, has_recipe = argv[:1], argv[:1], set(), {}, False
    for argument in _joined(argv[1:]):
        flag, _, value = argument.lstrip("-").partition("=")
        if flag == "config":
            path, colon, words = value.partition(":")
            recipe = local_path(path, "--config")
            if not recipe.is_file():
                raise UserError(f"--config is {value!r}, which is no file")
            # Recipes import one another, wherever the command is run.
            sys.path.append(str(recipe.resolve().parent.parent))
            argument, has_recipe = f"--config={recipe}{colon}{words}", True
        if flag.startswith("config."):
            name = flag.removeprefix("config.")
            config_lib.check_name(name)
            asked.add(name)
            # ml_collections knows no None: it would look for a number, or a path.
            if value == "None" and SETTINGS[name].optional_type:
                nones[name] = None
                continue
            nones.pop(name, None)
            settings.append(argument)
        typed.append(argument)
    try:
        if has_recipe or not (settings[1:] or nones):
            rest = values(typed)
        else:
            rest = values([each for each in typed if each not in settings[1:]])
            values["config"].value = _of_run(values["workdir"].value, settings)
    except UserError:
        raise
    except AttributeError as error:
        if "get_config" in str(error):
            raise UserError("the recipe has no function get_config") from error
        raise UserError(f"the recipe sets what is no setting: {error}") from error
    except (flags.Error, OSError, ImportError, SyntaxError, ValueError, TypeError) as e:
        # ml_collections puts a recipe's whole traceback into some of its messages.
        lines = str(e).strip().splitlines() or [repr(e)]
        refused = REFUSED.match(lines[0])
        if refused is not None and refused["name"] in SETTINGS:
            raise UserError(
                f"config.{refused['name']} is {refused['value']!r}; allowed is "
                f"{SETTINGS[refused['name']].allowed}"
            ) from e
        raise UserError(" ".join(lines[:1] + lines[1:][-1:])) from e
    except Exception as error:
        # It is the recipe that is run here, whatever is in it.
        raise UserError(f"the recipe fails: {error!r}") from error
    if has_recipe:
        _check_recipe(config.value)
    if config.value is not None:
        if "train.num_epochs" in asked and "train.num_steps" not in asked:
            # Otherwise the steps of the recipe, or of the run, would count.
            nones["train.num_steps"] = None
        config.value.update_from_flattened_dict(nones)
    return rest


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """Yields arguments, `--config X` as `--config=X`."""
    left = iter(arguments)
    for argument in left:
        if argument in ("-config", "--config"):
            argument = f"--config={next(left, '')}"
        yield argument


def _check_recipe(config: Any) -> None:
    """Raises UserError where what a recipe returns has not all settings."""
    try:
        config_lib.flatten(config)
    except (AttributeError, LookupError, TypeError) as error:
        raise UserError(
            "the recipe's get_config returns no config with all settings; it may take "
            "vae_jax.config.default_config() and change what differs"
        ) from error


def _of_run(workdir: Path | None, settings: list[str]) -> Any:
    """Returns the settings of the run in a workdir, with those of flags in them."""
    if workdir is None or not record.exists(workdir):
        told = "missing" if workdir is None else f"{str(workdir)!a}"
        raise UserError(
            f"--config is missing, and --workdir is {told}: there is no run whose "
            "settings could be meant"
        )
    recorded = record.read_config(workdir)
    # It is of a start, not of the run.
    recorded.distributed = "auto"
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_dict("config", recorded, flag_values=values)
    values(settings)
    return config.value


def workdir_of(recipe: str) -> Path:
    """Returns where the run of a recipe goes: configs/vae.py:beta to runs/vae_beta."""
    path, _, words = recipe.partition(":")
    return Path("runs") / "_".join([Path(path).stem, *filter(None, words.split(","))])


def quieten_failed_saves() -> None:
    """Leaves what is told of a save that fails to the one error that it raises.

    Orbax logs a traceback as well, and drops its other writes unawaited.
    """
    logging.getLogger("absl").addFilter(
        lambda record: "_SignalingThread.run() raised" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def keep_compiled_programs() -> None:
    """Has JAX keep what it compiles under the user's cache folder, for the next run.

    Programs are found again by what they compute, the version of jaxlib and the kind
    of processor. A `JAX_COMPILATION_CACHE_DIR` of the user's is left as it is, and
    `JAX_ENABLE_COMPILATION_CACHE=0` is respected.
    """
    # Any, because its settings are attributes that types know nothing of.
    settings: Any = jax.config
    if settings.jax_compilation_cache_dir is not None:
        return
    folder = storage.user_cache("compiled")
    try:
        if folder is None:
            raise FileNotFoundError("there is no home folder")
        folder.mkdir(parents=True, exist_ok=True)
        # The lock that JAX takes, and room: without, it would warn at each program.
        with (
            filelock.FileLock(folder / ".lockfile", timeout=10),
            tempfile.TemporaryFile(dir=folder) as room,
        ):
            room.write(bytes(2**20))
    # Some versions of filelock raise the second where a file system has no locks.
    except (OSError, NotImplementedError) as error:
        print(
            f"vae_jax: compiled programs will not be kept: {error}; "
            "JAX_COMPILATION_CACHE_DIR may name another folder",
            file=sys.stderr,
        )
        return
    # What becomes full meanwhile costs no more than the programs.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation")
    settings.update("jax_compilation_cache_dir", str(folder))
    settings.update("jax_persistent_cache_min_compile_time_secs", 0)
    # With a bound JAX locks the folder as well: runs side by side may share it.
    settings.update("jax_compilation_cache_max_size", COMPILED_BYTES)
