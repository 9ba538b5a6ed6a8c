"""Runs one recipe under several settings and seeds, and puts their figures in a table.

A question of your own is a file like beta.py, or in Python

  points = {"wide": {"model.hidden_dim": 1024}, "narrow": {"model.hidden_dim": 256}}
  results = sweep("configs/vae.py", {}, points, [0, 1, 2], Path("runs/width"))
  write_table(points, results, ["elbo", "mse"], Path("runs/width"))
"""

import argparse
import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from experiments.command_line import Settings, config_arguments, read_config
from vae_jax import record, resolve
from vae_jax import run as run_lib
from vae_jax.commands import evaluation, judges
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.models.build import MODELS, OBJECTIVES
from vae_jax.report import drawing, evaluations

# A value for each seed, by the point's name, then by the figure's.
Results: TypeAlias = dict[str, dict[str, Float[np.ndarray, " seeds"]]]


def _report_at(
    workdir: Path, step: int | None, judge: Path | None = None
) -> dict[str, Any] | None:
    """Returns eval.json if it is of the parameters at `step` and has what `judge` says.

    Otherwise None, and where it is damaged or of an earlier program.
    """
    path = workdir / "eval.json"
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text())
        trained_on = record.read_recipe(workdir)["fingerprint"]
        of_step = report["test"]["ema"]["step"] == step
        of_step &= report.get("fingerprint", trained_on) == trained_on
        judged = judge is None or (
            report.get("judge", {}).get("workdir") == str(judge)
            and report["sharpness"].get("realism", 0) == 0
        )
    except evaluations.DAMAGED:
        return None
    return report if of_step and judged else None


def finished_report(
    config: Config, workdir: Path, judge: Path | None = None
) -> dict[str, Any] | None:
    """Returns eval.json's report of a finished run, None where there is work to do.

    Raises:
      UserError: the workdir holds a run of another config.
    """
    if not record.exists(workdir):
        return None
    recorded = record.read_config(workdir)
    record.check_config(workdir, recorded, config)
    num_steps = config.train.num_steps
    if num_steps is None:
        num_train = record.read_recipe(workdir)["pictures"]["train"]
        num_steps = resolve.num_steps_of(config, num_train)
    return _report_at(workdir, num_steps, judge)


def finish(config: Config, workdir: Path, judge: Path | None = None) -> dict[str, Any]:
    """Trains and evaluates a run, as far as that is not done; returns eval.json.

    Args:
      config: settings of the run.
      workdir: workdir of the run.
      judge: the workdir of a classifier that judges it.

    Raises:
      UserError: as `run.train`.
      KeyboardInterrupt: training was stopped before its end, and is saved.
    """
    report = finished_report(config, workdir, judge)
    if report is not None:
        return report
    run = run_lib.train(config, workdir)
    if run.was_stopped:
        raise KeyboardInterrupt(
            f"stopped at step {run.step} of {workdir}; the same command goes on from "
            "there"
        )
    report = _report_at(workdir, run.step, judge)
    if report is None:
        opened = [] if judge is None else [judges.open_judge("judge", judge, run)]
        report = evaluation.evaluate_run(run, *opened)
        evaluation.write_evaluation(run, report)
    return report


def figures_of(report: dict[str, Any]) -> dict[str, float]:
    """Returns eval.json's scalars of the EMA parameters on the test split.

    And those of `disentanglement`, where the factors of the pictures are known; and
    those of sets of images, their names before them, `reconstructions_psnr` and so on.
    """
    blocks = [report["test"]["ema"], report.get("disentanglement", {})]
    for looked_at in (report.get("sharpness", {}), report.get("judge", {})):
        blocks += [
            {f"{images}_{name}": value for name, value in figures.items()}
            for images, figures in evaluations.sets_of(looked_at).items()
        ]
    return {
        name: float(value)
        for block in blocks
        for name, value in evaluations.scalars(block).items()
    }


def workdir_of(out: Path, point: str, seed: str | int) -> Path:
    """Returns where `sweep` keeps the run of a point and a seed."""
    return out / f"{point}_seed{seed}"


def sweep(
    recipe: str,
    settings: Settings,
    points: Mapping[str, Settings],
    seeds: Sequence[str | int],
    out: Path,
    *,
    dry_run: bool = False,
    judge: Path | None = None,
) -> Results | None:
    """Trains and evaluates a run for each point and seed, one by one.

    In `workdir_of` each. A finished run is only read, an unfinished one goes on; all
    settings are checked before any work.

    Args:
      recipe: path of the recipe, with words after a colon, if it takes them.
      settings: settings of all runs.
      points: settings in which the points differ, by the name of the point.
      seeds: seeds of each point.
      out: folder of the runs.
      dry_run: print the runs' shell commands and do nothing else.
      judge: the workdir of a classifier that judges each run.

    Returns:
      The figures of `figures_of` that all runs have; None of a dry run.

    Raises:
      UserError: a setting is refused, or a workdir holds a run of another config.
    """
    varied = {"seed"}.union(*points.values())
    for name in settings:
        if name in varied:
            raise UserError(
                f"--config.{name} is given, but it is what differs between the runs"
            )
    runs = {
        (point, seed): {**settings, **points[point], "seed": seed}
        for point in points
        for seed in seeds
    }
    configs = {at: read_config(recipe, of_run) for at, of_run in runs.items()}
    workdirs = {at: workdir_of(out, *at) for at in runs}
    reports = {at: finished_report(configs[at], workdirs[at], judge) for at in runs}
    if dry_run:
        for at, of_run in runs.items():
            main = ["python", "-m", "vae_jax.main", f"--workdir={workdirs[at]}"]
            print(shlex.join([*main, *config_arguments(recipe, of_run)]))
        return None
    for number, at in enumerate(runs, 1):
        known = "" if reports[at] is None else ", which is finished"
        print(f"run {number} of {len(runs)}: {workdirs[at]}{known}")
        reports[at] = reports[at] or finish(configs[at], workdirs[at], judge)
    figures = {at: figures_of(report or {}) for at, report in reports.items()}
    common = [
        name
        for name in next(iter(figures.values()))
        if all(name in of_run for of_run in figures.values())
    ]
    return {
        point: {n: np.array([figures[point, s][n] for s in seeds]) for n in common}
        for point in points
    }


def check_elbo(recipe: str, settings: Settings) -> None:
    """Raises UserError where a recipe's model has no ELBO to train by."""
    model, terms = read_config(recipe, settings).model.name, OBJECTIVES["elbo"].terms
    if MODELS[model].terms != terms:
        others = [name for name, option in MODELS.items() if option.terms == terms]
        raise UserError(
            f"--config is {recipe!r}, a recipe of model {model}; allowed are those of "
            f"models with an ELBO: {', '.join(others)}"
        )


def sweep_by_flags(
    options: argparse.Namespace,
    settings: Settings,
    points: Mapping[str, Settings],
    names: Sequence[str],
    judge: Path | None = None,
) -> Results | None:
    """Does what the flags of `add_sweep_flags` ask for: `sweep`, and then a table.

    Args:
      options: the flags.
      settings: settings of all runs.
      points: settings in which the points differ, by the name of the point.
      names: names of the figures in the table.
      judge: the workdir of a classifier that judges each run.

    Returns:
      The results; None of a dry run.

    Raises:
      UserError: as `sweep`.
    """
    results = sweep(
        options.config,
        settings,
        points,
        options.seeds,
        options.out,
        dry_run=options.dry_run,
        judge=judge,
    )
    if results is not None:
        print(write_table(points, results, names, options.out))
    return results


def mean_and_std(
    results: Results, name: str
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Returns a figure's mean over seeds at each point, and its standard deviation.

    The latter is that of a sample (over seeds - 1); of a single seed it is NaN.
    """
    values = np.array([figures[name] for figures in results.values()])
    if values.shape[1] == 1:
        return values[:, 0], np.full(len(values), np.nan)
    return values.mean(axis=1), values.std(axis=1, ddof=1)


def write_table(
    points: Mapping[str, Settings], results: Results, names: Sequence[str], out: Path
) -> str:
    """Writes OUT/table.md and OUT/table.csv; returns the table for a terminal.

    Args:
      points: the points that `sweep` took.
      results: the results that `sweep` returned.
      names: names of figures; those that the runs do not have are left out.
      out: folder of the files.
    """
    some = next(iter(results.values()))
    spreads = {n: mean_and_std(results, n) for n in names if n in some}
    varied = list(dict.fromkeys(n for settings in points.values() for n in settings))
    told, exact = [], []
    for number, point in enumerate(points):
        start = [points[point].get(name, "") for name in varied]
        start.append(len(next(iter(some.values()))))
        figures = [(m[number], s[number]) for m, s in spreads.values()]
        told.append([*start, *(_told(*figure) for figure in figures)])
        exact.append([*start, *(_exact(x) for figure in figures for x in figure)])
    columns = [f"{n}_{part}" for n in spreads for part in ("mean", "std")]
    write_csv(out / "table.csv", [*varied, "seeds", *columns], exact)
    headers = [*varied, "seeds", *spreads]
    table = tabulate(told, headers, tablefmt="github", disable_numparse=True)
    (out / "table.md").write_text(f"{table}\n")
    return tabulate(told, headers, disable_numparse=True)


def _told(mean: float, std: float) -> str:
    return f"{mean:.5g}" if np.isnan(std) else f"{mean:.5g} ± {std:.2g}"


def _exact(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))


def write_csv(path: Path, headers: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Writes a table as comma-separated values."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([headers, *rows])


def new_figure(num_panels: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure with panels side by side."""
    figure = drawing.new_figure(4 * num_panels, 3.4, layout="constrained")
    axes = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def draw_figure(
    axis: Axes,
    values: Sequence[str],
    results: Results,
    name: str,
    label: str | None = None,
) -> None:
    """Draws a figure's means against the points' values, bars of one deviation.

    Args:
      axis: logarithmic in the values, unless 0 is among them.
      values: values of the setting that the points differ in, in their order.
      results: the results that `sweep` returned.
      name: name of the figure.
      label: words for a legend.
    """
    x = np.array([float(value) for value in values])
    order = np.argsort(x)
    means, stds = (column[order] for column in mean_and_std(results, name))
    axis.errorbar(x[order], means, yerr=stds, marker="o", capsize=3, label=label)
    if x.min() > 0:
        axis.set_xscale("log", base=2)
    axis.set_xticks(x, values)
    axis.minorticks_off()
