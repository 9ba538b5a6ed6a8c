"""Held-out pictures over what a run makes of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.report import plots
from vae_jax.report.writer import write_json
from vae_jax.run import Run


@jax.jit
def _reconstruct(model, images, labels):
    px = model.decode(model.encode(images, labels), labels)
    std = getattr(px, "std", None)
    return px.mean, None if std is None else jnp.broadcast_to(std, images.shape)


def draw_reconstructions(run: Run, num_images: int) -> Path:
    """Draws validation pictures over their reconstructions by the EMA parameters.

    Where the model has a likelihood, so that a reconstruction is the mean of p(x|z), a
    third row has that distribution's standard deviation: black is 0, white the largest
    of all, which images/reconstructions.json says.
    """
    split = run.dataset_for("--mode=reconstruct").splits["validation"]
    originals = to_unit_interval(jnp.asarray(split.images[:num_images]))
    labels = run.labels("validation")
    labels = None if labels is None else labels[:num_images]
    means, stds = jax.device_get(_reconstruct(run.model(), originals, labels))
    rows = [np.asarray(originals), means]
    figures = {"mse": float(np.mean(np.square(rows[0] - means)))}
    if stds is not None:
        figures |= {"mean_std": float(stds.mean()), "largest_std": float(stds.max())}
        rows.append(stds / stds.max())
    stacked = np.stack([plots.nearly_square(row) for row in rows], axis=1)
    path = run.image_path("reconstructions.png")
    plots.image_grid(stacked.reshape(-1, *stacked.shape[2:]), path)
    write_json(path.with_suffix(".json"), figures)
    return path
