"""Pictures for people: grids of images and curves of metrics, as PNG files."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

MARGIN = 2


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
    levels = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
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
    Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(path)


def loss_curves(lines: list[dict[str, Any]], path: Path) -> None:
    """Draws each metric of metrics.jsonl against the step, one panel a metric.

    Args:
      lines: of metrics.jsonl.
      path: of the PNG file.
    """
    names = [n for n in lines[0] if n not in ("step", "epoch", "split")]
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(3.6 * len(names), 3),
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes[0], names, strict=True):
        for split, style in (("train", "-"), ("validation", "o-")):
            chosen = [line for line in lines if line["split"] == split]
            axis.plot(
                [line["step"] for line in chosen],
                [line[name] for line in chosen],
                style,
                markersize=4,
                label="validation (EMA)" if split == "validation" else split,
            )
            # The first steps would squeeze all that follows into a line.
            values = [line[name] for line in lines[len(lines) // 10 :]]
            low, high = min(values), max(values)
            pad = 0.05 * (high - low) or 1e-9
            axis.set_ylim(low - pad, high + pad)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
