"""--mode=reconstruct: held-out images, or a user's, beside what a run makes of them."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from vae_jax.commands import abilities, captions
from vae_jax.commands.flags import NUM_IMAGES, PICTURES, Command
from vae_jax.commands.opening import open_autoencoder
from vae_jax.commands.pictures import check_one_of, own_pictures
from vae_jax.config import Config
from vae_jax.exploration.batching import map_batches
from vae_jax.models.likelihoods import ROUNDING_STD, to_unit_interval
from vae_jax.report import grids
from vae_jax.report.grids import Bar
from vae_jax.run import Run
from vae_jax.storage import write_json

# Standard deviations of the likelihood.
MOST_INVENTED = 3.0
# Share of the standard deviations that colours tell apart; a few large ones would leave
# all others black.
TOLD_APART = 0.99


@dataclass(frozen=True)
class Reconstructions:
    """Images and what a model makes of them, in [0, 1].

    Attributes:
      originals: images of the validation split, or a user's.
      means: the reconstructions; where the model has a likelihood, the mean of p(x|z).
      stds: the standard deviation of p(x|z), None without a likelihood.
      invented: distance of the means from those at 0, in standard deviations there,
        where the run's dial is turned; else None.
      record: the number of images, the mean squared error `mse`, the mean and the
        largest deviation, and the mean of what was invented.
    """

    originals: Float[np.ndarray, "N H W C"]
    means: Float[np.ndarray, "N H W C"]
    stds: Float[np.ndarray, "N H W C"] | None
    invented: Float[np.ndarray, "N H W C"] | None
    record: dict[str, float]


@jax.jit
def _reconstruct(model, pictures, labels):
    images = to_unit_interval(pictures)
    px = model.decode(model.encode(images, labels), labels)
    std = getattr(px, "std", None)
    return px.mean, None if std is None else jnp.broadcast_to(std, images.shape)


def reconstruct(
    run: Run,
    num_images: int | None = None,
    pictures: UInt8[np.ndarray, "N H W C"] | None = None,
) -> Reconstructions:
    """Reconstructs images by the EMA parameters, from their codes.

    Args:
      run: a run of an autoencoder of any kind.
      num_images: N, the first of the validation split; all where there are fewer. None
        for as many as a screen has room for.
      pictures: a user's, as the model sees images, in place of these; their labels are
        unknown.

    Raises:
      UserError: the data set is needed and not there.
    """
    labels = None
    if pictures is None:
        split = run.dataset_for("--mode=reconstruct").splits["validation"]
        if num_images is None:
            rows, columns = grids.room(run.config.dataset.size)
            num_images = rows * max(1, columns // 3)
        first = slice(num_images)
        pictures, labels = split.images[first], run.labels("validation", first)

    def rebuild(run: Run) -> Any:
        one_batch = functools.partial(_reconstruct, run.model())
        return map_batches(one_batch, (pictures, labels), "reconstructing")

    means, stds = rebuild(run)
    invented = None
    if run.realism:
        before, widths = rebuild(replace(run, realism=0.0))
        # A saturated Bernoulli has none.
        invented = np.abs(means - before) / np.maximum(widths, ROUNDING_STD)
    originals = to_unit_interval(pictures)
    record = abilities.made_by(run) | {
        "num_images": len(originals),
        "mse": float(np.mean(np.square(originals - means))),
    }
    if stds is not None:
        record |= {"mean_std": float(stds.mean()), "largest_std": float(stds.max())}
    if invented is not None:
        record["mean_invented"] = float(invented.mean())
    return Reconstructions(originals, means, stds, invented, record)


def scale_of(deviations: Float[np.ndarray, "N H W C"]) -> float:
    """Returns the standard deviation that is drawn brightest, as all above it are."""
    return float(np.quantile(deviations.mean(axis=-1), TOLD_APART))


def draw_reconstructions(
    run: Run, found: Reconstructions, files: list[str] | None = None
) -> list[Path]:
    """Writes reconstructions to the run's images/, a picture and its record.

    Each image stands beside its reconstruction and the standard deviations. Where the
    dial is turned, a last column shows what was invented, the brightest where it is
    `MOST_INVENTED` standard deviations or more.

    Args:
      run: the run that made them.
      found: the reconstructions.
      files: a user's pictures that they are of; None for the validation split.
    """
    columns, bars = {"image": found.originals, "reconstruction": found.means}, []
    if found.stds is not None:
        largest = scale_of(found.stds)
        columns["deviation"] = grids.heat(found.stds, largest)
        meaning = "standard deviation of a pixel, as the decoder gives it (black is 0)"
        bars.append(Bar(meaning, "0", f"{largest:.2g} or more"))
    if found.invented is not None:
        columns["invented"] = grids.heat(found.invented, MOST_INVENTED)
        meaning = "change by the dial, in standard deviations"
        bars.append(Bar(meaning, "0", f"{MOST_INVENTED:g} or more"))
    if bars:
        columns = {name: grids.as_rgb(images) for name, images in columns.items()}
    beside = np.stack([*columns.values()], axis=1)
    number, of = beside.shape[:2]
    groups = min(number, max(1, grids.room(beside.shape[2])[1] // of))
    # Images that follow one another stand in a row, the last of which is filled up.
    tiles = grids.arranged(beside.reshape(number, -1, *beside.shape[3:]), groups)
    path = run.image_path("reconstructions")
    grids.image_grid(
        tiles.reshape(len(tiles), groups * of, *beside.shape[2:]),
        path,
        columns=[*columns] * groups,
        groups=groups,
        bars=bars,
        caption=[
            "Images of the validation split, which the model was not trained on, and "
            "what it makes of their codes."
            if files is None
            else "Pictures, as the model sees them, and what it makes of their codes.",
            captions.command(
                run,
                "reconstruct",
                num_images=number if files is None else None,
                pictures=files,
            ),
        ],
    )
    of = {} if files is None else {"pictures": files}
    write_json(path.with_suffix(".json"), of | found.record)
    return [path, path.with_suffix(".json")]


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "reconstruct")
    check_one_of(NUM_IMAGES, PICTURES)
    own = own_pictures(run)
    if own is None:
        return draw_reconstructions(run, reconstruct(run, NUM_IMAGES.value))
    files, pictures = own
    return draw_reconstructions(run, reconstruct(run, pictures=pictures), files)


COMMAND = Command(
    meaning="Draws validation images or yours, and their reconstructions.",
    example="--workdir=runs/vae --num_images=16",
    flags={
        "num_images": "Default: as many as fit on a screen.",
        "pictures": "They replace validation images.",
        "realism": "Default: 0.",
        "format": "Default: png.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
