"""The command line: python -m vae_jax.main --config=configs/vae.py.

  --mode=train        train, then evaluate and draw (the default)
  --mode=eval         figures of the validation and test splits, to eval.json
  --mode=sample       images/samples.png, from the prior, or from a --sampler fitted to
                      the training pictures' codes; with --attributes=Smiling=1,Male=0
  --mode=reconstruct  images/reconstructions.png, originals over reconstructions

All modes but train need --workdir alone. Every setting of a recipe can be overridden:
--config.model.latent_dim=64.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from vae_jax import config as config_lib
from vae_jax import run as run_lib
from vae_jax.errors import UserError
from vae_jax.evaluation import evaluate
from vae_jax.exploration import sampling
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.labels import to_labels
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.models.vae import VAE
from vae_jax.report import plots
from vae_jax.report.writer import read_lines
from vae_jax.run import Run
from vae_jax.settings import SETTINGS

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A recipe, configs/vae.py say."
)
MODE = flags.DEFINE_enum(
    "mode", "train", ["train", "eval", "sample", "reconstruct"], "What to do."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; runs/<recipe's name and words>."
)
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "latest", ["latest", "best"], "Of the run, in all modes but train."
)
NUM_IMAGES = flags.DEFINE_integer("num_images", 64, "To draw.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the samples.", lower_bound=0)
# Components of the Gaussian mixture that is fitted to codes.
FITTED = {"gaussian": 1, "mixture": 10}
SAMPLER = flags.DEFINE_enum(
    "sampler",
    None,
    ["prior", *FITTED],
    "Where --mode=sample takes codes from; an autoencoder has no prior.",
)
ATTRIBUTES = flags.DEFINE_string(
    "attributes", None, "Of the samples of a conditional VAE: Smiling=1,Male=0."
)
EVALUATED_SPLITS = ("validation", "test")


def write_evaluation(run: Run) -> dict[str, Any]:
    """Evaluates the EMA and raw parameters on whole splits; writes eval.json."""
    config = run.config
    num_train = len(run.dataset.splits["train"].images)
    objective = build.build_objective(config.objective, num_train)
    training_figures = evaluate.objective_figures(objective)
    bounds = evaluate.bound_figures(
        config.eval.importance_samples, config.eval.samples_per_chunk
    )

    def figures(model, *image_labels_key):
        found = training_figures(model, *image_labels_key)
        if isinstance(model, VAE):
            return found | bounds(model, *image_labels_key)
        return found

    evaluator = evaluate.build_evaluator(
        run.graphdef,
        figures,
        seed=config.seed,
        batch_size=config.eval.batch_size,
        label_columns=run_lib.label_columns(config, run.dataset),
    )
    report: dict[str, Any] = {}
    for name in EVALUATED_SPLITS:
        split = run.dataset.splits[name]
        report[name] = {
            kind: evaluate.means(objective, evaluator(params, split, f"{name}, {kind}"))
            | {"num_images": len(split.images), "step": run.step}
            for kind, params in run.params.items()
        }
    text = json.dumps(report, indent=2)
    (run.workdir / "eval.json").write_text(text + "\n")
    return report


def _grid(images: np.ndarray) -> np.ndarray:
    """Arranges [N,...] images as [rows,columns,...], nearly square, filled up white."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    filled = np.ones((rows * columns, *images.shape[1:]), np.float32)
    filled[: len(images)] = images
    return filled.reshape(rows, columns, *images.shape[1:])


def parse_labels(run: Run, text: str | None) -> jax.Array | None:
    """Returns the labels that "Smiling=1,Male=0" stands for; the others are unknown."""
    if text is None:
        return None
    names = build.label_names(run.config.model)
    if not names:
        raise UserError(
            f"--attributes is {text!r}, but {run.workdir} holds a model without "
            "labels; configs/cvae.py trains one with"
        )
    labels = np.zeros(len(names), np.float32)
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in names or value not in ("0", "1"):
            raise UserError(
                f"--attributes has {part!r}; allowed is NAME=1 or NAME=0 with a NAME "
                f"of {', '.join(names)}"
            )
        labels[names.index(name)] = 1.0 if value == "1" else -1.0
    return jnp.asarray(labels)


def _split_labels(run: Run, name: str) -> jax.Array | None:
    columns = run_lib.label_columns(run.config, run.dataset)
    attributes = jnp.asarray(run.dataset.splits[name].attributes)
    return to_labels(attributes, columns) if columns else None


def draw_samples(
    run: Run, sampler: str, num_images: int, seed: int, labels: jax.Array | None = None
) -> Path:
    """Draws samples by the EMA parameters; writes images/samples.png.

    Those of a sampler that is fitted to the codes of training pictures, of those with
    these labels if any, go to images/samples_gaussian.png, say.
    """
    model = run.model()
    if sampler == "prior":
        if not isinstance(model, VAE):
            raise UserError(
                f"{run.workdir} holds an autoencoder, which has no prior to sample "
                "from; --sampler=gaussian fits one to its codes"
            )
        samples_key = key(seed, Stream.SAMPLING)
        images = sampling.sample_prior(model, samples_key, num_images, labels)
        path = _picture(run, "samples.png")
    else:
        images, known = run.dataset.splits["train"].images, _split_labels(run, "train")
        if known is not None and labels is not None:
            which = np.asarray(jnp.all((known == labels) | (labels == 0), axis=1))
            needed = max(2, FITTED[sampler])
            if np.sum(which) < needed:
                raise UserError(
                    f"--attributes: {np.sum(which)} training pictures have them all; "
                    f"--sampler={sampler} needs {needed} at least to fit"
                )
            images, known = images[which], known[which]
        codes = sampling.encode_images(model, images, key(seed, Stream.SAMPLING), known)
        fitted = sampling.fit_codes(codes, FITTED[sampler], seed)
        images = sampling.sample_fitted(model, fitted, num_images, labels)
        path = _picture(run, f"samples_{sampler}.png")
    plots.image_grid(_grid(np.asarray(images)), path)
    return path


def draw_reconstructions(run: Run, num_images: int) -> Path:
    """Draws validation pictures over their reconstructions by the EMA parameters."""
    originals = to_unit_interval(
        jnp.asarray(run.dataset.splits["validation"].images[:num_images])
    )
    inputs = [originals]
    labels = _split_labels(run, "validation")
    if labels is not None:
        inputs.append(labels[:num_images])
    reconstructions = jax.jit(lambda model, inputs: model.reconstruct(*inputs))(
        run.model(), inputs
    )
    pairs = np.stack(
        [_grid(np.asarray(originals)), _grid(np.asarray(reconstructions))], 1
    )
    path = _picture(run, "reconstructions.png")
    plots.image_grid(pairs.reshape(-1, *pairs.shape[2:]), path)
    return path


def draw_curves(run: Run) -> Path:
    """Draws metrics.jsonl against the step; writes images/curves.png."""
    path = _picture(run, "curves.png")
    plots.loss_curves(read_lines(run.workdir / "metrics.jsonl"), path)
    return path


def _picture(run: Run, name: str) -> Path:
    path = run.workdir / "images" / name
    path.parent.mkdir(exist_ok=True)
    print(path)
    return path


def _load(workdir: Path) -> Run:
    """Opens the run; a recipe given beside it may change how it is evaluated."""
    run = run_lib.load(workdir, CHECKPOINT.value)
    if CONFIG.value is not None:
        config_lib.validate(CONFIG.value)
        different = [
            line
            for line in config_lib.resumed_differences(run.config, CONFIG.value)
            if not line.startswith("eval.")
        ]
        if different:
            raise UserError(
                f"{workdir} holds a run of another config than --config:\n  "
                + "\n  ".join(different)
            )
        run.config.eval = CONFIG.value.eval
    return run


def _workdir() -> Path:
    if WORKDIR.value is not None:
        return Path(WORKDIR.value)
    if CONFIG.value is None:
        needed = "--config" if MODE.value == "train" else "--workdir (or --config)"
        raise UserError(
            f"{needed} is missing; to train: "
            "python -m vae_jax.main --config=configs/vae.py"
        )
    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
    path, _, words = recipe.partition(":")
    return Path("runs") / "_".join([Path(path).stem, *filter(None, words.split(","))])


def main(argv: list[str]) -> None:
    """Does what --mode says."""
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag; flags look like --mode=eval")
    for flag in (SAMPLER, ATTRIBUTES):
        if flag.value is not None and MODE.value != "sample":
            raise UserError(
                f"--{flag.name} is {flag.value!r}; it goes with --mode=sample, "
                f"and that is {MODE.value}"
            )
    workdir = _workdir()
    if MODE.value == "train":
        if CONFIG.value is None:
            raise UserError("--config is missing: --config=configs/vae.py, say")
        run = run_lib.train(CONFIG.value, workdir)
        if run.step < run.config.train.num_steps:
            print(f"stopped at step {run.step}; the same command goes on from there")
            return
        print(json.dumps(write_evaluation(run), indent=2))
        draw_curves(run)
        draw_reconstructions(run, NUM_IMAGES.value)
        draw_samples(run, "gaussian", NUM_IMAGES.value, SEED.value)
        if isinstance(run.model(), VAE):
            draw_samples(run, "prior", NUM_IMAGES.value, SEED.value)
    elif MODE.value == "eval":
        print(json.dumps(write_evaluation(_load(workdir)), indent=2))
    elif MODE.value == "sample":
        run = _load(workdir)
        is_vae = isinstance(run.model(), VAE)
        draw_samples(
            run,
            SAMPLER.value or ("prior" if is_vae else "gaussian"),
            NUM_IMAGES.value,
            SEED.value,
            parse_labels(run, ATTRIBUTES.value),
        )
    else:
        draw_reconstructions(_load(workdir), NUM_IMAGES.value)


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; whatever is wrong with one, recipes included, is one line."""
    typed, nones = argv[:1], {}
    for argument in argv[1:]:
        flag, _, value = argument.lstrip("-").partition("=")
        if flag == "config":
            recipe = Path(value.split(":")[0])
            if not recipe.is_file():
                raise UserError(f"--config is {value!r}, which is no file")
            # Recipes import one another, wherever the command is run.
            sys.path.append(str(recipe.resolve().parents[1]))
        if flag.startswith("config."):
            name = flag.removeprefix("config.")
            config_lib.check_name(name)
            # ml_collections knows no None: it would look for a number, or a path.
            if value == "None" and SETTINGS[name].optional_type:
                nones[name] = None
                continue
            nones.pop(name, None)
        typed.append(argument)
    try:
        rest = flags.FLAGS(typed)
    except AttributeError as error:
        raise UserError(f"the recipe sets what is no setting: {error}") from error
    except (
        flags.Error,
        OSError,
        ImportError,
        ValueError,
        TypeError,
        LookupError,
    ) as error:
        # ml_collections puts a recipe's whole traceback into some of its messages.
        lines = str(error).strip().splitlines() or [repr(error)]
        raise UserError(" ".join(lines[:1] + lines[1:][-1:])) from error
    if CONFIG.value is not None:
        CONFIG.value.update_from_flattened_dict(nones)
    return rest


def cli() -> None:
    """Runs `main`; a user's mistake ends with its message and exit status 2."""
    logging.set_verbosity(logging.WARNING)
    try:
        app.run(main, flags_parser=_parse)
    except UserError as error:
        print(f"vae_jax: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("vae_jax: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    cli()
