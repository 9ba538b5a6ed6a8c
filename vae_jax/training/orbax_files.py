"""A state as Orbax's files, at any path and read again at once."""

import contextlib
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from vae_jax import processes, trees
from vae_jax.errors import UserError
from vae_jax.storage import writing
from vae_jax.training.step import TrainState

# Orbax 0.12 looks for what it has written by a pattern that begins with the path, and
# tensorstore 0.1 takes a backslash for a separator: both write, and find nothing again.
_MISREAD = frozenset("*?[]\\")
_ORBAX = threading.Lock()


def _orbax() -> Any:
    # Here, because it takes long to import, and a first update can do without.
    from orbax.checkpoint import v1

    return v1


def leaves_of(path: Path) -> Any:
    """Returns what a state at a `reachable` path holds: shapes and types by name."""
    return _orbax().metadata(str(path)).metadata


def load(path: Path, like: Any) -> Any:
    """Returns the state at a `reachable` path, in the shapes and places of `like`."""
    return _orbax().load(str(path), like)


def _shapes(tree: Any) -> dict[str, str]:
    return {
        name: f"{leaf.dtype}{list(leaf.shape)}"
        for name, leaf in trees.by_name(tree).items()
    }


def differences(expected: Any, found: Any) -> list[str]:
    """Returns the leaves in which two trees of arrays differ, as lines for a user."""
    want, have = _shapes(expected), _shapes(found)
    return [
        f"{name}: {have.get(name, 'absent')} there, {want.get(name, 'absent')} expected"
        for name in sorted(want.keys() | have.keys())
        if want.get(name) != have.get(name)
    ]


@contextlib.contextmanager
def reachable(folder: Path) -> Iterator[Path]:
    """Yields a path of a folder by which Orbax finds it, absolute.

    A collective call: every process must make it.

    One thread at a time: a load of another thread, which has Orbax count its
    operations on, was seen to have a save write before its folder was made.
    """
    # Orbax takes no relative path.
    folder = folder.absolute()
    if not _MISREAD & set(str(folder)):
        with _ORBAX:
            yield folder
        return
    name = processes.on_first(lambda: f"vae_jax-{secrets.token_hex(8)}")
    link = Path(tempfile.gettempdir(), name)
    if _MISREAD & set(str(link)):
        raise UserError(
            f"TMPDIR is {tempfile.gettempdir()!a}, from where a link leads Orbax to "
            f"{str(folder)!a}: allowed is a folder without {' '.join(sorted(_MISREAD))}"
        )
    # Another process of this machine may have been faster.
    with writing(link), contextlib.suppress(FileExistsError):
        link.symlink_to(folder, target_is_directory=True)
    try:
        with _ORBAX:
            yield link
    finally:
        processes.wait_for_all()
        link.unlink(missing_ok=True)


def save(folder: Path, state: TrainState) -> None:
    """Saves a state by Orbax, and opens what it has written.

    Args:
      folder: gets the folder "orbax".
      state: the state that is saved.

    Raises:
      OSError: the operating system refuses.
      UserError: a reader would not find what was written.
    """
    with reachable(folder) as place:
        _write_by_orbax(place / "orbax", state)
        # The first process is done last: it puts together what each has written.
        different = processes.on_first(lambda: _unread(place / "orbax", state))
    if different:
        raise UserError(
            f"{folder} was written, but cannot be read again: training on would be in "
            "vain. What was saved before is whole; another workdir, of letters and "
            "digits, may help:\n  " + "\n  ".join(different)
        )


def _unread(path: Path, state: TrainState) -> list[str]:
    """Returns what a reader of a new checkpoint misses, as lines for a user."""
    if not (path / "state" / "manifest.ocdbt").exists():
        # Beforehand, for Orbax would tell of it at length.
        return ["state/manifest.ocdbt is absent"]
    try:
        if jax.process_count() > 1:
            # To load it, devices would need room for two states.
            return differences(state, leaves_of(path))
        # Not the metadata alone: to read those leaks 7 kB an array.
        return differences(state, load(path, state))
    except Exception as error:
        # Orbax and tensorstore raise what comes.
        return (str(error) or repr(error)).splitlines()[:1]


def _write_by_orbax(path: Path, state: TrainState) -> None:
    try:
        _orbax().save(str(path), state)
    # tensorstore raises ValueError for most, and NotImplementedError for others.
    except Exception as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
