"""What sharpness costs, and what it brings: a VAE under several weights of both pulls.

  python -m experiments.realism --config=configs/sharp_vae.py --judge=runs/judge \
      --weights=0:0,0.5:0,0:0.2,0.5:0.2

trains a model for each pair PERCEPTUAL:ADVERSARIAL and each seed, and writes,
under --out, table.md, table.csv and realism.png: PSNR and bits/dim, which pay, and
sharpness and the judge's Frechet distance, precision and recall, of reconstructions of
the test images and of samples of a Gaussian fitted to codes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.command_line import (
    Settings,
    add_path_flag,
    add_sweep_flags,
    cli,
    listed,
    new_parser,
    parse,
)
from experiments.sweep import Results, mean_and_std, new_figure, sweep_by_flags
from vae_jax.errors import UserError
from vae_jax.report import drawing

PANELS = {
    "reconstructions_psnr": "PSNR, dB",
    "bits_per_dim": "bits/dim",
    "reconstructions_sharpness": "sharpness, real images 1",
    "reconstructions_judge_frechet": "judge's Frechet, reconstructions",
    "samples_gaussian_judge_frechet": "judge's Frechet, Gaussian samples",
}
# Settings that have a use with one of the weights alone.
OF_PULLS = ("objective.guide", "objective.critic", "model.realism")
FIGURES = [
    *PANELS,
    "reconstructions_precision",
    "reconstructions_recall",
    "samples_gaussian_precision",
    "samples_gaussian_recall",
]


def weights(text: str) -> list[str]:
    """Returns the pairs of a flag such as --weights=0:0,0.3:0.2.

    Raises:
      ArgumentTypeError: one is no pair of numbers.
    """
    pairs = listed(text)
    for pair in pairs:
        try:
            _, _ = map(float, pair.split(":"))
        except ValueError as error:
            raise argparse.ArgumentTypeError(
                f"{pair!r}; allowed is PERCEPTUAL:ADVERSARIAL, two numbers"
            ) from error
    return pairs


def point_of(pair: str, settings: Settings) -> dict[str, Any]:
    """Returns the settings of one pair of weights.

    Args:
      pair: PERCEPTUAL:ADVERSARIAL.
      settings: settings of the command line; those that have no use where a weight is 0
        are left out there.
    """
    perceptual, adversarial = pair.split(":")
    useless = [
        *([] if float(perceptual) else ["objective.guide"]),
        *([] if float(adversarial) else ["objective.critic"]),
        *([] if float(perceptual) or float(adversarial) else ["model.realism"]),
    ]
    own = {
        name: value
        for name, value in settings.items()
        if name.startswith(OF_PULLS) and not name.startswith(tuple(useless))
    }
    weighted = {
        "objective.perceptual_weight": perceptual,
        "objective.adversarial_weight": adversarial,
    }
    # The recipe may name a guide.
    return weighted | own | ({} if float(perceptual) else {"objective.guide": None})


def draw(pairs: Sequence[str], results: Results, path: Path) -> None:
    """Draws realism.png from the results of `sweep`, one bar for each pair."""
    some = next(iter(results.values()))
    # A large code has no Gaussian fitted to it.
    shown = [name for name in PANELS if name in some]
    figure, axes = new_figure(len(shown))
    places = np.arange(len(pairs))
    for axis, name in zip(axes, shown, strict=True):
        means, stds = mean_and_std(results, name)
        axis.errorbar(places, means, yerr=stds, marker="o", linestyle="", capsize=3)
        axis.set_xticks(places, pairs)
        axis.set_title(PANELS[name])
        axis.set_xlabel("perceptual : adversarial")
    drawing.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.realism", __doc__)
    add_sweep_flags(parser)
    parser.set_defaults(config="configs/sharp_vae.py")
    add_path_flag(parser, "--judge", "Workdir of a classifier; it is needed.")
    parser.add_argument(
        "--weights",
        type=weights,
        default="0:0,0.5:0,0:0.2,0.5:0.2",
        help="Pairs PERCEPTUAL:ADVERSARIAL with commas between; "
        "0:0,0.5:0,0:0.2,0.5:0.2.",
    )
    options, settings = parse(parser, argv)
    if options.judge is None:
        raise UserError("--judge is not given; it names the workdir of a classifier")
    points = {
        # A colon has meanings of its own in paths.
        pair.replace(":", "_"): point_of(pair, settings)
        for pair in options.weights
    }
    settings = {n: v for n, v in settings.items() if not n.startswith(OF_PULLS)}
    results = sweep_by_flags(options, settings, points, FIGURES, options.judge)
    if results is None:
        return
    draw(options.weights, results, options.out / f"realism.{options.format}")


if __name__ == "__main__":
    cli(main)
