"""What is asked of file systems: whole files, locks, and the user's cache folder."""

import contextlib
import errno
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vae_jax.errors import UserError

# What a file ends with that is not whole yet.
UNFINISHED = ".unfinished"
# A mount of NFS without its lock daemon, FUSE, and what knows no locks at all.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, TimeoutError) and error.errno is None:
            # Orbax has waited for another process.
            raise
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. What was saved before is "
            "whole: when this is mended, give the same command again"
        ) from error


def to_disk(path: Path) -> None:
    """Returns once a file, or the entries of a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that is whole or not there, even after a power cut.

    Raises:
      UserError: the operating system refuses.
    """
    if isinstance(content, str):
        # Names of files may be no text.
        content = content.encode("utf-8", "backslashreplace")
    # Its name is its own, for another command may be writing the same file.
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}{UNFINISHED}")
    with writing(path):
        try:
            unfinished.write_bytes(content)
            to_disk(unfinished)
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file that is whole or not there; raises as `write_whole`."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def user_cache(kind: str) -> Path | None:
    """Returns where this user's files of a kind are kept that can be made again.

    Args:
      kind: "compiled" or "pictures".

    Returns:
      A folder under XDG_CACHE_HOME or ~/.cache, which need not exist; None where the
      user has no home folder.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The specification has a relative one passed over.
        caches = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return caches / "vae_jax" / kind


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keeps other processes, and other threads, from what a file stands for.

    The lock goes with its process, however that ends. So where a file system has no
    locks nothing takes their place: what was left by a process of another machine could
    be told from what is in use by nobody, and a killed run would be locked for ever.

    Args:
      path: path of the file, made where it is absent and left there.
      wait: whether to wait for another that has the lock.

    Yields:
      Whether it is locked: False, with a note, on a file system without locks.

    Raises:
      BlockingIOError: another has the lock, and `wait` is False; or had it, and took
        the file away.
      OSError: the file cannot be opened for writing, or not be locked.
    """
    # For writing, because NFS locks no other.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        held = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            held = False
            print(
                f"note: {path.parent} has no locks ({error.strerror}), so nothing "
                "keeps a second process out: start none there meanwhile"
            )
        if held and not _is_open(path, descriptor):
            raise BlockingIOError(errno.EAGAIN, "the file was taken away", str(path))
        yield held
    finally:
        os.close(descriptor)


def _is_open(path: Path, descriptor: int) -> bool:
    """Says whether a descriptor is of the file that is at a path now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
