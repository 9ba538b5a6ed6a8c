"""Paths that a user gives, as flags or as settings."""

import os
import re
from pathlib import Path

from vae_jax.errors import UserError

# A Path of an address has one slash left.
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://|(gs|s3|hdfs|dbfs|https?|file):/")


def local_path(value: str | os.PathLike[str], name: str) -> Path:
    """Returns a path on this machine, `~` in it expanded.

    Args:
      value: what was given.
      name: of the flag, setting or argument, for errors.

    Raises:
      UserError: it is an address such as gs://bucket/run, empty, or no path.
    """
    text = os.fspath(value)
    try:
        if text and "\0" not in text and not _ADDRESS.match(text):
            return Path(text).expanduser()
    except RuntimeError:
        pass  # Of nobody's home.
    raise UserError(f"{name} is {text!r}; allowed is a path on this machine")
