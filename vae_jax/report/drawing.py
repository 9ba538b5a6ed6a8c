"""What matplotlib draws, and the files that it and grids of images become."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.report.writer import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The first is the usual one; in the others words are words, for papers.
FORMATS = ("png", "pdf", "svg")
# Words are written as such, and equal figures are equal files.
_SETTINGS: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "vae_jax"}
_NO_DATES = {
    ".png": None,
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
}


def new(width: int | float, height: int | float, **settings: Any) -> "Figure":
    """Returns an empty figure of so many inches."""
    # Here, because it takes half as long to import as JAX.
    with writing(Path("matplotlib's cache")):
        from matplotlib.figure import Figure

    return Figure(figsize=(width, height), **settings)


def save(figure: "Figure", path: Path, dots: int = 110) -> None:
    """Writes a figure as the suffix of its file says, see `FORMATS`.

    Args:
      figure: that is written.
      path: of the file.
      dots: an inch, of what is no word and no line.

    Raises:
      UserError: the operating system refuses.
    """
    import matplotlib

    with writing(path), matplotlib.rc_context(_SETTINGS):
        figure.savefig(path, dpi=dots, metadata=_NO_DATES[path.suffix])
