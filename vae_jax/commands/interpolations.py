"""--mode=interpolate: ways through the codes of a run, from picture to picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float, UInt8

from vae_jax.commands import abilities, captions
from vae_jax.commands.flags import (
    INDICES,
    PICTURES,
    UP_TO,
    VALUES,
    Command,
)
from vae_jax.commands.opening import open_autoencoder
from vae_jax.commands.pictures import check_one_of, own_pictures
from vae_jax.commands.way_points import FACES, SEEDS, way_points
from vae_jax.config import Config
from vae_jax.exploration import interpolation, sampling, stacks
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids, plots
from vae_jax.run import Run
from vae_jax.storage import write_json

# Way points where none are given.
NUM_WAY_POINTS = 8
SPHERICAL = flags.DEFINE_bool(
    "spherical",
    False,
    "The ways are great circles, which keep to codes of usual length.",
    flag_values=VALUES,
)
NUM_STEPS = flags.DEFINE_integer(
    "num_steps",
    10,
    "The number of images from one way point to the next, both included.",
    lower_bound=2,
    upper_bound=10_000,
    flag_values=VALUES,
)


@dataclass(frozen=True)
class Interpolation:
    """Ways between codes, decoded.

    Attributes:
      frames: frames of the way through all way points and back to the first, which is
        there again at the end; in [0, 1].
      rows: frames between the two way points of each pair, a row each; where the way
        points are pictures, they stand in front of and behind these.
      record: what the ways are between, and for each row how long the codes are and how
        far neighbouring frames are apart.
    """

    frames: Float[np.ndarray, "F H W C"]
    rows: Float[np.ndarray, "rows columns H W C"]
    record: dict[str, Any]


def _row_figures(
    a: np.ndarray, b: np.ndarray, frames: np.ndarray, spherical: bool
) -> dict[str, float]:
    """Returns how long the codes are on the way from a to b, and how even it looks."""
    norms = np.linalg.norm(interpolation.interpolate(a, b, 3, spherical), axis=1)
    names = ("norm_first", "norm_middle", "norm_last")
    steps = np.mean(np.square(np.diff(frames, axis=0)), axis=(1, 2, 3))
    mean = float(steps.mean())
    return dict(zip(names, norms.tolist(), strict=True)) | {
        "mean_squared_step": mean,
        # No step at all is an even way, too.
        "largest_over_mean": float(steps.max()) / mean if mean else 1.0,
    }


def interpolate(
    run: Run,
    *,
    indices: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    pictures: tuple[Sequence[str], UInt8[np.ndarray, "N H W C"]] | None = None,
    num_steps: int = 10,
    spherical: bool = False,
    up_to: int | None = None,
) -> Interpolation:
    """Decodes the way from each code to the next, by the EMA parameters.

    The code of a picture is its posterior's mode. There is a row for each pair of way
    points; an odd last one is paired with the one before it. The record of a row has
    the norms of what changes in its codes, `mean_squared_step`, over pixels and frames,
    and how many times that the largest step is.

    A conditional VAE's labels change along with the codes, linearly; those of the
    prior's samples and of the user's pictures are unknown.

    Args:
      run: a run of an autoencoder of any kind.
      indices: indices of test images, two at least; the first eight where no way points
        are given.
      seeds: seeds of samples of the prior, instead.
      pictures: the user's, instead: files, and what is in them as the model sees
        images.
      num_steps: frames from each way point to the next, both included; at least 2.
      spherical: see `interpolation.interpolate`.
      up_to: the finest resolution whose codes change; finer ones, and the labels, are
        those of the first way point, of a row and of the way through all. None where
        all change.

    Raises:
      UserError: there is one way point only, no such test image, or no prior; or the
        code has no such resolution.
    """
    if up_to is not None:
        abilities.check_up_to(run, up_to)
    points = way_points(
        run,
        "interpolate",
        usual=NUM_WAY_POINTS,
        indices=indices,
        seeds=seeds,
        pictures=pictures,
    )
    names = points.names
    changes = np.ones(points.codes.shape[1], bool)
    if up_to is not None:
        changes = stacks.resolution_of_numbers(run.model()) <= up_to

    def frames_through(numbers: list[int]) -> Float[np.ndarray, "F H W C"]:
        some, labels = points.codes[numbers], points.labels
        way = interpolation.path(some[:, changes], num_steps, spherical)
        moved = np.tile(some[0], (len(way), 1))
        moved[:, changes] = way
        if labels is not None:
            # Where codes are held so are labels: finer maps are told them as well.
            ends = numbers if up_to is None else [numbers[0]] * len(numbers)
            labels = interpolation.path(labels[ends], num_steps, spherical=False)
        return sampling.decode_codes(run.model(), moved, labels)

    frames = frames_through([*range(len(names)), 0])
    rows, figures = [], []
    for first in (min(i, len(names) - 2) for i in range(0, len(names), 2)):
        ends = [first, first + 1]
        row = frames[first * (num_steps - 1) :][:num_steps]
        if up_to is not None:
            # Its finer codes are those of its own first face.
            row = frames_through(ends)
        a, b = points.codes[ends][:, changes]
        figures.append(
            {"from": names[first], "to": names[first + 1]}
            | _row_figures(a, b, row, spherical)
        )
        if points.images is not None:
            originals = to_unit_interval(points.images[ends])
            row = np.concatenate([originals[:1], row, originals[1:]])
        rows.append(row)
    record = {
        **abilities.made_by(run),
        "way_points": {points.kind: names},
        "interpolation": "spherical" if spherical else "linear",
        "num_steps": num_steps,
        "up_to": up_to,
        "rows": figures,
    }
    return Interpolation(frames, np.stack(rows), record)


def draw_interpolation(run: Run, found: Interpolation) -> list[Path]:
    """Writes the picture interpolation, a GIF and a record to the run's images/.

    The PNG file has the rows, the GIF goes through all way points and back to the
    first, and the JSON file is the record.
    """
    path = run.image_path("interpolation")
    ((kind, names),) = found.record["way_points"].items()
    ends = [] if kind == "seeds" else ["image"]
    between = [""] * (len(found.rows[0]) - 2)
    up_to = found.record["up_to"]
    moved, held = "", ""
    if up_to is not None:
        moved = f" up to {up_to}x{up_to} places"
        held = " Finer codes stay those of the first one."
    grids.image_grid(
        found.rows,
        path,
        columns=ends and [*ends, *between, *ends],
        caption=[
            f"Ways from the code{moved} of one face to that of another"
            + (
                f" ({FACES[kind]}), the images themselves at both ends."
                if ends
                else ", drawn from the prior."
            )
            + held,
            captions.command(
                run,
                "interpolate",
                **{kind: names},
                num_steps=found.record["num_steps"],
                up_to=up_to,
                spherical=found.record["interpolation"] == "spherical" or None,
            ),
        ],
    )
    # The last frame is the first again.
    plots.animation(found.frames[:-1], path.with_suffix(".gif"))
    write_json(path.with_suffix(".json"), found.record)
    return [path, path.with_suffix(".gif"), path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "interpolate")
    check_one_of(PICTURES, INDICES, SEEDS)
    found = interpolate(
        run,
        indices=INDICES.value,
        seeds=SEEDS.value,
        pictures=own_pictures(run),
        num_steps=NUM_STEPS.value,
        spherical=SPHERICAL.value,
        up_to=UP_TO.value,
    )
    return draw_interpolation(run, found)


COMMAND = Command(
    meaning="Draws the ways between images, through their codes.",
    example="--workdir=runs/vae --spherical",
    flags={
        "indices": f"Default: the first {NUM_WAY_POINTS} of them.",
        "pictures": "They replace test images.",
        "seeds": "The samples replace test images.",
        "num_steps": f"Default: {NUM_STEPS.default}.",
        "spherical": "Default: straight lines.",
        "up_to": "Default: all codes change.",
        "realism": "Default: 0.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
