"""Directions in the code along which a picture gains or loses an attribute.

A direction [D] is scaled so that adding it once to the codes of pictures without the
attribute moves their mean to that of pictures with it, by its estimator's account.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float
from tqdm import tqdm

from vae_jax.exploration.batching import map_batches
from vae_jax.exploration.sampling import decode
from vae_jax.models.contract import Autoencoder, Judge

Codes = Float[np.ndarray, "N D"]
Attributes = Bool[np.ndarray, "N A"]
Directions = Float[np.ndarray, "A D"]
# Function from codes to the direction at each.
Direction = Callable[[Codes], Float[Array | np.ndarray, "N D"]]
# Pictures with and without the attribute that the notebook's estimator takes.
NOTEBOOK_EXAMPLES = 10
# `held_direction` looks at so many codes, in batches, over so many updates.
HELD_CODES, HELD_BATCH, HELD_STEPS = 20_000, 64, 1200
HELD_HIDDEN, HELD_RATE, LEAK_WEIGHT = 64, 0.005, 3.0
# The time that `flow_direction` takes a code back to (0 is noise), the steps from there
# to the code, and the guidance.
REDRAWN_FROM, REDRAWN_STEPS, REDRAWN_GUIDANCE = 0.5, 8, 2.0


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
    """Returns differences of means of few pictures, as the notebook's smile vector.

    Args:
      codes: codes of training pictures.
      attributes: attributes of the same pictures.
      seed: seed of the `NOTEBOOK_EXAMPLES` pictures with and as many without that are
        drawn; all of them where there are fewer.
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


def constant(direction: Float[np.ndarray, " D"]) -> Direction:
    """Returns the same direction at every code."""
    return lambda codes: np.broadcast_to(direction, codes.shape)


def within(direction: Direction, numbers: Bool[np.ndarray, " D"]) -> Direction:
    """Returns a direction along which some numbers of a code move, and no others."""
    return lambda codes: np.where(numbers, direction(codes), 0.0)


def weighted_sum(
    directions: Mapping[str, Direction], weights: Mapping[str, float]
) -> Direction:
    """Returns the sum of the directions of some attributes, each times its weight."""
    return lambda codes: np.sum(
        [w * np.asarray(directions[name](codes)) for name, w in weights.items()],
        axis=0,
    )


def moved(codes: Codes, direction: Direction, alpha: float) -> Codes:
    """Returns codes that are moved alpha times along a direction."""
    return (codes + alpha * direction(codes)).astype(np.float32)


@struct.dataclass
class HeldDirection:
    """A direction for each code z: offset + silu(z inner + bias) outer.

    Attributes:
      offset: the part that all codes have in common.
      inner, bias, outer: a layer of H hidden units, for the rest.
    """

    offset: Float[Array, " D"]
    inner: Float[Array, "D H"]
    bias: Float[Array, " H"]
    outer: Float[Array, "H D"]

    def __call__(
        self, codes: Float[Array | np.ndarray, "N D"]
    ) -> Float[Array | np.ndarray, "N D"]:
        """Returns the direction at each code."""
        return self.offset + jax.nn.silu(codes @ self.inner + self.bias) @ self.outer


@jax.jit
def _told_apart(model, labels, z):
    unknown, there, absent = map(model.prior_of, (None, labels, -labels))
    noisy = unknown.carried(z, 1.0, REDRAWN_FROM, REDRAWN_STEPS)
    with_it, without = (
        prior.carried(noisy, REDRAWN_FROM, 1.0, REDRAWN_STEPS, REDRAWN_GUIDANCE)
        for prior in (there, absent)
    )
    return with_it - without


def flow_direction(model: Any, index: int) -> Direction:
    """Returns what a flow changes in a code where it is told of an attribute.

    Each code goes back on its way to noise, with no labels, and forth again, told that
    the attribute is there, and told that it is not; the direction leads from where the
    latter ends to where the former does. As in SDEdit (Meng et al. 2022) what is
    decided before that time stays. The way back is the flow's own and not noise that is
    drawn: told nothing, a code comes back to itself.

    Args:
      model: a model whose prior is a flow that is told A labels.
      index: index of the attribute among them.
    """
    labels = jnp.zeros(model.num_labels).at[index].set(1.0)
    told_apart = functools.partial(_told_apart, model, labels)
    return lambda codes: map_batches(told_apart, (codes,), "redrawing")


def held_direction(
    model: Autoencoder,
    guide: Judge,
    codes: Codes,
    index: int,
    start: Float[np.ndarray, " D"],
    labels: Float[np.ndarray, "N L"] | None = None,
    *,
    seed: int,
) -> HeldDirection:
    """Returns the direction that turns one of a classifier's answers and holds others.

    Directions of means know what the attributes are in pictures, not what the decoder
    makes of a code; and no one direction suits all codes. This one is a function of
    the code, trained through decoder and classifier: adding it where the attribute is
    not, and removing it where it is, minimises the cross-entropy of the classifier to
    the opposite answer, and the mean |change| of the other attributes' log-odds in
    their standard deviations over reconstructions.

    Args:
      model: the model whose codes they are.
      guide: a classifier of A attributes, not the one that is to judge the edits.
      codes: codes of training pictures.
      index: index of the attribute among the classifier's.
      start: a direction for it, to begin from.
      labels: labels of a conditional VAE's pictures.
      seed: seed of the pictures that are drawn and of the hidden layer.
    """
    rng = np.random.default_rng(seed)
    few = rng.permutation(len(codes))[:HELD_CODES]
    z, y = codes[few], None if labels is None else labels[few]
    nowhere = np.zeros_like(z)
    before = edit_effects(model, guide, z, nowhere, 0.0, y)[1]
    signs = np.where(before[:, index] < 0, 1.0, -1.0).astype(np.float32)
    others = np.delete(np.arange(before.shape[1]), index)
    scale = before.std(axis=0)[others] + 1e-6

    def loss(direction, model, guide, z, y, signs, before):
        edited = decode(model, z + signs[:, None] * direction(z), y)
        logits = guide.logits(guide.features(edited))
        leak = jnp.mean(jnp.abs(logits - before)[:, others] / scale)
        miss = jnp.mean(jax.nn.softplus(-signs * logits[:, index]))
        return LEAK_WEIGHT * leak + miss

    # Codes reach the hidden units standardised; at first these add nothing.
    inner = rng.normal(size=(z.shape[1], HELD_HIDDEN)) / np.sqrt(z.shape[1])
    inner /= codes.std(axis=0)[:, None] + 1e-6
    arrays = (start, inner, -codes.mean(axis=0) @ inner, np.zeros_like(inner.T))
    # Any, because optax's types know no dataclasses.
    direction: Any = HeldDirection(*(jnp.asarray(a, jnp.float32) for a in arrays))
    optimizer = optax.adam(optax.cosine_decay_schedule(HELD_RATE, HELD_STEPS))

    # With the models as arguments: constants would be part of the compiled program.
    @jax.jit
    def update(direction, state, *rest):
        gradient = jax.grad(loss)(direction, *rest)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(direction, updates), state

    state = optimizer.init(direction)
    for _ in tqdm(range(HELD_STEPS), "holding", disable=None, leave=False):
        rows = rng.choice(len(z), min(HELD_BATCH, len(z)), replace=False)
        told = None if y is None else y[rows]
        batch = z[rows], told, signs[rows], before[rows]
        direction, state = update(direction, state, model, guide, *batch)
    return direction


@jax.jit
def _judge_edited(model, judge, alpha, z, direction, labels):
    features = judge.features(decode(model, z + alpha * direction, labels))
    return features, judge.logits(features)


def edit_effects(
    model: Autoencoder,
    judge: Judge,
    codes: Codes,
    directions: Float[np.ndarray, "N D"],
    alpha: float,
    labels: Float[np.ndarray, "N L"] | None = None,
) -> tuple[Float[np.ndarray, "N F"], Float[np.ndarray, "N A"]]:
    """Returns the judge's features and log-odds of pictures decoded after an edit.

    Args:
      model: the model whose codes they are.
      judge: a classifier of A attributes.
      codes: codes of N pictures.
      directions: the direction at each code.
      alpha: times the direction is added.
      labels: labels of a conditional VAE's pictures.
    """
    effects = functools.partial(_judge_edited, model, judge, jnp.float32(alpha))
    directions = directions.astype(np.float32)
    return map_batches(effects, (codes, directions, labels), "editing")
