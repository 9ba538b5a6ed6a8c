"""Every figure over a whole split, each image exactly once.

Each image has its own random numbers, by its index, and its own figures; batches are
a matter of speed. So nothing depends on the batch size, and padding cannot leak.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from vae_jax.evaluation import metrics
from vae_jax.keys import Stream, key
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.models.objectives import Objective

PerImage = Callable[[nnx.Module, jax.Array, jax.Array], dict[str, jax.Array]]


def objective_figures(objective: Objective) -> PerImage:
    """Returns what training logs, for one image: loss, elbo, log_px, kl, mse."""

    def figures(model, image, image_key):
        images = image[None]
        # The schedules of an objective are of training: here it has run its course.
        step = jnp.int32(jnp.iinfo(jnp.int32).max)
        return objective(model(images, image_key), images, step)[1]

    return figures


def bound_figures(num_samples: int, chunk: int) -> PerImage:
    """Returns the bounds of one image: bits/dim and the importance-weighted bound.

    `iw_bound` is log 1/k sum_k p(x,z_k)/q(z_k|x) in nats, Burda et al. (2016), equation
    8, from k samples taken `chunk` at a time.
    """

    def figures(model, image, image_key):
        images = image[None]

        def add(log_sum, chunk_index):
            chunk_key = jax.random.fold_in(image_key, chunk_index)
            terms = model(images, chunk_key, num_samples=chunk)
            log_weights = metrics.log_weights(terms)[:, 0]
            # The last chunk may hold more samples than are wanted.
            wanted = chunk_index * chunk + jnp.arange(chunk) < num_samples
            log_weights = jnp.where(wanted, log_weights, -jnp.inf)
            chunk_sum = jax.scipy.special.logsumexp(log_weights)
            return jnp.logaddexp(log_sum, chunk_sum), None

        chunks = jnp.arange(-(-num_samples // chunk))
        log_sum, _ = jax.lax.scan(add, -jnp.inf, chunks)
        terms = model(images, image_key)
        return {
            "bits_per_dim": metrics.bits_per_dim(terms)[0],
            "iw_bound": log_sum - jnp.log(num_samples),
        }

    return figures


def build_evaluator(
    graphdef: nnx.GraphDef, per_image: PerImage, *, seed: int, batch_size: int
) -> Callable[..., dict[str, np.ndarray]]:
    """Compiles evaluate(params, images, description) -> figures by image.

    Args:
      graphdef: the model's structure.
      per_image: (model, image [H,W,C] in [0, 1], key) -> figures of that image.
      seed: of each image's random numbers.
      batch_size: pictures at a time; figures do not depend on it.

    Returns:
      A function that takes parameters, [N,H,W,C] uint8 images and the progress bar's
      description, and returns each figure as [N] float32, in the order of the images.
    """

    @jax.jit
    def batch_figures(params, images, indices):
        model = nnx.merge(graphdef, params)
        keys = jax.vmap(lambda i: key(seed, Stream.EVALUATION, i))(indices)
        return jax.vmap(lambda image, k: per_image(model, image, k))(
            to_unit_interval(images), keys
        )

    def evaluate(params, images, description="evaluating") -> dict[str, np.ndarray]:
        parts = []
        with tqdm(
            total=len(images),
            desc=description,
            unit=" images",
            disable=None,
            leave=False,
        ) as bar:
            for first in range(0, len(images), batch_size):
                # The last batch is filled up with the first images, for one compiled
                # shape; their figures are cut off below.
                indices = np.arange(first, first + batch_size) % len(images)
                figures = batch_figures(params, images[indices], indices)
                parts.append(jax.device_get(figures))
                bar.update(min(batch_size, len(images) - first))
        return {
            name: np.concatenate([part[name] for part in parts])[: len(images)]
            for name in parts[0]
        }

    return evaluate


def means(figures: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the mean of each figure over images, accumulated in float64."""
    return {name: float(np.mean(v, dtype=np.float64)) for name, v in figures.items()}
