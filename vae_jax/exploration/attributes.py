"""Directions in the code along which a picture gains or loses an attribute.

A direction [D] is scaled so that adding it once to the codes of pictures without the
attribute moves their mean to that of pictures with it, by its estimator's account.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float
from tqdm import tqdm

from vae_jax.exploration.batching import map_batches
from vae_jax.exploration.sampling import decode
from vae_jax.models.autoencoder import AE
from vae_jax.models.classifier import Classifier
from vae_jax.models.vae import VAE

Codes = Float[np.ndarray, "N D"]
Attributes = Bool[np.ndarray, "N A"]
Directions = Float[np.ndarray, "A D"]
# Pictures with and without the attribute that the notebook's estimator takes.
NOTEBOOK_EXAMPLES = 10
# Of `held_direction`: codes that are looked at, in batches, over so many updates.
HELD_CODES, HELD_BATCH, HELD_STEPS, FIRST_LOOK = 4000, 64, 250, 250
HELD_SHIFT, SHIFT_WEIGHT = 1.5, 10.0


def difference_directions(codes: Codes, attributes: Attributes) -> Directions:
    """Returns the mean code of the pictures with each attribute less that of the rest.

    An attribute that all have or none has no direction: NaN.
    """
    with_it = attributes.astype(np.float64)
    without = 1 - with_it
    with np.errstate(invalid="ignore"):
        return with_it.T @ codes / with_it.sum(axis=0)[:, None] - (
            without.T @ codes / without.sum(axis=0)[:, None]
        )


def notebook_directions(codes: Codes, attributes: Attributes, seed: int) -> Directions:
    """Returns such differences between few pictures, the notebook's smile vector.

    Args:
      codes: of training pictures.
      attributes: of the same.
      seed: of the `NOTEBOOK_EXAMPLES` pictures with and as many without that are drawn;
        all of them where there are fewer.
    """
    rng = np.random.default_rng(seed)
    directions = np.full((attributes.shape[1], codes.shape[1]), np.nan)
    for number, column in enumerate(attributes.T):
        sides = [np.flatnonzero(column), np.flatnonzero(~column)]
        if all(len(side) for side in sides):
            means = [
                codes[rng.permutation(side)[:NOTEBOOK_EXAMPLES]].mean(axis=0)
                for side in sides
            ]
            directions[number] = means[0] - means[1]
    return directions


def deconfounded_directions(codes: Codes, attributes: Attributes) -> Directions:
    """Returns what each attribute adds to the code where all others stay the same.

    The least squares fit of codes by all attributes at once: of smiling pictures more
    are of women, have open mouths and high cheekbones, and a mean over them has that
    in it. An attribute that all have or none has no direction: NaN.
    """
    varies = attributes.any(axis=0) & ~attributes.all(axis=0)
    design = attributes[:, varies].astype(np.float64)
    design -= design.mean(axis=0)
    directions = np.full((attributes.shape[1], codes.shape[1]), np.nan)
    directions[varies] = np.linalg.lstsq(design, codes - codes.mean(axis=0))[0]
    return directions


def held_direction(
    model: AE | VAE,
    guide: Classifier,
    codes: Codes,
    index: int,
    start: Float[np.ndarray, " D"],
    labels: Float[np.ndarray, "N L"] | None = None,
    *,
    seed: int,
) -> Float[np.ndarray, " D"]:
    """Returns the direction that moves one of a classifier's log-odds and holds others.

    Directions of means know what the attributes are in pictures, not what the decoder
    makes of a code. This one is minimised through decoder and classifier. Edits of
    alpha 1 that add the attribute where it is not and remove it where it is move its
    log-odds by a mean of `HELD_SHIFT` standard deviations over reconstructions; among
    such, it has the least mean |change| of the others, each as a fraction of what
    `start` does to it, lest a few that cannot be held outweigh all that can.

    Args:
      model: whose codes they are.
      guide: a classifier of A attributes, not the one that is to judge the edits.
      codes: of training pictures.
      index: of the attribute among the classifier's.
      start: a direction for it, to begin from.
      labels: of a conditional VAE's pictures.
      seed: of the pictures that are drawn.
    """
    few = np.random.default_rng(seed).permutation(len(codes))[:HELD_CODES]
    z, y = codes[few], None if labels is None else labels[few]
    before = edit_effects(model, guide, z, start, 0.0, y)[1]
    scale = before.std(axis=0)
    signs = np.where(before[:, index] < 0, 1.0, -1.0).astype(np.float32)
    others = np.delete(np.arange(len(scale)), index)

    def changes(direction, z, y, signs, before):
        edited = decode(model, z + signs[:, None] * direction, y)
        return guide.logits(guide.features(edited)) - before

    def loss(direction, weights, z, y, signs, before):
        change = changes(direction, z, y, signs, before)
        shift = jnp.mean(signs * change[:, index]) / scale[index]
        leak = jnp.mean(weights * jnp.abs(change[:, others]))
        return leak + SHIFT_WEIGHT * jnp.square(shift - HELD_SHIFT)

    started = jax.jit(changes)(
        jnp.asarray(start, jnp.float32),
        z[:FIRST_LOOK],
        None if y is None else y[:FIRST_LOOK],
        signs[:FIRST_LOOK],
        before[:FIRST_LOOK],
    )
    weights = 1 / (jnp.mean(jnp.abs(started), axis=0)[others] + 1e-6)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.03, HELD_STEPS))

    @jax.jit
    def update(direction, state, *batch):
        gradient = jax.grad(loss)(direction, weights, *batch)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(direction, updates), state

    direction = jnp.asarray(start, jnp.float32)
    state = optimizer.init(direction)
    rng = np.random.default_rng(seed)
    for _ in tqdm(range(HELD_STEPS), "holding", disable=None, leave=False):
        rows = rng.choice(len(z), min(HELD_BATCH, len(z)), replace=False)
        labels_of_rows = None if y is None else y[rows]
        direction, state = update(
            direction, state, z[rows], labels_of_rows, signs[rows], before[rows]
        )
    return np.asarray(direction, np.float64)


@jax.jit
def _judge_edited(model, judge, z, labels, step):
    features = judge.features(decode(model, z + step, labels))
    return features, judge.logits(features)


def edit_effects(
    model: AE | VAE,
    judge: Classifier,
    codes: Codes,
    direction: Float[np.ndarray, " D"],
    alpha: float,
    labels: Float[np.ndarray, "N L"] | None = None,
) -> tuple[Float[np.ndarray, "N F"], Float[np.ndarray, "N A"]]:
    """Returns the judge's features and log-odds of pictures decoded after an edit.

    Args:
      model: whose codes they are.
      judge: a classifier of A attributes.
      codes: of N pictures.
      direction: of the edit.
      alpha: times the direction is added.
      labels: of a conditional VAE's pictures.
    """
    step = jnp.asarray(alpha * direction, jnp.float32)
    effects = functools.partial(_judge_edited, model, judge, step=step)
    return map_batches(lambda z, y: effects(z, y), (codes, labels), "editing")
