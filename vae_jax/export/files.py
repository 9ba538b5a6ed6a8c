"""The files of an exported model: their names, and how they are read with care."""

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vae_jax.errors import UserError

CONFIG, WEIGHTS, CODES = "config.json", "model.safetensors", "codes.safetensors"
# Bytes of config.json, or of what a file has beside its arrays: their names and places,
# of a few hundred bytes each.
LARGEST_HEADER = 1_000_000


def safetensors() -> ModuleType:
    """Returns the library of the files, or raises UserError where it is absent."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            'safetensors is not installed: pip install -e ".[export]"'
        ) from error
    return safetensors.numpy


def num_bytes(path: Path) -> int:
    """Returns the size of a file; a pipe, or a device, would never come to its end.

    Raises:
      UserError: it is no file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError("it is a folder, or something else that is no file")
    return status.st_size


def read(path: Path, largest: int, sums: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a file, which may have so many bytes and a header.

    Args:
      path: path of the file.
      largest: bytes of its arrays.
      sums: SHA-256 of the bytes of files, by name; a file without one is not checked.

    Raises:
      UserError: the file cannot be read, or is not the one that was exported.
    """
    load: Callable[..., dict[str, np.ndarray]] = safetensors().load
    try:
        size = num_bytes(path)
        if size > largest + LARGEST_HEADER:
            raise UserError(f"it has {size:,} bytes; expected are {largest:,}")
        data = path.read_bytes()
        if sums.get(path.name, found := hashlib.sha256(data).hexdigest()) != found:
            raise UserError(
                f"it is not the file that was exported: {CONFIG} has another sha256"
            )
        return load(data)
    # The library has an error of its own for each fault, and no other code runs here.
    except Exception as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def check(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises UserError where an array is missing or another than expected."""
    for name, wanted in expected.items():
        if name not in found:
            raise UserError(f"{path} has no array {name}")
        got = found[name]
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            raise UserError(
                f"{path} has {name} as {got.dtype}{list(got.shape)}; the model has "
                f"{wanted.dtype}{list(wanted.shape)}"
            )
