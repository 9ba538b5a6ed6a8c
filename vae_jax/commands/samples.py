"""--mode=sample: new images from a trained run."""

import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float

from vae_jax.commands import abilities
from vae_jax.commands import codes as codes_lib
from vae_jax.commands.flags import (
    LARGEST,
    NUM_IMAGES,
    SEED,
    VALUES,
    Command,
    define_path,
)
from vae_jax.commands.opening import open_autoencoder
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.exploration import sampling
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.quantizers import MOST_CODES
from vae_jax.report import plots
from vae_jax.report.writer import write_json, writing
from vae_jax.run import Run

SAMPLERS = ("prior", *codes_lib.FITTED)
NUM_SAMPLES = 64
# Beside single samples: what they are.
RECORD = "samples.json"
SAMPLER = flags.DEFINE_enum(
    "sampler",
    None,
    SAMPLERS,
    "The distribution of codes: the prior, or a gaussian or a mixture fitted to the "
    "codes of training images.",
    flag_values=VALUES,
)
ATTRIBUTES = flags.DEFINE_string(
    "attributes",
    None,
    "Attributes asked for: Smiling=1,Male=0.",
    flag_values=VALUES,
)
TEMPERATURE = flags.DEFINE_float(
    "temperature",
    None,
    "The spread of the prior; less is more usual.",
    lower_bound=0.0,
    upper_bound=LARGEST,
    flag_values=VALUES,
)
# NaN passes any bound.
flags.register_validator(
    "temperature",
    lambda value: value is None or math.isfinite(value),
    "allowed is a finite number",
    flag_values=VALUES,
)
TOP_K = flags.DEFINE_integer(
    "top_k",
    None,
    "The likeliest discrete codes that are drawn from.",
    lower_bound=1,
    upper_bound=MOST_CODES,
    flag_values=VALUES,
)
FOLDER = define_path(
    "folder", "A new or empty folder, which gets each image as a PNG file of its own."
)
REPLACE = flags.DEFINE_bool(
    "replace",
    False,
    "Former samples of this run in --folder are deleted first.",
    flag_values=VALUES,
)


def parse_labels(run: Run, text: str | None) -> jax.Array | None:
    """Returns the labels that "Smiling=1,Male=0" stands for; the others are unknown."""
    if text is None:
        return None
    names = build.label_names(run.config.model)
    if not names:
        raise UserError(
            f"--attributes is {text!r}, but {run.workdir} holds a model without "
            "labels; configs/cvae.py trains one with, and of a VQ-VAE "
            "configs/vq_prior.py:labelled"
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


def sample(
    run: Run,
    sampler: str,
    num_images: int,
    seed: int,
    labels: jax.Array | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Float[np.ndarray, "N H W C"]:
    """Returns samples by the EMA parameters, in [0, 1].

    Args:
      run: of an autoencoder of any kind.
      sampler: "prior", or a density fitted to codes of the training pictures:
        "gaussian" or "mixture".
      num_images: N.
      seed: of the samples.
      labels: [A] of a conditional VAE; codes are then those of pictures that have them.
      temperature: of the prior, see `sampling.sample_prior`.
      top_k: of the prior, as the temperature.

    Raises:
      UserError: the model has no prior, or too few pictures have the labels.
    """
    model = run.model()
    samples_key = key(seed, Stream.SAMPLING)
    if sampler == "prior":
        instead = "--sampler=gaussian fits one to its codes"
        abilities.check_prior(run, "--sampler is prior", instead)
        return sampling.sample_prior(
            model, samples_key, num_images, labels, temperature, top_k
        )
    if labels is None:
        fitted = codes_lib.fitted_density(run, sampler)
    else:
        purpose = f"--sampler={sampler} with --attributes"
        run.dataset_for(purpose)
        known = run.labels("train")
        which = np.asarray(jnp.all((known == labels) | (labels == 0), axis=1))
        what = "those that have all --attributes"
        codes_lib.check_fitted(run, sampler, int(which.sum()), what)
        _, codes = codes_lib.encode_train(run, purpose, which)
        fitted = sampling.fit_codes(codes, codes_lib.FITTED[sampler], run.config.seed)
    fitted.set_params(random_state=seed)
    return sampling.sample_fitted(model, fitted, num_images, labels)


def describe(
    run: Run,
    images: Float[np.ndarray, "N H W C"],
    seed: int,
    attributes: str | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> dict[str, Any]:
    """Returns the record of samples: what they are a function of, beside the sampler.

    Args:
      run: that was sampled.
      images: the samples.
      seed: of them.
      attributes: as `parse_labels` takes them.
      temperature: of the prior.
      top_k: of the prior.
    """
    return {
        "checkpoint_step": run.step,
        **abilities.dial_of(run),
        "num_images": len(images),
        "seed": seed,
        "temperature": temperature,
        "top_k": top_k,
        "attributes": attributes,
    }


def draw_samples(
    run: Run,
    sampler: str,
    images: Float[np.ndarray, "N H W C"],
    drawn_by: dict[str, Any],
) -> Path:
    """Writes a grid to images/samples.png, or samples_gaussian.png and so on.

    Args:
      run: that was sampled.
      sampler: of `SAMPLERS`.
      images: the samples, in [0, 1].
      drawn_by: their record, see `describe`, which goes to a JSON file beside it.

    Returns:
      The PNG file.

    Raises:
      UserError: the operating system refuses.
    """
    path = run.image_path(
        "samples.png" if sampler == "prior" else f"samples_{sampler}.png"
    )
    plots.image_grid(plots.nearly_square(images), path)
    write_json(path.with_suffix(".json"), {"sampler": sampler, **drawn_by})
    return path


def check_folder(run: Run, folder: Path, replace: bool) -> None:
    """Checks that samples would not be mixed with other files.

    Args:
      run: to be sampled.
      folder: that gets them.
      replace: whether former samples of the run may be deleted.

    Raises:
      UserError: the folder is a file, or holds anything but samples of the run that may
        be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--folder is '{folder}', which is no folder")
    there = [path.name for path in folder.glob("[!.]*")]
    if not there:
        return
    try:
        of = json.loads((folder / RECORD).read_text())["workdir"]
    except (OSError, ValueError, KeyError, TypeError):
        of = None
    others = [n for n in there if n != RECORD and not re.fullmatch(r"\d{5,}\.png", n)]
    if others or of != str(run.workdir.absolute()):
        raise UserError(
            f"--folder is '{folder}', which holds {len(there)} other files "
            f"({', '.join(sorted(others or there)[:3])}); allowed is a new or empty "
            "folder"
        )
    if not replace:
        raise UserError(
            f"--folder is '{folder}', which holds {len(there) - 1} samples of this run "
            "already; allowed is a new or empty folder, or --replace, which deletes "
            "them first"
        )


def write_samples(
    run: Run,
    sampler: str,
    images: Float[np.ndarray, "N H W C"],
    drawn_by: dict[str, Any],
    folder: Path,
) -> None:
    """Writes each sample to a PNG file of its own, in place of former ones.

    Args:
      run: that was sampled.
      sampler: of `SAMPLERS`.
      images: the samples, in [0, 1].
      drawn_by: their record, see `describe`, which goes to a JSON file beside them.
      folder: that `check_folder` has passed; made where it is absent.

    Raises:
      UserError: the operating system refuses.
    """
    of = {"workdir": str(run.workdir.absolute()), "sampler": sampler}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, of | drawn_by)
        for former in folder.glob("[0-9]*.png"):
            former.unlink()
    plots.single_images(images, folder)


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "sample")
    labels = parse_labels(run, ATTRIBUTES.value)
    usual = "prior" if abilities.has_prior(run) else "gaussian"
    sampler, folder = SAMPLER.value or usual, FOLDER.value
    if TEMPERATURE.value is not None and sampler != "prior":
        raise UserError(
            f"--temperature is {TEMPERATURE.value}; it goes with --sampler=prior, and "
            f"that is {sampler}"
        )
    temperature = 1.0 if TEMPERATURE.value is None else TEMPERATURE.value
    if TOP_K.value is not None:
        if sampler != "prior":
            raise UserError(
                f"--top_k is {TOP_K.value}; it goes with --sampler=prior, and that is "
                f"{sampler}"
            )
        abilities.check_learned_codes(run, f"--top_k is {TOP_K.value}")
    if REPLACE.value and folder is None:
        raise UserError("--replace is given; it goes with --folder")
    if folder is not None:
        # Before work that would be in vain.
        check_folder(run, folder, REPLACE.value)
    number = NUM_IMAGES.value or NUM_SAMPLES
    top_k = TOP_K.value
    images = sample(run, sampler, number, SEED.value, labels, temperature, top_k)
    drawn_by = describe(run, images, SEED.value, ATTRIBUTES.value, temperature, top_k)
    if folder is None:
        return [draw_samples(run, sampler, images, drawn_by)]
    write_samples(run, sampler, images, drawn_by, folder)
    return [folder]


COMMAND = Command(
    meaning="Draws new images from the prior or from a fitted density.",
    example="--workdir=runs/vae --num_images=100 --temperature=0.8",
    flags={
        "num_images": f"Default: {NUM_SAMPLES}.",
        "seed": "Default: 0.",
        "sampler": "Default: prior; without one gaussian.",
        "temperature": "Default: 1.",
        "top_k": "Default: all.",
        "attributes": "Others are unknown.",
        "folder": "Default: one file of all images.",
        "replace": "Default: no.",
        "realism": "Default: 0.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
