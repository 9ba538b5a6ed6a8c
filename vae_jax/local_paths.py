"""Paths that a user gives, as flags or as settings."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from vae_jax.errors import UserError

ALLOWED = "a path on this machine"
# A Path of an address has one slash left.
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://|(gs|s3|hdfs|dbfs|https?|file):/")


def local_path(value: str | os.PathLike[str], name: str) -> Path:
    """Returns a path on this machine, `~` in it expanded.

    Args:
      value: the path as it was given.
      name: name of the flag, setting or argument, for errors.

    Raises:
      UserError: it is an address such as gs://bucket/run, empty, or no path.
    """
    text = os.fspath(value)
    if not is_local(text):
        raise UserError(f"{name} is {text!r}; allowed is {ALLOWED}")
    return Path(text).expanduser()


def is_local(text: str) -> bool:
    """Says whether a text is a path on this machine, and no address."""
    if not text or "\0" in text or _ADDRESS.match(text):
        return False
    try:
        Path(text).expanduser()
    except RuntimeError:
        # It is the home of nobody.
        return False
    return True


def split_paths(
    text: str, name: str, is_there: Callable[[str], bool] = os.path.isfile
) -> list[Path]:
    """Returns the paths of a list with commas between.

    A comma belongs to a name where a file of that name is there, so that nothing need
    be quoted.

    Args:
      text: the list.
      name: name of the flag, for errors.
      is_there: says whether a path is what is listed; of folders os.path.isdir.

    Raises:
      UserError: as `local_path` does.
    """
    parts, paths = text.split(","), []
    while parts:
        joined = (",".join(parts[:count]) for count in range(1, len(parts) + 1))
        there = (text for text in joined if is_there(os.path.expanduser(text)))
        text = next(there, parts[0])
        paths.append(local_path(text, name))
        parts = parts[text.count(",") + 1 :]
    return paths
