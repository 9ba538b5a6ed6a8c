"""Quantisers: from a vector at each place of a code to one of K that stand for it.

A quantiser takes vectors [...,d]. It has `num_codes`, `nearest(vectors)`, which of the
K each one stands nearest to, `look_up(indices)`, vectors that stand for themselves,
`quantize(vectors)`, what the decoder is given, with a gradient, and `pull(vectors)`,
what keeps vectors and codes together. Distances are float32 in every precision: others
choose other codes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vae_jax.models.contract import State
from vae_jax.options import (
    Option,
    Refusal,
    Setting,
    Values,
    choice,
    share,
    weight,
    whole,
)

# Beyond so many codes distances are found in turns.
CODES_AT_A_TIME = 2048

Vectors = Float[Array, "*places d"]
Indices = Int[Array, "*places"]


def straight_through(vectors: Vectors, chosen: Vectors) -> Vectors:
    """Returns `chosen`, with the gradient of `vectors` (van den Oord et al. 2017)."""
    # The other order would round: vectors + (chosen - vectors) is not chosen.
    return chosen + (vectors - jax.lax.stop_gradient(vectors))


def rotation(vectors: Vectors, chosen: Vectors) -> Vectors:
    """Returns `chosen`, with the gradient turned and stretched as the vectors are.

    The rotation trick of Fifty et al. (2024), equation 4: the linear map that turns a
    vector into the direction of the chosen one and gives it its length is held fixed.
    """
    tiny = 1e-12
    lengths = [
        jnp.linalg.norm(v, axis=-1, keepdims=True) + tiny for v in (vectors, chosen)
    ]
    source, target = vectors / lengths[0], chosen / lengths[1]
    middle = source + target
    middle = middle / (jnp.linalg.norm(middle, axis=-1, keepdims=True) + tiny)
    source, target, middle, stretch = jax.lax.stop_gradient(
        (source, target, middle, lengths[1] / lengths[0])
    )

    def along(axis: Vectors) -> Array:
        return jnp.sum(vectors * axis, axis=-1, keepdims=True)

    turned = vectors - 2 * along(middle) * middle + 2 * along(source) * target
    moved = stretch * turned
    # Nothing but rounding lies between the two.
    return jax.lax.stop_gradient(chosen - moved) + moved


GRADIENTS: dict[str, Callable[[Vectors, Vectors], Vectors]] = {
    "straight": straight_through,
    "rotation": rotation,
}


class Codebook(nnx.Module):
    """K vectors that learn by gradient (van den Oord et al. 2017, equation 3).

    Args:
      dims: d.
      num_codes: K.
      gradient: a key of `GRADIENTS`.
      commitment: weight of the pull of codes on vectors; that of vectors on codes is 1.
      rngs: of the first codes, which are standard normal, as far apart as vectors are.
    """

    def __init__(
        self,
        dims: int,
        num_codes: int,
        gradient: str,
        commitment: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.entries: Any = self._hold(
            jax.random.normal(rngs.params(), (num_codes, dims))
        )
        self.num_codes = num_codes
        self.gradient = gradient
        self.commitment = commitment

    def _hold(self, codes: Float[Array, "K d"]) -> Any:
        return nnx.Param(codes)

    @property
    def codes(self) -> Float[Array, "K d"]:
        """The codes."""
        return self.entries[...]

    def nearest(self, vectors: Vectors) -> Indices:
        """Returns which code each vector is nearest to."""
        vectors, codes = vectors.astype(jnp.float32), self.codes

        def among(some: Float[Array, "k d"]) -> tuple[Indices, Array]:
            with jax.default_matmul_precision("float32"):
                products = vectors @ some.T
            # Without the vector's own square, which is the same for all.
            distances = jnp.sum(jnp.square(some), axis=-1) - 2 * products
            which = jnp.argmin(distances, axis=-1).astype(jnp.int32)
            return which, jnp.min(distances, axis=-1)

        num_turns = -(-self.num_codes // CODES_AT_A_TIME)
        if num_turns == 1:
            return among(codes)[0]
        # The last turn is filled up with the last code, whose copies come after it.
        numbers = np.arange(num_turns * CODES_AT_A_TIME).reshape(num_turns, -1)
        which, distances = jax.lax.map(
            among, codes[np.minimum(numbers, self.num_codes - 1)]
        )
        turn = jnp.argmin(distances, axis=0).astype(jnp.int32)
        found = jnp.take_along_axis(which, turn[None], axis=0)[0]
        return turn * CODES_AT_A_TIME + found

    def look_up(self, indices: Indices) -> Vectors:
        """Returns codes."""
        return self.codes[indices]

    def quantize(self, vectors: Vectors) -> Vectors:
        """Returns the code nearest to each vector, with the gradient of the vector."""
        chosen = jax.lax.stop_gradient(self.look_up(self.nearest(vectors)))
        return GRADIENTS[self.gradient](vectors, chosen)

    def pull(self, vectors: Vectors) -> Float[Array, "*places"]:
        """Returns |sg(e) - c|^2 + commitment |e - sg(c)|^2 of vectors e and codes c."""
        chosen = self.look_up(self.nearest(vectors))
        towards_vectors = jnp.square(jax.lax.stop_gradient(vectors) - chosen)
        towards_codes = jnp.square(vectors - jax.lax.stop_gradient(chosen))
        return jnp.sum(towards_vectors + self.commitment * towards_codes, axis=-1)


class AveragedCodebook(Codebook):
    """K means of the vectors that chose them (van den Oord et al. 2017, appendix A.1).

    The averages run over updates. They begin as if each code had been chosen as often
    as all others, so that the first batch does not divide by nothing. A code that is
    hardly chosen any more begins anew, sums and all, at a vector of the batch.

    Args:
      dims: d.
      num_codes: K.
      gradient: a key of `GRADIENTS`.
      commitment: weight of the pull of codes on vectors.
      decay: of the averages.
      rngs: of the first codes.
    """

    # Of the mean count of a code: below it a code is dead.
    FEWEST = 0.01

    def __init__(
        self,
        dims: int,
        num_codes: int,
        gradient: str,
        commitment: float,
        decay: float,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(dims, num_codes, gradient, commitment, rngs=rngs)
        # Shares of a batch, which add up to 1 whatever its size.
        self.shares = State(jnp.full(num_codes, 1 / num_codes))
        self.decay = decay

    def _hold(self, codes: Float[Array, "K d"]) -> Any:
        return State(codes / len(codes))

    @property
    def codes(self) -> Float[Array, "K d"]:
        """The codes: averaged sums by averaged shares."""
        return self.entries[...] / self.shares[...][:, None]

    def pull(self, vectors: Vectors) -> Float[Array, "*places"]:
        """Returns commitment |e - sg(c)|^2: the codes follow without a gradient."""
        chosen = jax.lax.stop_gradient(self.look_up(self.nearest(vectors)))
        return self.commitment * jnp.sum(jnp.square(vectors - chosen), axis=-1)

    def update(self, vectors: Vectors) -> None:
        """Moves the averages on by a batch, which was looked up before."""
        rows = jax.lax.stop_gradient(vectors).reshape(-1, vectors.shape[-1])
        chosen, share = self.nearest(rows), 1 / len(rows)
        shares = jnp.zeros(self.num_codes).at[chosen].add(share)
        sums = jnp.zeros(self.entries.shape).at[chosen].add(share * rows)
        shares = self._average(self.shares[...], shares)
        sums = self._average(self.entries[...], sums)
        usual = 1 / self.num_codes
        dead = shares < self.FEWEST * usual
        # Far apart in the batch, so that newcomers are not all of one image.
        places = np.linspace(0, len(rows) - 1, self.num_codes).astype(np.int32)
        self.shares[...] = jnp.where(dead, usual, shares)
        self.entries[...] = jnp.where(dead[:, None], usual * rows[places], sums)

    def _average(self, before: Array, now: Array) -> Array:
        return self.decay * before + (1 - self.decay) * now


class FiniteScalars(nnx.Module):
    """FSQ: each number of a vector is rounded to one of a few levels.

    Mentzer et al. (2023). There is no codebook, and nothing pulls. What the decoder is
    given lies in [-1, 1].

    Args:
      levels: of each number; K is their product.
    """

    # So that the outermost levels are reached.
    MARGIN = 1e-3

    def __init__(self, levels: tuple[int, ...]):
        self.levels = levels
        self.num_codes = math.prod(levels)

    def _halves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns half the span, the offset of even levels, and what undoes it at 0."""
        levels = np.array(self.levels, np.float32)
        half = (levels - 1) * (1 + self.MARGIN) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
        return half, offset, np.arctanh(offset / half).astype(np.float32)

    def _bound(self, vectors: Vectors) -> Vectors:
        half, offset, shift = self._halves()
        return jnp.tanh(vectors.astype(jnp.float32) + shift) * half - offset

    def _weights(self) -> np.ndarray:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.int32)

    def nearest(self, vectors: Vectors) -> Indices:
        """Returns the number whose digits the levels are, the first one's the least."""
        lowest = np.array([level // 2 for level in self.levels], np.int32)
        digits = jnp.round(self._bound(vectors)).astype(jnp.int32) + lowest
        return jnp.sum(digits * self._weights(), axis=-1)

    def look_up(self, indices: Indices) -> Vectors:
        """Returns vectors that are rounded to these levels, and not moved by it."""
        half, offset, shift = self._halves()
        levels = np.array(self.levels, np.int32)
        digits = (indices[..., None] // self._weights()) % levels
        return jnp.arctanh((digits - levels // 2 + offset) / half) - shift

    def quantize(self, vectors: Vectors) -> Vectors:
        """Returns the levels, scaled to [-1, 1], with the gradient of the bound."""
        bounded = self._bound(vectors)
        rounded = straight_through(bounded, jnp.round(bounded))
        return rounded / np.array([level // 2 for level in self.levels], np.float32)

    def pull(self, vectors: Vectors) -> Float[Array, "*places"]:
        """Returns 0."""
        return jnp.zeros(vectors.shape[:-1])


def parse_levels(text: str) -> tuple[int, ...]:
    """Returns the levels that "8,8,8" stands for.

    Raises:
      ValueError: there are none, or one is no whole number of at least 3.
    """
    levels = tuple(map(int, text.split(",")))
    # Of 2 levels all vectors would have the same one at first.
    if min(levels) < 3 or math.prod(levels) > MOST_CODES:
        raise ValueError(text)
    return levels


# So that an index goes into 16 bits.
MOST_CODES = 65_536


def _are_levels(value: str) -> bool:
    try:
        parse_levels(value)
    except ValueError:
        return False
    return True


def _check_levels(values: Values) -> Refusal | None:
    dims, levels = values["model.latent_dim"], parse_levels(values["model.levels"])
    if dims != len(levels):
        reason = f"fsq has one for each of the {len(levels)} levels of model.levels"
        return "model.latent_dim", reason
    return None


_CODEBOOK = {
    "codebook_size": whole(512, "Codes of a codebook.", 2, MOST_CODES),
    "codebook_gradient": choice(
        "straight",
        "Gradient of a vector, where the decoder is given its code: that of the code, "
        "or turned and stretched as the vector is (Fifty et al. 2024).",
        GRADIENTS,
    ),
    "commitment": weight(
        0.25,
        "Weight of the pull of codes on vectors; that of vectors on codes, where these "
        "learn by gradient, is 1.",
    ),
}


def _of(kind: type[Codebook]) -> Callable[..., Codebook]:
    def make(
        dims: int,
        rngs: nnx.Rngs,
        codebook_size: int,
        codebook_gradient: str,
        commitment: float,
        **decay: Any,
    ) -> Codebook:
        others = [*decay.values()]
        return kind(
            dims, codebook_size, codebook_gradient, commitment, *others, rngs=rngs
        )

    return make


# What makes a quantiser is given the dimensions of a vector, and the random numbers.
QUANTIZERS = {
    "gradient": Option(_of(Codebook), _CODEBOOK),
    "ema": Option(
        _of(AveragedCodebook),
        {
            **_CODEBOOK,
            "codebook_decay": share(0.99, "Decay of the averages that are the codes."),
        },
    ),
    "fsq": Option(
        lambda dims, rngs, levels: FiniteScalars(parse_levels(levels)),
        {
            "levels": Setting(
                "8,8,8",
                "Levels of each number of a vector; codes are their product.",
                f"whole numbers of at least 3, commas between, of a product of at most "
                f"{MOST_CODES}",
                lambda value: isinstance(value, str) and _are_levels(value),
            )
        },
        check=_check_levels,
    ),
}
