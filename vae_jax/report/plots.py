"""What moves and what is measured: animations of images, and curves of metrics.

Where the operating system refuses to write one, that is a UserError.
"""

import math
import textwrap
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vae_jax.report import drawing
from vae_jax.report.grids import to_levels, to_picture
from vae_jax.report.words import meaning
from vae_jax.storage import writing

# Parts of a log that are no metrics; and skipped updates, which are 0 as a rule.
COUNTED = ("step", "epoch", "split", "size", "skipped")
# Words for a split, by its name in metrics.jsonl.
SPLITS = {"train": "training", "validation": "validation (EMA)"}
LONGEST_ROW = 4
# Wide letters of 9 points, as captions have.
LETTERS_PER_INCH = 13


def animation(
    frames: Float[np.ndarray, "N H W C"],
    path: Path,
    seconds_per_frame: float = 0.1,
    scale: int = 2,
) -> None:
    """Writes images in [0, 1] as an animated GIF that begins anew at its end.

    Gray images keep their levels; those in RGB get 256 colours each, GIF's most. Equal
    neighbours become one frame that stays for as long as both.

    Args:
      frames: gray or RGB; values outside [0, 1] are clipped.
      path: path of the GIF file.
      seconds_per_frame: GIF counts in hundredths.
      scale: whole factor of enlargement, without smoothing.
    """
    levels = to_levels(frames).repeat(scale, axis=1).repeat(scale, axis=2)
    first, *others = map(to_picture, levels)
    with writing(path):
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=round(1000 * seconds_per_frame),
            loop=0,
        )


def logged_metrics(lines: list[dict[str, Any]]) -> list[str]:
    """Returns the names of the metrics in metrics.jsonl.

    Metrics that both splits have come first: they are what most want to see.
    """
    names = [n for n in dict.fromkeys(chain(*lines)) if n not in COUNTED]
    held_out = {*chain(*(line for line in lines if line["split"] == "validation"))}
    return sorted(names, key=lambda name: name not in held_out)


def curves(
    lines: list[dict[str, Any]], name: str
) -> dict[tuple[str, int | None], list[tuple[int, int | float]]]:
    """Returns the steps and values of a metric, where those are finite.

    The curves are by split, and by the size of images where these grow: sums and means
    over the pixels of another size do not compare.
    """
    found: dict[tuple[str, int | None], list[tuple[int, int | float]]] = {}
    for line in lines:
        if math.isfinite(line.get(name, math.nan)):
            curve = found.setdefault((line["split"], line.get("size")), [])
            curve.append((line["step"], line[name]))
    return dict(sorted(found.items(), key=lambda item: [*SPLITS].index(item[0][0])))


def legend(split: str, size: int | None) -> str:
    """Returns what a curve is called in a legend."""
    return SPLITS[split] if size is None else f"{SPLITS[split]}, {size} pixels"


def limits(lines: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Returns the least and the largest value of a metric that a plot is to show.

    The first steps would squeeze all that follows into a line.
    """
    values = [line.get(name, math.nan) for line in lines]
    values = [value for value in values if math.isfinite(value)]
    values = values[len(values) // 10 :]
    low, high = min(values, default=0.0), max(values, default=0.0)
    pad = 0.05 * (high - low) or max(1e-9, 1e-6 * abs(high))
    return low - pad, high + pad


def loss_curves(
    lines: list[dict[str, Any]], path: Path, caption: Sequence[str] = ()
) -> None:
    """Draws each metric of metrics.jsonl against the step, one panel a metric.

    A line without a metric, or with one that is not finite, is passed over.

    Args:
      lines: lines of metrics.jsonl.
      path: path of the file; in a .pdf or .svg words stay words.
      caption: lines below the panels; what is too long for one goes on in the next.
    """
    names = logged_metrics(lines)
    # As many in each row as may be, and no more rows than it takes.
    rows = max(1, math.ceil(len(names) / LONGEST_ROW))
    columns = math.ceil(len(names) / rows) if names else 1
    figure = drawing.new_figure(
        max(6, 3 * columns), 2.7 * rows + 0.7, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        drawn = curves(lines, name)
        sizes = [*dict.fromkeys(line.get("size") for line in lines)]
        for size in sizes:
            for split, style in (("train", "-"), ("validation", "o-")):
                points = drawn.get((split, size), [])
                steps, values = zip(*points, strict=True) if points else ((), ())
                axis.plot(steps, values, style, markersize=4, label=legend(split, size))
        axis.set_ylim(*limits(lines, name))
        axis.set_title(name, fontsize=11)
        axis.set_ylabel(meaning(name).label, fontsize=8)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9)
    if caption:
        width = int(LETTERS_PER_INCH * figure.get_figwidth())
        below = [
            line
            for paragraph in map(drawing.drawable, caption)
            for line in textwrap.wrap(paragraph, width, break_on_hyphens=False)
        ]
        figure.supxlabel(
            "\n".join(below), fontsize=9, x=0.01, ha="left", parse_math=False
        )
    drawing.save(figure, path, 100)
