"""--mode=reconstruct: held-out images over what a run makes of them."""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vae_jax.commands import abilities
from vae_jax.commands.flags import NUM_IMAGES, Command
from vae_jax.commands.opening import open_autoencoder
from vae_jax.config import Config
from vae_jax.models.likelihoods import ROUNDING_STD, to_unit_interval
from vae_jax.report import plots
from vae_jax.report.writer import write_json
from vae_jax.run import Run

NUM_DRAWN = 64
# Standard deviations of the likelihood.
MOST_INVENTED = 3.0


@dataclass(frozen=True)
class Reconstructions:
    """Images and what a model makes of them, in [0, 1].

    Attributes:
      originals: of the validation split.
      means: the reconstructions; where the model has a likelihood, the mean of p(x|z).
      stds: the standard deviation of p(x|z), None without a likelihood.
      invented: where the run's dial is turned, how far the means are from those at 0,
        in standard deviations there; else None.
      record: the mean squared error `mse`, the mean and the largest deviation, and the
        mean of what was invented.
    """

    originals: Float[np.ndarray, "N H W C"]
    means: Float[np.ndarray, "N H W C"]
    stds: Float[np.ndarray, "N H W C"] | None
    invented: Float[np.ndarray, "N H W C"] | None
    record: dict[str, float]


@jax.jit
def _reconstruct(model, images, labels):
    px = model.decode(model.encode(images, labels), labels)
    std = getattr(px, "std", None)
    return px.mean, None if std is None else jnp.broadcast_to(std, images.shape)


def reconstruct(run: Run, num_images: int = NUM_DRAWN) -> Reconstructions:
    """Reconstructs validation images by the EMA parameters, from their codes.

    Args:
      run: of an autoencoder of any kind.
      num_images: N, the first of the split; all where there are fewer.

    Raises:
      UserError: the data set is not there.
    """
    split = run.dataset_for("--mode=reconstruct").splits["validation"]
    originals = to_unit_interval(jnp.asarray(split.images[:num_images]))
    labels = run.labels("validation")
    labels = None if labels is None else labels[:num_images]
    means, stds = jax.device_get(_reconstruct(run.model(), originals, labels))
    invented = None
    if run.realism:
        calibrated = replace(run, realism=0.0).model()
        before, widths = jax.device_get(_reconstruct(calibrated, originals, labels))
        # A saturated Bernoulli has none.
        invented = np.abs(means - before) / np.maximum(widths, ROUNDING_STD)
    originals = np.asarray(originals)
    record = abilities.dial_of(run) | {
        "mse": float(np.mean(np.square(originals - means)))
    }
    if stds is not None:
        record |= {"mean_std": float(stds.mean()), "largest_std": float(stds.max())}
    if invented is not None:
        record["mean_invented"] = float(invented.mean())
    return Reconstructions(originals, means, stds, invented, record)


def draw_reconstructions(run: Run, found: Reconstructions) -> Path:
    """Writes reconstructions.png to the run's images/, and its record beside it.

    Images stand over their reconstructions, and these over the standard deviations:
    black is 0, white the largest of all. Where the dial is turned, a last row shows
    what was invented: white is `MOST_INVENTED` standard deviations or more.

    Returns:
      The PNG file.

    Raises:
      UserError: the operating system refuses.
    """
    rows = [found.originals, found.means]
    if found.stds is not None:
        rows.append(found.stds / found.stds.max())
    if found.invented is not None:
        rows.append(np.minimum(found.invented / MOST_INVENTED, 1))
    stacked = np.stack([plots.nearly_square(row) for row in rows], axis=1)
    path = run.image_path("reconstructions.png")
    plots.image_grid(stacked.reshape(-1, *stacked.shape[2:]), path)
    write_json(path.with_suffix(".json"), found.record)
    return path


def _work(config: Config | None, workdir: Path) -> list[Path]:
    run = open_autoencoder(config, workdir, "reconstruct")
    found = reconstruct(run, NUM_IMAGES.value or NUM_DRAWN)
    return [draw_reconstructions(run, found)]


COMMAND = Command(
    meaning="Draws validation images over their reconstructions.",
    example="--workdir=runs/vae --num_images=16",
    flags={
        "num_images": f"Default: {NUM_DRAWN}.",
        "realism": "Default: 0.",
        "checkpoint": "Default: latest.",
    },
    work=_work,
)
