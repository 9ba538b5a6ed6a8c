"""Grids of images as files that fit a laptop's screen, and what stands around them.

Where the operating system refuses to write one, that is a UserError.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from vae_jax.report import drawing
from vae_jax.storage import writing

# A line of text and where it is: its left end and its top, in pixels.
Word: TypeAlias = tuple[int | float, int | float, str]

MARGIN = 2
# Pixels between groups of columns.
GAP = 14
# Pixels that a grid's images take together; what stands around them is to fit on a
# screen as well.
WIDTH, HEIGHT = 1200, 800
# Pixels that an image is enlarged to at most.
LARGEST_CELL = 128
FONT_SIZE, LINE = 14, 20
# A PDF or SVG has matplotlib's letters, which look larger.
VECTOR_FONT_SIZE, VECTOR_FONT = 12, "DejaVu Sans"
# Pixels an inch of a page; of a power of two a page has no pixel less by rounding.
DOTS = 128
# Width and height of the strip that shows what colours stand for.
BAR = (220, 12)


@dataclass(frozen=True)
class Bar:
    """What the colours of `heat` stand for, from the lowest to the highest.

    Attributes:
      meaning: meaning of the numbers.
      low: text of the lowest.
      high: text of the highest.
    """

    meaning: str
    low: str
    high: str


def to_levels(images: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Turns [0, 1] into 8-bit levels, what is outside clipped."""
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)


def to_picture(levels: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """Returns 8-bit levels, gray or RGB, as a picture that can be saved."""
    return Image.fromarray(levels.squeeze(-1) if levels.shape[-1] == 1 else levels)


def single_images(images: Float[np.ndarray, "N H W C"], folder: Path) -> None:
    """Writes each image as a PNG file of its own, 00000.png and so on."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(to_levels(images)):
            to_picture(image).save(folder / f"{number:05d}.png")


def as_rgb(
    images: Float[np.ndarray, "*some H W C"],
) -> Float[np.ndarray, "*some H W 3"]:
    """Returns gray or RGB images as RGB."""
    return np.broadcast_to(images, (*images.shape[:-1], 3))


def heat(
    values: Float[np.ndarray, "*some H W C"], largest: float
) -> Float[np.ndarray, "*some H W 3"]:
    """Returns the mean over channels as colours, from 0, dark, to `largest`, bright."""
    # Here, because it takes half as long to import as JAX.
    from matplotlib import colormaps

    shares = values.mean(axis=-1) / max(largest, 1e-12)
    return colormaps["inferno"](shares)[..., :3].astype(np.float32)


def room(size: int) -> tuple[int, int]:
    """Returns how many rows and columns of square images a screen has room for."""
    cell = _cap(size) * size + MARGIN
    return max(1, HEIGHT // cell), max(1, WIDTH // cell)


def _cap(size: int) -> int:
    return max(1, LARGEST_CELL // size)


def _fitting_scale(rows: int, columns: int, height: int, width: int) -> int:
    """Returns the largest enlargement at which a grid fits; 1 where none does."""
    scales = range(_cap(height), 0, -1)
    fits = (
        scale
        for scale in scales
        if rows * (scale * height + MARGIN) <= HEIGHT
        and columns * (scale * width + MARGIN) <= WIDTH
    )
    return next(fits, 1)


def image_grid(
    images: Float[np.ndarray, "rows columns H W C"],
    path: Path,
    scale: int | None = None,
    *,
    caption: Sequence[str] = (),
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    groups: int = 1,
    bars: Sequence[Bar] = (),
) -> None:
    """Writes a grid of images in [0, 1], white margins between them, and words around.

    Args:
      images: gray or RGB; values outside [0, 1] are clipped.
      path: path of the file; in a .pdf or .svg words stay words.
      scale: whole factor of enlargement, without smoothing; None for the largest at
        which the grid fits a screen, so that an image is no larger than `LARGEST_CELL`.
      caption: lines below the grid; what is too long for one goes on in the next.
      columns: headings, each over as many columns as the others.
      rows: the names of the rows.
      groups: groups of columns, with a gap between two of them.
      bars: bars that say what colours stand for.
    """
    num_rows, num_columns, height, width, channels = images.shape
    if scale is None:
        scale = _fitting_scale(num_rows, num_columns, height, width)
    levels = to_levels(images).repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = scale * height, scale * width
    # Before they are measured.
    caption, columns, rows = (
        [*map(drawing.drawable, words)] for words in (caption, columns, rows)
    )
    font = _font(path) if caption or columns or rows else None
    left = MARGIN + (int(max(map(font.getlength, rows))) + 8 if font and rows else 0)
    top = MARGIN + (LINE if columns else 0)
    tops = [top + row * (height + MARGIN) for row in range(num_rows)]
    per_group = num_columns // groups
    lefts = [
        left + column * (width + MARGIN) + column // per_group * GAP
        for column in range(num_columns)
    ]
    right, bottom = lefts[-1] + width + MARGIN, tops[-1] + height + MARGIN
    below = _wrapped(caption, font, right - 8) if font else []
    beside = [_beside(bar, font, right - 4) for bar in bars] if font else []
    rgb = channels == 3 or bool(bars)
    num_lines = len(below) + sum(map(len, beside))
    canvas = np.full(
        (bottom + LINE * num_lines + (8 if num_lines else 0), right), 255, np.uint8
    )
    canvas = canvas[..., None].repeat(3 if rgb else 1, axis=-1)
    for row, y in enumerate(tops):
        for column, x in enumerate(lefts):
            canvas[y : y + height, x : x + width] = levels[row, column]
    words = []
    if font:
        words += _names(font, columns, rows, lefts, tops, (width, height))
        y = bottom + 4
        for bar, lines in zip(bars, beside, strict=True):
            words += _draw_bar(canvas, font, bar, lines, (4, y))
            y += LINE * len(lines)
        for number, line in enumerate(below):
            words.append((4, y + LINE * number, line))
    _save_with_words(canvas if rgb else canvas[..., 0], font, words, path)


def _font(path: Path) -> Any:
    """Returns the font that words of a picture are measured by, and drawn in."""
    if path.suffix not in drawing.VECTOR:
        return ImageFont.load_default(FONT_SIZE)
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont(VECTOR_FONT), VECTOR_FONT_SIZE)


def _save_with_words(
    levels: np.ndarray, font: Any, words: Sequence[Word], path: Path
) -> None:
    """Writes a picture with words in it, as its suffix says."""
    if path.suffix not in drawing.VECTOR:
        picture = Image.fromarray(levels)
        draw = ImageDraw.Draw(picture)
        black = 0 if levels.ndim == 2 else (0, 0, 0)
        for x, y, text in words:
            draw.text((x, y), text, fill=black, font=font)
        with writing(path):
            picture.save(path)
        return
    figure = drawing.new_figure(
        levels.shape[1] / DOTS, levels.shape[0] / DOTS, dpi=DOTS
    )
    # In RGB every level stays what it is, which maps of colours do not promise.
    figure.figimage(levels if levels.ndim == 3 else np.stack([levels] * 3, axis=-1))
    look = {
        "family": VECTOR_FONT,
        "size": VECTOR_FONT_SIZE * 72 / DOTS,
        "color": "black",
    }
    for x, y, text in words:
        base = levels.shape[0] - y - font.getmetrics()[0]
        place = (x / levels.shape[1], base / levels.shape[0])
        figure.text(*place, text, usetex=False, parse_math=False, **look)
    drawing.save(figure, path, DOTS)


def _wrapped(caption: Sequence[str], font, width: int) -> list[str]:
    """Returns the caption's lines, broken where they are wider than the grid."""
    lines = []
    for paragraph in caption:
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _names(font, columns, rows, lefts, tops, cell) -> list[Word]:
    """Returns the headings of columns, centred over them, and the names of rows."""
    words = []
    span = len(lefts) // len(columns) if columns else 0
    for number, heading in enumerate(columns):
        first, last = lefts[number * span], lefts[(number + 1) * span - 1] + cell[0]
        while font.getlength(heading) > last - first:
            heading = heading[:-1]
        x = (first + last - font.getlength(heading)) / 2
        words.append((x, 2, heading))
    for y, name in zip(tops, rows, strict=False):
        words.append((4, y + cell[1] / 2 - FONT_SIZE / 2, name))
    return words


def _start(bar: Bar, font) -> int:
    """Returns how far from its low end's words the colours of a bar begin."""
    return int(font.getlength(bar.low)) + 6


def _beside(bar: Bar, font, end: int) -> list[str]:
    """Returns the lines beside a bar that end at a place, from its left end on."""
    room = end - 4 - _start(bar, font) - BAR[0] - 6
    return _wrapped([f"{bar.high}: {bar.meaning}"], font, room)


def _draw_bar(
    canvas, font, bar: Bar, lines: Sequence[str], at: tuple[int, int]
) -> list[Word]:
    """Draws the colours of `heat`; returns what they stand for, beside them."""
    x, y = at
    start = x + _start(bar, font)
    ramp = np.linspace(0, 1, BAR[0])[None, :, None].repeat(BAR[1], axis=0)
    # The strip is cut where the grid is narrower.
    there = canvas[y + 3 : y + 3 + BAR[1], start : start + BAR[0]]
    there[...] = to_levels(heat(ramp, 1.0))[:, : there.shape[1]]
    end = start + BAR[0] + 6
    beside = [(end, y + LINE * number, line) for number, line in enumerate(lines)]
    return [(x, y, bar.low), *beside]


def arranged(
    images: Float[np.ndarray, "N H W C"], columns: int
) -> Float[np.ndarray, "rows columns H W C"]:
    """Arranges images in rows of so many, the last filled up white."""
    rows = math.ceil(len(images) / columns)
    filled = np.ones((rows * columns, *images.shape[1:]), np.float32)
    filled[: len(images)] = images
    return filled.reshape(rows, columns, *images.shape[1:])


def nearly_square(
    images: Float[np.ndarray, "N H W C"],
) -> Float[np.ndarray, "rows columns H W C"]:
    """Arranges images in rows, as many as columns or one fewer, filled up white."""
    return arranged(images, math.ceil(math.sqrt(len(images))))


def wide(
    images: Float[np.ndarray, "N H W C"], beside: int = 1
) -> Float[np.ndarray, "rows columns H W C"]:
    """Arranges images so that so many such grids beside one another fill a screen."""
    return arranged(images, math.ceil(math.sqrt(len(images) * 4 / 3 / beside)))


def tiled(
    images: Float[np.ndarray, "rows columns H W C"],
) -> Float[np.ndarray, "height width C"]:
    """Returns a grid as one image, a white pixel around each, to be a frame."""
    sides = [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]
    padded = np.pad(images, sides, constant_values=1)
    return rearrange(padded, "rows columns H W C -> (rows H) (columns W) C")
