"""Whether it pays to begin with small images: a run that grows, and one that does not.

  python -m experiments.growth --config=configs/progressive_vae.py \
      --stages=16:200,32:800 --num_steps=2000,1260 --config.eval.every_steps=100

trains the recipe in stages and the same network at full size from the start, for each
seed, and writes, under --out, table.md, table.csv and growth.png: the validation ELBO
against the time of training, from where both see images of the same size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.command_line import (
    add_path_flag,
    add_sweep_flags,
    cli,
    listed,
    new_parser,
    parse,
)
from experiments.sweep import check_elbo, new_figure, sweep_by_flags, workdir_of
from vae_jax import experiment, record
from vae_jax.errors import UserError
from vae_jax.report import drawing
from vae_jax.report.writer import read_lines
from vae_jax.training.growth import Phase

FIGURES = [
    "elbo",
    "bits_per_dim",
    "psnr",
    "reconstructions_judge_frechet",
    "samples_gaussian_judge_frechet",
]
LABELS = {"grown": "in stages", "whole": "at full size from the start"}


def phases_of(workdir: Path) -> list[Phase]:
    """Returns the phases that a run was trained in."""
    return experiment.phases_of(record.read_config(workdir))


def fastest_rates(workdirs: Sequence[Path]) -> dict[int, float]:
    """Returns the highest images/s that was logged by the runs, by size of images.

    Raises:
      UserError: no run has logged any for a size.
    """
    rates: dict[int, float] = {}
    for workdir in workdirs:
        lines = read_lines(workdir / "timing.jsonl")
        for phase in phases_of(workdir):
            logged = [
                line["images_per_second"]
                for line in lines
                if phase.first < line["step"] <= phase.last
            ]
            rates[phase.size] = max([rates.get(phase.size, 0.0), *logged])
    unknown = [str(size) for size, rate in rates.items() if not rate]
    if unknown:
        raise UserError(
            f"timing.jsonl of {', '.join(map(str, workdirs))} has no images_per_second "
            f"of {' and '.join(unknown)} pixels, of which minutes are made"
        )
    return rates


def curve(workdir: Path, rates: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """Returns the minutes of training, and the validation ELBO in nats at each.

    Args:
      workdir: workdir of the run.
      rates: images/s by size, the highest of all runs, because the run's own also tell
        what else its machine did. Runs of unlike machines do not compare.
    """
    *earlier, last = phases_of(workdir)
    before = sum(
        (phase.last - phase.first) * phase.batch_size / rates[phase.size]
        for phase in earlier
    )
    points = [
        (line["step"], line["elbo"])
        for line in read_lines(workdir / "metrics.jsonl")
        if line["split"] == "validation" and line["step"] > last.first
    ]
    seconds = [
        before + (step - last.first) * last.batch_size / rates[last.size]
        for step, _ in points
    ]
    return [each / 60 for each in seconds], [elbo for _, elbo in points]


def draw(workdirs: Mapping[str, Sequence[Path]], path: Path) -> None:
    """Draws growth.png, a curve for each seed.

    Args:
      workdirs: workdirs of the runs of each seed, by their key in `LABELS`.
      path: path of the picture.
    """
    rates = fastest_rates([each for runs in workdirs.values() for each in runs])
    figure, [axis] = new_figure(1)
    for number, (name, runs) in enumerate(workdirs.items()):
        for repeat, workdir in enumerate(runs):
            label = None if repeat else LABELS[name]
            axis.plot(*curve(workdir, rates), ".-", color=f"C{number}", label=label)
    axis.set_xlabel("minutes of training")
    axis.set_ylabel("validation ELBO, nats")
    axis.set_title(f"{max(rates)} pixels a side")
    axis.legend()
    drawing.save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.growth", __doc__)
    add_sweep_flags(parser)
    parser.set_defaults(config="configs/progressive_vae.py")
    add_path_flag(parser, "--judge", "Workdir of a classifier; none.")
    parser.add_argument(
        "--stages",
        default="16:200,32:800",
        help="Stages of the run that grows, as config.train.stages; 16:200,32:800.",
    )
    parser.add_argument(
        "--num_steps",
        type=listed,
        default="2000,1260",
        help="Updates of the run that grows, and of the other one; 2000,1260.",
    )
    options, settings = parse(parser, argv)
    if len(options.num_steps) != 2:
        told = ",".join(options.num_steps)
        raise UserError(
            f"--num_steps is {told!r}; allowed are two numbers, GROWN,WHOLE"
        )
    if not options.stages:
        raise UserError("--stages is ''; allowed are stages such as 16:200,32:800")
    check_elbo(options.config, settings)
    grown, whole = options.num_steps
    points = {
        "grown": {"train.stages": options.stages, "train.num_steps": grown},
        "whole": {"train.stages": "", "train.num_steps": whole},
    }
    results = sweep_by_flags(options, settings, points, FIGURES, options.judge)
    if results is None:
        return
    workdirs = {
        point: [workdir_of(options.out, point, seed) for seed in options.seeds]
        for point in points
    }
    draw(workdirs, options.out / f"growth.{options.format}")


if __name__ == "__main__":
    cli(main)
