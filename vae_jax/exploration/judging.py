"""What an independent classifier says of pictures."""

import functools

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from vae_jax.exploration.batching import map_batches
from vae_jax.models.contract import Judge

Pictures = Float[Array | np.ndarray, "N H W C"]


@jax.jit
def _judge(classifier, images):
    features = classifier.features(images)
    return features, classifier.logits(features)


def judge_images(
    classifier: Judge, images: Pictures
) -> tuple[Float[np.ndarray, "N F"], Float[np.ndarray, "N A"]]:
    """Returns the classifier's features and log-odds of images in [0, 1]."""
    return map_batches(functools.partial(_judge, classifier), (images,), "judging")


def accuracy(
    logits: Float[np.ndarray, "N A"], attributes: Bool[np.ndarray, "N A"]
) -> Float[np.ndarray, " A"]:
    """Returns the share of pictures that each attribute is told right of."""
    return np.mean((logits > 0) == attributes, axis=0)
