"""What stands below the pictures of a run: the command that makes them anew."""

import os
import shlex
from typing import Any

from vae_jax.local_paths import ALLOWED
from vae_jax.report.drawing import FORMATS
from vae_jax.run import Run
from vae_jax.settings import SETTINGS

PROGRAM = "vae_jax.main"


def command(run: Run, mode: str, **given: Any) -> str:
    """Returns the command that makes a picture of a run anew.

    Args:
      run: the run whose picture it is.
      mode: the mode that makes it.
      **given: flags; those that are None have their defaults. Which checkpoint the run
        was opened at, where its dial is and the format of its pictures it says itself.
    """
    flags = {"mode": mode, "workdir": run.workdir} | given
    if run.checkpoint != "latest":
        flags["checkpoint"] = run.checkpoint
    if run.realism:
        flags["realism"] = f"{run.realism:g}"
    if run.picture_format != FORMATS[0]:
        flags["format"] = run.picture_format
    told = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in flags.items()
        if value is not None
    ]
    return shlex.join(["python", "-m", PROGRAM, *told])


def without_paths(written: str) -> str | None:
    """Returns a command for others to read: nothing of it is of this machine.

    Flags whose value is a path or an address are left out, but for a recipe of
    configs/.

    Args:
      written: the command as it was given, say in run.json.

    Returns:
      None for what is no command of this program, such as that of a notebook.
    """
    _, module, given = written.partition(f" -m {PROGRAM} ")
    if not module:
        return None
    told: list[str] = []
    for word in shlex.split(given):
        if not word.startswith("-") and told and "=" not in told[-1]:
            # The value of a flag that stands apart from it.
            told[-1] += f"={word}"
        else:
            told.append(word)
    kept = [flag for flag in told if not _is_of_machine(flag)]
    return shlex.join(["python", "-m", PROGRAM, *kept])


def _is_of_machine(flag: str) -> bool:
    name, _, value = flag.lstrip("-").partition("=")
    if name == "config":
        return not value.startswith("configs/") or ".." in value
    setting = SETTINGS.get(name.removeprefix("config."))
    is_path = setting is not None and setting.allowed.startswith(ALLOWED)
    return (
        is_path
        or name in ("workdir", "config.distributed")
        or os.sep in value
        or value.startswith("~")
    )
