"""Several runs side by side, on one page that stands alone.

  python -m experiments.compare runs/vae runs/conv_vae --out=compare.html

writes a page with the settings in which the runs differ, their metrics on the test
split, their curves on one axis, the same faces through each model, and samples.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.command_line import add_path_flag, cli
from vae_jax import config as config_lib
from vae_jax import other_runs
from vae_jax import run as run_lib
from vae_jax.command_line import Parser
from vae_jax.commands import abilities, reconstructions, recorded, samples
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path
from vae_jax.report import charts, evaluations, page, plots
from vae_jax.report.writer import read_lines
from vae_jax.run import Run
from vae_jax.storage import write_whole

NUM_FACES = 12
NUM_SAMPLES = 18
# Settings that say where files are, and nothing of the runs.
PLACES = ("dataset.data_dir", "distributed")


def different_settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Returns the settings that are not the same in all runs, with each run's value."""
    flat = [config_lib.flatten(run.config) for run in runs]
    names = dict.fromkeys(name for each in flat for name in each)
    rows = [(name, [each.get(name) for each in flat]) for name in names]
    return [
        (name, [str(value) for value in values])
        for name, values in rows
        if name not in PLACES and any(value != values[0] for value in values)
    ]


def curves_together(runs: Sequence[Run]) -> list[charts.Chart]:
    """Returns a chart for each metric that two runs have, with a curve for each.

    The curve is that of the validation split, and of training where no other is; where
    images grow, that of their last size.
    """
    logs = {str(run.workdir): read_lines(run.workdir / "metrics.jsonl") for run in runs}
    drawn = []
    names = dict.fromkeys(n for log in logs.values() for n in plots.logged_metrics(log))
    for name in names:
        curves, limits, colours = {}, [], []
        for number, (workdir, log) in enumerate(logs.items()):
            last = [line for line in log if line.get("size") == log[-1].get("size")]
            of_run = plots.curves(last, name)
            for (split, _), points in [*of_run.items()][::-1]:
                if points:
                    label = workdir if split == "validation" else f"{workdir}, training"
                    curves[label] = points
                    limits.append(plots.limits(last, name))
                    colours.append(number)
                    break
        if len(curves) > 1:
            lows, highs = zip(*limits, strict=True)
            shown = min(lows), max(highs)
            drawn.append(charts.chart(name, curves, shown, colours=colours))
    return drawn


def not_comparable(runs: Sequence[Run]) -> str:
    """Returns a sentence on metrics that mean another thing in each run, or none."""
    kinds = ("model.name", "model.likelihood", "objective.name")
    differ = [name for name, _ in different_settings(runs) if name in kinds]
    if not differ:
        return ""
    return (
        f"The runs differ in {' and '.join(differ)}: their loss, elbo, iw_bound and "
        "log_px are of different kinds, and none is better for being higher. "
        "bits_per_dim, mse and what a judge says can be compared."
    )


def tables_together(
    reports: Mapping[str, dict[str, Any]], words: str = ""
) -> list[page.Table]:
    """Returns the metrics of the test split, a column for each run that has them.

    Args:
      reports: eval.json, by run.
      words: words on the metrics, a sentence or none.
    """
    tested = {name: report["test"]["ema"] for name, report in reports.items()}
    sharp = {
        name: evaluations.with_bands(report["sharpness"]["reconstructions"])
        for name, report in reports.items()
        if "reconstructions" in report.get("sharpness", {})
    }
    title = "Sharpness of reconstructions, that of the test images is 1"
    tables = [
        page.table(title, columns, told)
        for title, columns, told in (("Test split", tested, words), (title, sharp, ""))
        if columns
    ]
    # Figures of one judge are no measure beside those of another.
    by_judge: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    guided: dict[str, list[str]] = {}
    for name, report in reports.items():
        for judged in evaluations.judges_of(report):
            if judged.is_guide:
                guided.setdefault(judged.name, []).append(name)
            for kind, found in judged.by_images.items():
                by_judge.setdefault((judged.name, kind), {})[name] = found
    for (judge, kind), columns in by_judge.items():
        of = [name for name in guided.get(judge, []) if name in columns]
        words = f"It is the guide of {', '.join(of)}, which its figures flatter."
        title = f"Judge {judge} on {kind.replace('_', ' ')}"
        tables.append(page.table(title, columns, words if of else ""))
    return tables


def faces_together(runs: Sequence[Run]) -> list[page.Picture]:
    """Returns the same images, each beside what every model makes of it.

    Raises:
      UserError: the models do not see the same images, or these are not there.
    """
    first = runs[0]
    for run in runs[1:]:
        other_runs.check_same_images(
            first.config,
            run.config,
            f"the run in {first.workdir}",
            f"the run in {run.workdir}",
        )
    found = [reconstructions.reconstruct(run, NUM_FACES) for run in runs]
    if not all(np.array_equal(each.originals, found[0].originals) for each in found):
        raise UserError("the runs have other images in their validation splits")
    beside = np.stack([found[0].originals, *(each.means for each in found)], axis=1)
    names = ", ".join(str(run.workdir) for run in runs)
    return [
        page.strip(images, f"Validation image {number}, then as made by {names}")
        for number, images in enumerate(beside)
    ]


def compare(runs: Sequence[Run]) -> str:
    """Returns the page about several runs; what cannot be shown it leaves out."""
    reports, left_out = {}, []
    for run in runs:
        try:
            reports[str(run.workdir)] = recorded.evaluation_of(run)
        except UserError as error:
            left_out.append((f"metrics of {run.workdir}", str(error)))
    words = not_comparable(runs)
    content: dict[str, Any] = {
        "metrics": tables_together(reports, words),
        "curves": curves_together(runs),
        "faces": None,
        "samples": [],
    }
    makers = [run for run in runs if abilities.can_decode(run)]
    if makers:
        try:
            content["faces"] = faces_together(makers)
        except UserError as error:
            left_out.append(("faces", str(error)))
    for run in makers:
        try:
            sampler = samples.samplers_at_hand(run)[0]
            images = samples.sample(run, sampler, NUM_SAMPLES, 0)
        except UserError as error:
            left_out.append((f"samples of {run.workdir}", str(error)))
            continue
        told = samples.said_of(run, sampler)
        alt = f"{len(images)} samples of {run.workdir}, codes from {told}"
        content["samples"].append((str(run.workdir), told, page.sheet(images, alt)))
    headings = {name: name.capitalize() for name in content if content[name]}
    headings |= {"left_out": "Left out"} if left_out else {}
    return page.render(
        "compare.html",
        title=f"{len(runs)} runs side by side",
        runs=[(str(run.workdir), recorded.about(run)) for run in runs],
        models=[str(run.workdir) for run in makers],
        settings=different_settings(runs),
        sections=list(headings.items()),
        left_out=left_out,
        words=words,
        footer="Made by python -m experiments.compare",
        **content,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = Parser("experiments.compare", __doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=lambda text: local_path(text, "a run"),
        help=f"Workdirs of trained runs, {charts.NUM_COLOURS} at most.",
    )
    out = Path("compare.html")
    add_path_flag(parser, "--out", f"File of the page; {out}.", out)
    options = parser.parse_args(argv)
    if len({path.absolute() for path in options.runs}) < max(2, len(options.runs)):
        told = " ".join(map(str, options.runs))
        raise UserError(
            f"the runs are {told}; allowed are two to {charts.NUM_COLOURS}, each once"
        )
    if len(options.runs) > charts.NUM_COLOURS:
        raise UserError(
            f"the runs are {len(options.runs)}; allowed are {charts.NUM_COLOURS}, for "
            "each has a colour of its own"
        )
    runs = [run_lib.load(path) for path in options.runs]
    write_whole(options.out, compare(runs))
    print(options.out)


if __name__ == "__main__":
    cli(main)
