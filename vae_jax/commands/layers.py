"""--mode=layers: what each layer of a hierarchical model holds of a face."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from vae_jax.commands import abilities, captions
from vae_jax.commands.flags import INDICES, PICTURES, SEED, Command
from vae_jax.commands.opening import open_autoencoder
from vae_jax.commands.pictures import check_one_of, own_pictures
from vae_jax.commands.way_points import FACES, way_points
from vae_jax.config import Config
from vae_jax.exploration import sampling, stacks
from vae_jax.keys import Stream, key
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import write_json

NUM_FACES = 3
# Columns between the face and a sample; of more layers, some are passed over.
MOST_CUTS = 8
# Stacks of codes that the nats of an image are the mean of.
NUM_SAMPLES = 8


@dataclass(frozen=True)
class Atlas:
    """Faces some of whose layers are drawn anew.

    Attributes:
      faces: the faces as they are, in [0, 1].
      from_above: the faces with their first layers, and the others from the prior: a
        column for each number of layers that are kept.
      from_below: the faces with their last layers, and the others from the prior.
      record: number of layers that are kept in each column, and the nats that each
        layer holds.
    """

    faces: Float[np.ndarray, "N H W C"]
    from_above: Float[np.ndarray, "N cuts H W C"]
    from_below: Float[np.ndarray, "N cuts H W C"]
    record: dict[str, Any]


@jax.jit
def _nats(model, images, key):
    terms = model(to_unit_interval(images), key, None, NUM_SAMPLES)
    return jnp.stack([jnp.mean(jnp.sum(layer.kl, axis=-1)) for layer in terms.layers])


def look_into_layers(
    run: Run,
    seed: int = 0,
    *,
    indices: Sequence[int] | None = None,
    pictures: tuple[Sequence[str], UInt8[np.ndarray, "N H W C"]] | None = None,
) -> Atlas:
    """Draws the layers of faces anew, from the last to the first and the other way.

    The EMA parameters do so; what is drawn anew of a face is the same in all columns.

    Args:
      run: a run of a hierarchical model.
      seed: seed of what is drawn anew.
      indices: see `way_points`.
      pictures: see `way_points`.

    Raises:
      UserError: the model is no hierarchical one, or has no such test image.
    """
    sizes = abilities.check_hierarchical(run, "--mode is layers")
    model = run.model()
    points = way_points(
        run, "layers", usual=NUM_FACES, fewest=1, indices=indices, pictures=pictures
    )
    assert points.images is not None
    layer = stacks.layer_of_numbers(model.code_shape)
    num_layers = len(model.code_shape)
    cuts = (
        np.linspace(num_layers, 0, min(num_layers, MOST_CUTS) + 1).round().astype(int)
    )
    number = len(points.codes)
    codes_key, nats_key = key(seed, Stream.SAMPLING), key(seed, Stream.EVALUATION)
    anew = np.asarray(sampling.draw_codes(model, codes_key, number), np.float32)

    def decoded(kept: Any) -> np.ndarray:
        codes = [np.where(kept(cut), points.codes, anew) for cut in cuts]
        images = sampling.decode_codes(model, np.concatenate(codes))
        return np.moveaxis(images.reshape(len(cuts), number, *images.shape[1:]), 0, 1)

    record = {
        **abilities.made_by(run),
        "faces": {points.kind: points.names},
        "seed": seed,
        "kept": cuts.tolist(),
        "resolutions": sizes,
        "kl_by_layer": np.asarray(_nats(model, points.images, nats_key)).tolist(),
    }
    return Atlas(
        to_unit_interval(points.images),
        decoded(lambda cut: layer < cut),
        decoded(lambda cut: layer >= num_layers - cut),
        record,
    )


def draw_atlas(run: Run, found: Atlas) -> list[Path]:
    """Writes the picture layers to the run's images/, and its record beside it."""
    path, record = run.image_path("layers"), found.record
    rows = [
        np.concatenate([found.faces[:, None], part], axis=1)
        for part in (found.from_above, found.from_below)
    ]
    told: dict[int, list[str]] = {}
    for at, nats in zip(record["resolutions"], record["kl_by_layer"], strict=True):
        told.setdefault(at, []).append(f"{nats:.3g}")
    ((kind, names),) = record["faces"].items()
    grids.image_grid(
        np.stack(rows, axis=1).reshape(-1, *rows[0].shape[1:]),
        path,
        rows=["first", "last"] * len(found.faces),
        columns=["image", *(f"{cut} kept" for cut in record["kept"])],
        caption=[
            f"Faces ({FACES[kind]}) that keep their first or their last layers, the "
            "others drawn anew. "
            "Nats of these faces by layer, the first one first: "
            + "; ".join(f"{at}x{at} {', '.join(n)}" for at, n in told.items())
            + ".",
            captions.command(
                run, "layers", seed=record["seed"] or None, **{kind: names}
            ),
        ],
    )
    write_json(path.with_suffix(".json"), record)
    return [path, path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "layers")
    check_one_of(PICTURES, INDICES)
    found = look_into_layers(
        run, SEED.value, indices=INDICES.value, pictures=own_pictures(run)
    )
    return draw_atlas(run, found)


COMMAND = Command(
    meaning="Draws faces with some of their layers of codes drawn anew.",
    example="--workdir=runs/hvae --indices=0,1",
    flags={
        "indices": f"Default: the first {NUM_FACES} of them.",
        "pictures": "They replace test images.",
        "seed": "Default: 0.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
