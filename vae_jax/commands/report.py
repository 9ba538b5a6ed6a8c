"""--mode=report: a page about a run that stands alone, report.html."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.commands import (
    abilities,
    captions,
    code_maps,
    directions,
    edits,
    reconstructions,
    recorded,
    samples,
    traversals,
)
from vae_jax.commands.flags import FORMAT, Command
from vae_jax.commands.opening import open_run
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.report import charts, grids, page, plots
from vae_jax.report.drawing import FORMATS
from vae_jax.report.writer import read_lines
from vae_jax.run import Run
from vae_jax.storage import write_whole

NUM_RECONSTRUCTIONS = 12
NUM_SAMPLES = 24
NUM_DIMENSIONS = 8
# Values of a traversal, and distances of an edit.
NUM_VALUES = 11
ALPHAS = tuple(float(alpha) for alpha in np.arange(-3, 3.25, 0.5))
NUM_EDITED = 4
NUM_ATTRIBUTES = 6
# Most faces show whether these are edited well; they come first.
SHOWN_FIRST = ("Smiling", "Eyeglasses", "Male", "Blond_Hair", "No_Beard", "Young")


def _reconstructions(run: Run) -> dict[str, Any]:
    found = reconstructions.reconstruct(run, NUM_RECONSTRUCTIONS)
    beside = [found.originals, found.means]
    told = "each beside its reconstruction"
    bar, largest = None, ""
    if found.stds is not None:
        scale = reconstructions.scale_of(found.stds)
        beside.append(grids.heat(found.stds, scale))
        bar, largest = page.colour_bar(), f"{scale:.2g}"
        told += " and the standard deviation of its pixels"
        beside = [grids.as_rgb(images) for images in beside]
    strips = [
        page.strip(np.stack(each), f"Validation image {number}, {told}")
        for number, each in enumerate(zip(*beside, strict=True))
    ]
    return {
        "words": f"{told.capitalize()}.",
        "strips": strips,
        "bar": bar,
        "largest": largest,
        "command": captions.command(run, "reconstruct", num_images=NUM_RECONSTRUCTIONS),
    }


def _samples(run: Run) -> list[dict[str, Any]]:
    drawn = samples.sample_each(run, samples.samplers_at_hand(run), NUM_SAMPLES)
    return [
        {
            "told": samples.said_of(run, sampler),
            "sheet": page.sheet(
                images,
                f"{len(images)} samples, codes from {samples.said_of(run, sampler)}",
            ),
            "command": captions.command(
                run, "sample", sampler=sampler, num_images=NUM_SAMPLES
            ),
        }
        for sampler, images in drawn.items()
    ]


def _dimensions(run: Run) -> dict[str, Any]:
    found = traversals.traverse(run, NUM_DIMENSIONS, num_values=NUM_VALUES)
    kl = found.record["kl_by_dimension"]
    by = found.record["ordered_by"]
    values = found.record["variance_by_dimension"] if kl is None else kl
    falling = sorted(values, reverse=True)
    name = "kl by dimension" if kl is not None else "variance by dimension"
    curves = [
        charts.chart(
            name,
            {"dimensions": list(enumerate(falling, 1))},
            (0, 1.05 * max(falling) or 1),
            along="rank",
        )
    ]
    reach = np.linspace(-traversals.REACH, traversals.REACH, NUM_VALUES)
    return {
        "words": f"The {len(falling)} dimensions by their {by}, and what the first do "
        "to a test image: the slider moves each on its own, all others stay as the "
        "image has them.",
        "charts": curves,
        "films": page.Films(
            "Distance from the mean",
            [f"{value:.1f} standard deviations" for value in reach],
            [
                page.film(
                    frames[:, None], name, f"Frames of a test image, dimension {name}"
                )
                for frames, name in zip(
                    found.images, traversals.row_names(found.record), strict=True
                )
            ],
        ),
        "command": captions.command(run, "traverse", num_images=NUM_DIMENSIONS),
    }


def _edits(run: Run) -> list[dict[str, Any]]:
    known = directions.read_directions(run, edits.ESTIMATOR.default, 0)
    first = [name for name in SHOWN_FIRST if name in known]
    names = [*first, *(name for name in known if name not in first)][:NUM_ATTRIBUTES]
    told = []
    for name in names:
        found = edits.edit(run, {name: 1.0}, ALPHAS, num_images=NUM_EDITED)
        frames = found.images[:, 1:].swapaxes(0, 1)
        film = page.film(
            frames,
            "",
            f"Test images, edited from less to more {name}",
        )
        values = [f"{alpha:g}" for alpha in ALPHAS]
        told.append(
            {
                "name": name,
                "films": page.Films("alpha", values, [film]),
                "command": captions.command(
                    run, "edit", attribute=name, alpha=values, num_images=NUM_EDITED
                ),
            }
        )
    return told


def _codes(run: Run) -> dict[str, Any]:
    found = code_maps.look_into_codes(run)
    strips = [
        page.strip(column, f"Validation image {number}, its codes, and both together")
        for number, column in enumerate(found.rows.swapaxes(0, 1))
    ]
    books = [
        {
            "size": "x".join(map(str, each["size"])),
            "sheet": page.sheet(book, f"What {len(book)} codes stand for", 8, 64),
        }
        for each, book in zip(found.record["maps"], found.codebooks, strict=True)
    ]
    return {
        "strips": strips,
        "books": books,
        "most_places": code_maps.MOST_PLACES,
        "command": captions.command(run, "codes"),
    }


def describe_run(run: Run) -> str:
    """Returns the page about a run.

    What cannot be shown is left out, and the page says why: most of it needs the data
    set, and some an evaluation.

    Args:
      run: a run of any model.
    """
    parts: dict[str, Callable[[Run], Any]] = {
        "reconstructions": _reconstructions,
        "samples": _samples,
        "metrics": recorded.metrics_of,
        "curves": recorded.curves_of,
    }
    if not abilities.can_decode(run):
        del parts["reconstructions"], parts["samples"]
    elif abilities.has_discrete_codes(run):
        parts["codes"] = _codes
    else:
        parts["dimensions"] = _dimensions
    if abilities.can_decode(run) and run.attribute_names:
        parts["edits"] = _edits
    content: dict[str, Any] = dict.fromkeys(
        ("reconstructions", "samples", "metrics", "curves")
        + ("dimensions", "edits", "codes")
    )
    left_out = []
    for name, part in parts.items():
        try:
            content[name] = part(run)
        except UserError as error:
            left_out.append((name, str(error)))
    facts, command = recorded.facts_of(run)
    sections = [(n, n.capitalize()) for n in content if content[n]]
    return page.render(
        "run.html",
        title=recorded.title_of(run),
        about=recorded.about(run),
        command=command,
        facts=facts,
        settings=recorded.settings_of(run),
        left_out=left_out,
        sections=sections + ([("left_out", "Left out")] if left_out else []),
        footer=f"Made by {captions.command(run, 'report')}",
        **content,
    )


def write_report(run: Run) -> Path:
    """Writes report.html to the run's workdir; returns its path."""
    path = run.workdir / "report.html"
    write_whole(path, describe_run(run))
    return path


def draw_curves(run: Run) -> Path:
    """Draws metrics.jsonl against the step; returns the file.

    Raises:
      UserError: the log is damaged, or the operating system refuses.
    """
    path = run.image_path("curves")
    caption = [
        f"What was logged while {run.workdir} was trained, by step. "
        f"{run.workdir / 'metrics.jsonl'} has every value.",
        captions.command(run, "report", format=run.picture_format),
    ]
    plots.loss_curves(read_lines(run.workdir / "metrics.jsonl"), path, caption)
    return path


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_run(config, workdir)
    # The page has no other pictures than PNGs.
    page_of = replace(run, picture_format=FORMATS[0])
    # What was logged does not depend on the dial.
    logged = replace(run, realism=0.0)
    return [write_report(page_of), *([draw_curves(logged)] if FORMAT.value else [])]


COMMAND = Command(
    meaning="Writes a page about a run that stands alone: report.html.",
    example="--workdir=runs/vae",
    flags={
        "format": "Where it is given, curves are drawn, too.",
        "realism": "Default: 0.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
