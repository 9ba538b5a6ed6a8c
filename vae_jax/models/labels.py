"""Attributes of a picture as numbers that a model is conditioned on.

A label is 1 where the attribute is there, -1 where it is not and 0 where that is
unknown, so that one model draws with all labels, with some, and with none.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from vae_jax.options import text


def _are_names(value: str) -> bool:
    names = value.split(",")
    return not value or (len(set(names)) == len(names) and "" not in names)


ATTRIBUTES = text(
    "",
    "Attributes that a VAE, or a learned prior over codes, is conditioned on, or that "
    "a classifier predicts; auto is all that the data set has.",
    "names of the data set's attributes, each once, with single commas between, auto, "
    "or nothing",
    _are_names,
)


def to_labels(
    attributes: Bool[Array, "*batch N"], columns: tuple[int, ...]
) -> Float[Array, "*batch A"]:
    """Returns the labels of the attributes in `columns`, -1 or 1."""
    chosen = attributes[..., jnp.asarray(columns, jnp.int32)]
    return jnp.where(chosen, 1.0, -1.0).astype(jnp.float32)


def drop_labels(
    key: Key[Array, ""], labels: Float[Array, "B A"], rate: float
) -> Float[Array, "B A"]:
    """Makes labels unknown: all of an image's at `rate`, and each one at `rate`.

    The first is what classifier-free guidance trains without labels by (Ho & Salimans
    2022); the second lets any subset be given.
    """
    all_key, each_key = jax.random.split(key)
    keep_any = jax.random.bernoulli(all_key, 1 - rate, (len(labels), 1))
    keep_each = jax.random.bernoulli(each_key, 1 - rate, labels.shape)
    return jnp.where(keep_any & keep_each, labels, 0.0)
