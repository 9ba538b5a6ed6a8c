"""p(z) over discrete codes in any order, which can be drawn many at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from vae_jax.models.code_priors import (
    SEQUENCE,
    Indices,
    check_heads,
    draw,
    draw_rows,
    rows_of,
)
from vae_jax.models.contract import Labels
from vae_jax.models.networks.transformer import Maps, PlaceSequence, log_prob_of
from vae_jax.options import Option, whole

# Scale of the noise on how sure a pass is, at its start; it falls to 0.
NOISE = 4.5


class MaskedPrior(nnx.Module):
    """p(z|y) in any order, by a transformer that sees some codes and predicts others.

    With the order drawn anew for each image this is the autoregressive diffusion of
    Hoogeboom et al. (2022); its network is that of MaskGIT (Chang et al. 2022), and so
    is the way of drawing many codes in few passes.

    Args:
      maps: see `Maps`.
      width: numbers at each place.
      depth: blocks.
      num_heads: heads of their attention.
      num_passes: number of passes in which samples are drawn.
    """

    def __init__(
        self, maps: Maps, width: int, depth: int, num_heads: int, num_passes: int
    ):
        # A hidden code is a symbol of its own, K.
        self.sequence = PlaceSequence(maps, maps.num_codes + 1, width, depth, num_heads)
        self.hidden = maps.num_codes
        self.num_passes = num_passes

    def logits(
        self, indices: Int[Array, "B N"], labels: Float[Array, "B A"]
    ) -> Float[Array, "B N K"]:
        """Returns the log-odds of each place's code, given those not hidden."""
        return self.sequence.logits(self._seen(indices, labels))

    def _seen(self, indices: Array, labels: Array) -> Float[Array, "B N width"]:
        sequence = self.sequence
        x = sequence.embed(indices)
        x = x + jnp.concatenate(sequence.places()).astype(x.dtype)
        x = jnp.concatenate([sequence.first(labels), x], axis=1)
        for block in sequence.blocks:
            x = block(x, is_causal=False)
        return x[:, 1:]

    def log_prob_by_place(
        self,
        indices: Indices,
        labels: Labels = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "*batch N"]:
        """Returns log-probabilities in nats that add up to log p(z|y), or to less.

        Without a key they are exact, for one order of the places, in N passes. With one
        they are those of the places hidden in a draw, times N over the number of them:
        their sum is, in the mean over draws, that of log p(z|y) over all orders, which
        is a lower bound of the log-probability of all orders together (Hoogeboom et al.
        2022, equation 6).
        """
        rows, known = rows_of(indices, labels, self.sequence.num_labels)
        number = rows.shape[1]
        if key is None:
            order = np.random.default_rng(0).permutation(number)
            rank = jnp.asarray(np.argsort(order))

            def one(place):
                hidden = rank >= rank[place]
                return self._log_prob(rows, known, hidden)[:, place]

            by_place = jax.lax.map(one, jnp.arange(number)).T
            return by_place.reshape(indices.shape)
        many_key, which_key = jax.random.split(key)
        many = jax.random.randint(many_key, (len(rows), 1), 1, number + 1)
        scores = jax.random.uniform(which_key, rows.shape)
        hidden = jnp.argsort(jnp.argsort(scores)) < many
        log_probs = self._log_prob(rows, known, hidden)
        return (hidden * log_probs * number / many).reshape(indices.shape)

    def _log_prob(self, rows: Array, known: Array, hidden: Array) -> Array:
        seen = self._seen(jnp.where(hidden, self.hidden, rows), known)
        return self.sequence.log_prob(seen, rows)

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        labels: Labels = None,
        temperature: float | Float[Array, ""] = 1.0,
        top_k: int | None = None,
        known: Indices | None = None,
    ) -> Int[Array, "*samples N"]:
        """Draws codes [S,*batch,N] in passes, of each those that it is surest of.

        Args:
          key: random key of the samples.
          num_samples: S.
          labels: [*batch,A].
          temperature: divides the log-odds of each place, and scales the noise on how
            sure a pass is.
          top_k: number of codes, the likeliest of a place, that may be drawn.
          known: codes that are given, -1 where none is; all are seen from the start.
        """

        def draw_some(known, labels, keys):
            number = known.shape[1]
            to_draw = jnp.sum(known < 0, axis=1, keepdims=True)

            def one(indices, number_of_pass):
                pass_keys = jax.vmap(jax.random.fold_in, (0, None))(
                    keys, number_of_pass
                )
                place_keys = jax.vmap(lambda k: jax.random.split(k, number + 1))(
                    pass_keys
                )
                hidden = indices < 0
                logits = self.logits(jnp.where(hidden, self.hidden, indices), labels)
                flat = logits.reshape(-1, logits.shape[-1])
                drawn = draw(flat, place_keys[:, 1:].reshape(-1), temperature, top_k)
                drawn = drawn.reshape(indices.shape)
                done = (number_of_pass + 1) / self.num_passes
                noise = jax.vmap(lambda k: jax.random.gumbel(k, (number,)))(
                    place_keys[:, 0]
                )
                sure = log_prob_of(logits, drawn) + NOISE * temperature * (
                    (1 - done) * noise
                )
                sure = jnp.where(hidden, sure, jnp.inf)
                still = jnp.floor(to_draw * jnp.cos(jnp.pi / 2 * done))
                # The cosine of a right angle is not quite 0.
                still = jnp.where(number_of_pass + 1 == self.num_passes, 0, still)
                stays_hidden = jnp.argsort(jnp.argsort(sure)) < still
                drawn = jnp.where(hidden, drawn, indices)
                return jnp.where(stays_hidden, -1, drawn), None

            return jax.lax.scan(one, known, jnp.arange(self.num_passes))[0]

        num_logits = sum(self.sequence.lengths) * self.hidden
        return draw_rows(
            draw_some, key, num_samples, labels, self.sequence, known, num_logits
        )


MASKED = Option(
    lambda maps, prior_width, prior_depth, prior_heads, prior_passes: MaskedPrior(
        maps, prior_width, prior_depth, prior_heads, prior_passes
    ),
    {
        **SEQUENCE,
        "prior_passes": whole(12, "Passes in which the masked prior draws a sample."),
    },
    check=check_heads,
    terms="codes",
)
