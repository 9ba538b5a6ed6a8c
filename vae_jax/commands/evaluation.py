"""--mode=eval: figures of a trained run over whole splits, to eval.json."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax import processes, resolve
from vae_jax import run as run_lib
from vae_jax.commands import abilities
from vae_jax.commands.codes import can_be_fitted
from vae_jax.commands.flags import JUDGE, Command
from vae_jax.commands.opening import open_run
from vae_jax.commands.pictures import in_unit_interval
from vae_jax.commands.samples import SAMPLERS, sample
from vae_jax.config import Config
from vae_jax.data.faces.jpegs import factors_of
from vae_jax.errors import UserError
from vae_jax.evaluation import evaluate
from vae_jax.exploration import judging, sampling
from vae_jax.models import build
from vae_jax.report import tables
from vae_jax.report.writer import write_json
from vae_jax.run import Run

EVALUATED_SPLITS = ("validation", "test")
# Of the posterior's mean over images: the bound of Burda et al. (2016), appendix C.
ACTIVE_VARIANCE = 0.01
# Of the drawn faces, what a model of small gray pictures can see.
VISIBLE_FACTORS = (
    "yaw",
    "pitch",
    "roll",
    "face_width",
    "skin_melanin",
    "hair_length",
    "hair_tone",
    "mouth_curvature",
    "glasses",
    "light_azimuth",
    "background_lightness",
)
NUM_FACTOR_IMAGES = 5000
# Precision and recall look at the three nearest of the others.
FEWEST_JUDGED = 4
# Of fewer, counts in 20 bins say nothing.
FEWEST_FACTOR_IMAGES = 200


def open_judge(flag: str, workdir: Path, run: Run) -> Run:
    """Opens the run of a classifier that sees pictures as `run` does.

    Args:
      flag: that names it, for errors.
      workdir: of the classifier.
      run: whose pictures it is to judge.

    Raises:
      UserError: it is no classifier, or sees others.
    """
    try:
        judge = run_lib.load(workdir)
    except UserError as error:
        raise UserError(f"--{flag} is '{workdir}': {error}") from error
    abilities.check_judge(judge, flag)
    for setting in resolve.SEEN_BY_CLASSIFIERS:
        theirs, ours = judge.config.dataset[setting], run.config.dataset[setting]
        if theirs != ours:
            raise UserError(
                f"--{flag} is '{workdir}', trained with dataset.{setting} {theirs}; "
                f"the run in {run.workdir} has {ours}"
            )
    return judge


def evaluate_run(run: Run, judge: Run | None = None) -> dict[str, Any]:
    """Evaluates the EMA and raw parameters on whole splits; returns eval.json.

    Of several processes all must ask; the figures that follow those by split are the
    first one's alone.

    By split and parameters: means over images, each with its `standard_errors`; of a
    VAE also `kl_by_dimension` in nats and `active_units`, the dimensions whose
    posterior mean varies over images by more than `ACTIVE_VARIANCE`; of a classifier
    `accuracy_by_attribute`.

    Args:
      run: what is evaluated.
      judge: of a classifier; the report then has what it says of the EMA parameters'
        reconstructions and samples, on the test split.

    Raises:
      UserError: the pictures are not there, or too few for a judge.
    """
    config = run.config
    dataset = run.dataset_for("an evaluation")
    if judge is not None:
        for name in ("train", "test"):
            count = len(dataset.splits[name].images)
            if count < FEWEST_JUDGED:
                raise UserError(
                    f"--judge compares {FEWEST_JUDGED} pictures at least; the split "
                    f"{name} of {run.recipe['name']} has {count}"
                )
    objective = run.experiment.objective
    parts = [evaluate.objective_figures(objective)]
    if abilities.can_decode(run):
        parts.append(
            evaluate.autoencoder_figures(
                config.eval.importance_samples, config.eval.samples_per_chunk
            )
        )
    evaluator = run.experiment.evaluator(
        lambda *image: functools.reduce(dict.__or__, (part(*image) for part in parts)),
        run.label_columns(),
    )
    report: dict[str, Any] = {}
    for name in EVALUATED_SPLITS:
        split = dataset.splits[name]
        report[name] = {}
        for kind, variables in run.variables.items():
            figures = evaluator(variables, split, f"{name}, {kind}")
            report[name][kind] = (
                evaluate.means(objective, figures)
                | {"num_images": len(split.images), "step": run.step}
                | {"standard_errors": evaluate.standard_errors(figures)}
                | _by_part(run, figures)
            )
    if not processes.is_first():
        return report
    drawn = run.recipe["name"] == "synthetic_faces"
    if drawn and run.num_train >= FEWEST_FACTOR_IMAGES and abilities.has_posterior(run):
        report["disentanglement"] = _disentanglement(run)
    if judge is not None:
        report["judge"] = _judged(run, judge)
    return report


def write_evaluation(run: Run, report: dict[str, Any]) -> Path:
    """Writes what `evaluate_run` returned to eval.json; returns its path.

    Of several processes the first one writes.

    Raises:
      UserError: the operating system refuses.
    """
    path = run.workdir / "eval.json"
    if processes.is_first():
        write_json(path, report)
    return path


def _by_part(run: Run, figures: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns the figures by dimension and by attribute."""
    report: dict[str, Any] = {}
    if "kl_by_dimension" in figures:
        report["kl_by_dimension"] = figures["kl_by_dimension"].mean(axis=0).tolist()
    if "code" in figures:
        variances = np.var(figures["code"], axis=0)
        report["active_units"] = int(np.sum(variances > ACTIVE_VARIANCE))
    if "accuracy_by_attribute" in figures:
        accuracies = figures["accuracy_by_attribute"].mean(axis=0).tolist()
        names = build.label_names(run.config.model)
        report["accuracy_by_attribute"] = dict(zip(names, accuracies, strict=True))
    return report


def _disentanglement(run: Run) -> dict[str, Any]:
    """Holds the codes of training faces against the factors they were drawn from."""
    # Here, because its library takes as long to import as JAX.
    from vae_jax.evaluation import disentanglement

    images = run.dataset.splits["train"].images[:NUM_FACTOR_IMAGES]
    labels = run.labels("train")
    labels = None if labels is None else labels[: len(images)]
    codes = sampling.encode_images(run.model(), images, labels)
    drawn = [vars(factors_of("train", index)) for index in range(len(images))]
    factors = np.array([[face[name] for name in VISIBLE_FACTORS] for face in drawn])
    seed = run.config.seed
    return {
        "mig": disentanglement.mutual_information_gap(codes, factors),
        "factor_vae": disentanglement.factor_vae_score(codes, factors, seed),
        **disentanglement.dci(codes, factors, seed),
        "factors": list(VISIBLE_FACTORS),
        "num_images": len(images),
    }


def _judged(run: Run, judge: Run) -> dict[str, Any]:
    """Returns what a classifier says of test pictures and of what the run makes."""
    classifier, model = judge.model(), run.model()
    test, labels = run.dataset.splits["test"], run.labels("test")
    names = build.label_names(judge.config.model)
    columns = [run.attribute_index(name, "--judge") for name in names]
    attributes = run.attributes("test")[:, columns]

    def told(logits: np.ndarray) -> dict[str, Any]:
        rates = judging.accuracy(logits, attributes)
        return {
            "accuracy": float(rates.mean()),
            "accuracy_by_attribute": dict(zip(names, rates.tolist(), strict=True)),
        }

    num_images = len(test.images)
    real, real_logits = judging.judge_images(classifier, in_unit_interval(test.images))
    codes = sampling.encode_images(model, test.images, labels)
    reconstructions = sampling.decode_codes(model, codes, labels)
    rebuilt, rebuilt_logits = judging.judge_images(classifier, reconstructions)
    report: dict[str, Any] = {
        "workdir": str(judge.workdir),
        "num_images": num_images,
        "pictures": told(real_logits),
        "reconstructions": told(rebuilt_logits) | judging.likeness(real, rebuilt),
    }
    # What other real pictures come to: no model need do better.
    others = in_unit_interval(run.dataset.splits["train"].images[:num_images])
    report["training_pictures"] = judging.likeness(
        real, judging.judge_images(classifier, others)[0]
    )
    for sampler in SAMPLERS:
        if sampler == "prior" and not abilities.has_prior(run):
            continue
        if sampler != "prior" and not can_be_fitted(run, sampler):
            continue
        drawn = sample(run, sampler, num_images, run.config.seed)
        features, _ = judging.judge_images(classifier, drawn)
        report[f"samples_{sampler}"] = judging.likeness(real, features)
    return report


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run, judge = open_run(config, workdir), None
    if JUDGE.value is not None:
        judge = open_judge("judge", JUDGE.value, run)
    report = evaluate_run(run, judge)
    written = write_evaluation(run, report)
    print(tables.evaluation_table(report))
    return [written]


COMMAND = Command(
    meaning="Evaluates a model on whole splits: eval.json.",
    example="--workdir=runs/vae --judge=runs/judge",
    flags={
        "judge": "Without it, there is no judge.",
        "realism": "It is of what the judge sees; the bounds are at 0. Default: 0.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
    several_processes=True,
)
