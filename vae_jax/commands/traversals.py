"""--mode=traverse: what each dimension of a picture's code does to the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vae_jax.commands import abilities, captions, kept_codes
from vae_jax.commands.evaluation import ACTIVE_VARIANCE
from vae_jax.commands.flags import INDICES, NUM_IMAGES, PICTURES, Command
from vae_jax.commands.opening import open_autoencoder
from vae_jax.commands.pictures import check_one_of, images_at, own_pictures
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.exploration import interpolation, sampling
from vae_jax.report import grids, plots
from vae_jax.run import Run
from vae_jax.storage import write_json

NUM_DIMENSIONS = 6
# A traversal goes so many standard deviations from the mean to either side.
REACH = 3.0


@dataclass(frozen=True)
class Traversal:
    """A picture decoded with one dimension of its code at a time changed.

    Attributes:
      images: a row for each dimension, a column for each of its V values; in [0, 1].
      record: the order of all dimensions and why, which are drawn and at which values.
    """

    images: Float[np.ndarray, "rows V H W C"]
    record: dict[str, Any]


def traverse(
    run: Run,
    num_dimensions: int = NUM_DIMENSIONS,
    image_index: int = 0,
    num_values: int = 9,
    picture: UInt8[np.ndarray, "H W C"] | None = None,
) -> Traversal:
    """Decodes a picture's code with one dimension at a time changed.

    The EMA parameters do so. The dimension of the largest KL to the prior comes first.
    Its values go from three standard deviations of the prior below its mean to three
    above, the other dimensions as the picture has them. Where the KL is not analytic,
    the order is by the variance of the posterior's mean. Where there is no prior, or
    one over indices, the codes' own mean, standard deviation and variance take its
    place.

    The record has the order of all dimensions and what they are `ordered_by`; over the
    images of `kept_codes.dimensions` it has `kl_by_dimension` in nats,
    `variance_by_dimension` of the posterior's mean (the autoencoder's code), and for a
    VAE `active_units`. What is not defined is None.

    Args:
      run: a run of an autoencoder of any kind.
      num_dimensions: number of dimensions to decode, all where there are fewer.
      image_index: index of the test image.
      num_values: number of values of each dimension.
      picture: the user's instead; a conditional VAE's labels are unknown then.

    Raises:
      UserError: there is no such test image.
    """
    pictures, labels = (
        images_at(run, [image_index], "--mode=traverse of test pictures")
        if picture is None
        else (picture[None], None)
    )
    model = run.model()
    known = kept_codes.dimensions(run)
    variances, kl = known["variance"], known.get("kl")
    order = kept_codes.leading_first(known)
    drawn = order[:num_dimensions].tolist()

    (code,) = sampling.encode_images(model, pictures, labels)
    label = None if labels is None else labels[0]
    active_units, ordered_by = None, "variance of the code"
    if abilities.has_posterior(run):
        active_units = int(np.sum(variances > ACTIVE_VARIANCE))
        ordered_by = "kl" if kl is not None else "variance of the posterior's mean"
    mean, std = kept_codes.spread(run, known, label)
    offsets = np.linspace(-REACH, REACH, num_values)
    values = mean[drawn, None] + std[drawn, None] * offsets
    changed = interpolation.traversal(code, drawn, values)
    decoded = sampling.decode_codes(model, changed.reshape(-1, len(code)), label)
    record = {
        **abilities.made_by(run),
        "image_index": image_index if picture is None else None,
        "ordered_by": ordered_by,
        "order": order.tolist(),
        "drawn": drawn,
        "values": values.tolist(),
        "kl_by_dimension": None if kl is None else kl.tolist(),
        "variance_by_dimension": variances.tolist(),
        "active_units": active_units,
    }
    images = decoded.reshape(*changed.shape[:2], *decoded.shape[1:])
    return Traversal(images, record)


def row_names(record: dict[str, Any]) -> list[str]:
    """Returns what to call each row of a traversal: its dimension, and its KL."""
    kl = record["kl_by_dimension"]
    return [
        f"{dimension}" + ("" if kl is None else f": {kl[dimension]:.1f} nats")
        for dimension in record["drawn"]
    ]


def draw_traversal(
    run: Run, found: Traversal, files: Sequence[str] | None = None
) -> list[Path]:
    """Writes the picture traversal, a GIF and a record to the run's images/.

    The PNG file has the rows, the GIF moves all of them at once, there and back, and
    the JSON file is the record.

    Args:
      run: the run that decoded.
      found: the traversal that is drawn.
      files: the one of the user's picture, for the command in the caption.
    """
    path, number = run.image_path("traversal"), len(found.images)
    grids.image_grid(
        found.images,
        path,
        rows=row_names(found.record),
        caption=[
            "One dimension of the code of an image at a time, from three standard "
            "deviations below its mean to three above. Dimensions by their "
            f"{found.record['ordered_by']}, the largest first.",
            captions.command(
                run,
                "traverse",
                indices=found.record["image_index"],
                pictures=files,
                num_images=None if number == NUM_DIMENSIONS else number,
            ),
        ],
    )
    there = [
        grids.tiled(grids.nearly_square(column))
        for column in found.images.swapaxes(0, 1)
    ]
    plots.animation(np.stack(there + there[-2:0:-1]), path.with_suffix(".gif"))
    write_json(path.with_suffix(".json"), found.record)
    return [path, path.with_suffix(".gif"), path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "traverse")
    check_one_of(PICTURES, INDICES)
    indices, own = INDICES.value or [0], own_pictures(run)
    pictures = None if own is None else own[1]
    for name, those in (("indices", indices), ("pictures", pictures)):
        if those is not None and len(those) > 1:
            raise UserError(
                f"--{name} has {len(those)} images; with --mode=traverse one is allowed"
            )
    found = traverse(
        run,
        NUM_IMAGES.value or NUM_DIMENSIONS,
        image_index=indices[0],
        picture=None if pictures is None else pictures[0],
    )
    return draw_traversal(run, found, None if own is None else own[0])


COMMAND = Command(
    meaning="Draws what each dimension of the code changes in an image.",
    example="--workdir=runs/vae --pictures=me.jpg",
    flags={
        "num_images": f"Here it counts dimensions. Default: {NUM_DIMENSIONS}.",
        "indices": "One is allowed. Default: 0.",
        "pictures": "One is allowed; it replaces the test image.",
        "realism": "Default: 0.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
