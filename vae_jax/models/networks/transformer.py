"""Transformers (Vaswani et al. 2017) over maps of codes, whole or place by place."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from vae_jax.models.networks.layers import head_layer, mix_channels

# Places of a causal sequence that are compared with others at a time.
STRETCH = 64
# Each stretch is compiled by itself: a longer sequence has longer ones.
MOST_STRETCHES = 16


@struct.dataclass
class Memory:
    """What a block keeps of the places it has seen.

    Each head's places lie together: in another order of the axes a step would copy the
    whole memory before it is multiplied.

    Attributes:
      keys: key of each place; those of places to come are 0.
      values: value of each place, as for the keys.
    """

    keys: Float[Array, "B heads T d"]
    values: Float[Array, "B heads T d"]

    def grown(self, num_places: int) -> "Memory":
        """Returns the same memory with room for so many places more."""
        room = [(0, 0), (0, 0), (0, num_places), (0, 0)]
        return jax.tree.map(lambda each: jnp.pad(each, room), self)


def attend(
    query: Float[Array, "B heads Q d"],
    keys: Float[Array, "B heads T d"],
    values: Float[Array, "B heads T d"],
    seen: Bool[Array, "Q T"] | None = None,
) -> Float[Array, "B heads Q d"]:
    """Returns what each place has from those it sees, all of them where None are told.

    Unlike `jax.nn.dot_product_attention` it takes float16 on a CPU.
    """
    scores = jnp.einsum(
        "bhqd,bhtd->bhqt", query, keys, preferred_element_type=jnp.float32
    )
    scores = scores / math.sqrt(query.shape[-1])
    if seen is not None:
        scores = jnp.where(seen, scores, -jnp.inf)
    shares = jax.nn.softmax(scores).astype(values.dtype)
    return jnp.einsum("bhqt,bhtd->bhqd", shares, values)


def attend_before(
    query: Float[Array, "B heads T d"],
    keys: Float[Array, "B heads T d"],
    values: Float[Array, "B heads T d"],
) -> Float[Array, "B heads T d"]:
    """Returns what each place has from itself and those before it.

    A stretch is not compared with those after it: in long sequences that is nearly half
    of the work.
    """
    length, parts = query.shape[2], []
    stretch = max(STRETCH, math.ceil(length / MOST_STRETCHES))
    for start in range(0, length, stretch):
        end = min(start + stretch, length)
        seen = jnp.arange(start, end)[:, None] >= jnp.arange(end)
        parts.append(
            attend(query[:, :, start:end], keys[:, :, :end], values[:, :, :end], seen)
        )
    return jnp.concatenate(parts, axis=2)


class AttentionBlock(nnx.Module):
    """Attention and two dense layers, each normalised first and added to its input.

    Both end in zeros: a new block is the identity.

    Args:
      width: numbers at each place.
      num_heads: heads of the attention; a divisor of the width.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(self, width: int, num_heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.num_heads = num_heads

        def linear(inputs: int, outputs: int, **init: Any) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, dtype=dtype, rngs=rngs, **init)

        zeros = {"kernel_init": nnx.initializers.zeros}
        self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attention = linear(width, 3 * width)
        self.attended = linear(width, width, **zeros)
        self.dense_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.widen = linear(width, 4 * width)
        self.narrow = linear(4 * width, width, **zeros)

    def __call__(
        self, x: Float[Array, "B T width"], is_causal: bool
    ) -> Float[Array, "B T width"]:
        """Returns all places; a causal block lets none see those after it."""
        query, keys, values = self._attention_of(x)
        see = attend_before if is_causal else attend
        return self._finish(x, see(query, keys, values))

    def step(
        self, x: Float[Array, "B 1 width"], memory: Memory, place: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 width"], Memory]:
        """Returns one place of what a causal call returns, and the memory with it.

        Args:
          x: the place.
          memory: memory of the places before.
          place: its number.
        """
        query, key, value = self._attention_of(x)
        memory = Memory(
            jax.lax.dynamic_update_slice_in_dim(memory.keys, key, place, 2),
            jax.lax.dynamic_update_slice_in_dim(memory.values, value, place, 2),
        )
        seen = jnp.arange(memory.keys.shape[2])[None] <= place
        return self._finish(x, attend(query, memory.keys, memory.values, seen)), memory

    def new_memory(self, batch_size: int) -> Memory:
        """Returns a memory without places, which `Memory.grown` has more of."""
        width = self.attended.in_features
        shape = (batch_size, self.num_heads, 0, width // self.num_heads)
        empty = jnp.zeros(shape, self.attended.dtype)
        return Memory(empty, empty)

    def _attention_of(self, x: Array) -> list[Float[Array, "B heads T d"]]:
        mixed = mix_channels(self.attention, self.attention_norm(x))
        return [
            part.reshape(*x.shape[:-1], self.num_heads, -1).swapaxes(1, 2)
            for part in jnp.split(mixed, 3, axis=-1)
        ]

    def _finish(self, x: Array, attended: Float[Array, "B heads T d"]) -> Array:
        merged = attended.swapaxes(1, 2).reshape(x.shape)
        x = x + mix_channels(self.attended, merged)
        wide = jax.nn.gelu(mix_channels(self.widen, self.dense_norm(x)))
        return x + mix_channels(self.narrow, wide)


class Maps(NamedTuple):
    """The places that a sequence goes over, and what it is built around.

    Attributes:
      sizes: height and width of each map, the coarsest first.
      num_codes: K, that each place is one of.
      num_labels: labels of an image; 0 for a model without.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    sizes: tuple[tuple[int, int], ...]
    num_codes: int
    num_labels: int
    dtype: jnp.dtype
    rngs: nnx.Rngs


# Beyond so many codes their log-odds are found in turns, and found again for gradients.
CODES_AT_A_TIME = 2048


def by_map(
    places: Any, sizes: Sequence[tuple[int, ...]], axis: int = -1
) -> list[Array]:
    """Cuts an array of the places of all maps into each map's.

    Args:
      places: map after map along the axis, each row by row.
      sizes: height and width of each map.
      axis: axis of the places.
    """
    ends = np.cumsum([math.prod(size) for size in sizes])[:-1]
    return jnp.split(places, ends, axis)


def log_prob_of(
    logits: Float[Array, "*places K"], indices: Int[Array, "*places"]
) -> Float[Array, "*places"]:
    """Returns the log-probability of the code at each place, in nats."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.take_along_axis(log_probs, indices[..., None], axis=-1)[..., 0]


def _log_prob_by(
    head: nnx.Linear, x: Float[Array, "B n width"], indices: Int[Array, "B n"]
) -> Float[Array, "B n"]:
    """Returns what `log_prob_of` does of a head's log-odds, never all of them at once.

    Those of 65,536 codes would take 1 GB at 4,096 places, and as much several times
    over for the gradient.
    """
    num_turns = -(-head.out_features // CODES_AT_A_TIME)
    if num_turns == 1:
        return log_prob_of(mix_channels(head, x), indices)
    assert head.bias is not None
    rows, kernel, bias = (
        each.astype(head.dtype)
        for each in (x.reshape(-1, x.shape[-1]), head.kernel[...], head.bias[...])
    )
    own_kernel, own_bias = kernel.T[indices.ravel()], bias[indices.ravel()]
    own = jnp.sum(rows.astype(jnp.float32) * own_kernel, axis=-1) + own_bias
    # No code of the filling has a chance.
    filling = (0, num_turns * CODES_AT_A_TIME - head.out_features)
    kernel = jnp.pad(kernel, ((0, 0), filling)).reshape(len(kernel), num_turns, -1)
    bias = jnp.pad(bias, filling, constant_values=-jnp.inf).reshape(num_turns, -1)

    @jax.checkpoint
    def total(turn: tuple[Array, Array]) -> Float[Array, " R"]:
        # As exact as a code's own log-odds, which must not exceed the total.
        product = jnp.dot(
            rows, turn[0], precision="highest", preferred_element_type=jnp.float32
        )
        return jax.nn.logsumexp(product + turn[1], axis=-1)

    totals = jax.lax.map(total, (kernel.swapaxes(0, 1), bias))
    return (own - jax.nn.logsumexp(totals, axis=0)).reshape(indices.shape)


class PlaceSequence(nnx.Module):
    """A transformer over the places of all maps, and what leads into and out of it.

    Args:
      maps: see `Maps`.
      num_symbols: number of symbols that can stand at a place: the K codes, and others.
      width: numbers at each place.
      depth: blocks.
      num_heads: heads of their attention.
    """

    def __init__(
        self, maps: Maps, num_symbols: int, width: int, depth: int, num_heads: int
    ):
        common = {"dtype": maps.dtype, "rngs": maps.rngs}
        self.sizes = maps.sizes
        self.num_labels = maps.num_labels
        self.embeddings = nnx.List(
            nnx.Embed(num_symbols, width, **common) for _ in maps.sizes
        )
        # A place is its row and its column.
        self.rows = nnx.List(nnx.Embed(h, width, **common) for h, _ in maps.sizes)
        self.columns = nnx.List(nnx.Embed(w, width, **common) for _, w in maps.sizes)
        self.start = nnx.Param(jnp.zeros(width))
        self.labels = (
            nnx.Linear(maps.num_labels, width, use_bias=False, **common)
            if maps.num_labels
            else None
        )
        self.blocks = nnx.List(
            AttentionBlock(width, num_heads, **common) for _ in range(depth)
        )
        self.norm = nnx.LayerNorm(width, **common)
        self.heads = nnx.List(
            # Of zeros, so that a new prior is the uniform one.
            head_layer(
                width,
                maps.num_codes,
                maps.dtype,
                maps.rngs,
                kernel_init=nnx.initializers.zeros,
            )
            for _ in maps.sizes
        )

    @property
    def lengths(self) -> list[int]:
        """Places of each map."""
        return [math.prod(size) for size in self.sizes]

    def embed(self, indices: Int[Array, "B N"]) -> Float[Array, "B N width"]:
        """Returns what stands for the symbol at each place."""
        parts = zip(self.embeddings, by_map(indices, self.sizes), strict=True)
        return jnp.concatenate([embed(part) for embed, part in parts], axis=1)

    def places(self) -> list[Float[Array, "n width"]]:
        """Returns what stands for each place, by map."""
        return [
            (rows.embedding[:, None] + columns.embedding[None]).reshape(h * w, -1)
            for rows, columns, (h, w) in zip(
                self.rows, self.columns, self.sizes, strict=True
            )
        ]

    def first(self, labels: Float[Array, "B A"]) -> Float[Array, "B 1 width"]:
        """Returns what the sequence begins with: what is known of the image."""
        start = jnp.broadcast_to(self.start[...], (len(labels), 1, len(self.start)))
        if self.labels is None:
            return start.astype(self.norm.dtype)
        return start.astype(self.norm.dtype) + self.labels(labels)[:, None]

    def logits(self, x: Float[Array, "B N width"]) -> Float[Array, "B N K"]:
        """Returns the log-odds of the codes at each place, float32."""
        parts = zip(self.heads, by_map(self.norm(x), self.sizes, 1), strict=True)
        return jnp.concatenate([mix_channels(*part) for part in parts], axis=1)

    def log_prob(
        self, x: Float[Array, "B N width"], indices: Int[Array, "B N"]
    ) -> Float[Array, "B N"]:
        """Returns the log-probability of the code at each place, in nats."""
        parts = zip(
            self.heads,
            by_map(self.norm(x), self.sizes, 1),
            by_map(indices, self.sizes),
            strict=True,
        )
        return jnp.concatenate([_log_prob_by(*part) for part in parts], axis=1)
