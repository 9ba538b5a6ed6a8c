"""run.json: what a run is, and whether a config may go on with it.

What it says of the pictures is all that a run needs of them to be opened.
"""

import importlib.metadata
import json
import math
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from vae_jax import config as config_lib
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.settings import SETTINGS
from vae_jax.storage import write_json, writing

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "grain",
    "numpy",
    "pillow",
    "simplejpeg",
)


def _git_commit() -> str | None:
    """Returns the commit of the checkout, "+" behind it where files differ from it."""

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def exists(workdir: Path) -> bool:
    """Says whether a workdir holds a run.

    Raises:
      UserError: it holds checkpoints of a run, but nothing that says of which.
    """
    if (workdir / "run.json").exists():
        return True
    if has_checkpoint(workdir):
        raise UserError(
            f"{workdir} has checkpoints but no run.json, which says what they are of: "
            "put it back from a copy, or choose another workdir"
        )
    return False


def has_checkpoint(workdir: Path) -> bool:
    """Says whether a run saved its state there, be it whole or damaged."""
    return any(path.name.isdecimal() for path in workdir.glob("checkpoints/*"))


def forget(workdir: Path) -> None:
    """Removes what was found of a former training, as another begins in its place."""
    if not (workdir / "metrics.jsonl").exists():
        return
    for name in ("codes.npz", "directions.npz", "attributes.json", "eval.json"):
        with writing(workdir / name):
            (workdir / name).unlink(missing_ok=True)


def read(workdir: Path) -> dict[str, Any]:
    """Returns what `write` wrote.

    Raises:
      UserError: there is no run, or its run.json is damaged.
    """
    path = workdir / "run.json"
    if not exists(workdir):
        raise UserError(f"{workdir} holds no run: it has no run.json")
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _read(workdir: Path, part: str) -> dict[str, Any]:
    content = read(workdir)
    try:
        return content[part]
    except (KeyError, TypeError) as error:
        raise UserError(f"{workdir / 'run.json'} cannot be read: {error}") from error


def read_recipe(workdir: Path) -> dict[str, Any]:
    """Returns the recipe of a run's pictures, see `cache.Dataset`.

    Raises:
      UserError: as `read_config` does.
    """
    recipe = _read(workdir, "dataset")
    lacking = lacks(recipe)
    if lacking:
        raise UserError(
            f"{workdir / 'run.json'} cannot be read: its dataset lacks "
            f"{', '.join(lacking)}"
        )
    return recipe


def lacks(recipe: Any) -> list[str]:
    """Returns what is missing from a recipe of pictures that was read from a file."""
    needed = {"name", "crop", "resampler", "size", "channels", "fingerprint"}
    if not isinstance(recipe, dict):
        return ["all"]
    has_pictures = isinstance(recipe.get("pictures"), dict)
    return sorted(needed - recipe.keys()) or ([] if has_pictures else ["pictures"])


def read_config(workdir: Path) -> Config:
    """Returns the resolved config of the run in a workdir.

    Raises:
      UserError: there is no run, or its run.json is not one of this program's.
    """
    config = config_lib.default_config()
    try:
        recorded = _read(workdir, "config")
        config.update(build.unsaid_in_format_1(recorded))
        _check_known(workdir, recorded)
        config.update(recorded)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{workdir / 'run.json'} cannot be read: {error}") from error
    try:
        config_lib.check_ranges(config)
    except UserError as error:
        raise UserError(f"{workdir / 'run.json'} cannot be read: {error}") from error
    return config


def _check_known(workdir: Path, recorded: dict[str, Any]) -> None:
    """Raises UserError where a config has settings or options that are not here."""
    sections = [("", recorded)]
    sections += [(f"{n}.", own) for n, own in recorded.items() if isinstance(own, dict)]
    for section, own in sections:
        for last, value in own.items():
            setting = SETTINGS.get(f"{section}{last}")
            if setting is None:
                is_known = isinstance(value, dict)
            else:
                # What is no name is damage, which is told as such.
                is_name = setting.options is not None and isinstance(value, str)
                is_known = not is_name or setting.accepts(value)
            if not is_known:
                raise UserError(
                    f"{workdir / 'run.json'} cannot be read: config.{section}{last} is "
                    f"{value!r}, which this program does not know. The run is of a "
                    "newer one, or has an option of your own, which is to be added to "
                    "its table first (docs/extending.md)"
                )


def check_config(workdir: Path, recorded: Config, given: Config) -> None:
    """Raises UserError where `given` differs in what a run may not change."""
    different = config_lib.resumed_differences(recorded, given)
    if different:
        raise UserError(
            f"{workdir} holds a run of another config; choose another workdir, "
            "or config.init_from to start from its weights:\n  "
            + "\n  ".join(different)
        )


def other_pictures(workdir: Path, recipe: dict[str, Any]) -> str | None:
    """Returns how a run's pictures differ from those of `recipe`, or None."""
    then, now = (
        f"{data['pictures']} (fingerprint {data['fingerprint']})"
        for data in (read_recipe(workdir), recipe)
    )
    if then == now:
        return None
    return (
        f"the run in {workdir} was trained on other pictures of {recipe['name']}: "
        f"then {then}, now {now}"
    )


def check_extent(workdir: Path, num_steps: int, recipe: dict[str, Any]) -> None:
    """Raises UserError for fewer steps than before, or other pictures."""
    steps = read_config(workdir).train.num_steps
    if num_steps < steps:
        raise UserError(
            f"config.train.num_steps is {num_steps}; the run in {workdir} has {steps}, "
            "and only more can be asked of it"
        )
    other = other_pictures(workdir, recipe)
    if other:
        raise UserError(other)


def write(workdir: Path, config: Config, recipe: dict[str, Any], params: Any) -> None:
    """Writes run.json.

    Args:
      workdir: a folder that exists.
      config: the resolved settings.
      recipe: recipe of the data set's pictures, as `read_recipe` will return it.
      params: the parameters, or their shapes, to count.
    """
    content = {
        "config": config.to_dict(),
        "dataset": recipe,
        "num_parameters": sum(math.prod(a.shape) for a in jax.tree.leaves(params)),
        "seed": config.seed,
        "command": shlex.join(sys.orig_argv),
        "devices": [str(d.device_kind) for d in jax.devices()],
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }
    write_json(workdir / "run.json", content)
