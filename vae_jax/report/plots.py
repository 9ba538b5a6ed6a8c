"""Pictures for people: grids of images and curves of metrics, as PNG files.

Where the operating system refuses to write one, that is a UserError.
"""

import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image

from vae_jax.report.writer import writing

MARGIN = 2


def to_levels(images: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Turns [0, 1] into 8-bit levels, what is outside clipped."""
    return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)


def single_images(images: Float[np.ndarray, "N H W C"], folder: Path) -> None:
    """Writes each image as a PNG file of its own, 00000.png and so on."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(to_levels(images)):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
                folder / f"{number:05d}.png"
            )


def image_grid(
    images: Float[np.ndarray, "rows columns H W C"], path: Path, scale: int = 2
) -> None:
    """Writes a grid of images in [0, 1], white margins between them.

    Args:
      images: gray or RGB; values outside [0, 1] are clipped.
      path: of the PNG file.
      scale: whole factor of enlargement, without smoothing.
    """
    rows, columns, height, width, channels = images.shape
    levels = to_levels(images)
    levels = levels.repeat(scale, axis=2).repeat(scale, axis=3)
    cell = (scale * height + MARGIN, scale * width + MARGIN)
    canvas = np.full(
        (rows * cell[0] + MARGIN, columns * cell[1] + MARGIN, channels), 255, np.uint8
    )
    for row in range(rows):
        for column in range(columns):
            top, left = row * cell[0] + MARGIN, column * cell[1] + MARGIN
            canvas[top : top + scale * height, left : left + scale * width] = levels[
                row, column
            ]
    with writing(path):
        Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(path)


def nearly_square(
    images: Float[np.ndarray, "N H W C"],
) -> Float[np.ndarray, "rows columns H W C"]:
    """Arranges images in rows, as many as columns or one fewer, filled up white."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    filled = np.ones((rows * columns, *images.shape[1:]), np.float32)
    filled[: len(images)] = images
    return filled.reshape(rows, columns, *images.shape[1:])


def tiled(
    images: Float[np.ndarray, "rows columns H W C"],
) -> Float[np.ndarray, "height width C"]:
    """Returns a grid as one image, a white pixel around each, to be a frame."""
    sides = [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]
    padded = np.pad(images, sides, constant_values=1)
    return rearrange(padded, "rows columns H W C -> (rows H) (columns W) C")


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
      path: of the GIF file.
      seconds_per_frame: GIF counts in hundredths.
      scale: whole factor of enlargement, without smoothing.
    """
    levels = to_levels(frames).repeat(scale, axis=1).repeat(scale, axis=2)
    gray = levels.shape[-1] == 1
    first, *others = [
        Image.fromarray(frame[..., 0] if gray else frame) for frame in levels
    ]
    with writing(path):
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=round(1000 * seconds_per_frame),
            loop=0,
        )


def loss_curves(lines: list[dict[str, Any]], path: Path) -> None:
    """Draws each metric of metrics.jsonl against the step, one panel a metric.

    A line without a metric, or with one that is not finite, is passed over.

    Args:
      lines: of metrics.jsonl.
      path: of the PNG file.
    """
    with writing(path):
        # Here, because it takes half as long to import as JAX. It writes its own cache.
        from matplotlib.figure import Figure

    counted = ("step", "epoch", "split", "skipped")
    names = [n for n in dict.fromkeys(chain(*lines)) if n not in counted]
    figure = Figure(figsize=(3.6 * len(names), 3), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        drawn = [line for line in lines if math.isfinite(line.get(name, math.nan))]
        for split, style in (("train", "-"), ("validation", "o-")):
            chosen = [line for line in drawn if line["split"] == split]
            axis.plot(
                [line["step"] for line in chosen],
                [line[name] for line in chosen],
                style,
                markersize=4,
                label="validation (EMA)" if split == "validation" else split,
            )
            # The first steps would squeeze all that follows into a line.
            values = [line[name] for line in drawn[len(drawn) // 10 :]]
            low, high = min(values, default=0.0), max(values, default=0.0)
            pad = 0.05 * (high - low) or 1e-9
            axis.set_ylim(low - pad, high + pad)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    with writing(path):
        figure.savefig(path, dpi=110)
