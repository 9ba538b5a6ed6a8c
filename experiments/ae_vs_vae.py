"""The notebook's table of its autoencoder against its VAE, every entry computed.

  python -m experiments.ae_vs_vae --ae=runs/ae --vae=runs/vae --judge=runs/judge

A workdir without a run gets one first, of configs/ae.py or configs/vae.py; settings
such as --config.dataset.name=celeb_a go to both. Under --out come

  table.md, table.csv   a row for each property; in table.csv for each of its figures
  probe.csv             the linear probe's accuracy by attribute
  reconstructions.png   test pictures, the autoencoder's reconstructions, the VAE's
  samples.png           the autoencoder's codes of N(0, I) decoded, and those of a
                        mixture fitted to its codes; then the same of the VAE

All entries are of the EMA parameters, but for the training loss, that of the last
updates. Without a judge, the samples' Frechet distance from test pictures is that of
thumbnails' pixels and not of a classifier's features.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tabulate import tabulate

from experiments.command_line import (
    Settings,
    add_path_flag,
    cli,
    new_parser,
    parse,
    read_config,
)
from experiments.sweep import finish, write_csv
from vae_jax import config as config_lib
from vae_jax import record
from vae_jax import run as run_lib
from vae_jax.commands import abilities
from vae_jax.commands.judges import open_judge
from vae_jax.commands.samples import sample
from vae_jax.data.cache import Split
from vae_jax.errors import UserError
from vae_jax.evaluation import evaluate
from vae_jax.evaluation.distances import frechet_distance
from vae_jax.exploration import judging, sampling
from vae_jax.exploration.densities import fit_density
from vae_jax.keys import Stream, key
from vae_jax.models.contract import code_size
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids
from vae_jax.report.writer import read_lines
from vae_jax.run import Run

# By the flag of the workdir, which is the name of its recipe and its model, too.
MODELS = {"ae": "Autoencoder", "vae": "VAE"}
RECIPES = Path(__file__).parents[1] / "configs"
SEED = 0
# A Frechet distance depends on how many pictures there are; more take longer.
NUM_IMAGES = 2500
NUM_SHOWN = 10
THUMBNAIL_SIZE = 16

Images: TypeAlias = Float[np.ndarray, "N H W C"]
Codes: TypeAlias = Float[np.ndarray, "N D"]
# Figures by name, which is empty where a property has but one.
Figures: TypeAlias = dict[str, int | float]


def open_run(kind: str, workdir: Path, settings: Settings) -> tuple[Run, dict]:
    """Opens a finished run and its eval.json; makes or finishes it first if need be.

    Args:
      kind: "ae" or "vae".
      workdir: may hold a run of any recipe.
      settings: settings that a new run gets, and that one which is there must have.

    Raises:
      UserError: the run is of another model or of other settings.
    """
    config = read_config(str(RECIPES / f"{kind}.py"), settings)
    if (workdir / "run.json").exists():
        given = config_lib.flatten(config)
        config = record.read_config(workdir)
        config.update_from_flattened_dict({name: given[name] for name in settings})
        config_lib.validate(config)
    if config.model.name != kind:
        raise UserError(
            f"--{kind} is {str(workdir)!r}, whose run is of model "
            f"{config.model.name}; allowed is one of model {kind}"
        )
    print(f"{MODELS[kind]}: {workdir}")
    report = finish(config, workdir)
    return run_lib.load(workdir), report


def check_pictures(runs: dict[str, Run]) -> None:
    """Raises UserError unless both runs are of the same pictures."""
    ae, vae = (run.dataset.recipe for run in runs.values())
    for name in ae:
        if ae[name] != vae[name]:
            raise UserError(
                f"--ae and --vae have runs on different pictures: {name} is "
                f"{ae[name]} of the former, {vae[name]} of the latter"
            )


def sharpness(images: Images) -> float:
    """Returns the mean squared difference of neighbouring pixels, of both directions.

    The energy of the gradient (Subbarao, Choi & Nikzad 1993), which blur takes away.
    """
    steps = (np.diff(images, axis=axis) for axis in (1, 2))
    return float(sum(np.mean(np.square(step)) for step in steps))


def linear_probe(
    codes: Codes,
    attributes: Bool[np.ndarray, "N A"],
    test_codes: Float[np.ndarray, "M D"],
    test_attributes: Bool[np.ndarray, "M A"],
) -> Float[np.ndarray, " A"]:
    """Returns the share of test pictures of which a hyperplane tells each attribute.

    It is found by ridge regression of the attributes, as -1 and 1, on standardised
    codes of the training pictures: a linear probe (Alain & Bengio 2017) in closed form.
    """
    if not attributes.shape[1]:
        return np.empty(0)
    probe = make_pipeline(StandardScaler(), Ridge())
    probe.fit(codes, np.where(attributes, 1.0, -1.0))
    return np.mean((probe.predict(test_codes) > 0) == test_attributes, axis=0)


def kl_to_normal(codes: Codes) -> float:
    """Returns KL(N(m, S) || N(0, I)), m and S the codes' moments, nats a dimension."""
    fitted = fit_density(codes, 1, SEED)
    mean, covariance = fitted.means[0], fitted.covariances[0]
    log_det = np.linalg.slogdet(covariance).logabsdet
    square = mean @ mean + np.trace(covariance)
    return float((square - log_det) / len(mean) - 1) / 2


def thumbnails(images: Images) -> Float[np.ndarray, "N F"]:
    """Returns the pixels of pictures made small."""
    size = min(THUMBNAIL_SIZE, images.shape[1])
    shape = (len(images), size, size, images.shape[-1])
    small = jax.image.resize(images, shape, "linear")
    return np.asarray(small).reshape(len(images), -1)


def _codes(run: Run, split: str) -> Codes:
    return sampling.encode_images(
        run.model(), run.dataset.splits[split].images, run.labels(split)
    )


def _reconstructions(run: Run, number: int) -> Images:
    """Returns the first test pictures decoded from their codes."""
    codes = _codes(run, "test")[:number]
    labels = run.labels("test", slice(number))
    return sampling.decode_codes(run.model(), codes, labels)


def _samples(run: Run, number: int) -> dict[str, Images]:
    """Returns decoded codes of N(0, I), and of a mixture fitted to codes."""
    shape = (number, code_size(run.model().code_shape))
    normal = np.random.default_rng(SEED).normal(size=shape).astype(np.float32)
    return {
        "N(0, I)": sampling.decode_codes(run.model(), normal),
        "mixture": sample(run, "mixture", number, SEED),
    }


def _dimensions(run: Run, report: dict[str, Any]) -> dict[str, Figures]:
    """Returns what the run's files say of training and of the network."""
    lines = read_lines(run.workdir / "metrics.jsonl")
    *_, last = (line for line in lines if line["split"] == "train")
    recorded = json.loads((run.workdir / "run.json").read_text())
    settings = run.config.model
    loss = f"loss ({run.config.objective.name})"
    units = report["test"]["ema"].get("active_units")
    hidden = settings.width if settings.network == "conv" else settings.hidden_dim
    return {
        "Final training loss": {loss: last["loss"]},
        "Final validation loss": {loss: report["validation"]["ema"]["loss"]},
        "Latent dimension": {"": code_size(run.model().code_shape)}
        | ({} if units is None else {"active": units}),
        "Hidden dimension": {"": hidden},
        "Parameters": {"": recorded["num_parameters"]},
    }


def _latent_space(run: Run, accuracy: np.ndarray, majority: np.ndarray) -> Figures:
    """Returns how near the codes are to N(0, I), and how linear attributes are."""
    # A VAE's codes are samples of the posteriors, which its decoder learnt from.
    _, codes = sampling.encode_and_sample(
        run.model(),
        run.dataset.splits["train"].images,
        run.labels("train"),
        key(SEED, Stream.SAMPLING),
    )
    figures = {"KL to N(0, I), nats/dimension": kl_to_normal(codes)}
    if not len(accuracy):
        return figures
    return figures | {
        "linear probe's accuracy": float(np.mean(accuracy)),
        "majority's accuracy": float(np.mean(majority)),
    }


def _generalisation(run: Run) -> Figures:
    """Returns the loss on test pictures and on as many training pictures."""
    train, test = run.dataset.splits["train"], run.dataset.splits["test"]
    number = min(len(train.images), len(test.images))
    evaluator = run.experiment.evaluator(label_columns=run.label_columns())
    seen, unseen = (
        evaluate.means(
            run.experiment.objective,
            evaluator(
                run.variables["ema"],
                Split(split.images[:number], split.attributes[:number]),
            ),
        )
        for split in (train, test)
    )
    return {
        "loss on train": seen["loss"],
        "loss on test": unseen["loss"],
        "mse, test / train": unseen["mse"] / seen["mse"],
    }


def _likeness(
    run: Run,
    samples: dict[str, Images],
    features: Callable[[Images], np.ndarray],
    space: str,
) -> Figures:
    """Returns the Frechet distance of each sampler's pictures from test pictures."""
    number = len(samples["mixture"])
    real = features(to_unit_interval(run.dataset.splits["test"].images[:number]))
    # What other real pictures come to: no model need do better.
    others = to_unit_interval(run.dataset.splits["train"].images[:number])
    return {
        f"{space} Frechet, {name}": frechet_distance(real, features(images))
        for name, images in (samples | {"training pictures": others}).items()
    }


def _quality(run: Run, rebuilt: Images, report: dict[str, Any]) -> Figures:
    """Returns how near reconstructions come to the first test pictures.

    `sharpness ratio` is that of the reconstructions over that of the pictures.
    """
    pictures = to_unit_interval(run.dataset.splits["test"].images[: len(rebuilt)])
    figures = {
        "mse": float(np.mean(np.square(rebuilt - pictures))),
        "sharpness ratio": sharpness(rebuilt) / sharpness(pictures),
    }
    if not abilities.has_posterior(run):
        return figures
    return figures | {"mse at sampled codes": report["test"]["ema"]["mse"]}


def _told(figures: Figures) -> list[str]:
    return [
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}"
        for name, value in figures.items()
    ]


def write_tables(columns: dict[str, dict[str, Figures]], out: Path) -> str:
    """Writes OUT/table.md and OUT/table.csv; returns the table for a terminal.

    Args:
      columns: figures of each property, by the heading of the column.
      out: folder of the files.
    """
    told, exact = [], []
    for name in next(iter(columns.values())):
        cells = [column[name] for column in columns.values()]
        told.append([name, *map(_told, cells)])
        for figure in dict.fromkeys(figure for cell in cells for figure in cell):
            exact.append([name, figure, *(cell.get(figure, "") for cell in cells)])
    write_csv(out / "table.csv", ["property", "figure", *columns], exact)

    def table(style: str, between: str) -> str:
        rows = [[name, *map(between.join, cells)] for name, *cells in told]
        return tabulate(rows, ["", *columns], tablefmt=style, disable_numparse=True)

    (out / "table.md").write_text(table("github", "; ") + "\n")
    return table("simple_grid", "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line, `argv` without the program's name."""
    parser = new_parser("experiments.ae_vs_vae", __doc__)
    for kind in MODELS:
        workdir = Path("runs") / kind
        add_path_flag(parser, f"--{kind}", f"Workdir of a run; {workdir}.", workdir)
    add_path_flag(parser, "--judge", "Workdir of a run of configs/judge.py.")
    options, settings = parse(parser, argv)
    opened = {k: open_run(k, getattr(options, k), settings) for k in MODELS}
    runs = {kind: run for kind, (run, _) in opened.items()}
    check_pictures(runs)
    features, space = thumbnails, "thumbnail"
    if options.judge is not None:
        judge = open_judge("judge", options.judge, runs["ae"]).model()
        features, space = lambda images: judging.judge_images(judge, images)[0], "judge"
    dataset, out = runs["ae"].dataset, options.out
    out.mkdir(parents=True, exist_ok=True)
    train, test = dataset.splits["train"], dataset.splits["test"]
    number = min(len(test.images), len(train.images), NUM_IMAGES)
    commoner = np.mean(train.attributes, axis=0) > 0.5
    probe = {"majority": np.mean(commoner == test.attributes, axis=0)}
    shown = min(number, NUM_SHOWN)
    columns, compared, drawn = {}, [to_unit_interval(test.images[:shown])], []
    for kind, (run, report) in opened.items():
        print(f"{MODELS[kind]}: its codes, reconstructions and samples")
        rebuilt, samples = _reconstructions(run, number), _samples(run, number)
        accuracy = linear_probe(
            _codes(run, "train"), train.attributes, _codes(run, "test"), test.attributes
        )
        columns[MODELS[kind]] = {
            **_dimensions(run, report),
            "Reconstruction quality": _quality(run, rebuilt, report),
            "Sampling capability": _likeness(run, samples, features, space),
            "Latent space": _latent_space(run, accuracy, probe["majority"]),
            "Generalisation": _generalisation(run),
        }
        probe[MODELS[kind]] = accuracy
        compared.append(rebuilt[:shown])
        drawn += [images[:shown] for images in samples.values()]
    print(write_tables(columns, out))
    rows = zip(dataset.attribute_names, *probe.values(), strict=True)
    write_csv(out / "probe.csv", ["attribute", *probe], list(rows))
    grids.image_grid(np.stack(compared), out / f"reconstructions.{options.format}")
    grids.image_grid(np.stack(drawn), out / f"samples.{options.format}")


if __name__ == "__main__":
    cli(main)
