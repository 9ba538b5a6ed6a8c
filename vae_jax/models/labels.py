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
    """Makes labels unknown: all of an image's at `rate`, and some of the others'.

    The first is what classifier-free guidance trains without labels by (Ho & Salimans
    2022). The second lets any subset be given: each label of an image is left out at
    the image's own rate, which is uniform about `rate`, as widely as it can be. At a
    rate of a half any number of many labels is left as often as another; at one and the
    same rate for all images a single label would hardly ever be.
    """
    all_key, own_key, each_key = jax.random.split(key, 3)
    shape = (len(labels), 1)
    keep_any = jax.random.bernoulli(all_key, 1 - rate, shape)
    reach = min(rate, 1 - rate)
    own_rate = rate + reach * jax.random.uniform(own_key, shape, minval=-1.0)
    keep_each = jax.random.bernoulli(each_key, 1 - own_rate, labels.shape)
    return jnp.where(keep_any & keep_each, labels, 0.0)
