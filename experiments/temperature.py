"""What the temperature of samples buys in likeness, and what it costs in variety.

  python -m experiments.temperature --workdir=runs/hvae --judge=runs/judge

draws samples at each --temperature, all by the same noise, and holds them against the
test images: a judge's Frechet distance, precision and recall, and the sharpness beside
that of the images. Under --out come temperature.json and temperature.png, with a row of
samples for each temperature.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from tabulate import tabulate
from tqdm import tqdm

from experiments.command_line import add_judged_flags, cli, new_parser
from vae_jax import run as run_lib
from vae_jax.commands import abilities, judges
from vae_jax.commands.prior_flags import by_number, parse_temperature, temperature_text
from vae_jax.commands.samples import SAMPLERS, said_of, sample, samplers_at_hand
from vae_jax.evaluation import sharpness
from vae_jax.evaluation.distances import likeness
from vae_jax.exploration import judging
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import write_json

Temperatures = Sequence[float | Mapping[int, float]]

# A Frechet distance depends on how many images there are; more take longer.
NUM_COMPARED = 2500
NUM_SHOWN = 10
USUAL = (1.0, 0.8, 0.6)


def look(
    run: Run, judge: Run, sampler: str, temperatures: Temperatures, seed: int
) -> tuple[dict[str, Any], Float[np.ndarray, "rows columns H W C"]]:
    """Returns temperature.json, and samples at each temperature in rows.

    Args:
      run: a run of an autoencoder of any kind.
      judge: a run of a classifier, see `open_judge`.
      sampler: one of `SAMPLERS`.
      temperatures: see `samples.sample`.
      seed: seed of the samples.
    """
    pictures = to_unit_interval(run.dataset.splits["test"].images[:NUM_COMPARED])
    real, _ = judging.judge_images(judge.model(), pictures)
    of_pictures = sharpness.sharpness(pictures)
    rows, shown = [], []
    for each in tqdm(temperatures, "temperatures", disable=None, leave=False):
        images = sample(run, sampler, len(pictures), seed, temperature=each)
        features, _ = judging.judge_images(judge.model(), images)
        sharp = {"sharpness": sharpness.sharpness(images) / of_pictures}
        figures = likeness(real, features) | sharp
        rows.append({"temperature": temperature_text(each)} | figures)
        shown.append(images[:NUM_SHOWN])
    report = {
        "workdir": str(run.workdir),
        "judge": str(judge.workdir),
        "sampler": sampler,
        "seed": seed,
        "step": run.step,
        "num_images": len(pictures),
        "temperatures": rows,
    }
    return report, np.stack(shown)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.temperature", __doc__)
    add_judged_flags(parser, "runs/hvae")
    parser.add_argument(
        "--temperature",
        action="append",
        type=parse_temperature,
        help="Temperature as of --mode=sample, 0.8 or 4:1,16:0.7; one flag for each. "
        "Default: 1, 0.8 and 0.6.",
    )
    parser.add_argument(
        "--sampler", choices=SAMPLERS, help="Sampler as of --mode=sample; the best."
    )
    options = parser.parse_args(argv)
    temperatures = options.temperature or USUAL
    run = run_lib.load(options.workdir)
    abilities.check_decoder(run, f"--workdir is '{options.workdir}'")
    for each in temperatures:
        if isinstance(each, Mapping):
            by_number(run, each)
    judge = judges.open_judge("judge", options.judge, run)
    run.dataset_for("comparing samples with test images")
    judges.check_judged(run, (judge,))
    sampler = options.sampler or samplers_at_hand(run)[0]
    report, shown = look(run, judge, sampler, temperatures, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "temperature.json", report)
    grids.image_grid(
        shown,
        options.out / f"temperature.{options.format}",
        rows=[row["temperature"] for row in report["temperatures"]],
        caption=[
            "New images, none of them chosen, by temperature: what the decoder makes "
            f"of codes drawn from {said_of(run, sampler)}. A column has one noise.",
        ],
    )
    print(tabulate(report["temperatures"], headers="keys", floatfmt=".3g"))


if __name__ == "__main__":
    cli(main)
