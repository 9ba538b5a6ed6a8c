"""Figures by matplotlib, and the files that pictures with words are written to."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.storage import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The first is the usual one; in the others words are words, for papers.
FORMATS = ("png", "pdf", "svg")
VECTOR = (".pdf", ".svg")
# Words are written as such, equal figures are equal files, and nothing of a user's own
# settings cuts a page or has its words set by LaTeX.
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vae_jax",
    "pdf.fonttype": 42,
    "savefig.bbox": None,
    "text.usetex": False,
}
_NO_DATES = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
# Matplotlib's settings are the process's.
_ONE_AT_A_TIME = threading.Lock()


def new_figure(width: int | float, height: int | float, **settings: Any) -> "Figure":
    """Returns an empty figure of so many inches.

    Raises:
      UserError: the operating system refuses what matplotlib keeps for itself.
    """
    # Here, because it takes half as long to import as JAX.
    import matplotlib

    with writing(Path(matplotlib.get_cachedir())):
        from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **settings)


def save(figure: "Figure", path: Path, dots: int = 110) -> None:
    """Writes a figure as the suffix of its file says.

    Args:
      figure: the figure that is written.
      path: path of the file.
      dots: an inch, of what is no word and no line.

    Raises:
      UserError: the operating system refuses.
    """
    import matplotlib

    with writing(path):
        if path.suffix not in VECTOR:
            figure.savefig(path, dpi=dots)
            return
        with _ONE_AT_A_TIME, matplotlib.rc_context(_SETTINGS):
            figure.savefig(path, dpi=dots, metadata=_NO_DATES[path.suffix])


def drawable(text: str) -> str:
    r"""Returns text with what is no sign in it written out, such as \x1b."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode()
        for sign in whole
    )
