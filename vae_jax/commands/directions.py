"""directions.npz: a direction of every attribute in the code of a run."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from vae_jax.commands import abilities, kept
from vae_jax.errors import UserError
from vae_jax.exploration import attributes, sampling
from vae_jax.exploration.attributes import Direction, HeldDirection
from vae_jax.models import build
from vae_jax.models.contract import code_size
from vae_jax.run import Run

FILE = "directions.npz"
# Estimators of one direction for all codes; the others depend on where a code is.
ESTIMATED = ("deconfounded", "difference", "notebook")
ESTIMATORS = (*ESTIMATED, "held", "flow")


def read(run: Run) -> dict[str, np.ndarray]:
    """Returns what directions.npz keeps of the run's codes."""
    shape = (len(run.attribute_names), code_size(run.model().code_shape))
    # An attribute that all pictures have, or none, has no direction.
    return kept.read(run, FILE, dict.fromkeys(ESTIMATED, shape), is_finite=False)


def train_codes(run: Run) -> np.ndarray:
    """Returns codes of the first training pictures, `sampling.most_codes`, [N,D]."""
    images = run.dataset_for("finding directions").splits["train"].images
    model = run.model()
    first = slice(sampling.most_codes(code_size(model.code_shape)))
    return sampling.encode_images(model, images[first], run.labels("train", first))


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
      labels: attributes of each picture, [N,A]: which it has.
      seed: seed of the notebook's pictures.
    """
    return {
        "deconfounded": attributes.deconfounded_directions(codes, labels),
        "difference": attributes.difference_directions(codes, labels),
        "notebook": attributes.notebook_directions(codes, labels, seed),
    }


def find_directions(
    run: Run,
    seed: int,
    guide: Run | None = None,
    attribute: str | None = None,
    codes: np.ndarray | None = None,
) -> dict[str, Any]:
    """Estimates a direction for every attribute; returns what directions.npz holds.

    The file has an array [A,D] for each estimator of `estimate`, the A
    `attribute_names` and the `step` of the parameters. NaN is no direction: of an
    attribute that all training pictures have or none. Of each attribute that a guide
    was used on at this step it has the arrays of a `HeldDirection` as well:
    held.Smiling.offset and so on.

    Args:
      run: a run of an autoencoder of any kind.
      seed: seed of the notebook's pictures.
      guide: a run of a classifier, to find a `held` direction by.
      attribute: the attribute for which a `held` direction is found.
      codes: codes of the first training pictures, [N,D], where they are known already.
    """
    run.dataset_for("finding directions")
    if codes is None:
        codes = train_codes(run)
    found = estimate(codes, run.attributes("train")[: len(codes)], seed)
    arrays: dict[str, Any] = {n: a.astype(np.float32) for n, a in found.items()}
    before = read(run)
    arrays |= {name: a for name, a in before.items() if name.startswith("held.")}
    if guide is not None and attribute is not None:
        index = run.attribute_index(attribute, "--attribute")
        known = known_attributes(guide, attribute)
        held = attributes.held_direction(
            # Kept for every place of a dial, so found at one.
            dataclasses.replace(run, realism=0.0).model(),
            guide.model(),
            codes,
            known.index(attribute),
            found["deconfounded"][index],
            run.labels("train", slice(len(codes))),
            seed=seed,
        )
        for field in dataclasses.fields(held):
            arrays[f"held.{attribute}.{field.name}"] = getattr(held, field.name)
    return arrays


def write_directions(run: Run, seed: int, **kwargs: Any) -> None:
    """Writes directions.npz, with the arguments of `find_directions`.

    Raises:
      UserError: the pictures are not there or not those that the run was trained on,
        those of a later checkpoint would be lost, or the workdir cannot be written.
    """
    run.dataset_for("finding directions")
    refusal = kept.refusal(run, FILE)
    if refusal is not None:
        raise UserError(refusal)
    kept.write(run, FILE, find_directions(run, seed, **kwargs))


def read_directions(run: Run, estimator: str, seed: int) -> dict[str, Direction]:
    """Returns the direction of each attribute that has one.

    They are read from directions.npz, which is written first if need be; those by a
    flow, which is a part of the model, are not kept.
    """
    if estimator == "flow":
        names = build.label_names(run.config.model) if abilities.has_flow(run) else ()
        model = run.model()
        return {n: attributes.flow_direction(model, i) for i, n in enumerate(names)}
    saved = read(run)
    if not saved:
        saved = find_directions(run, seed)
        kept.keep(run, FILE, saved)
    names = run.attribute_names
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
