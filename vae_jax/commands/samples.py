"""--mode=sample: new images from a trained run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from absl import flags
from jaxtyping import Float

from vae_jax.commands import abilities, captions, kept_codes
from vae_jax.commands.flags import (
    FORMAT,
    NUM_IMAGES,
    SEED,
    VALUES,
    Command,
    define_path,
)
from vae_jax.commands.opening import open_autoencoder
from vae_jax.commands.prior_flags import (
    ATTRIBUTES,
    GUIDANCE,
    PRIOR_STEPS,
    TEMPERATURE,
    TOP_K,
    by_number,
    parse_labels,
    temperature_text,
)
from vae_jax.commands.sample_files import check_folder, write_samples
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.exploration import sampling
from vae_jax.keys import Stream, key
from vae_jax.report import grids
from vae_jax.report.drawing import FORMATS
from vae_jax.run import Run
from vae_jax.storage import write_json

Images: TypeAlias = Float[np.ndarray, "N H W C"]

SAMPLERS = ("prior", *kept_codes.FITTED)
# What the best sampler draws; samples_gaussian and so on are of one that was named.
SAMPLES = "samples"
# The flag that each entry of a record stands for.
FLAGS = {
    "num_images": "num_images",
    "seed": "seed",
    "temperature": "temperature",
    "top_k": "top_k",
    "prior_steps": "num_steps",
    "guidance": "guidance",
    "attributes": "attributes",
}
SAMPLER = flags.DEFINE_enum(
    "sampler",
    None,
    SAMPLERS,
    "The distribution of codes: the prior, or a gaussian or a mixture fitted to codes.",
    flag_values=VALUES,
)
FOLDER = define_path("folder", "A new or empty folder for single PNG files.")
REPLACE = flags.DEFINE_bool(
    "replace",
    False,
    "Former samples in --folder are deleted first.",
    flag_values=VALUES,
)


def best_samplers(run: Run) -> list[str]:
    """Returns the sampler that most likely makes faces, and the prior after it.

    The first is a prior that was learned in a second run, and otherwise a Gaussian
    fitted to codes: in every model that was judged its samples are nearer to faces than
    those of the prior (docs/results.md). Those of the mixture are nearer still, but
    fitting it takes the images, and time. There is none where a model has no prior and
    no Gaussian can be fitted.
    """
    if abilities.has_learned_codes(run) or abilities.has_flow(run):
        return ["prior"]
    fitted = ["gaussian"] if kept_codes.can_be_fitted(run, "gaussian") else []
    return fitted + (["prior"] if abilities.has_prior(run) else [])


def samplers_at_hand(run: Run) -> list[str]:
    """Returns the best samplers but those that lack the pictures they are fitted to.

    Raises:
      UserError: there is none, because no Gaussian can be fitted.
    """
    best = best_samplers(run) or ["gaussian"]
    try:
        if "gaussian" in best:
            kept_codes.fitted_density(run, "gaussian")
        return best
    except UserError as error:
        if best == ["gaussian"]:
            raise
        print(f"note: samples are not of the fitted Gaussian: {error}")
        return ["prior"]


def said_of(run: Run, sampler: str) -> str:
    """Returns what the codes of a sampler are drawn from, in words."""
    prior = run.config.model.prior
    words = {"normal": "the prior N(0, I)", "uniform": "the prior, all codes alike"}
    if sampler == "prior":
        return words.get(prior, f"the learned prior ({prior})")
    number = kept_codes.FITTED[sampler]
    density = "a Gaussian" if number == 1 else f"a mixture of {number}"
    of_few = kept_codes.is_of_first_layers(run, sampler)
    whose = " of the first layers" if of_few else ""
    return f"{density} fitted to codes{whose}"


def sample_each(
    run: Run, samplers: Sequence[str], num_images: int | None = None, seed: int = 0
) -> dict[str, Images]:
    """Returns samples by several samplers, as `sample` does by one.

    Args:
      run: a run of an autoencoder of any kind.
      samplers: the samplers that draw.
      num_images: images of each sampler; None for as many as a screen has room for.
      seed: seed of the samples.
    """
    number = num_images or number_that_fits(run, len(samplers))
    return {sampler: sample(run, sampler, number, seed) for sampler in samplers}


def number_that_fits(run: Run, num_samplers: int = 1) -> int:
    """Returns how many samples of each sampler a screen has room for."""
    rows, columns = grids.room(run.config.dataset.size)
    return rows * max(1, min(columns, 8) // num_samplers)


def sample(
    run: Run,
    sampler: str,
    num_images: int,
    seed: int,
    labels: jax.Array | None = None,
    temperature: float | Mapping[int, float] = 1.0,
    **how: Any,
) -> Images:
    """Returns samples by the EMA parameters, in [0, 1].

    Args:
      run: a run of an autoencoder of any kind.
      sampler: "prior", or a density fitted to codes of the training pictures:
        "gaussian" or "mixture".
      num_images: N.
      seed: seed of the samples.
      labels: [A] of a conditional VAE; codes are then those of pictures that have them.
      temperature: temperature of the prior, see `sampling.sample_prior`, or of the
        density; or temperatures by the resolution of a hierarchical model's layers,
        where 1 is that of the others.
      **how: further arguments of a learned prior, see there.

    Raises:
      UserError: the model has no prior, or too few pictures have the labels.
    """
    model = run.model()
    samples_key = key(seed, Stream.SAMPLING)
    spread = temperature
    if isinstance(spread, Mapping):
        spread = by_number(run, spread)
    if sampler == "prior":
        instead = "--sampler=gaussian fits one to its codes"
        abilities.check_prior(run, "--sampler is prior", instead)
        return sampling.sample_prior(
            model, samples_key, num_images, labels, spread, **how
        )
    if labels is None:
        fitted = kept_codes.fitted_density(run, sampler)
    else:
        purpose = f"--sampler={sampler} with --attributes"
        run.dataset_for(purpose)
        asked = np.asarray(labels)
        which = np.all((run.labels("train") == asked) | (asked == 0), axis=1)
        what = "those that have all --attributes"
        kept_codes.check_fitted(run, sampler, int(which.sum()), what)
        _, codes = kept_codes.encode_train(run, sampler, purpose, which)
        fitted = kept_codes.fit(run, sampler, codes)
    return sampling.sample_fitted(model, fitted, num_images, seed, labels, spread)


def describe(
    run: Run,
    images: Images,
    seed: int,
    attributes: str | None = None,
    temperature: float | Mapping[int, float] = 1.0,
    **how: Any,
) -> dict[str, Any]:
    """Returns the record of samples: what they are a function of, beside the sampler.

    Args:
      run: the run that was sampled.
      images: the samples.
      seed: seed of the samples.
      attributes: attributes as `parse_labels` takes them.
      temperature: temperature of the samples.
      **how: further arguments, as `sample` takes them.
    """
    return {
        **abilities.made_by(run),
        "num_images": len(images),
        "seed": seed,
        "temperature": temperature,
        "attributes": attributes,
        **how,
    }


def draw_samples(
    run: Run, name: str, drawn: Mapping[str, Images], drawn_by: dict[str, Any]
) -> list[Path]:
    """Writes samples to the run's images/, those of each sampler beside the others.

    Args:
      run: the run that was sampled.
      name: name of the PNG file.
      drawn: samples by each sampler, as many of each, in [0, 1].
      drawn_by: their record, see `describe`, which goes to a JSON file beside it.
    """
    path = run.image_path(name)
    parts = [grids.wide(images, len(drawn)) for images in drawn.values()]
    origins = [said_of(run, sampler) for sampler in drawn]
    usual = {
        "num_images": number_that_fits(run, len(drawn)),
        "seed": 0,
        "temperature": 1.0,
    }
    given: dict[str, Any] = {
        flag: value
        for flag, name in FLAGS.items()
        if (value := drawn_by.get(name, usual.get(name))) != usual.get(name)
    }
    if "temperature" in given:
        given["temperature"] = temperature_text(given["temperature"])
    if name != SAMPLES:
        given["sampler"] = next(iter(drawn))
    grids.image_grid(
        np.concatenate(parts, axis=1),
        path,
        groups=len(parts),
        columns=origins,
        caption=[
            "New images, none of them chosen: the means of what the decoder makes of "
            f"codes drawn from {' and, beside them, from '.join(origins)}.",
            captions.command(run, "sample", **given),
        ],
    )
    samplers = dict(zip(("sampler", "beside"), drawn, strict=False))
    write_json(path.with_suffix(".json"), samplers | drawn_by)
    return [path, path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "sample")
    labels = parse_labels(run, ATTRIBUTES.value)
    of_prior = (TOP_K, PRIOR_STEPS, GUIDANCE)
    asked = {
        f.name: f"--{f.name} is {f.value:g}" for f in of_prior if f.value is not None
    }
    if SAMPLER.value is not None:
        samplers = [SAMPLER.value]
    elif abilities.has_prior(run) and (asked or ATTRIBUTES.value is not None):
        # A fitted density takes labels where it is named.
        samplers = ["prior"]
    else:
        samplers = samplers_at_hand(run)
    sampler, folder = samplers[0], FOLDER.value
    if asked and sampler != "prior":
        first = next(iter(asked.values()))
        raise UserError(f"{first}; it goes with --sampler=prior, and that is {sampler}")
    if "top_k" in asked:
        abilities.check_learned_codes(run, asked["top_k"])
    for name in ("prior_steps", "guidance"):
        if name in asked:
            abilities.check_flow(run, asked[name])
    if "guidance" in asked and labels is None:
        raise UserError(f"{asked['guidance']}; it goes with --attributes")
    temperature = 1.0 if TEMPERATURE.value is None else TEMPERATURE.value
    how = {
        "top_k": TOP_K.value,
        "num_steps": PRIOR_STEPS.value,
        "guidance": GUIDANCE.value,
    }
    if REPLACE.value and folder is None:
        raise UserError("--replace is given; it goes with --folder")
    if folder is not None:
        if FORMAT.value not in (None, FORMATS[0]):
            raise UserError(
                f"--format is {FORMAT.value!r}; with --folder allowed is png"
            )
        # Before work that would be in vain.
        check_folder(run, folder, REPLACE.value)
    # Files of their own hold the samples of one sampler.
    samplers, seed = samplers if folder is None else samplers[:1], SEED.value
    number = NUM_IMAGES.value or number_that_fits(run, len(samplers))
    drawn = {
        each: sample(run, each, number, seed, labels, temperature, **how)
        for each in samplers
    }
    images, attributes = drawn[sampler], ATTRIBUTES.value
    drawn_by = describe(run, images, seed, attributes, temperature, **how)
    if folder is None:
        name = SAMPLES if SAMPLER.value is None else f"samples_{sampler}"
        return draw_samples(run, name, drawn, drawn_by)
    write_samples(run, sampler, images, drawn_by, folder)
    return [folder]


COMMAND = Command(
    meaning="Draws new images from the prior or from a fitted density.",
    example="--workdir=runs/vae --num_images=100 --temperature=0.8",
    flags={
        "num_images": "Default: a screenful.",
        "seed": "Default: 0.",
        "sampler": "Default: the best.",
        "temperature": "Default: 1.",
        "top_k": "Default: all.",
        "prior_steps": "Default: as trained.",
        "guidance": "Default: 1.",
        "attributes": "Others are unknown.",
        "folder": "Default: one file.",
        "replace": "Default: no.",
        "realism": "Default: 0.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
