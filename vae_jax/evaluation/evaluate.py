"""Every figure over a whole split, each image exactly once.

Each image has its own random numbers, by its index, and its own figures; batches are
a matter of speed. So nothing depends on the batch size, and padding cannot leak. The
devices of all processes share the images, and every process has all figures.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from vae_jax import processes, sharding
from vae_jax.keys import Stream, key
from vae_jax.models.build import merge
from vae_jax.models.contract import DiscreteCodes, Flow, Terms, Variables
from vae_jax.models.elbo import bits_per_dim, elbo_figures, kl_per_image, log_weights
from vae_jax.models.labels import to_labels
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.models.objectives import Objective
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.options import whole

SSIM_WINDOW = 11
SETTINGS = {
    "batch_size": whole(250, "Images evaluated at a time."),
    "importance_samples": whole(64, "Samples k of the importance-weighted bound."),
    "samples_per_chunk": whole(8, "Samples of the bound that are taken at a time."),
}

PerImage = Callable[
    [nnx.Module, jax.Array, jax.Array | None, jax.Array], dict[str, jax.Array]
]


def objective_figures(objective: Objective) -> PerImage:
    """Returns the objective's figures of one image: elbo, log_px, kl, mse and so on."""

    def figures(model, image, labels, image_key):
        images = image[None]
        terms = model(images, image_key, labels, objective.num_samples)
        found = objective.by_image(model, terms, images, labels, image_key)
        return {name: figure[0] for name, figure in found.items()}

    return figures


def bound_figures(num_samples: int, chunk: int) -> PerImage:
    """Returns the importance-weighted bound of one image.

    `iw_bound` is log 1/k sum_k p(x,z_k)/q(z_k|x) in nats, Burda et al. (2016), equation
    8, from k samples taken `chunk` at a time.
    """

    def figures(model, image, labels, image_key):
        images = image[None]

        def add(log_sum, chunk_index):
            chunk_key = jax.random.fold_in(image_key, chunk_index)
            terms = model(images, chunk_key, labels, chunk)
            # The last chunk may hold more samples than are wanted.
            wanted = chunk_index * chunk + jnp.arange(chunk) < num_samples
            weights = jnp.where(wanted, log_weights(terms)[:, 0], -jnp.inf)
            chunk_sum = jax.scipy.special.logsumexp(weights)
            return jnp.logaddexp(log_sum, chunk_sum), None

        chunks = jnp.arange(-(-num_samples // chunk))
        log_sum, _ = jax.lax.scan(add, -jnp.inf, chunks)
        return {"iw_bound": log_sum - jnp.log(num_samples)}

    return figures


def _picture_figures(terms: Terms, image: jax.Array) -> dict[str, Any]:
    """Returns how near the decoder's mean at one sampled z comes to one image.

    `psnr` in decibels, and `ssim` of Wang et al. (2004), with a Gaussian window of 11
    pixels and where the image has as many.
    """
    mean = terms.mean[0, 0]
    figures: dict[str, Any] = {"psnr": dm_pix.psnr(mean, image)}
    if min(image.shape[:2]) >= SSIM_WINDOW:
        figures["ssim"] = dm_pix.ssim(mean, image, filter_size=SSIM_WINDOW)
    return figures


def _discrete_figures(model: Any, terms: Any) -> dict[str, jax.Array]:
    """Returns what one image takes as a message, in bits, and the codes it is made of.

    `rate`, -log2 p(z), also `rate_by_map`; `distortion`, -log2 p(x|z) of the image's
    8-bit levels: their sum is the image's bits. And the `indices` [N] of the codes.
    """
    rates = [-layer.log_ratio[0, 0] / math.log(2) for layer in terms.layers]
    return {
        "rate": jnp.sum(jnp.stack(rates)),
        "rate_by_map": jnp.stack(rates),
        "distortion": -terms.log_mass[0, 0] / math.log(2),
        "indices": model.indices(terms.code)[0, 0],
    }


def autoencoder_figures(num_samples: int, chunk: int) -> PerImage:
    """Returns all that the terms of a model say of one image, whatever they hold.

    That is `_picture_figures`; with a likelihood bits/dim; of discrete codes
    `_discrete_figures`, of others `bound_figures`, or with a flow `_flow_figures`; and
    with a posterior in one layer the numbers in the `code`, [N].
    """
    bound = bound_figures(num_samples, chunk)

    def figures(model, image, labels, image_key):
        images = image[None]
        terms = model(images, image_key, labels)
        found = _picture_figures(terms, image)
        if terms.log_mass is not None:
            found["bits_per_dim"] = bits_per_dim(terms)[0]
        if isinstance(model, DiscreteCodes):
            # A code that is no sample has one weight, and no better bound.
            return found | _discrete_figures(model, terms)
        if terms.log_mass is not None:
            # log p(z) of a flow is an estimate, of which several make no bound.
            if isinstance(model.prior_of(), Flow):
                found |= _flow_figures(terms, images)
            else:
                found |= bound(model, image, labels, image_key)
        if hasattr(model, "posterior"):
            (layer,) = terms.layers
            found["code"] = layer.posterior.mean[0]
        return found

    return figures


def _flow_figures(terms: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns the ELBO of one image with a flow as prior, and beside it with N(0, I).

    `elbo`, `log_px` and `kl`, which is sampled; `normal_kl` and `normal_bits_per_dim`,
    as if the prior were N(0, I); and by how many nats the flow's KL is less, `saved`.
    """
    (layer,), zeros = terms.layers, jnp.zeros(terms.code[0, 0].size)
    kl = DiagonalGaussian(zeros, zeros).kl_from(layer.posterior)
    by_normal = dataclasses.replace(terms, layers=(layer.replace(kl=kl),))
    figures, normal_kl = elbo_figures(terms, images), kl_per_image(by_normal)
    found = {name: figures[name] for name in ("elbo", "log_px", "kl")} | {
        "normal_kl": normal_kl,
        "normal_bits_per_dim": bits_per_dim(by_normal),
        "saved": normal_kl - figures["kl"],
    }
    return {name: figure[0] for name, figure in found.items()}


def build_evaluator(
    graphdef: nnx.GraphDef,
    per_image: PerImage,
    *,
    seed: int,
    batch_size: int,
    label_columns: tuple[int, ...] = (),
    compiler_options: dict[str, Any] | None = None,
) -> Callable[..., dict[str, np.ndarray]]:
    """Compiles evaluate(variables, split, description) -> figures by image.

    Args:
      graphdef: the model's structure.
      per_image: (model, image [H,W,C] in [0, 1], labels [A] or None, key) -> figures
        of that image.
      seed: seed of each image's random numbers.
      batch_size: pictures at a time, rounded up to a multiple of the devices; figures
        do not depend on it.
      label_columns: the attributes that the model is conditioned on.
      compiler_options: XLA's.

    Returns:
      A function that takes a model's variables, a split ([N,H,W,C] uint8 `images` and
      [N,M] boolean `attributes`) and the progress bar's description, and returns each
      figure as [N,...] float32, in the order of the images.
    """
    mesh = sharding.data_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    places = sharding.places_here(mesh, batch_size)

    @functools.partial(
        jax.jit,
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler_options,
    )
    def batch_figures(variables, images, attributes, indices):
        model = merge(graphdef, variables)
        keys = jax.vmap(lambda i: key(seed, Stream.EVALUATION, i))(indices)
        labels = to_labels(attributes, label_columns) if label_columns else None
        figures = jax.vmap(functools.partial(per_image, model))
        return figures(to_unit_interval(images), labels, keys)

    def evaluate(
        variables: Variables, split, description="evaluating"
    ) -> dict[str, np.ndarray]:
        parts, num_images = [], len(split.images)
        variables = sharding.everywhere(variables, mesh)
        with tqdm(
            total=num_images,
            desc=description,
            unit=" images",
            disable=None if processes.is_first() else True,
            leave=False,
        ) as bar:
            for first in range(0, num_images, batch_size):
                # The last batch is filled up with the first images, for one compiled
                # shape; their figures are cut off below.
                here = (first + places) % num_images
                batch = split.images[here], split.attributes[here], here
                figures = batch_figures(
                    variables, *sharding.put(batch, sharding.cut_images(mesh))
                )
                parts.append(jax.device_get(figures))
                bar.update(min(batch_size, num_images - first))
        return {
            name: np.concatenate([part[name] for part in parts])[:num_images]
            for name in parts[0]
        }

    return evaluate


def standard_errors(figures: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the standard error of each scalar figure's mean over images."""
    return {
        name: float(np.std(figure, ddof=1, dtype=np.float64) / np.sqrt(len(figure)))
        for name, figure in figures.items()
        if figure.ndim == 1 and len(figure) > 1
    }


def means(objective: Objective, figures: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the loss and the mean of each scalar figure, accumulated in float64.

    The loss is the objective's, of the means over all images, with its schedules run
    to their end and without the penalties of training.
    """
    over_images = {
        name: np.mean(figure, axis=0, dtype=np.float64)
        for name, figure in figures.items()
    }
    last_step = jnp.int32(jnp.iinfo(jnp.int32).max)
    loss = objective.loss(jax.tree.map(jnp.float32, over_images), last_step)
    scalars = {
        name: float(mean) for name, mean in over_images.items() if mean.ndim == 0
    }
    return {"loss": float(loss), **scalars}
