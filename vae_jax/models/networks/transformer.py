"""Transformers (Vaswani et al. 2017) over maps of codes, whole or place by place."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from vae_jax.models.networks.layers import head_layer, mix_channels


@struct.dataclass
class Memory:
    """What a block keeps of the places it has seen.

    Attributes:
      keys: of each place; those to come are 0.
      values: as the keys.
    """

    keys: Float[Array, "B T heads d"]
    values: Float[Array, "B T heads d"]


class AttentionBlock(nnx.Module):
    """Attention and two dense layers, each normalised first and added to its input.

    Both end in zeros: a new block is the identity.

    Args:
      width: numbers at each place.
      num_heads: of the attention; a divisor of the width.
      dtype: of the activations.
      rngs: of the initial parameters.
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
        query, key, value = self._attention_of(x)
        attended = jax.nn.dot_product_attention(query, key, value, is_causal=is_causal)
        return self._finish(x, attended)

    def step(
        self, x: Float[Array, "B 1 width"], memory: Memory, place: Int[Array, ""]
    ) -> tuple[Float[Array, "B 1 width"], Memory]:
        """Returns one place of what a causal call returns, and the memory with it.

        Args:
          x: the place.
          memory: of the places before.
          place: its number.
        """
        query, key, value = self._attention_of(x)
        memory = Memory(
            jax.lax.dynamic_update_slice_in_dim(memory.keys, key, place, 1),
            jax.lax.dynamic_update_slice_in_dim(memory.values, value, place, 1),
        )
        seen: Bool[Array, "1 1 1 T"] = (
            jnp.arange(memory.keys.shape[1])[None, None, None] <= place
        )
        attended = jax.nn.dot_product_attention(
            query, memory.keys, memory.values, mask=seen
        )
        return self._finish(x, attended), memory

    def new_memory(self, batch_size: int, num_places: int) -> Memory:
        """Returns the memory of no place."""
        width = self.attended.in_features
        shape = (batch_size, num_places, self.num_heads, width // self.num_heads)
        empty = jnp.zeros(shape, self.attended.dtype)
        return Memory(empty, empty)

    def _attention_of(self, x: Array) -> list[Float[Array, "B T heads d"]]:
        mixed = mix_channels(self.attention, self.attention_norm(x))
        return [
            part.reshape(*x.shape[:-1], self.num_heads, -1)
            for part in jnp.split(mixed, 3, axis=-1)
        ]

    def _finish(self, x: Array, attended: Float[Array, "B T heads d"]) -> Array:
        x = x + mix_channels(self.attended, attended.reshape(x.shape))
        wide = jax.nn.gelu(mix_channels(self.widen, self.dense_norm(x)))
        return x + mix_channels(self.narrow, wide)


class Maps(NamedTuple):
    """The places that a sequence goes over, and what it is built around.

    Attributes:
      sizes: height and width of each map, the coarsest first.
      num_codes: K, that each place is one of.
      num_labels: of an image; 0 for a model without.
      dtype: of the activations.
      rngs: of the initial parameters.
    """

    sizes: tuple[tuple[int, int], ...]
    num_codes: int
    num_labels: int
    dtype: jnp.dtype
    rngs: nnx.Rngs


class PlaceSequence(nnx.Module):
    """A transformer over the places of all maps, and what leads into and out of it.

    Args:
      maps: see `Maps`.
      num_symbols: that can stand at a place: the K codes, and others.
      width: numbers at each place.
      depth: blocks.
      num_heads: of their attention.
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
            head_layer(width, maps.num_codes, maps.dtype, maps.rngs) for _ in maps.sizes
        )
        for head in self.heads:
            # So that a new prior is the uniform one.
            head.kernel[...] = jnp.zeros_like(head.kernel[...])

    @property
    def lengths(self) -> list[int]:
        """Places of each map."""
        return [math.prod(size) for size in self.sizes]

    def by_map(self, x: Array) -> list[Array]:
        """Cuts the places, the second axis, into those of each map."""
        return jnp.split(x, np.cumsum(self.lengths)[:-1], axis=1)

    def embed(self, indices: Int[Array, "B N"]) -> Float[Array, "B N width"]:
        """Returns what stands for the symbol at each place."""
        parts = zip(self.embeddings, self.by_map(indices), strict=True)
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
        parts = zip(self.heads, self.by_map(self.norm(x)), strict=True)
        return jnp.concatenate([mix_channels(*part) for part in parts], axis=1)
