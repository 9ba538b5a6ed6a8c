"""Random numbers as a function of (seed, stream, index), which nothing stores."""

import enum

import jax
from jaxtyping import Array, Int, Key


class Stream(enum.IntEnum):
    """What a key is for: no two uses of one seed share random numbers."""

    INIT = 0
    UPDATE = 1
    EVALUATION = 2
    SAMPLING = 3
    ORDER = 4


def key(
    seed: int, stream: Stream, index: int | Int[Array, ""] | None = None
) -> Key[Array, ""]:
    """Returns the key of a stream, or of its `index`-th element (a step, an image)."""
    stream_key = jax.random.fold_in(jax.random.key(seed), stream)
    return stream_key if index is None else jax.random.fold_in(stream_key, index)
