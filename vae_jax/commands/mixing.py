"""--mode=mix: the coarse layers of one face with the fine layers of another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vae_jax.commands import abilities, captions
from vae_jax.commands.flags import INDICES, PICTURES, UP_TO, Command
from vae_jax.commands.opening import open_autoencoder
from vae_jax.commands.pictures import check_one_of, own_pictures
from vae_jax.commands.way_points import FACES, SEEDS, way_points
from vae_jax.config import Config
from vae_jax.exploration import sampling, stacks
from vae_jax.models.contract import Autoencoder
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import write_json

NUM_FACES = 6


@dataclass(frozen=True)
class Mixture:
    """Faces, each with the fine layers of each.

    Attributes:
      faces: the faces as they are, or as they are decoded where they are drawn from the
        prior; in [0, 1].
      images: row by row with the coarse layers of a face, column by column with the
        fine ones.
      record: names of the faces, and which layers are coarse.
    """

    faces: Float[np.ndarray, "N H W C"]
    images: Float[np.ndarray, "N N H W C"]
    record: dict[str, Any]


def _mixed_images(
    model: Autoencoder,
    codes: Float[np.ndarray, "N D"],
    labels: Float[np.ndarray, "N A"] | None,
    up_to: int,
) -> Float[np.ndarray, "N N H W C"]:
    is_coarse = stacks.resolution_of_numbers(model) <= up_to
    mixed = stacks.mixed(codes, is_coarse)
    if labels is not None:
        # They go with the fine codes, as along a way of coarse codes.
        labels = np.tile(labels, (len(codes), 1))
    decoded = sampling.decode_codes(model, mixed.reshape(-1, mixed.shape[-1]), labels)
    return decoded.reshape(*mixed.shape[:2], *decoded.shape[1:])


def _diagonal(images: Float[np.ndarray, "N N H W C"]) -> Float[np.ndarray, "N H W C"]:
    each = np.arange(len(images))
    return images[each, each]


def _imbalance(images: Float[np.ndarray, "N N H W C"]) -> float:
    """Returns how much nearer mixed faces are to one of theirs than to the other.

    The difference of the mean squared distances, of intensities in [0, 1].
    """
    faces = _diagonal(images)
    from_coarse = np.square(images - faces[:, None]).mean()
    from_fine = np.square(images - faces[None]).mean()
    return abs(from_coarse - from_fine)


def mix(
    run: Run,
    up_to: int | None = None,
    *,
    indices: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    pictures: tuple[Sequence[str], UInt8[np.ndarray, "N H W C"]] | None = None,
) -> Mixture:
    """Decodes codes that are coarsely those of one face, and finely of another.

    The EMA parameters do so, told the labels of the face that the fine codes are of. On
    the diagonal are reconstructions.

    Args:
      run: a run of a model whose code has several resolutions.
      up_to: the finest resolution that counts as coarse; None for that at which mixed
        faces are about as far from the one as from the other.
      indices: see `way_points`.
      seeds: see `way_points`.
      pictures: see `way_points`.

    Raises:
      UserError: the code has one resolution, or not this one.
    """
    model = run.model()
    sizes = abilities.check_stack(run, "--mode is mix")
    if up_to is not None:
        abilities.check_up_to(run, up_to)
    points = way_points(
        run, "mix", usual=NUM_FACES, indices=indices, seeds=seeds, pictures=pictures
    )
    labels = points.labels
    if up_to is None:
        codes = points.codes[:NUM_FACES]
        told = None if labels is None else labels[:NUM_FACES]
        up_to = min(
            sizes[:-1],
            key=lambda size: _imbalance(_mixed_images(model, codes, told, size)),
        )
    images = _mixed_images(model, points.codes, labels, up_to)
    faces = _diagonal(images)
    if points.images is not None:
        faces = to_unit_interval(points.images)
    record = {
        **abilities.made_by(run),
        "faces": {points.kind: points.names},
        "up_to": up_to,
        "resolutions": sizes,
    }
    return Mixture(faces, images, record)


def draw_mixture(run: Run, found: Mixture) -> list[Path]:
    """Writes the picture mix to the run's images/, and its record beside it."""
    path, number = run.image_path("mix"), len(found.faces)
    table = np.ones((number + 1, number + 1, *found.faces.shape[1:]), np.float32)
    table[0, 1:] = table[1:, 0] = found.faces
    table[1:, 1:] = found.images
    ((kind, names),) = found.record["faces"].items()
    up_to = found.record["up_to"]
    grids.image_grid(
        table,
        path,
        rows=["fine from:"],
        caption=[
            f"Each image has the codes up to {up_to}x{up_to} places of the face on its "
            "left, and the finer codes of the face above it. The faces are "
            f"{FACES[kind]}.",
            captions.command(run, "mix", up_to=up_to, **{kind: names}),
        ],
    )
    write_json(path.with_suffix(".json"), found.record)
    return [path, path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "mix")
    check_one_of(PICTURES, INDICES, SEEDS)
    found = mix(
        run,
        UP_TO.value,
        indices=INDICES.value,
        seeds=SEEDS.value,
        pictures=own_pictures(run),
    )
    return draw_mixture(run, found)


COMMAND = Command(
    meaning="Draws faces with coarse layers of one and fine ones of another.",
    example="--workdir=runs/hvae --indices=0,1,2,3",
    flags={
        "indices": f"Default: the first {NUM_FACES} of them.",
        "pictures": "They replace test images.",
        "seeds": "The samples replace test images.",
        "up_to": "Default: where both faces count about as much.",
        "realism": "Default: 0.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
