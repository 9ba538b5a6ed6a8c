"""The parts of eval.json, as tables and pages take them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

# Errors that reading it ends in where it is damaged, or of an earlier program.
DAMAGED = (
    OSError,
    RecursionError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)

Figures = dict[str, Any]


class Judged(NamedTuple):
    """What a judge said of a run.

    Attributes:
      name: the judge's workdir.
      is_guide: whether the run was trained with it, so that its figures flatter.
      by_images: figures by the set of images that they are of.
    """

    name: str
    is_guide: bool
    by_images: dict[str, Figures]


def scalars(figures: Mapping[str, Any]) -> Figures:
    """Returns the metrics among figures: numbers that are of images, and no counts."""
    return {
        name: value
        for name, value in figures.items()
        if isinstance(value, int | float) and name not in ("num_images", "step")
    }


def sets_of(block: Figures) -> dict[str, Figures]:
    """Returns the figures of each set of images in a block such as `sharpness`."""
    return {name: found for name, found in block.items() if isinstance(found, dict)}


def with_bands(found: Figures) -> Figures:
    """Returns the figures of a set in `sharpness` with its bands among the others."""
    bands = {f"amplitude, {name}": value for name, value in found["bands"].items()}
    return {"sharpness": found["sharpness"]} | bands | found


def judges_of(report: Figures) -> list[Judged]:
    """Returns what each judge said, in the order of eval.json."""
    first = [report["judge"]] if "judge" in report else []
    return [
        Judged(judged["workdir"], judged.get("is_guide", False), sets_of(judged))
        for judged in [*first, *report.get("other_judges", [])]
    ]
