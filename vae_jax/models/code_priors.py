"""p(z) over discrete codes: all alike, or one after the other.

A code is a sequence of N indices, map after map, the coarsest first, each row by row. A
prior has `log_prob_by_place(indices, labels, key)`, whose sum is log p(z|y) or what is
below it, and `sample(key, num_samples, labels, ...)`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from vae_jax.models.contract import Labels, unflatten
from vae_jax.models.networks.transformer import Maps, PlaceSequence
from vae_jax.options import Option, Refusal, Values, whole

Indices = Int[Array, "*batch N"]


# Samples that are drawn at a time; more would not be faster, and take more memory. And
# the log-odds of all of them, of which samples of many codes have many.
ROWS = 64
LOGITS = 2**24
# How often the memory grows within a map: a step attends to all places that it has room
# for.
GROWTHS = 4


def draw(
    logits: Float[Array, "B K"],
    keys: Key[Array, " B"],
    temperature: float | Float[Array, ""],
    top_k: int | None,
) -> Int[Array, " B"]:
    """Returns an index from each row's softmax.

    Args:
      logits: log-odds of the K indices.
      keys: random key of each row.
      temperature: divides the logits; at 0 the likeliest index is drawn.
      top_k: number of indices, the likeliest, that may be drawn; None for all.
    """
    if top_k is not None:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    scaled = (logits - jnp.max(logits, axis=-1, keepdims=True)) / jnp.maximum(
        temperature, 1e-6
    )
    # One random number a row, where Gumbel noise would take K.
    sums = jnp.cumsum(jnp.exp(scaled), axis=-1)
    uniform = jax.vmap(jax.random.uniform)(keys)
    return jnp.sum(sums <= uniform[:, None] * sums[:, -1:], axis=-1).astype(jnp.int32)


def rows_of(
    indices: Indices, labels: Labels, num_labels: int
) -> tuple[Int[Array, "R N"], Float[Array, "R A"]]:
    """Returns sequences and labels as rows; labels that are not given are unknown."""
    shape = (*indices.shape[:-1], num_labels)
    known = jnp.zeros(shape) if labels is None else jnp.broadcast_to(labels, shape)
    rows = indices.reshape(-1, indices.shape[-1])
    return rows, known.reshape(len(rows), num_labels)


def draw_rows(
    draw_some: Callable[..., Int[Array, "R N"]],
    key: Key[Array, ""],
    num_samples: int,
    labels: Labels,
    sequence: PlaceSequence,
    known: Indices | None,
    num_logits: int,
) -> Int[Array, "*samples N"]:
    """Draws at most `ROWS` samples at a time, each with a key of its own.

    Args:
      draw_some: function that draws, of rows of codes that are given, of labels, and of
        keys.
      key: random key of all samples.
      num_samples: S.
      labels: [*batch,A].
      sequence: the transformer over the places that are drawn.
      known: codes that are given, -1 where none is; None where none is anywhere.
      num_logits: number of logits that drawing one sample holds at once.
    """
    if known is None:
        known = jnp.full(sum(sequence.lengths), -1)
    batch = () if labels is None else labels.shape[:-1]
    shape = (num_samples, *jnp.broadcast_shapes(batch, known.shape[:-1]))
    known = jnp.broadcast_to(known, (*shape, known.shape[-1]))
    rows = (
        *rows_of(known, labels, sequence.num_labels),
        jax.random.split(key, math.prod(shape)),
    )
    number = len(rows[0])
    at_a_time = min(ROWS, max(1, LOGITS // num_logits), number)
    places = np.arange(-(-number // at_a_time) * at_a_time) % number
    chunks = [row[places.reshape(-1, at_a_time)] for row in rows]
    drawn = jax.lax.map(lambda chunk: draw_some(*chunk), chunks)
    return drawn.reshape(-1, known.shape[-1])[:number].reshape(known.shape)


class NumbersPrior:
    """The prior over indices as one over the numbers in a code, a `contract.Prior`.

    It has no moments: a learned prior's are nothing but averages over its samples, and
    those of the codebook are another distribution's.

    Args:
      model: a VQ-VAE, whose prior it is.
      labels: labels that the prior is told; None where they are unknown.
    """

    def __init__(self, model: Any, labels: Labels):
        self.model = model
        self.labels = labels

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        temperature: float | Float[Array, ""] = 1.0,
        **how: Any,
    ) -> Float[Array, "S *batch N"]:
        """Draws codes.

        Args:
          key: random key of the samples.
          num_samples: S.
          temperature: divides the log-odds of each place, where they are learned.
          **how: a learned prior's own, see models/code_priors.py.
        """
        indices = self.model.prior.sample(
            key, num_samples, self.labels, temperature, **how
        )
        return self.model.look_up(indices)

    def log_prob(self, z: Float[Array, "*sample N"]) -> Float[Array, "*sample"]:
        """Returns log p(z|y) in nats, of the codes nearest to the numbers.

        A masked prior's is that of one order of the places.
        """
        indices = self.model.indices(unflatten(z, self.model.code_shape))
        by_place = self.model.prior.log_prob_by_place(indices, self.labels)
        return jnp.sum(by_place, axis=-1)


class UniformPrior(nnx.Module):
    """Each place holds any of the K codes, whatever the others hold."""

    def __init__(self, maps: Maps):
        self.num_places = sum(math.prod(size) for size in maps.sizes)
        self.num_codes = maps.num_codes

    def log_prob_by_place(
        self, indices: Indices, labels: Labels = None, key: Any = None
    ) -> Float[Array, "*batch N"]:
        """Returns -log K of each place."""
        return jnp.full(indices.shape, -math.log(self.num_codes), jnp.float32)

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        labels: Labels = None,
        temperature: float | Float[Array, ""] = 1.0,
    ) -> Int[Array, "S *batch N"]:
        """Draws codes; no temperature makes one likelier than another."""
        batch = () if labels is None else labels.shape[:-1]
        shape = (num_samples, *batch, self.num_places)
        return jax.random.randint(key, shape, 0, self.num_codes)


class TransformerPrior(nnx.Module):
    """p(z|y) = prod_i p(z_i | z_1 ... z_{i-1}, y) by a causal transformer.

    The second stage of van den Oord et al. (2017), with the transformer of Esser et al.
    (2020) for the network. The labels begin the sequence; the coarse map comes before
    the fine one.

    Args:
      maps: see `Maps`.
      width: numbers at each place.
      depth: blocks.
      num_heads: heads of their attention.
    """

    def __init__(self, maps: Maps, width: int, depth: int, num_heads: int):
        self.sequence = PlaceSequence(maps, maps.num_codes, width, depth, num_heads)

    def logits(
        self, indices: Int[Array, "B N"], labels: Float[Array, "B A"]
    ) -> Float[Array, "B N K"]:
        """Returns the log-odds of each place's code, given those before it."""
        return self.sequence.logits(self._seen(indices, labels))

    def _seen(self, indices: Array, labels: Array) -> Float[Array, "B N width"]:
        sequence = self.sequence
        before = sequence.embed(indices)[:, :-1]
        x = jnp.concatenate([sequence.first(labels), before], axis=1)
        x = x + jnp.concatenate(sequence.places()).astype(x.dtype)
        for block in sequence.blocks:
            x = block(x, is_causal=True)
        return x

    def log_prob_by_place(
        self, indices: Indices, labels: Labels = None, key: Any = None
    ) -> Float[Array, "*batch N"]:
        """Returns log p(z_i | z_1 ... z_{i-1}, y) in nats, exact, whatever the key."""
        rows = rows_of(indices, labels, self.sequence.num_labels)
        log_probs = self.sequence.log_prob(self._seen(*rows), rows[0])
        return log_probs.reshape(indices.shape)

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        labels: Labels = None,
        temperature: float | Float[Array, ""] = 1.0,
        top_k: int | None = None,
        known: Indices | None = None,
    ) -> Int[Array, "*samples N"]:
        """Draws codes [S,*batch,N], place after place.

        Args:
          key: random key of the samples.
          num_samples: S.
          labels: [*batch,A].
          temperature: divides the log-odds of each place; at 0 the likeliest is drawn.
          top_k: number of codes, the likeliest of a place, that may be drawn.
          known: codes that are given, -1 where none is; a place is drawn in view of
            those before it alone.
        """
        sequence = self.sequence

        def draw_some(known, labels, keys):
            memories = [block.new_memory(len(known)) for block in sequence.blocks]

            def step(embed, head, carry, given):
                before, memories = carry
                position, place, fixed = given
                x = (before + position.astype(before.dtype))[:, None]
                kept = []
                for block, memory in zip(sequence.blocks, memories, strict=True):
                    x, memory = block.step(x, memory, place)
                    kept.append(memory)
                logits = head(sequence.norm(x[:, 0]))
                place_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
                drawn = draw(logits, place_keys, temperature, top_k)
                index = jnp.where(fixed < 0, drawn, fixed)
                return (embed(index), kept), index

            before, drawn, numbers = sequence.first(labels)[:, 0], [], 0
            for level, length in enumerate(sequence.lengths):
                advance = functools.partial(
                    step, sequence.embeddings[level], sequence.heads[level]
                )
                positions = sequence.places()[level]
                for own in np.array_split(np.arange(length), min(GROWTHS, length)):
                    memories = [memory.grown(len(own)) for memory in memories]
                    places = numbers + own
                    given = (positions[own], places, known[:, places].T)
                    (before, memories), indices = jax.lax.scan(
                        advance, (before, memories), given
                    )
                    drawn.append(indices.T)
                numbers += length
            return jnp.concatenate(drawn, axis=1)

        num_logits = sequence.heads[0].out_features
        return draw_rows(
            draw_some, key, num_samples, labels, sequence, known, num_logits
        )


def check_heads(values: Values) -> Refusal | None:
    """Refuses a width that the heads of the attention cannot share."""
    if values["model.prior_width"] % values["model.prior_heads"]:
        heads = values["model.prior_heads"]
        return "model.prior_width", f"it must be a multiple of prior_heads, {heads}"
    return None


SEQUENCE = {
    "prior_width": whole(128, "Numbers at each place of the prior's network."),
    "prior_depth": whole(4, "Blocks of the prior's network."),
    "prior_heads": whole(4, "Heads of the attention in the prior's network."),
}
UNIFORM = Option(UniformPrior, terms="codes")
TRANSFORMER = Option(
    lambda maps, prior_width, prior_depth, prior_heads: TransformerPrior(
        maps, prior_width, prior_depth, prior_heads
    ),
    SEQUENCE,
    check=check_heads,
    terms="codes",
)
