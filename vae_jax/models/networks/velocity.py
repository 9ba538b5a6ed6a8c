"""The network of a flow over codes: where a code on its way is to go next.

A spatial code is a place for each of its positions, a flat one a single place. Time and
labels act by adaptive normalisation (Peebles & Xie 2022, section 3.2).
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.contract import unflatten
from vae_jax.models.networks.layers import head_layer, mix_channels
from vae_jax.models.networks.transformer import attend

# Frequencies of the cosines and sines of time, the highest 32 periods from 0 to 1.
FREQUENCIES = 2 * np.pi * np.logspace(-1, 5, 32, base=2, dtype=np.float32)


class Dense(nnx.Module):
    """Two layers at each place, the first four times as wide."""

    def __init__(self, width: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.widen = nnx.Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B T width"]) -> Float[Array, "B T width"]:
        """Returns what is added to each place."""
        return mix_channels(self.narrow, nnx.silu(mix_channels(self.widen, x)))


class Attention(nnx.Module):
    """What each place takes from all."""

    def __init__(self, width: int, num_heads: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.enter = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.leave = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B T width"]) -> Float[Array, "B T width"]:
        """Returns what is added to each place."""
        query, keys, values = (
            part.reshape(*x.shape[:-1], self.num_heads, -1).swapaxes(1, 2)
            for part in jnp.split(mix_channels(self.enter, x), 3, axis=-1)
        )
        attended = attend(query, keys, values).swapaxes(1, 2)
        return mix_channels(self.leave, attended.reshape(x.shape))


class Adaptive(nnx.Module):
    """A layer whose input is normalised as the condition says, and added to its output.

    The condition's weights start at 0, and so does what the layer adds.

    Args:
      layer: function of places [B,T,width].
      width: numbers at each place, and in the condition.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        layer: Callable[[Array], Array],
        width: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.layer = layer
        self.norm = nnx.LayerNorm(
            width, use_bias=False, use_scale=False, dtype=dtype, rngs=rngs
        )
        self.modulation = nnx.Linear(
            width, 3 * width, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "B T width"], condition: Float[Array, "B width"]
    ) -> Float[Array, "B T width"]:
        """Returns the places with what the layer adds to each."""
        scale, shift, gate = jnp.split(self.modulation(condition)[:, None], 3, axis=-1)
        return x + gate * self.layer((1 + scale) * self.norm(x) + shift)


class Velocity(nnx.Module):
    """v(z, t, y): how fast a code z moves at time t, given labels y.

    A new network gives 0 everywhere.

    Args:
      code_shape: (D,), or (h, w, d).
      num_labels: A.
      width: numbers at each place.
      depth: blocks.
      num_heads: heads of the attention between the places of a spatial code.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        code_shape: tuple[int, ...],
        num_labels: int,
        width: int,
        depth: int,
        num_heads: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        common = {"dtype": dtype, "rngs": rngs}
        *sides, dims = code_shape
        self.place_shape = (math.prod(sides), dims)
        self.enter = nnx.Linear(dims, width, **common)
        # For a flat code this is one more bias.
        self.places = nnx.Param(
            0.02 * jax.random.normal(rngs.params(), (math.prod(sides), width))
        )
        self.told = nnx.Linear(2 * len(FREQUENCIES) + num_labels, width, **common)
        self.condition = nnx.Linear(width, width, **common)
        layers = []
        for _ in range(depth):
            if sides:
                layers.append(Attention(width, num_heads, dtype, rngs))
            layers.append(Dense(width, dtype, rngs))
        self.blocks = nnx.List(Adaptive(layer, width, dtype, rngs) for layer in layers)
        self.norm = nnx.LayerNorm(width, **common)
        self.head = head_layer(
            width, dims, dtype, rngs, kernel_init=nnx.initializers.zeros
        )

    def __call__(
        self,
        z: Float[Array, "B N"],
        time: Float[Array, " B"],
        labels: Float[Array, "B A"],
    ) -> Float[Array, "B N"]:
        """Returns the velocity of each code's numbers, float32."""
        angles = time[:, None] * FREQUENCIES
        told = jnp.concatenate([jnp.cos(angles), jnp.sin(angles), labels], axis=-1)
        condition = nnx.silu(self.condition(nnx.silu(self.told(told))))
        places = unflatten(z, self.place_shape)
        x = mix_channels(self.enter, places)
        x = x + self.places[...].astype(x.dtype)
        for block in self.blocks:
            x = block(x, condition)
        return mix_channels(self.head, self.norm(x)).reshape(z.shape)
