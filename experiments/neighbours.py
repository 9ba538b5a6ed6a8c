"""Whether a run learnt training images by heart: what its samples are nearest to.

  python -m experiments.neighbours --workdir=runs/latent_flow --judge=runs/judge

finds the training image nearest to each sample, mirrored ones included, in a judge's
features and in pixels, and does the same for reconstructions: of test images, which the
run has not seen, and of training images, which is what it would draw if it had learnt
codes by heart. A hundredth of the reconstructions of test images is nearer than some
distance. About as many samples are nearer where nothing was learnt by heart, and far
more reconstructions of training images. Under --out come neighbours.json and
neighbours.png, which has the samples that are nearest to training images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.metrics import pairwise_distances_argmin_min
from tabulate import tabulate
from tqdm import tqdm

from experiments.command_line import add_judged_flags, cli, new_parser
from vae_jax import run as run_lib
from vae_jax.commands import abilities, judges
from vae_jax.commands.samples import SAMPLERS, sample, samplers_at_hand
from vae_jax.exploration import sampling
from vae_jax.exploration.judging import judge_images
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import write_json

# Samples, and as many test images at most.
NUM_IMAGES = 2500
# Share of the reconstructions of test images by which others are measured.
SHARE = 0.01
NUM_SHOWN = 6
# Training images whose features or pixels are in memory at once.
CHUNK = 2000
SETS = {
    "samples": "samples",
    "test_reconstructions": "test images, rebuilt",
    "train_reconstructions": "training images, rebuilt",
}
SPACES = {"features": "in the judge's features", "pixels": "in pixels"}

Images = Float[np.ndarray, "N H W C"]


def nearest(
    images: Mapping[str, Images],
    train: UInt8[np.ndarray, "M H W C"],
    place_of: Callable[[Images], Float[np.ndarray, "N F"]],
    space: str,
) -> dict[str, tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]]:
    """Returns the nearest training image to each image of each set, and how near it is.

    Training images count mirrored as well.

    Args:
      images: the sets by name, in [0, 1].
      train: the training images.
      place_of: function that maps images to the features by which distances go.
      space: its name, beside the progress bar.
    """
    places = {name: place_of(each) for name, each in images.items()}
    found: Any = {name: (0, np.inf) for name in images}
    firsts = range(0, len(train), CHUNK)
    for first in tqdm(firsts, space, disable=None, leave=False):
        some = to_unit_interval(train[first : first + CHUNK])
        for facing in (some, some[:, :, ::-1]):
            known = place_of(facing)
            for name, those in places.items():
                which, apart = pairwise_distances_argmin_min(those, known)
                before, least = found[name]
                found[name] = (
                    np.where(apart < least, first + which, before),
                    np.minimum(apart, least),
                )
    return found


def look(
    run: Run, judge: Run, sampler: str, seed: int
) -> tuple[dict[str, Any], Float[np.ndarray, "rows columns H W C"]]:
    """Returns neighbours.json, and the picture of the nearest samples.

    Args:
      run: a run of an autoencoder of any kind.
      judge: a run of a classifier, see `open_judge`.
      sampler: one of `SAMPLERS`.
      seed: seed of the samples.

    Returns:
      The report; and a row for each of `NUM_SHOWN` samples in each of `SPACES`: the
      sample, and the training image that is nearest.
    """
    splits, model, classifier = run.dataset.splits, run.model(), judge.model()
    train = splits["train"].images
    number = min(NUM_IMAGES, len(train), len(splits["test"].images))

    def rebuilt(split: str) -> Images:
        told = run.labels(split, slice(number))
        codes = sampling.encode_images(model, splits[split].images[:number], told)
        return sampling.decode_codes(model, codes, told)

    sets = {
        "samples": sample(run, sampler, number, seed),
        "test_reconstructions": rebuilt("test"),
        "train_reconstructions": rebuilt("train"),
    }

    def features(images: Images) -> Float[np.ndarray, "N F"]:
        return judge_images(classifier, images)[0]

    def pixels(images: Images) -> Float[np.ndarray, "N F"]:
        return images.reshape(len(images), -1)

    report: dict[str, Any] = {
        "workdir": str(run.workdir),
        "judge": str(judge.workdir),
        "sampler": sampler,
        "seed": seed,
        "step": run.step,
        "num_images": number,
        "num_train": len(train),
    }
    shown = []
    for space, place in (("features", features), ("pixels", pixels)):
        found = nearest(sets, train, place, space)
        distances = {name: apart for name, (_, apart) in found.items()}
        least = float(np.quantile(distances["test_reconstructions"], SHARE))
        report[space] = {
            name: {
                "share_nearer": float(np.mean(each < least)),
                "median_distance": float(np.median(each)),
            }
            for name, each in distances.items()
        } | {"distance": least}
        order = np.argsort(distances["samples"])[:NUM_SHOWN]
        theirs = to_unit_interval(train[found["samples"][0][order]])
        shown.append(np.stack([sets["samples"][order], theirs], axis=1))
    return report, np.concatenate(shown, axis=1)


def table(report: dict[str, Any]) -> str:
    """Returns the shares of neighbours.json as a table."""
    rows = [
        [told, report[space]["distance"]]
        + [report[space][name]["share_nearer"] for name in SETS]
        for space, told in SPACES.items()
    ]
    headers = ["share that is nearer", "than", *SETS.values()]
    return tabulate(rows, headers, floatfmt=".3g")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.neighbours", __doc__)
    add_judged_flags(parser, "runs/latent_flow")
    parser.add_argument(
        "--sampler", choices=SAMPLERS, help="Sampler as of --mode=sample; the best."
    )
    options = parser.parse_args(argv)
    run = run_lib.load(options.workdir)
    abilities.check_decoder(run, f"--workdir is '{options.workdir}'")
    judge = judges.open_judge("judge", options.judge, run)
    run.dataset_for("looking for the nearest training images")
    judges.check_judged(run, (judge,))
    sampler = options.sampler or samplers_at_hand(run)[0]
    report, shown = look(run, judge, sampler, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "neighbours.json", report)
    grids.image_grid(
        shown,
        options.out / f"neighbours.{options.format}",
        groups=len(SPACES),
        columns=[f"sample, and nearest {told}" for told in SPACES.values()],
        caption=[
            f"Of {report['num_images']:,} samples those that are nearest to a training "
            "image, and beside each that image.",
        ],
    )
    print(table(report))


if __name__ == "__main__":
    cli(main)
