"""New pictures from a trained run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.errors import UserError
from vae_jax.exploration import sampling
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.vae import VAE
from vae_jax.report import plots
from vae_jax.report.writer import write_json
from vae_jax.run import Run

# Components of the Gaussian mixture that is fitted to codes.
FITTED = {"gaussian": 1, "mixture": 10}
SAMPLERS = ("prior", *FITTED)


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


def sample(
    run: Run,
    sampler: str,
    num_images: int,
    seed: int,
    labels: jax.Array | None = None,
    temperature: float = 1.0,
) -> np.ndarray:
    """Returns samples by the EMA parameters, [N,H,W,C] in [0, 1].

    Args:
      run: of a VAE or an autoencoder.
      sampler: "prior", or a density fitted to codes of the training pictures:
        "gaussian" or "mixture".
      num_images: N.
      seed: of the samples.
      labels: [A] of a conditional VAE; codes are then those of pictures that have them.
      temperature: of the prior, see `sampling.sample_prior`.

    Raises:
      UserError: the model has no prior, or too few pictures have the labels.
    """
    model = run.model()
    samples_key = key(seed, Stream.SAMPLING)
    if sampler == "prior":
        if not isinstance(model, VAE):
            raise UserError(
                f"{run.workdir} holds an autoencoder, which has no prior to sample "
                "from; --sampler=gaussian fits one to its codes"
            )
        return sampling.sample_prior(
            model, samples_key, num_images, labels, temperature
        )
    images, known = run.dataset.splits["train"].images, run.labels("train")
    if known is not None and labels is not None:
        which = np.asarray(jnp.all((known == labels) | (labels == 0), axis=1))
        needed = max(2, FITTED[sampler])
        if np.sum(which) < needed:
            raise UserError(
                f"--attributes: {np.sum(which)} training pictures have them all; "
                f"--sampler={sampler} needs {needed} at least to fit"
            )
        images, known = images[which], known[which]
    codes = sampling.encode_images(model, images, known, samples_key)
    fitted = sampling.fit_codes(codes, FITTED[sampler], seed)
    return sampling.sample_fitted(model, fitted, num_images, labels)


def draw_samples(
    run: Run, sampler: str, images: np.ndarray, drawn_by: dict[str, Any]
) -> Path:
    """Writes a grid to images/samples.png, or samples_gaussian.png and so on.

    And `drawn_by`, what the samples are a function of, to a JSON beside it.
    """
    path = run.image_path(
        "samples.png" if sampler == "prior" else f"samples_{sampler}.png"
    )
    plots.image_grid(plots.nearly_square(images), path)
    write_json(path.with_suffix(".json"), {"sampler": sampler, **drawn_by})
    return path
