"""manifest.json: what a checkpoint's files must be, and the mark that it is whole.

    {"format": 1, "step": 3000, "loss": -1890.2, "files": {name: {"size", "sha256"}},
     "sha256": of all that stands above it}

Orbax restores most files with a flipped bit silently, with other numbers.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vae_jax.errors import UserError
from vae_jax.storage import to_disk, write_whole

# Version of the layout of a checkpoint. Whatever comes later keeps `format` and
# `sha256`, so that this program can tell a newer checkpoint from a damaged one.
FORMAT = 2
NAME = "manifest.json"


class Damaged(Exception):
    """A checkpoint is not what was saved; the message says what is wrong with it."""


def _text(content: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def write(folder: Path, *, step: int, loss: float | None) -> None:
    """Writes the manifest of all files in a folder, once they are on the disk.

    Args:
      folder: folder of a checkpoint to which nothing will be added.
      step: step of its state.
      loss: loss that ranks it; None where it was not evaluated.
    """
    paths = sorted(folder.rglob("*"))
    for path in paths:
        to_disk(path)
    files = {
        path.relative_to(folder).as_posix(): _describe(path)
        for path in paths
        if path.is_file()
    }
    content = {"format": FORMAT, "step": step, "loss": loss, "files": files}
    write_whole(folder / NAME, _text(content))
    to_disk(folder)


def rename(folder: Path, name: str) -> None:
    """Renames a folder beside itself, for good."""
    folder.rename(folder.with_name(name))
    to_disk(folder.parent)


def read(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint; the files are not looked at.

    Raises:
      Damaged: it is missing, or not as it was written.
      UserError: it is of a newer program.
    """
    path = folder / NAME
    try:
        text = path.read_text()
        content = json.loads(text)
        digest = content.pop("sha256")
        found = content["format"]
    except FileNotFoundError as error:
        raise Damaged(f"{NAME} is missing") from error
    except OSError as error:
        raise Damaged(f"{NAME} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{NAME} is damaged") from error
    if digest != hashlib.sha256(json.dumps(content).encode()).hexdigest():
        raise Damaged(f"{NAME} is damaged")
    if found > FORMAT:
        raise UserError(
            f"{folder} is of format {found}; this vae_jax knows {FORMAT}: update it to "
            "open this run"
        )
    if text != _text(content):
        raise Damaged(f"{NAME} is damaged")
    if str(content["step"]) != folder.name:
        raise Damaged(f"it holds step {content['step']}")
    return content


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises Damaged where a file is not what the manifest says.

    A file that the manifest does not name is let be: nothing reads it, and a file
    manager's own must not cost a checkpoint.
    """
    for name, expected in manifest["files"].items():
        try:
            found = _describe(folder / name)
        except FileNotFoundError as error:
            raise Damaged(f"{name} is missing") from error
        except OSError as error:
            raise Damaged(f"{name} cannot be read: {error.strerror}") from error
        if found["size"] != expected["size"]:
            raise Damaged(
                f"{name} has {found['size']} bytes, not {expected['size']} as saved"
            )
        if found["sha256"] != expected["sha256"]:
            raise Damaged(f"{name} has other bytes than were saved")
