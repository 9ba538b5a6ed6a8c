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


def likeness(
    real: Float[np.ndarray, "N F"], generated: Float[np.ndarray, "M F"]
) -> dict[str, float]:
    """Compares generated pictures with real ones by the classifier's features.

    Returns:
      `judge_frechet`, the Frechet distance of `distances.frechet_distance`, which in
      these features is no FID, and `precision` and `recall` of Kynkäänniemi et al.
      (2019). All depend on N and M: compare at the same.
    """
    # Here, because its library takes as long to import as JAX.
    from vae_jax.evaluation.distances import frechet_distance, precision_recall

    precision, recall = precision_recall(real, generated)
    return {
        "judge_frechet": frechet_distance(real, generated),
        "precision": precision,
        "recall": recall,
    }
