"""Whether judges see blur: their Frechet distance of blurred pictures.

  python -m experiments.blur --judge=runs/judge,runs/other

blurs test pictures by Gaussians and holds them against the same pictures as they are. A
judge whose distance does not rise with every wider blur, or stays below that of as many
other pictures at sigma 1, is no judge of sharpness; the table marks it. Under --out
come blur.json, the table's figures, and blur.png.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage
from tabulate import tabulate

from experiments.command_line import cli, new_parser
from experiments.sweep import new_figure
from vae_jax.commands.judges import open_judge
from vae_jax.errors import UserError
from vae_jax.evaluation.distances import frechet_distance
from vae_jax.evaluation.sharpness import sharpness as mean_laplacian
from vae_jax.exploration.judging import judge_images
from vae_jax.local_paths import split_paths
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import drawing
from vae_jax.run import Run
from vae_jax.storage import write_json

# Standard deviations of the Gaussians, in pixels; the first is no blur.
SIGMAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
# A Frechet distance depends on how many pictures there are; more take longer.
NUM_IMAGES = 2500


def blurred(
    pictures: Float[np.ndarray, "N H W C"], sigma: float
) -> Float[np.ndarray, "N H W C"]:
    """Returns pictures blurred by a Gaussian, each channel by itself.

    Args:
      pictures: any.
      sigma: standard deviation of the Gaussian, in pixels; 0 leaves the pictures as
        they are.
    """
    return ndimage.gaussian_filter(pictures, (0, sigma, sigma, 0))


def look(
    pictures: Float[np.ndarray, "N H W C"],
    others: Float[np.ndarray, "M H W C"],
    judges: Sequence[Run],
) -> dict:
    """Returns blur.json: what blur does to sharpness and to judges' distances.

    Args:
      pictures: real pictures in [0, 1].
      others: real pictures, too.
      judges: runs of classifiers, see `open_judge`.
    """
    real = [judge_images(judge.model(), pictures)[0] for judge in judges]
    floors = [
        frechet_distance(known, judge_images(judge.model(), others)[0])
        for judge, known in zip(judges, real, strict=True)
    ]
    of_pictures = mean_laplacian(pictures)
    sharpness, distances = [], [[] for _ in judges]
    for sigma in SIGMAS:
        images = blurred(pictures, sigma)
        sharpness.append(mean_laplacian(images) / of_pictures)
        for judge, known, found in zip(judges, real, distances, strict=True):
            features, _ = judge_images(judge.model(), images)
            found.append(frechet_distance(known, features))
    return {
        "num_images": len(pictures),
        "sigmas": list(SIGMAS),
        "sharpness": sharpness,
        "judges": [
            {
                "workdir": str(judge.workdir),
                "judge_frechet": found,
                "other_pictures": floor,
                "sees_blur": bool(
                    np.all(np.diff(found) > 0) and found[SIGMAS.index(1.0)] > floor
                ),
            }
            for judge, found, floor in zip(judges, distances, floors, strict=True)
        ],
    }


def table(report: dict[str, Any]) -> str:
    """Returns blur.json as a table, judges that do not see blur marked."""
    headers, columns = ["sigma", "sharpness"], [report["sigmas"], report["sharpness"]]
    for judge in report["judges"]:
        mark = "" if judge["sees_blur"] else "\nno judge of sharpness"
        headers.append(judge["workdir"] + mark)
        columns.append(judge["judge_frechet"])
    rows = list(zip(*columns, strict=True))
    return tabulate(rows, headers, floatfmt=".4g")


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws blur.png: sharpness, and the judges' distances, against sigma."""
    figure, (left, right) = new_figure(2)
    left.plot(report["sigmas"], report["sharpness"], "o-")
    left.set_ylabel("sharpness, as a share of the pictures'")
    for judge in report["judges"]:
        label = judge["workdir"] + ("" if judge["sees_blur"] else " (sees none)")
        right.plot(report["sigmas"], judge["judge_frechet"], "o-", label=label)
    right.set_ylabel("judge's Frechet distance")
    right.legend()
    for axis in (left, right):
        axis.set_xlabel("sigma of the blur, pixels")
    drawing.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.blur", __doc__)
    # There is no recipe.
    parser.epilog = None
    parser.add_argument(
        "--judge",
        type=lambda text: split_paths(text, "--judge", os.path.isdir),
        required=True,
        help="Workdirs of runs of configs/judge.py on the same pictures, with commas "
        "between.",
    )
    options = parser.parse_args(argv)
    judges: list[Run] = []
    for workdir in options.judge:
        judges.append(open_judge("judge", workdir, judges[0] if judges else None))
    splits = judges[0].dataset_for("a judge's test").splits
    images = splits["test"].images
    if len(images) < 2:
        raise UserError(
            f"--judge compares 2 pictures at least; the split test of "
            f"{judges[0].recipe['name']} has {len(images)}"
        )
    pictures = to_unit_interval(images[:NUM_IMAGES])
    others = to_unit_interval(splits["train"].images[: len(pictures)])
    report = look(pictures, others, judges)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "blur.json", report)
    draw(report, options.out / f"blur.{options.format}")
    print(table(report))


if __name__ == "__main__":
    cli(main)
