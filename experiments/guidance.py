"""What guidance by labels brings a flow over codes, and what it costs.

  python -m experiments.guidance --workdir=runs/latent_flow --judge=runs/judge

draws from a run of configs/latent_flow.py:labelled under each --guidance. For each
attribute by itself images are asked to have it, in one half, and to lack it, in the
other; and images are asked to have all attributes of the test images. A judge says how
many of the former are as was asked, and how like the test images the latter are. Under
--out come guidance.json and guidance.png.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from tabulate import tabulate
from tqdm import tqdm

from experiments.command_line import add_path_flag, cli, listed, new_parser
from experiments.sweep import new_figure
from vae_jax import run as run_lib
from vae_jax.commands import abilities, judges
from vae_jax.commands.pictures import in_unit_interval
from vae_jax.errors import UserError
from vae_jax.exploration import judging, sampling
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.report import drawing
from vae_jax.report.writer import write_json
from vae_jax.run import Run

# A Frechet distance depends on how many images there are; more take longer.
NUM_COMPARED = 2500


def scales(text: str) -> list[float]:
    """Returns the numbers of --guidance=0,1,2,4.

    Raises:
      ArgumentTypeError: one is not a finite number of at least 0.
    """
    try:
        found = [float(number) for number in listed(text)]
    except ValueError:
        found = [math.nan]
    if not all(0 <= number < math.inf for number in found):
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed are numbers of at least 0, with commas between"
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
    run: Run, labels: Float[np.ndarray, "N A"], guidance: float, seed: int
) -> Float[np.ndarray, "N H W C"]:
    """Returns an image of each row of labels, in [0, 1]."""
    model, told = run.model(), jnp.asarray(labels)
    samples_key = key(seed, Stream.SAMPLING)
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
      run: of a flow that is told labels.
      judge: of a classifier that knows all of them, see `open_judge`.
      guidance: each W, see `FlowDensity.sample`.
      num_images: of each attribute, half of them asked to have it; even.
      seed: of the samples.
    """
    names = build.label_names(run.config.model)
    known = build.label_names(judge.config.model)
    columns = [known.index(name) for name in names]
    classifier = judge.model()
    told = np.asarray(run.labels("test"))[:NUM_COMPARED]
    pictures = in_unit_interval(run.dataset.splits["test"].images[:NUM_COMPARED])
    real, logits = judging.judge_images(classifier, pictures)
    right = balanced_accuracy(told > 0, logits[:, columns] > 0)
    asked = np.tile(np.array([1, -1], np.float32), num_images // 2)
    by_attribute = {name: [] for name in names}
    together = []
    work = [(scale, number) for scale in guidance for number in range(len(names))]
    for scale, number in tqdm(work, "guiding", disable=None, leave=False):
        alone = np.zeros((num_images, len(names)), np.float32)
        alone[:, number] = asked
        # Other images of each attribute, and the same under each guidance.
        images = drawn(run, alone, scale, seed + 1 + number)
        _, logits = judging.judge_images(classifier, images)
        agrees = (logits[:, columns[number]] > 0) == (asked > 0)
        by_attribute[names[number]].append(float(np.mean(agrees)))
    for scale in guidance:
        features, logits = judging.judge_images(
            classifier, drawn(run, told, scale, seed)
        )
        agrees = (logits[:, columns] > 0) == (told > 0)
        together.append(
            {"accuracy": float(np.mean(agrees))} | judging.likeness(real, features)
        )
    return {
        "workdir": str(run.workdir),
        "judge": str(judge.workdir),
        "num_images": num_images,
        "seed": seed,
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

    The first has the shares that are as was asked, by attribute; those that no
    guidance of the columns raises above that of the first are marked.
    """
    headers = [f"W = {scale:g}" for scale in report["guidance"]]
    rows = [
        [
            name,
            *shares,
            report["pictures"][name],
            "" if _raises(shares) else "not raised",
        ]
        for name, shares in report["asked_alone"].items()
    ]
    means = np.mean(list(report["asked_alone"].values()), axis=0)
    rows.append(["mean", *means, None, None])
    alone = tabulate(rows, ["asked alone", *headers, "test images", ""], floatfmt=".2f")
    figures = [*report["all_asked"][0]]
    compared = [
        [name, *(each[name] for each in report["all_asked"])] for name in figures
    ]
    return f"{alone}\n\n{tabulate(compared, ['all asked', *headers], floatfmt='.3g')}"


def _raises(shares: Sequence[float]) -> bool:
    return max(shares) > shares[0]


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws guidance.png: what is as was asked, and how like real images it is."""
    figure, axes = new_figure(3)
    x, shares = report["guidance"], np.array([*report["asked_alone"].values()])
    axes[0].plot(x, shares.T, color="0.8", linewidth=0.8)
    axes[0].plot(x, shares.mean(axis=0), "o-", label="asked alone, mean and each")
    by_name = {
        n: [each[n] for each in report["all_asked"]] for n in report["all_asked"][0]
    }
    axes[0].plot(x, by_name["accuracy"], "o-", label="all asked, mean")
    axes[0].set_title("share that is as was asked")
    for name in ("precision", "recall"):
        axes[1].plot(x, by_name[name], "o-", label=name)
    axes[2].plot(x, by_name["judge_frechet"], "o-")
    axes[2].set_title("judge's Frechet distance")
    for axis in axes:
        axis.set_xlabel("guidance W")
    for axis in axes[:2]:
        axis.legend()
    drawing.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.guidance", __doc__)
    # There is no recipe.
    parser.epilog = None
    flow = Path("runs/latent_flow")
    add_path_flag(parser, "--workdir", f"Of the flow; {flow}.", flow)
    add_path_flag(parser, "--judge", "The workdir of a classifier; it is needed.")
    parser.add_argument(
        "--guidance", type=scales, default="0,1,2,4", help="Commas between; 0,1,2,4."
    )
    parser.add_argument(
        "--num_images", type=even, default="200", help="Of each attribute; 200."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the samples; 0.")
    options = parser.parse_args(argv)
    run = run_lib.load(options.workdir)
    abilities.check_flow(run, f"--workdir is '{options.workdir}'")
    names = build.label_names(run.config.model)
    if not names:
        raise UserError(
            f"--workdir is '{options.workdir}', a flow that is told no labels; "
            "configs/latent_flow.py:labelled trains one that is"
        )
    if options.judge is None:
        raise UserError("--judge is not given; it names the workdir of a classifier")
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
