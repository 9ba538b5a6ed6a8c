"""Pages that stand alone: one HTML file with its pictures, curves and script inside.

A few lines of script show the values of curves and move sliders: a library for plots
would be most of the file.
"""

import base64
import functools
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float

from vae_jax.report import charts
from vae_jax.report.evaluations import scalars
from vae_jax.report.grids import arranged, heat, tiled, to_levels, to_picture
from vae_jax.report.words import figure, meaning

# Images of more pixels a side are JPEGs: PNGs of a page of them take too much.
LARGEST_LOSSLESS = 64
# Frames of a film are shrunk to so many pixels a side, as there are many.
LARGEST_FRAME = 128
QUALITY, FRAME_QUALITY = 92, 85
# The side of an image, in pixels of the page.
SHOWN = 128


@dataclass(frozen=True)
class Picture:
    """An image inside of a page.

    Attributes:
      source: a data URI.
      alt: description for readers who do not see it.
      width: width in pixels of the page; on a narrow screen it is less.
      height: height in the same pixels.
    """

    source: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Film:
    """Frames that a slider moves through.

    Attributes:
      picture: the frames beside one another.
      heading: heading of the film.
      frames: number of frames.
      width: width of a frame, in pixels of the page.
      height: height of a frame, in pixels of the page.
    """

    picture: Picture
    heading: str
    frames: int
    width: int
    height: int


@dataclass(frozen=True)
class Films:
    """Films that one slider moves through together.

    Attributes:
      label: label of the slider.
      values: text of the slider at each frame.
      films: their frames are as many as `values`.
    """

    label: str
    values: list[str]
    films: list[Film]

    @property
    def middle(self) -> int:
        """The frame that is seen first."""
        return len(self.values) // 2


@dataclass(frozen=True)
class Table:
    """Figures of several columns.

    Attributes:
      title: title of the table.
      words: description of the table, a sentence or none.
      columns: their headings.
      rows: a name, a unit and what it means, and for each column a figure and its
        standard error, or None where there is none.
    """

    title: str
    words: str
    columns: list[str]
    rows: list[tuple[str, str, str, list[tuple[int | float, float | None] | None]]]

    @property
    def explained(self) -> bool:
        """Whether there is a unit or a meaning to tell."""
        return any(unit or words for _, unit, words, _ in self.rows)


def picture(
    image: Float[np.ndarray, "H W C"],
    alt: str,
    *,
    lossless: bool,
    enlarged: float = 1.0,
    quality: int = QUALITY,
) -> Picture:
    """Returns an image in [0, 1] as a part of a page.

    Args:
      image: gray or RGB.
      alt: description for readers who do not see it.
      lossless: whether it is a PNG, or a JPEG.
      enlarged: pixels of the page that a pixel takes, at most.
      quality: quality of the JPEG.
    """
    shown, file = to_picture(to_levels(image)), io.BytesIO()
    kind = "png" if lossless else "jpeg"
    how = {"optimize": True} if lossless else {"quality": quality, "subsampling": 0}
    shown.save(file, kind, **how)
    encoded = base64.b64encode(file.getvalue()).decode()
    width, height = round(enlarged * shown.width), round(enlarged * shown.height)
    return Picture(f"data:image/{kind};base64,{encoded}", alt, width, height)


def _enlarged(size: int, shown: int) -> float:
    """Returns how many pixels of the page a pixel of an image takes, for `shown`."""
    return float(shown // size) if size < shown else shown / size


def strip(images: Float[np.ndarray, "N H W C"], alt: str) -> Picture:
    """Returns images beside one another, as one picture."""
    size = images.shape[1]
    lossless = size <= LARGEST_LOSSLESS
    joined = np.concatenate([*images], axis=1)
    return picture(joined, alt, lossless=lossless, enlarged=_enlarged(size, SHOWN))


def sheet(
    images: Float[np.ndarray, "N H W C"], alt: str, columns: int = 6, shown: int = SHOWN
) -> Picture:
    """Returns images in rows, as one picture.

    Args:
      images: gray or RGB, in [0, 1].
      alt: description for readers who do not see it.
      columns: columns of the sheet.
      shown: pixels of the page that the side of an image takes.
    """
    size = images.shape[1]
    whole = tiled(arranged(images, min(len(images), columns)))
    lossless, enlarged = size <= LARGEST_LOSSLESS, _enlarged(size, shown)
    return picture(whole, alt, lossless=lossless, enlarged=enlarged)


def film(frames: Float[np.ndarray, "F N H W C"], heading: str, alt: str) -> Film:
    """Returns frames of N images beside one another each."""
    shrunk = max(1, math.ceil(frames.shape[2] / LARGEST_FRAME))
    if shrunk > 1:
        edge = frames.shape[2] // shrunk * shrunk
        parts = frames[:, :, :edge, :edge].reshape(
            *frames.shape[:2], edge // shrunk, shrunk, edge // shrunk, shrunk, -1
        )
        frames = parts.mean(axis=(3, 5))
    joined = np.concatenate([*frames.swapaxes(0, 1)], axis=2)
    number, height, width = joined.shape[:3]
    whole = picture(
        np.concatenate([*joined], axis=1), alt, lossless=False, quality=FRAME_QUALITY
    )
    times = _enlarged(height, SHOWN)
    return Film(whole, heading, number, round(times * width), round(times * height))


def colour_bar() -> Picture:
    """Returns the colours of `grids.heat`, the lowest on the left."""
    ramp = np.linspace(0, 1, 160)[None, :, None].repeat(12, axis=0)
    return picture(heat(ramp, 1.0), "Colours from black, 0, to yellow", lossless=True)


def table(
    title: str, columns: Mapping[str, Mapping[str, Any]], words: str = ""
) -> Table:
    """Returns the scalars of figures, a column for each, with their standard errors.

    Args:
      title: title of the table.
      columns: figures by heading, in blocks as eval.json has them.
      words: description of the table, a sentence or none.
    """
    names = dict.fromkeys(n for each in columns.values() for n in scalars(each))
    rows = []
    for name in names:
        known, values = meaning(name), []
        for figures in columns.values():
            value = figures.get(name)
            error = figures.get("standard_errors", {}).get(name)
            values.append(None if value is None else (value, error))
        better = f" {known.better.capitalize()} is better." if known.better else ""
        rows.append((name, known.unit, known.words + better, values))
    return Table(title, words, [*columns], rows)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vae_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = figure
    environment.globals |= {
        "WIDTH": charts.WIDTH,
        "HEIGHT": charts.HEIGHT,
        "LEFT": charts.LEFT,
        "RIGHT": charts.RIGHT,
        "TOP": charts.TOP,
        "BOTTOM": charts.BOTTOM,
    }
    return environment


def render(template: str, **content: Any) -> str:
    """Returns a page.

    Args:
      template: a file of templates/.
      **content: values that fill the template, by name.
    """
    return _environment().get_template(template).render(**content)
