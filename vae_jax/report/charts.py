"""Curves of a page, as SVG and as data for the script that shows their values."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from vae_jax.report.words import meaning

# Size of a chart in units of its own, and the room that its axes take.
WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 10, 30
# Points of a curve that is longer are left out, evenly.
MOST_POINTS = 400
# Colours in templates/page.css.
NUM_COLOURS = 6

# Steps are whole numbers.
Number: TypeAlias = int | float
Point: TypeAlias = tuple[Number, Number]
Points: TypeAlias = Sequence[Point]


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
      label: words for the legend.
      colour: its number among those of the page.
      path: points of the line, as SVG takes them.
      marks: places of the points, where those are few.
    """

    label: str
    colour: int
    path: str
    marks: list[Point]


@dataclass(frozen=True)
class Chart:
    """Curves over one another, and how they are drawn.

    Attributes:
      title: title of the chart.
      unit: unit of the values, and which are better.
      along: name of what the horizontal axis counts.
      curves: the curves, in the colours of the page, one after the other.
      x_ticks: the places of marks on the axis, and their texts.
      y_ticks: the same of the other axis.
      data: points for the script that shows values, JSON.
      summary: description for readers who do not see it.
    """

    title: str
    unit: str
    along: str
    curves: list[Curve]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    data: str
    summary: str


def _ticks(low: Number, high: Number) -> list[float]:
    """Returns three to six round numbers within limits."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _thinned(points: Points) -> list[Point]:
    """Returns at most `MOST_POINTS` of a curve's points, the last among them."""
    every = math.ceil(len(points) / MOST_POINTS)
    return [*points[::-1][::every][::-1]] if points else []


def chart(
    title: str,
    curves: Mapping[str, Points],
    limits: tuple[Number, Number],
    along: str = "step",
    colours: Sequence[int] | None = None,
) -> Chart:
    """Returns curves to be drawn over one another.

    Args:
      title: title of the chart, the name of a metric.
      curves: points (x, y) of each curve, with x rising, by its label.
      limits: the least and the largest value that is seen.
      along: name of what x counts.
      colours: numbers of the curves' colours; None for one after the other.
    """
    thin = {label: _thinned(points) for label, points in curves.items()}
    steps = [x for points in thin.values() for x, _ in points] or [0]
    x_low, x_high = min(steps), max(steps)
    x_high = x_high if x_high > x_low else x_low + 1
    y_low, y_high = limits

    def place(x: Number, y: Number) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        # What is outside the limits is cut; a number without bound would be no number.
        return round(across, 1), round(min(max(down, -1e4), 1e4), 1)

    drawn = []
    for number, (label, points) in enumerate(thin.items()):
        places = [place(x, y) for x, y in points]
        colour = (number if colours is None else colours[number]) % NUM_COLOURS
        path = " ".join(f"{x},{y}" for x, y in places)
        drawn.append(Curve(label, colour, path, places if len(places) <= 40 else []))
    ends = [
        f"{label} from {points[0][1]:.5g} to {points[-1][1]:.5g}"
        for label, points in thin.items()
        if points
    ]
    return Chart(
        title=title,
        unit=meaning(title).label,
        along=along,
        curves=drawn,
        x_ticks=[(place(x, 0)[0], f"{x:g}") for x in _ticks(x_low, x_high)],
        y_ticks=[(place(x_low, y)[1], f"{y:.6g}") for y in _ticks(y_low, y_high)],
        data=json.dumps(
            {
                "along": along,
                "limits": [x_low, x_high, y_low, y_high],
                "curves": [
                    {"label": label, "points": points} for label, points in thin.items()
                ],
            }
        ),
        summary=f"{title} by {along}: {'; '.join(ends)}.",
    )
