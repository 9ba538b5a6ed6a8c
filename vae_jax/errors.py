"""The one exception that means: the user can mend this."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

# What storage says that is full, closed to the user, failing or without locks. The
# others, a file that is not there above all, are as likely a defect of the program.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FAILING = {errno.EIO, errno.EROFS, errno.ENOLCK, errno.ESTALE, errno.ENODEV}
# Not of a file alone: only where one is named.
_CLOSED = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


class UserError(Exception):
    """A setting, flag or file that the user has to change.

    The message says what was given, where, and what is allowed. The command
    lines print it alone, without a traceback; everything else that is raised is
    a defect of the program.
    """


def shown(name: str | os.PathLike[str]) -> str:
    """Returns a file's name for a line of text: escaped where it does not print."""
    text = os.fspath(name)
    return text if text.isprintable() else ascii(text)


def few(names: Sequence[str]) -> str:
    """Returns the first three of some names, for a line of text."""
    return ", ".join(map(shown, names[:3])) + (", ..." if len(names) > 3 else "")


def is_of_storage(error: OSError) -> bool:
    """Says whether storage refuses, rather than something else of the system."""
    if error.filename is not None and error.errno in _CLOSED:
        return True
    return error.errno in _FULL | _FAILING


@contextlib.contextmanager
def naming_files() -> Iterator[None]:
    """Turns what storage refuses, wherever that is, into a UserError.

    The last net of the command lines, for what nobody nearer to it has named.
    """
    try:
        yield
    except OSError as error:
        if not is_of_storage(error):
            raise
        names = [n for n in (error.filename, error.filename2) if n is not None]
        # What looks like another name on the screen shows as what it is.
        files = " -> ".join(map(ascii, names)) or "a file"
        raise UserError(f"cannot read or write {files}: {error.strerror}") from error
