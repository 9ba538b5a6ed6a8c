"""--mode=codes: the maps of discrete codes over their faces, and what codes draw."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vae_jax.commands import abilities, captions
from vae_jax.commands.flags import NUM_IMAGES, Command
from vae_jax.commands.opening import open_autoencoder
from vae_jax.config import Config
from vae_jax.exploration.batching import map_batches
from vae_jax.models.contract import Quantizer
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import write_json

NUM_FACES = 8
NUM_CODES = 64
# Validation images whose codes are counted; all are decoded in memory.
NUM_COUNTED = 2500
# Cells on the side of what is drawn of a code: its own, and its neighbours.
AROUND = 3
# Places of a code whose surroundings are averaged, at most.
MOST_PLACES = 1000


@dataclass(frozen=True)
class CodeMaps:
    """Discrete codes as pictures.

    Attributes:
      rows: faces; for each map their codes, near ones in similar colours; and those
        over the reconstruction. RGB.
      codebooks: images for each map, of its most used codes: what the decoder draws
        around a place where the code stands, in the mean over `MOST_PLACES` at most.
      record: the numbers of those codes, and how often each stands in the split.
    """

    rows: Float[np.ndarray, "rows faces H W 3"]
    codebooks: list[Float[np.ndarray, "codes h w C"]]
    record: dict[str, Any]


@jax.jit
def _look(model, images):
    code = model.encode(to_unit_interval(images))
    return model.indices(code), model.decode(code).mean


def _colours(quantizer: Quantizer) -> Float[np.ndarray, "K 3"]:
    """Returns a colour for each code, and similar ones for codes that are near.

    Red, green and blue are its ranks along the first three principal components.
    """
    codes = np.asarray(quantizer.look_up(jnp.arange(quantizer.num_codes)))
    centred = codes - codes.mean(axis=0)
    components = centred @ np.linalg.svd(centred, full_matrices=False)[2][:3].T
    ranks = components.argsort(axis=0).argsort(axis=0) / max(1, len(codes) - 1)
    return np.pad(ranks, [(0, 0), (0, 3 - ranks.shape[1])], constant_values=0.5)


def look_into_codes(run: Run, num_faces: int = NUM_FACES) -> CodeMaps:
    """Shows the codes of validation images, of the first `NUM_COUNTED` of them.

    Args:
      run: a run of a model with discrete codes.
      num_faces: images of the split, the first ones.

    Raises:
      UserError: the codes are not discrete, or the data set is not there.
    """
    abilities.check_discrete_codes(run, "--mode is codes")
    model = run.model()
    split = run.dataset_for("--mode=codes").splits["validation"]
    images = split.images[:NUM_COUNTED]
    indices, decoded = map_batches(
        lambda batch: _look(model, batch), (images,), "encoding"
    )
    size = images.shape[1]
    faces = to_unit_interval(images[:num_faces])
    rows, codebooks, maps = [grids.as_rgb(faces)], [], []
    for part, shape, quantizer in zip(
        model.by_map(indices), model.code_shape, model.quantizers, strict=True
    ):
        part = np.asarray(part).reshape(len(images), *shape[:-1])
        cell = size // shape[0]
        coloured = _colours(quantizer)[part[: len(faces)]]
        coloured = coloured.repeat(cell, axis=1).repeat(cell, axis=2)
        rows += [coloured, 0.6 * grids.as_rgb(decoded[: len(faces)]) + 0.4 * coloured]
        counts = np.bincount(part.ravel(), minlength=quantizer.num_codes)
        used = np.argsort(-counts, kind="stable")[:NUM_CODES]
        used = used[counts[used] > 0]
        codebooks.append(_drawn_by(used, part, decoded, cell))
        maps.append(
            {
                "size": list(shape[:-1]),
                "codes": used.tolist(),
                "shares": (counts[used] / part.size).tolist(),
            }
        )
    record = {**abilities.made_by(run), "num_images": len(images), "maps": maps}
    return CodeMaps(np.stack(rows), codebooks, record)


def _drawn_by(
    codes: Int[np.ndarray, " K"],
    maps: Int[np.ndarray, "N h w"],
    decoded: Float[np.ndarray, "N H W C"],
    cell: int,
) -> Float[np.ndarray, "K side side C"]:
    """Returns the mean of what is drawn around places of each code, evenly chosen."""
    margin = cell * (AROUND // 2)
    sides = [(0, 0), (margin, margin), (margin, margin), (0, 0)]
    padded = np.pad(decoded, sides, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (AROUND * cell, AROUND * cell), axis=(1, 2)
    )[:, ::cell, ::cell]
    means = []
    for code in codes:
        places = np.argwhere(maps == code)
        some = places[:: -(-len(places) // MOST_PLACES)]
        means.append(windows[tuple(some.T)].mean(axis=0))
    return np.moveaxis(np.stack(means), 1, -1)


def draw_code_maps(run: Run, found: CodeMaps) -> list[Path]:
    """Writes pictures code_maps and codebook to the run's images/, and their record.

    The codes of a second, finer map are in codebook_fine.
    """
    path = run.image_path("code_maps")
    # The images, and two rows for each map.
    names = ["image", "codes", "over it"]
    number = found.rows.shape[1]
    asked = None if number == NUM_FACES else number
    again = captions.command(run, "codes", num_images=asked)
    if len(found.rows) > len(names):
        names = ["image", "coarse codes", "over it", "fine codes", "over it"]
    grids.image_grid(
        found.rows,
        path,
        rows=names,
        caption=[
            "Images of the validation split, their codes, and the codes over the "
            "reconstruction. Codes that are near one another have similar colours.",
            again,
        ],
    )
    written = [path]
    for name, codebook in zip(
        ("codebook", "codebook_fine"), found.codebooks, strict=False
    ):
        written.append(run.image_path(name))
        grids.image_grid(
            grids.wide(codebook),
            written[-1],
            caption=[
                "What the decoder draws where each of the most used codes stands, and "
                f"around it; the mean over {MOST_PLACES:,} of its places at most. The "
                "most used comes first.",
                again,
            ],
        )
    write_json(path.with_suffix(".json"), found.record)
    return [*written, path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "codes")
    found = look_into_codes(run, NUM_IMAGES.value or NUM_FACES)
    return draw_code_maps(run, found)


COMMAND = Command(
    meaning="Draws maps of discrete codes, and what each code stands for.",
    example="--workdir=runs/vq_vae",
    flags={
        "num_images": f"Default: {NUM_FACES}.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
