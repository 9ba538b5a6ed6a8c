"""The one exception that means: the user can mend this."""

import os
from collections.abc import Sequence


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
