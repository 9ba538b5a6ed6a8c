"""New images from a trained model: codes of its prior, or of a fitted density."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from vae_jax.exploration.batching import map_batches
from vae_jax.exploration.densities import Density, Temperature
from vae_jax.models.contract import Autoencoder, code_size, flatten, unflatten
from vae_jax.models.likelihoods import to_unit_interval

Labels = Float[Array | np.ndarray, "*labelled A"] | None

# Numbers that codes in memory have together: half a gigabyte.
LARGEST_CODES = 2**27


def most_codes(size: int) -> int:
    """Returns how many pictures have their codes in memory at once.

    Args:
      size: numbers that are kept of a code.
    """
    return max(1, LARGEST_CODES // size)


@jax.jit
def _encode(model, images, labels):
    return flatten(model.encode(to_unit_interval(images), labels))


@functools.partial(jax.jit, static_argnames="first")
def _encode_and_sample(model, images, labels, key, first):
    images = to_unit_interval(images)
    found = model.encode(images, labels), model.encode(images, labels, key)
    return tuple(flatten(code)[:, :first] for code in found)


@jax.jit
def decode(
    model: Autoencoder,
    z: Float[Array, "B N"],
    labels: Float[Array, "*labelled A"] | None,
    realism: Float[Array, " B"] | None = None,
) -> Array:
    """Returns the images of one batch of codes, see `decode_codes`.

    Args:
      model: the model whose images they are.
      z: the numbers in each code.
      labels: labels that the model is given.
      realism: setting of the dial for each image, where the model has one; None leaves
        the dial where it stands.
    """
    dial = {} if realism is None else {"realism": realism}
    return model.decode(unflatten(z, model.code_shape), labels, **dial).mean


def _for_each(labels: Labels, number: int) -> Float[np.ndarray, "N A"] | None:
    if labels is None:
        return None
    return np.broadcast_to(labels, (number, labels.shape[-1]))


def encode_images(
    model: Autoencoder, images: UInt8[np.ndarray, "N H W C"], labels: Labels = None
) -> Float[np.ndarray, "N D"]:
    """Returns the numbers D in a code of each image: the mode of its posterior.

    Args:
      model: the model that encodes.
      images: 8-bit levels.
      labels: labels of a conditional VAE's images: [N,A], or [A] for all.
    """
    arrays = (images, _for_each(labels, len(images)))
    return map_batches(functools.partial(_encode, model), arrays, "encoding")


def encode_and_sample(
    model: Autoencoder,
    images: UInt8[np.ndarray, "N H W C"],
    labels: Labels,
    key: Key[Array, ""],
    first: int | None = None,
) -> tuple[Float[np.ndarray, "N F"], Float[np.ndarray, "N F"]]:
    """Returns what `encode_images` does, and a sample of each image's posterior.

    The samples of all images are draws of the aggregate posterior, the codes that the
    decoder learnt from.

    Args:
      model: the model that encodes.
      images: 8-bit levels.
      labels: see `encode_images`.
      key: random key of the samples.
      first: number F of dimensions that are wanted of each code, the first ones; None
        for all.
    """

    def encode(images, labels, numbers):
        batch_key = jax.random.fold_in(key, numbers[0])
        return _encode_and_sample(model, images, labels, batch_key, first)

    arrays = (images, _for_each(labels, len(images)), np.arange(len(images)))
    return map_batches(encode, arrays, "encoding")


def decode_codes(
    model: Autoencoder, z: Float[Array | np.ndarray, "N D"], labels: Labels = None
) -> Float[np.ndarray, "N H W C"]:
    """Returns the images of codes: the means of p(x|z,y).

    The means and not samples of p(x|z,y), whose independent pixels would add the
    decoder's noise to every picture.
    """
    arrays = (z, _for_each(labels, len(z)))
    return map_batches(functools.partial(decode, model), arrays, "decoding")


# A program, where a learned prior outside of one would be compiled at each call.
@functools.partial(jax.jit, static_argnames=("num_samples", "top_k", "num_steps"))
def draw_codes(
    model: Autoencoder,
    key: Key[Array, ""],
    num_samples: int,
    labels: Float[Array, "*rows A"] | None = None,
    temperature: float | Float[Array, "*number"] = 1.0,
    top_k: int | None = None,
    known: Int[Array | np.ndarray, "P places"] | None = None,
    num_steps: int | None = None,
    guidance: float | Float[Array, ""] | None = None,
) -> Float[Array, "*samples D"]:
    """Returns the numbers D in codes [N,D] drawn from the prior, see `sample_prior`.

    With P rows of labels they are [N,P,D], and so they are with `known`, discrete codes
    of P images and -1 where none is given; those that are given stay.
    """
    given = {
        "top_k": top_k,
        "known": known,
        "num_steps": num_steps,
        "guidance": guidance,
    }
    how = {name: value for name, value in given.items() if value is not None}
    return model.prior_of(labels).sample(key, num_samples, temperature, **how)


def sample_prior(
    model: Autoencoder,
    key: Key[Array, ""],
    num_samples: int,
    labels: Labels = None,
    temperature: Temperature = 1.0,
    top_k: int | None = None,
    num_steps: int | None = None,
    guidance: float | None = None,
) -> Float[np.ndarray, "N H W C"]:
    """Returns the means of p(x|z,y) at samples z of the prior.

    Args:
      model: a model that has a prior.
      key: random key of the samples.
      num_samples: N.
      labels: [A], the same for all images; None for unknown ones.
      temperature: below 1 narrows each component of the prior around its mean; that of
        a learned prior over discrete codes divides the log-odds of each place, that of
        a flow narrows the noise.
      top_k: number of codes, the likeliest of a place, that such a prior may draw.
      num_steps: steps of a flow; None for as many as its run says.
      guidance: guidance of a flow by the labels, see `FlowDensity.sample`; None for as
        the labels say.
    """
    known = None if labels is None else jnp.asarray(labels)
    z = draw_codes(
        model,
        key,
        num_samples,
        known,
        temperature,
        top_k,
        num_steps=num_steps,
        guidance=guidance,
    )
    return decode_codes(model, z, labels)


def sample_fitted(
    model: Autoencoder,
    density: Density,
    num_samples: int,
    seed: int,
    labels: Labels = None,
    temperature: Temperature = 1.0,
) -> Float[np.ndarray, "N H W C"]:
    """Returns the decoded means at samples of a density.

    Args:
      model: the model whose codes the density was fitted to.
      density: density of its codes, or of those of the first layers of a stack.
      num_samples: N.
      seed: seed of the samples.
      labels: [A], as of `sample_prior`.
      temperature: see `Density.sample`.
    """
    size = code_size(model.code_shape)
    z = density.sample(size, num_samples, seed, temperature)
    return decode_codes(model, z, labels)
