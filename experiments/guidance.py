"""What guidance by labels brings a flow over codes, and what it costs.

  python -m experiments.guidance --workdir=runs/labelled_flow --judge=runs/judge

draws from a run of configs/latent_flow.py:labelled under each --guidance. For each
attribute by itself images are asked to have it, in one half, and to lack it, in the
other, so that half are as was asked where the labels say nothing; and images are asked
to have all attributes of the test images. A judge says how many of the former are as
was asked, and how like the test images the latter are. Under --out come guidance.json
and guidance.png.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key
from tabulate import tabulate
from tqdm import tqdm

from experiments.command_line import add_judged_flags, cli, listed, new_parser
from experiments.sweep import new_figure
from vae_jax import run as run_lib
from vae_jax.commands import abilities, judges
from vae_jax.commands.flags import LARGEST
from vae_jax.errors import UserError
from vae_jax.evaluation.distances import likeness
from vae_jax.exploration import judging, sampling
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import drawing
from vae_jax.run import Run
from vae_jax.storage import write_json

# A Frechet distance depends on how many images there are; more take longer.
NUM_COMPARED = 2500


def scales(text: str) -> list[float]:
    """Returns the numbers of --guidance=0,1,2,4.

    Raises:
      ArgumentTypeError: one is not a number from 0 to `LARGEST`.
    """
    try:
        found = [float(number) for number in listed(text)]
    except ValueError:
        found = [math.nan]
    # NaN is in no range.
    if not all(0 <= number <= LARGEST for number in found):
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed are numbers from 0 to {LARGEST:g}, with commas between"
        )
    return found


def even(text: str) -> int:
    """Returns the number of --num_images=200.

    Raises:
      ArgumentTypeError: it is not even, or not above 0.
    """
    if not text.isdecimal() or int(text) % 2 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}; allowed is an even number above 0")
    return int(text)


def drawn(
    model: Any,
    labels: Float[np.ndarray, "N A"],
    guidance: float,
    samples_key: Key[Array, ""],
) -> Float[np.ndarray, "N H W C"]:
    """Returns an image of each row of labels, in [0, 1]."""
    told = jnp.asarray(labels)
    (codes,) = sampling.draw_codes(model, samples_key, 1, told, guidance=guidance)
    return sampling.decode_codes(model, codes, labels)


def balanced_accuracy(
    has: Bool[np.ndarray, "N A"], judged: Bool[np.ndarray, "N A"]
) -> Float[np.ndarray, " A"]:
    """Returns the mean share told right of images with and of those without.

    NaN of an attribute that all images have or none.
    """
    with np.errstate(invalid="ignore"):
        with_it = np.sum(has & judged, axis=0) / np.sum(has, axis=0)
        without = np.sum(~has & ~judged, axis=0) / np.sum(~has, axis=0)
    return (with_it + without) / 2


def look(
    run: Run, judge: Run, guidance: Sequence[float], num_images: int, seed: int
) -> dict[str, Any]:
    """Returns guidance.json: what a judge says of samples under each guidance.

    Args:
      run: a run of a flow that is told labels.
      judge: a run of a classifier that knows all of them, see `open_judge`.
      guidance: each W, see `FlowDensity.sample`.
      num_images: images for each attribute, half of them asked to have it; even.
      seed: seed of the samples.
    """
    names = build.label_names(run.config.model)
    known = build.label_names(judge.config.model)
    columns = [known.index(name) for name in names]
    model, classifier = run.model(), judge.model()
    samples_key = key(seed, Stream.SAMPLING)
    told = run.labels("test", slice(NUM_COMPARED))
    assert told is not None
    pictures = to_unit_interval(run.dataset.splits["test"].images[:NUM_COMPARED])
    real, logits = judging.judge_images(classifier, pictures)
    right = balanced_accuracy(told > 0, logits[:, columns] > 0)
    asked = np.tile(np.array([1, -1], np.float32), num_images // 2)
    by_attribute = {name: [] for name in names}
    together = []
    work = [(scale, number) for scale in guidance for number in range(len(names))]
    for scale, number in tqdm(work, "guiding", disable=None, leave=False):
        alone = np.zeros((num_images, len(names)), np.float32)
        alone[:, number] = asked
        # Noise of its own for each attribute, and the same under each guidance.
        own_key = jax.random.fold_in(samples_key, number)
        images = drawn(model, alone, scale, own_key)
        _, logits = judging.judge_images(classifier, images)
        agrees = (logits[:, columns[number]] > 0) == (asked > 0)
        by_attribute[names[number]].append(float(np.mean(agrees)))
    for scale in guidance:
        images = drawn(model, told, scale, samples_key)
        features, logits = judging.judge_images(classifier, images)
        shares = balanced_accuracy(told > 0, logits[:, columns] > 0)
        figures = likeness(real, features)
        together.append({"accuracy": float(np.nanmean(shares))} | figures)
    return {
        "workdir": str(run.workdir),
        "judge": str(judge.workdir),
        "num_images": num_images,
        "seed": seed,
        "step": run.step,
        "num_compared": len(told),
        "guidance": list(guidance),
        "asked_alone": by_attribute,
        "pictures": {
            name: None if np.isnan(share) else float(share)
            for name, share in zip(names, right, strict=True)
        },
        "all_asked": together,
    }


def table(report: dict[str, Any]) -> str:
    """Returns guidance.json as two tables.

    The first has the shares of images that are as was asked, and those of test images
    that the judge tells right. An attribute is marked whose share is under no guidance
    above a half by twice the standard error that a half has.
    """
    headers = [f"W = {scale:g}" for scale in report["guidance"]]
    alone, pictures = report["asked_alone"], report["pictures"]
    least = 0.5 + 2 * 0.5 / math.sqrt(report["num_images"])
    rows = [
        [name, *shares, pictures[name], "" if max(shares) > least else "not raised"]
        for name, shares in alone.items()
    ]
    known = [share for share in pictures.values() if share is not None]
    means = [*np.mean([*alone.values()], axis=0), np.mean(known) if known else None]
    rows.append(["mean", *means, ""])
    first = tabulate(rows, ["asked alone", *headers, "test images", ""], floatfmt=".2f")
    compared = [[name, *found] for name, found in _by_figure(report).items()]
    second = tabulate(compared, ["all asked", *headers], floatfmt=".3g")
    return f"{first}\n\n{second}"


def _by_figure(report: dict[str, Any]) -> dict[str, list[float]]:
    """Returns each figure of the images that all is asked of, by guidance."""
    under_each = report["all_asked"]
    return {name: [each[name] for each in under_each] for name in under_each[0]}


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws guidance.png: what is as was asked, and how like real images it is."""
    figure, axes = new_figure(3)
    x, shares = report["guidance"], np.array([*report["asked_alone"].values()])
    found = _by_figure(report)
    axes[0].plot(x, shares.T, color="0.8", linewidth=0.8)
    axes[0].plot(x, shares.mean(axis=0), "o-", label="asked alone: mean, and each")
    axes[0].plot(x, found["accuracy"], "o-", label="all asked: mean")
    axes[0].set_title("balanced share that is as was asked")
    for name in ("precision", "recall"):
        axes[1].plot(x, found[name], "o-", label=name)
    axes[1].set_title("all asked")
    axes[2].plot(x, found["judge_frechet"], "o-")
    axes[2].set_title("all asked: judge's Frechet distance")
    for axis in axes:
        axis.set_xlabel("guidance W")
    for axis in axes[:2]:
        axis.legend()
    drawing.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.guidance", __doc__)
    add_judged_flags(parser, "runs/labelled_flow")
    parser.add_argument(
        "--guidance",
        type=scales,
        default="0,1,2,4",
        help="Strengths with commas between; 0,1,2,4.",
    )
    parser.add_argument(
        "--num_images", type=even, default="200", help="Images for each attribute; 200."
    )
    options = parser.parse_args(argv)
    run = run_lib.load(options.workdir)
    abilities.check_flow(run, f"--workdir is '{options.workdir}'")
    names = build.label_names(run.config.model)
    if not names:
        raise UserError(
            f"--workdir is '{options.workdir}', a flow that is told no labels; "
            "configs/latent_flow.py:labelled trains one that is"
        )
    judge = judges.open_judge("judge", options.judge, run)
    unknown = set(names).difference(build.label_names(judge.config.model))
    if unknown:
        raise UserError(
            f"--judge is '{options.judge}', which does not know "
            f"{', '.join(sorted(unknown))}; allowed is one that knows all labels of "
            f"{options.workdir}"
        )
    run.dataset_for("comparing samples with test images")
    judges.check_judged(run, (judge,))
    report = look(run, judge, options.guidance, options.num_images, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "guidance.json", report)
    draw(report, options.out / f"guidance.{options.format}")
    print(table(report))


if __name__ == "__main__":
    cli(main)
