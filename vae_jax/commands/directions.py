"""directions.npz: a direction of every attribute in the code of a run."""

import dataclasses
import zipfile
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from vae_jax import run as run_lib
from vae_jax.errors import UserError
from vae_jax.exploration import attributes, sampling
from vae_jax.exploration.attributes import Direction, HeldDirection
from vae_jax.models import build
from vae_jax.report.writer import writing
from vae_jax.run import Run

ESTIMATORS = ("deconfounded", "difference", "notebook", "held")


def train_codes(run: Run) -> np.ndarray:
    """Returns the training pictures' codes, [N,D]."""
    images = run.dataset.splits["train"].images
    return sampling.encode_images(run.model(), images, run.labels("train"))


def known_attributes(classifier: Run, attribute: str) -> tuple[str, ...]:
    """Returns what a classifier knows, or raises UserError without `attribute`."""
    names = build.label_names(classifier.config.model)
    if attribute not in names:
        raise UserError(
            f"--attribute has {attribute!r}; the classifier in {classifier.workdir} "
            f"knows {', '.join(names)}"
        )
    return names


def estimate(codes: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Returns each constant estimator's directions, [A,D].

    Args:
      codes: [N,D].
      labels: which attributes each picture has, [N,A].
      seed: of the notebook's pictures.
    """
    return {
        "deconfounded": attributes.deconfounded_directions(codes, labels),
        "difference": attributes.difference_directions(codes, labels),
        "notebook": attributes.notebook_directions(codes, labels, seed),
    }


def write_directions(
    run: Run, seed: int, guide: Run | None = None, attribute: str | None = None
) -> None:
    """Estimates a direction for every attribute; writes directions.npz.

    The file has an array [A,D] for each of `ESTIMATORS` but `held`, the A
    `attribute_names` and the `step` of the parameters. NaN is no direction: of an
    attribute that all training pictures have or none. Of each attribute that a guide
    was used on at this step it has the arrays of a `HeldDirection` as well:
    held.Smiling.offset and so on.

    Args:
      run: of a VAE or an autoencoder.
      seed: of the notebook's pictures.
      guide: of a classifier, to find a `held` direction by.
      attribute: for which.
    """
    train, names = run.dataset.splits["train"], run.dataset.attribute_names
    codes = train_codes(run)
    found = estimate(codes, train.attributes, seed)
    arrays: dict[str, Any] = {n: a.astype(np.float32) for n, a in found.items()}
    arrays |= {"attribute_names": np.array(names), "step": run.step}
    before = _saved(run) or {}
    arrays |= {name: a for name, a in before.items() if name.startswith("held.")}
    if guide is not None and attribute is not None:
        index = run_lib.attribute_index(run.dataset, attribute, "--attribute")
        known = known_attributes(guide, attribute)
        labels = run.labels("train")
        held = attributes.held_direction(
            run.model(),
            guide.model(),
            codes,
            known.index(attribute),
            found["deconfounded"][index],
            None if labels is None else np.asarray(labels),
            seed=seed,
        )
        for field in dataclasses.fields(held):
            arrays[f"held.{attribute}.{field.name}"] = getattr(held, field.name)
    # Whole or not there: it is read back wherever it is found.
    unfinished = run.workdir / "directions.unfinished.npz"
    with writing(run.workdir / "directions.npz"):
        np.savez(unfinished, **arrays)
        unfinished.rename(run.workdir / "directions.npz")


def _saved(run: Run) -> dict[str, np.ndarray] | None:
    """Returns what directions.npz holds, None if damaged or of other parameters."""
    path = run.workdir / "directions.npz"
    if not path.exists():
        return None
    try:
        # Opened here: what is no zip, numpy would leave open.
        with path.open("rb") as file, np.load(file) as arrays:
            saved = dict(arrays)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        print(f"note: {path} is damaged ({error}): directions are found anew")
        return None
    same_names = tuple(saved["attribute_names"]) == run.dataset.attribute_names
    return saved if same_names and saved["step"] == run.step else None


def read_directions(run: Run, estimator: str, seed: int) -> dict[str, Direction]:
    """Returns the direction of each attribute that has one.

    They are read from directions.npz, which is written first if need be.
    """
    saved = _saved(run)
    if saved is None:
        write_directions(run, seed)
        saved = _saved(run)
        assert saved is not None
    names = run.dataset.attribute_names
    if estimator != "held":
        return {
            name: attributes.constant(direction)
            for name, direction in zip(names, saved[estimator], strict=True)
            if not np.isnan(direction).any()
        }
    fields = [field.name for field in dataclasses.fields(HeldDirection)]
    return {
        name: HeldDirection(
            **{f: jnp.asarray(saved[f"held.{name}.{f}"]) for f in fields}
        )
        for name in names
        if f"held.{name}.offset" in saved
    }
