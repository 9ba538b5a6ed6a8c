"""What run.json, the log and eval.json say of a run, as parts of a page."""

import json
import math
from typing import Any

import jax

from vae_jax import config as config_lib
from vae_jax import record
from vae_jax.commands import captions
from vae_jax.errors import UserError
from vae_jax.experiment import phases_of
from vae_jax.report import charts, page, plots
from vae_jax.report.evaluations import DAMAGED, judges_of, sets_of, with_bands
from vae_jax.report.writer import read_lines
from vae_jax.run import Run

# What a page calls the models of `build.MODELS`; others go by their own names.
KINDS = {
    "ae": "autoencoder",
    "vae": "VAE",
    "hierarchical": "hierarchical VAE",
    "vq": "VQ-VAE",
    "classifier": "classifier",
}


def title_of(run: Run) -> str:
    """Returns what a page calls a run."""
    return f"{run.workdir.name}: {kind_of(run.config.model.name, run.recipe['name'])}"


def kind_of(model: str, dataset: str) -> str:
    """Returns what a model is, by the names of its kind and of its data set."""
    kind = KINDS.get(model, model)
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} of {dataset}"


def about(run: Run) -> str:
    """Returns what a run is, in two sentences."""
    size, channels = run.recipe["size"], run.recipe["channels"]
    begun = [p for p in phases_of(run.config) if p.first <= run.experiment.phase.first]
    batch = ", then ".join(dict.fromkeys(str(phase.batch_size) for phase in begun))
    kind = kind_of(run.config.model.name, run.recipe["name"])
    return (
        f"This is {kind}, {'gray' if channels == 1 else 'colour'} images of "
        f"{size}x{size} pixels. It was trained for {run.step:,} steps of {batch} "
        f"images, drawn from {run.num_train:,}; what is shown is by the EMA of its "
        "parameters."
    )


def facts_of(run: Run) -> tuple[list[tuple[str, str]], str | None]:
    """Returns what run.json says of a run, by name, and the command that trained it."""
    written = record.read(run.workdir)
    pictures = run.recipe["pictures"]
    model, objective = run.config.model, run.config.objective
    versions = written.get("versions", {})
    # While images grow, those of the checkpoint's phase.
    parameters = jax.tree.leaves(run.experiment.shapes.params)
    num_parameters = sum(math.prod(array.shape) for array in parameters)
    facts = {
        "workdir": str(run.workdir),
        "model": f"{model.name}, network {model.network}, objective {objective.name}",
        "parameters": f"{num_parameters:,}",
        "data set": f"{run.recipe['name']}, "
        + ", ".join(f"{number:,} {split}" for split, number in pictures.items())
        + f" images; crop {run.recipe['crop']}, {run.recipe['resampler']}",
        "step": f"{run.step:,} of {run.config.train.num_steps:,}",
        "stages": run.config.train.stages,
        "seed": str(run.config.seed),
        "trained on": ", ".join(sorted({*written.get("devices", [])})),
        "versions": ", ".join(
            f"{name} {versions[name]}"
            for name in ("python", "jax", "flax")
            if name in versions
        ),
        "commit": written.get("git_commit") or "",
    }
    told = [(name, fact) for name, fact in facts.items() if fact]
    return told, written.get("command")


def settings_of(run: Run) -> list[tuple[str, list[str]]]:
    """Returns the settings of a run that differ from the defaults, and the defaults."""
    ours = config_lib.flatten(run.config)
    defaults = config_lib.flatten(config_lib.default_config())
    return [
        (name, [str(value), str(defaults.get(name, ""))])
        for name, value in ours.items()
        if value != defaults.get(name)
    ]


def curves_of(run: Run) -> list[charts.Chart]:
    """Returns a chart for each metric of metrics.jsonl.

    Raises:
      UserError: the log is damaged.
    """
    lines = read_lines(run.workdir / "metrics.jsonl")
    drawn = []
    for name in plots.logged_metrics(lines):
        curves = plots.curves(lines, name)
        if curves:
            sizes = [*dict.fromkeys(size for _, size in curves)]
            # Two neighbouring colours for the two splits of a size.
            colours = [2 * sizes.index(n) + (s == "validation") for s, n in curves]
            told = {plots.legend(*which): points for which, points in curves.items()}
            shown = plots.limits(lines, name)
            drawn.append(charts.chart(name, told, shown, colours=colours))
    return drawn


def evaluation_of(run: Run) -> dict[str, Any]:
    """Returns eval.json.

    Raises:
      UserError: it is not there, damaged, of an earlier program or another checkpoint.
    """
    path = run.workdir / "eval.json"
    again = captions.command(run, "eval")
    if not path.exists():
        raise UserError(f"there is no {path.name}; {again} writes it")
    try:
        report = json.loads(path.read_text())
        step = report["test"]["ema"]["step"]
        # A part that lacks is found before it is shown.
        _tables(report)
    except DAMAGED as error:
        raise UserError(
            f"{path} is damaged or of an earlier program ({error!r}); {again} writes "
            "it anew"
        ) from error
    trained_on = run.recipe["fingerprint"]
    if report.get("fingerprint", trained_on) != trained_on:
        raise UserError(
            f"{path.name} is of other pictures than the run was trained on; {again} "
            "writes it anew, where config.dataset.data_dir holds these"
        )
    if step != run.step:
        raise UserError(
            f"{path.name} is of step {step}, and the checkpoint of step {run.step}; "
            f"{again} writes it anew"
        )
    return report


def means_of(figures: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Returns name, mean and standard error of each metric of a split."""
    errors = figures["standard_errors"].items()
    return [(name, float(figures[name]), float(error)) for name, error in errors]


def metrics_of(run: Run) -> list[page.Table]:
    """Returns the tables of eval.json.

    Raises:
      UserError: as `evaluation_of`.
    """
    return _tables(evaluation_of(run))


def _tables(report: dict[str, Any]) -> list[page.Table]:
    """Returns what `metrics_of` does; KeyError and so on where a part lacks."""
    columns = {
        "test": report["test"]["ema"],
        "validation": report["validation"]["ema"],
        "test, without EMA": report["test"]["raw"],
    }
    for figures in columns.values():
        # Tables do without standard errors, and model cards do not.
        means_of(figures)
    number = report["test"]["ema"]["num_images"]
    tables = [page.table("By split", columns, f"The test split has {number:,} images.")]
    if "accuracy_by_attribute" in report["test"]["ema"]:
        shares = report["test"]["ema"]["accuracy_by_attribute"]
        words = "How often each attribute is told right in images of the test split."
        tables.append(page.table("By attribute", {"accuracy": shares}, words))
    if "codes" in report["test"]["ema"]:
        maps = report["test"]["ema"]["codes"]
        by_map = {"x".join(map(str, each["size"])): each for each in maps}
        tables.append(page.table("Use of the codes, by map", by_map))
    if "sharpness" in report:
        words = (
            "How sharp images are beside those of the test split, which come to 1. "
            "Noise counts as detail does. Amplitudes are those of bands of spatial "
            "frequency, as shares of the highest there is."
        )
        columns = {
            name.replace("_", " "): with_bands(found)
            for name, found in sets_of(report["sharpness"]).items()
        }
        tables.append(page.table("Sharpness", columns, words))
    if "disentanglement" in report:
        words = (
            "Whether single dimensions of the code stand for single factors, such as "
            "the light or the length of hair, that faces were drawn from."
        )
        columns = {"training images": report["disentanglement"]}
        tables.append(page.table("Disentanglement", columns, words))
    for judged in judges_of(report):
        words = "What a classifier of attributes says of images beside test images."
        if judged.is_guide:
            words += " It is the guide of this run, which its figures flatter."
        columns = {n.replace("_", " "): f for n, f in judged.by_images.items()}
        tables.append(page.table(f"Judge {judged.name}", columns, words))
    return tables
