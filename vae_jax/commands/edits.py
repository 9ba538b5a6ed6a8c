"""--mode=edit: images whose codes are moved along the directions of attributes."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from jaxtyping import Float, UInt8

from vae_jax.commands import abilities, captions
from vae_jax.commands import directions as directions_lib
from vae_jax.commands.flags import (
    ATTRIBUTE,
    NUM_IMAGES,
    PICTURES,
    SEED,
    UP_TO,
    VALUES,
    Command,
    define_numbers,
    parse_numbers,
)
from vae_jax.commands.opening import open_autoencoder
from vae_jax.commands.pictures import check_one_of, own_pictures
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.exploration import attributes, sampling, stacks
from vae_jax.exploration.attributes import Direction
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import write_json

NUM_EDITED = 6
ALPHAS = "-2,-1,0,1,2"
ALPHA = define_numbers(
    "alpha",
    "The distances along the direction, a column each; 0 is the reconstruction.",
    float,
    ALPHAS,
)
# Why an attribute may have none, by estimator.
NO_DIRECTION = {
    "held": "--mode=attributes was not given a --guide for it",
    "flow": "the run has no flow that is told it, as configs/latent_flow.py:labelled "
    "trains one",
}
ESTIMATOR = flags.DEFINE_enum(
    "estimator",
    directions_lib.ESTIMATORS[0],
    directions_lib.ESTIMATORS,
    "The estimator of the direction (docs/usage.md): "
    + ", ".join(directions_lib.ESTIMATORS)
    + ".",
    flag_values=VALUES,
)

# Values of flags that the command in a caption need not give.
USUAL = {
    "estimator": ESTIMATOR.default,
    "up_to": None,
    "num_images": NUM_EDITED,
    "seed": 0,
}


def parse_weights(run: Run, text: str) -> dict[str, float]:
    """Returns what "Smiling,Male=-0.5" stands for: {"Smiling": 1, "Male": -0.5}."""

    def known(name: str) -> str:
        run.attribute_index(name, "--attribute")
        return name

    return parse_numbers(text, "--attribute", known)


def _file_name(names: Sequence[str]) -> str:
    """Returns a file's name for attributes of whatever names."""
    plain = "_".join(names)
    safe = re.sub(r"[^\w.+() -]", "_", plain)[:60]
    if safe == plain:
        return f"edit_{plain}"
    # Others may read the same once they are cut or changed.
    return f"edit_{safe}_{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def _sum(
    directions: dict[str, Direction], weights: dict[str, float], estimator: str
) -> Direction:
    """Returns the sum of the attributes' weighted directions."""
    for name in weights:
        if name not in directions:
            usual = "all training pictures have it or none"
            raise UserError(
                f"--attribute has {name!r}, which has no direction by "
                f"--estimator={estimator}: {NO_DIRECTION.get(estimator, usual)}"
            )
    return attributes.weighted_sum(directions, weights)


@dataclass(frozen=True)
class Edits:
    """Images decoded from codes that were moved along directions of attributes.

    Attributes:
      images: a row for each image: itself, then its code, moved `alpha` times along the
        direction, decoded; in [0, 1].
      record: settings that the images are a function of.
    """

    images: Float[np.ndarray, "N columns H W C"]
    record: dict[str, Any]


def edit(
    run: Run,
    weights: dict[str, float],
    alphas: Sequence[float],
    *,
    estimator: str = directions_lib.ESTIMATORS[0],
    up_to: int | None = None,
    num_images: int = NUM_EDITED,
    pictures: UInt8[np.ndarray, "N H W C"] | None = None,
    seed: int = 0,
) -> Edits:
    """Edits images along attributes, by the EMA parameters.

    Args:
      run: a run of an autoencoder of any kind.
      weights: weight of each attribute's direction in the sum.
      alphas: one column each; 0 is the reconstruction.
      estimator: one of `directions.ESTIMATORS`.
      up_to: the finest resolution whose codes move; None for all codes.
      num_images: test images, half of them with the first attribute; where there are
        too few of either kind, more of the other.
      pictures: the user's instead; a conditional VAE's labels are unknown then.
      seed: seed of the notebook's pictures, if directions are estimated anew.

    Raises:
      UserError: an attribute has no direction, the code no such resolution, or the data
        set is not there.
    """
    model = run.model()
    directions = directions_lib.read_directions(run, estimator, seed)
    direction = _sum(directions, weights, estimator)
    if up_to is not None:
        abilities.check_up_to(run, up_to)
        is_coarse = stacks.resolution_of_numbers(model) <= up_to
        direction = attributes.within(direction, is_coarse)
    labels, chosen = None, None
    if pictures is None:
        test = run.dataset_for("--mode=edit without --pictures").splits["test"]
        column = run.attributes("test")[:, run.attribute_names.index([*weights][0])]
        without, with_it = np.flatnonzero(~column), np.flatnonzero(column)
        # Where there are too few of the one, there are more of the other.
        half = min(max(num_images // 2, num_images - len(without)), len(with_it))
        chosen = [*without[: num_images - half], *with_it[:half]]
        pictures, labels = test.images[chosen], run.labels("test", chosen)
    codes = sampling.encode_images(model, pictures, labels)
    columns = [to_unit_interval(pictures)]
    for alpha in alphas:
        edited = attributes.moved(codes, direction, alpha)
        columns.append(sampling.decode_codes(model, edited, labels))
    record = {
        **abilities.made_by(run),
        "attributes": weights,
        "estimator": estimator,
        "up_to": up_to,
        "seed": seed,
        "num_images": None if chosen is None else len(chosen),
        "alphas": list(alphas),
        "test_pictures": None if chosen is None else [int(i) for i in chosen],
    }
    return Edits(np.stack(columns, axis=1), record)


def draw_edit(run: Run, found: Edits, files: Sequence[str] | None = None) -> list[Path]:
    """Writes the picture edit_Smiling to the run's images/, and its record beside it.

    Args:
      run: the run that edited.
      found: the edits that are drawn.
      files: the user's picture files, for the command in the caption.

    Returns:
      The files, named after the attributes.
    """
    path = run.image_path(_file_name([*found.record["attributes"]]))
    weights = found.record["attributes"].items()
    named = ",".join(n if w == 1 else f"{n}={w:g}" for n, w in weights)
    alphas = [f"{alpha:g}" for alpha in found.record["alphas"]]
    asked = {name: found.record[name] for name in USUAL}
    up_to = found.record["up_to"]
    moved = "" if up_to is None else f" up to {up_to}x{up_to} places"
    grids.image_grid(
        found.images,
        path,
        columns=["image", *(f"alpha {alpha}" for alpha in alphas)],
        caption=[
            f"Images whose codes{moved} are moved alpha times along the direction of "
            f"{named}; alpha 0 is the reconstruction.",
            captions.command(
                run,
                "edit",
                attribute=named,
                alpha=alphas,
                pictures=files,
                **{n: told for n, told in asked.items() if told != USUAL[n]},
            ),
        ],
    )
    write_json(path.with_suffix(".json"), found.record)
    return [path, path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    check_one_of(NUM_IMAGES, PICTURES)
    run = open_autoencoder(config, workdir, "edit")
    weights = parse_weights(
        run, "Smiling" if ATTRIBUTE.value is None else ATTRIBUTE.value
    )
    own = own_pictures(run)
    found = edit(
        run,
        weights,
        ALPHA.value,
        estimator=ESTIMATOR.value,
        up_to=UP_TO.value,
        num_images=NUM_IMAGES.value or NUM_EDITED,
        pictures=None if own is None else own[1],
        seed=SEED.value,
    )
    return draw_edit(run, found, None if own is None else own[0])


COMMAND = Command(
    meaning="Draws images edited along an attribute.",
    example="--workdir=runs/vae --attribute=Smiling,Eyeglasses=-1 --alpha=-2,0,2",
    flags={
        "attribute": "With weights: Smiling=1,No_Beard=-1. Default: Smiling.",
        "alpha": f"Default: {ALPHAS}.",
        "estimator": f"Default: {directions_lib.ESTIMATORS[0]}.",
        "up_to": "Default: all codes move.",
        "pictures": "Without them, test images are edited.",
        "num_images": f"Default: {NUM_EDITED}.",
        "seed": "Default: 0.",
        "realism": "Default: 0.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
