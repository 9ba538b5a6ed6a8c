"""Quantisers whose codes are learned: K vectors, by gradient or as running averages.

Both are what models/quantizers.py says of a quantiser.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vae_jax.models.code_gradients import GRADIENTS, Vectors
from vae_jax.models.contract import State

# Beyond so many codes distances are found in turns.
CODES_AT_A_TIME = 2048

Indices = Int[Array, "*places"]


class Codebook(nnx.Module):
    """K vectors that learn by gradient (van den Oord et al. 2017, equation 3).

    Args:
      dims: d.
      num_codes: K.
      gradient: a key of `GRADIENTS`.
      commitment: weight of the pull of codes on vectors; that of vectors on codes is 1.
      rngs: random numbers of the first codes, which are standard normal, as far apart
        as vectors are.
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
      decay: decay of the averages.
      rngs: random numbers of the first codes.
    """

    # Share of the mean count of a code below which a code is dead.
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
        # Shares of a batch, which add up to 1 whatever its size, until a code begins
        # anew with a share of its own.
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
