"""What is asked of file systems: the user's cache folder, and locks."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

# A mount of NFS without its lock daemon, FUSE, and what knows no locks at all.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


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
      path: of the file, made where it is absent and left there.
      wait: for another that has the lock.

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
