"""--mode=eval: figures of a trained run over whole splits, to eval.json."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from vae_jax import processes
from vae_jax.commands import abilities
from vae_jax.commands.flags import JUDGE, Command
from vae_jax.commands.judges import Opinion, check_judged, open_judge
from vae_jax.commands.kept_codes import can_be_fitted
from vae_jax.commands.opening import open_run
from vae_jax.commands.samples import SAMPLERS, sample
from vae_jax.config import Config
from vae_jax.data.faces.jpegs import factors_of
from vae_jax.evaluation import evaluate, sharpness
from vae_jax.exploration import sampling
from vae_jax.models import build
from vae_jax.models.contract import DiscreteCodes, code_size
from vae_jax.models.likelihoods import ROUNDING_STD, to_unit_interval
from vae_jax.models.networks.stages import PATCH
from vae_jax.report import tables
from vae_jax.run import Run
from vae_jax.storage import write_json

Images: TypeAlias = Float[np.ndarray, "N H W C"]

EVALUATED_SPLITS = ("validation", "test")
# Least variance of an active unit's posterior mean over images (Burda et al. 2016,
# appendix C).
ACTIVE_VARIANCE = 0.01
# Factors of the drawn faces that a model of small gray pictures can see.
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
NUM_LOOKED_AT = 1000
# With fewer images, counts in 20 bins say nothing.
FEWEST_FACTOR_IMAGES = 200


def evaluate_run(run: Run, *judges: Run) -> dict[str, Any]:
    """Evaluates the EMA and raw parameters on whole splits; returns eval.json.

    A collective call: every process must make it. The figures that follow those by
    split are returned in the first process alone.

    Means over images come by split and parameters, each with its `standard_errors`; for
    a VAE also `kl_by_dimension` in nats and `active_units`, the dimensions whose
    posterior mean varies over images by more than `ACTIVE_VARIANCE`; for discrete codes
    `rate` and `distortion` in bits an image and `codes`, how each map of them is used;
    for a classifier `accuracy_by_attribute`.

    `sharpness`, where the model decodes, compares the EMA parameters' reconstructions
    of the test split, from the posterior's mean, with the pictures themselves, see
    `sharpness.compare`, and has their `psnr` in dB; it has the same of as many training
    pictures, and of samples where there is a judge. `fingerprint` is that of the data
    set, whose pictures may be others than the run was trained on.

    Args:
      run: the run that is evaluated.
      judges: runs of classifiers; the report then has what the first says of those
        reconstructions, pictures and samples as `judge`, and what the others say as
        `other_judges`.

    Raises:
      UserError: the pictures are not there, or too few for a judge, or the run makes
        none.
    """
    config = run.config
    dataset = run.dataset_for("an evaluation")
    check_judged(run, judges)
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
    report: dict[str, Any] = {"fingerprint": dataset.recipe["fingerprint"]}
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
    if abilities.can_decode(run):
        report |= _beside_pictures(run, judges)
    return report


def write_evaluation(run: Run, report: dict[str, Any]) -> Path:
    """Writes what `evaluate_run` returned to eval.json; returns its path.

    The first of several processes writes.
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
    if "indices" in figures:
        report["codes"] = _codes_by_map(run.model(), figures)
    if "accuracy_by_attribute" in figures:
        accuracies = figures["accuracy_by_attribute"].mean(axis=0).tolist()
        names = build.label_names(run.config.model)
        report["accuracy_by_attribute"] = dict(zip(names, accuracies, strict=True))
    return report


def _codes_by_map(
    model: DiscreteCodes, figures: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Returns how a split uses the codes of each map, the coarse one first.

    `usage` is the share of the codes that stands anywhere in the split, `perplexity`
    the number of codes that, were they equally frequent, would have the entropy of
    these, and `rate` the map's bits in an image.

    Args:
      model: the model that encodes.
      figures: see `evaluate.autoencoder_figures`.
    """
    found, rates = [], figures["rate_by_map"].mean(axis=0, dtype=np.float64)
    by_map = [np.asarray(part) for part in model.by_map(figures["indices"])]
    for each, rate, shape, quantizer in zip(
        by_map, rates, model.code_shape, model.quantizers, strict=True
    ):
        counts = np.bincount(each.ravel(), minlength=quantizer.num_codes)
        shares = counts[counts > 0] / each.size
        found.append(
            {
                "size": list(shape[:-1]),
                "num_codes": quantizer.num_codes,
                "rate": float(rate),
                "usage": len(shares) / quantizer.num_codes,
                "perplexity": float(np.exp(-np.sum(shares * np.log(shares)))),
            }
        )
    return found


def _disentanglement(run: Run) -> dict[str, Any]:
    """Holds the codes of training faces against the factors they were drawn from."""
    # Here, because its library takes as long to import as JAX.
    from vae_jax.evaluation import disentanglement

    images = run.dataset.splits["train"].images[:NUM_FACTOR_IMAGES]
    labels = run.labels("train", slice(len(images)))
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


def _pictures(run: Run, judged: bool) -> np.ndarray:
    """Returns the test pictures that are looked at, [N,H,W,C] uint8.

    A judge sees all of them, for its figures depend on their number. Without a judge,
    a part is enough for means, and a large test split need not fit into memory.
    """
    return run.dataset.splits["test"].images[: None if judged else NUM_LOOKED_AT]


def _reconstructions(run: Run, split: str, number: int) -> Images:
    """Returns a split's first images as they are decoded from their codes.

    As many at a time as have room for their codes.
    """
    model, images = run.model(), run.dataset.splits[split].images[:number]
    labels, parts = run.labels(split, slice(number)), []
    at_a_time = sampling.most_codes(code_size(model.code_shape))
    for first in range(0, len(images), at_a_time):
        some = slice(first, first + at_a_time)
        told = None if labels is None else labels[some]
        codes = sampling.encode_images(model, images[some], told)
        parts.append(sampling.decode_codes(model, codes, told))
    return np.concatenate(parts)


def _made(run: Run, judged: bool) -> Iterator[tuple[str, Images]]:
    """Yields sets of images to hold against the test pictures, as many at most.

    Args:
      run: a run of an autoencoder of any kind.
      judged: whether samples, which take long to draw, are among them, and what they
        could come to.
    """
    number = len(_pictures(run, judged))
    yield "reconstructions", _reconstructions(run, "test", number)
    # What other real pictures come to: no model need do better.
    others = run.dataset.splits["train"].images[:number]
    yield "training_pictures", to_unit_interval(others)
    if not judged:
        return
    # What a density comes to that draws codes of real pictures: none need do better.
    yield "training_reconstructions", _reconstructions(run, "train", number)
    for sampler in SAMPLERS:
        if sampler == "prior" and not abilities.has_prior(run):
            continue
        if sampler != "prior" and not can_be_fitted(run, sampler):
            continue
        drawn = sample(run, sampler, number, run.config.seed)
        yield f"samples_{sampler}", drawn


def _psnr(rebuilt: Images, pictures: Images) -> float:
    """Returns the mean over images in decibels, of 1 as the range of a pixel."""
    pairs = zip(rebuilt, pictures, strict=True)
    # Nothing comes closer than rounding does.
    mse = [max(np.mean(np.square(a - b)), ROUNDING_STD**2) for a, b in pairs]
    return float(np.mean(10 * np.log10(1 / np.array(mse, np.float64))))


def _beside_pictures(run: Run, judges: tuple[Run, ...]) -> dict[str, Any]:
    """Returns how sharp what the run makes is, and what classifiers say of it."""
    pictures = to_unit_interval(_pictures(run, bool(judges)))
    opinions = [Opinion(run, judge, pictures) for judge in judges]
    sharp: dict[str, Any] = {"num_images": len(pictures), **abilities.dial_of(run)}
    patch = getattr(getattr(run.model(), "decoder", None), "patch", PATCH)
    if not 1 < patch < pictures.shape[1]:
        # A network without patches is looked at where others have borders.
        patch = PATCH
    real = sharpness.measure(pictures, patch)
    for name, images in _made(run, bool(judges)):
        sharp[name] = sharpness.compare(sharpness.measure(images, patch), real)
        if name == "reconstructions":
            sharp[name]["psnr"] = _psnr(images, pictures)
        for opinion in opinions:
            opinion.add(name, images)
    report: dict[str, Any] = {"sharpness": sharp}
    told = [opinion.report for opinion in opinions]
    if told:
        report["judge"] = told[0]
    if len(told) > 1:
        report["other_judges"] = told[1:]
    return report


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_run(config, workdir)
    judges = [open_judge(JUDGE.name, path, run) for path in JUDGE.value or ()]
    report = evaluate_run(run, *judges)
    written = write_evaluation(run, report)
    print(tables.evaluation_table(report))
    return [written]


COMMAND = Command(
    meaning="Evaluates a model on whole splits: eval.json.",
    example="--workdir=runs/vae --judge=runs/judge",
    flags={
        "judge": "Several have commas between. Without it, there is no judge.",
        "realism": "It applies to reconstructions and samples; ELBO and bounds are "
        "always at 0. Default: 0.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
    several_processes=True,
)
