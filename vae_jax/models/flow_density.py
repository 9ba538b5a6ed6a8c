"""p(z|y) as a flow: noise that a learned velocity carries to codes.

Flow matching (Lipman et al. 2023) along straight lines (Liu et al. 2023). Noise e and a
standardised code z are the ends of a line x_t = (1 - t) e + t z, and the velocity
v(x_t, t, y) learns its direction z - e. What dx/dt = v makes of noise are codes, and
their density follows from the same equation (Chen et al. 2018). A new velocity is 0 and
leaves noise as it is: the flow begins as a Gaussian with the codes' mean and variance.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Key

from vae_jax.models.posteriors import DiagonalGaussian

# Codes that are carried at a time; more would not be faster, and take more memory.
ROWS = 256


def heun(
    slope: Callable[[Any, Float[Array, ""]], Any],
    start: Any,
    first: float,
    last: float,
    num_steps: int,
) -> Any:
    """Integrates dx/dt = slope(x, t) from t = first to last by Heun's method.

    Its error falls with the square of the number of steps.

    Args:
      slope: function from (x, t), where x is a pytree of arrays, to dx/dt, such a
        pytree.
      start: x at `first`.
      first: t at the start.
      last: t at the end; it may be before `first`.
      num_steps: all of one length, each of two slopes.
    """
    length = (last - first) / num_steps

    def step(x, index):
        time = first + length * index
        here = slope(x, time)
        there = slope(jax.tree.map(lambda x, s: x + length * s, x, here), time + length)
        return jax.tree.map(
            lambda x, a, b: x + 0.5 * length * (a + b), x, here, there
        ), None

    return jax.lax.scan(step, start, jnp.arange(num_steps, dtype=jnp.float32))[0]


@struct.dataclass
class FlowDensity:
    """p(z|y) of one row of labels, or of many, a `contract.Prior`.

    Attributes:
      velocity: (x [B,N], time [B], labels [B,A]) -> dx/dt [B,N], of standardised codes.
      centre: the mean of each number in the codes that the flow learnt from.
      spread: their standard deviations.
      labels: y; 0 where one is unknown.
      num_steps: steps of Heun's method.
    """

    velocity: Callable[..., Array]
    centre: Float[Array, " N"]
    spread: Float[Array, " N"]
    labels: Float[Array, "*batch A"]
    num_steps: int = struct.field(pytree_node=False)

    def matching(
        self, z: Float[Array, "B N"], key: Key[Array, ""]
    ) -> Float[Array, " B"]:
        """Returns the mean squared error of the velocity on the way to each code.

        At one time each, logit-normal as in Esser et al. (2024), section 3.1.

        Args:
          z: codes.
          key: random key of noise and times.
        """
        noise_key, time_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, z.shape)
        time = jax.nn.sigmoid(jax.random.normal(time_key, z.shape[:1]))
        target = (z - self.centre) / self.spread
        way = (1 - time)[:, None] * noise + time[:, None] * target
        labels = jnp.broadcast_to(self.labels, (*time.shape, self.labels.shape[-1]))
        found = self.velocity(way, time, labels)
        return jnp.mean(jnp.square(found - (target - noise)), axis=-1)

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        temperature: float | Float[Array, ""] = 1.0,
        num_steps: int | None = None,
        guidance: float | Float[Array, ""] | None = None,
    ) -> Float[Array, "S *batch N"]:
        """Draws samples.

        Args:
          key: random key of the noise.
          num_samples: S.
          temperature: factor on the noise; at 0 all samples are what becomes of its
            mode.
          num_steps: steps of Heun's method; None for those of the prior.
          guidance: W of classifier-free guidance, v(x) + W (v(x, y) - v(x)): at 0 the
            labels say nothing, at 1, as with None, what they say, above 1 more (Ho &
            Salimans 2022).
        """
        shape = (num_samples, *self.labels.shape[:-1], len(self.centre))
        noise = temperature * jax.random.normal(key, shape)
        there = self._carry(noise, 0.0, 1.0, num_steps, guidance)
        return self.centre + self.spread * there

    def carried(
        self,
        z: Float[Array, "*sample N"],
        first: float,
        last: float,
        num_steps: int | None = None,
        guidance: float | Float[Array, ""] | None = None,
    ) -> Float[Array, "*sample N"]:
        """Returns where the flow carries codes from one time to another.

        Args:
          z: codes at time `first`; at 0 they are noise on the scale of codes.
          first: 0 is noise, 1 are codes.
          last: time at the end; it may be before `first`: back towards noise.
          num_steps: steps of Heun's method; None for those of the prior.
          guidance: see `sample`.
        """
        here = (z - self.centre) / self.spread
        there = self._carry(here, first, last, num_steps, guidance)
        return self.centre + self.spread * there

    def log_prob(
        self, z: Float[Array, "*sample N"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "*sample_batch"]:
        """Returns log p(z|y) in nats, see `log_ratio`."""
        base, change = self._trace_back(z, key)
        return jnp.sum(base, axis=-1) - change

    def log_ratio(
        self,
        posterior: DiagonalGaussian,
        z: Float[Array, "*sample N"],
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "*sample"]:
        """Returns log p(z|y) - log q(z|x) in nats.

        log p(z) is that of the noise which becomes z, minus the divergence of the
        velocity along its way: as exact as the steps are short.

        Args:
          posterior: q(z|x).
          z: codes.
          key: given one, the divergence is estimated without bias from one direction a
            code (Hutchinson 1990; Grathwohl et al. 2019), which takes an N-th of the
            time.
        """
        base, change = self._trace_back(z, key)
        return jnp.sum(base - posterior.log_prob_by_dimension(z), axis=-1) - change

    def kl_from(self, posterior: DiagonalGaussian) -> None:
        """Returns None: the KL to a flow is not analytic."""

    def _carry(
        self,
        x: Array,
        first: float,
        last: float,
        num_steps: int | None,
        guidance: float | Array | None,
    ) -> Array:
        """Returns where the flow carries standardised codes, see `carried`."""

        def carry(x, labels):
            def slope(x, time):
                told = self._slope(x, time, labels)
                if guidance is None:
                    return told
                untold = self._slope(x, time, jnp.zeros_like(labels))
                return untold + guidance * (told - untold)

            steps = self.num_steps if num_steps is None else num_steps
            return heun(slope, x, first, last, steps)

        return self._by_row(carry, x)

    def _slope(self, x: Array, time: Array, labels: Array) -> Array:
        """Returns the velocity of one code."""
        return self.velocity(x[None], jnp.asarray(time)[None], labels[None])[0]

    def _by_row(self, carry: Callable[..., Any], rows: Array, *others: Array) -> Any:
        """Applies carry(row, labels, *others) to [*batch,N], a few rows at a time."""
        batch = rows.shape[:-1]
        labels = jnp.broadcast_to(self.labels, (*batch, self.labels.shape[-1]))
        given = (rows, labels, *others)
        flat = [a.reshape(math.prod(batch), *a.shape[len(batch) :]) for a in given]
        found = jax.lax.map(lambda row: carry(*row), flat, batch_size=ROWS)
        return jax.tree.map(lambda a: a.reshape(*batch, *a.shape[1:]), found)

    def _trace_back(
        self, z: Array, key: Key[Array, ""] | None
    ) -> tuple[Float[Array, "*batch N"], Float[Array, "*batch"]]:
        """Returns each number's log-density before the flow, and what it takes off."""

        def trace(x, labels, probe=None):
            def slope(state, time):
                velocity = functools.partial(self._slope, time=time, labels=labels)
                if probe is None:
                    here, push = jax.linearize(velocity, state[0])
                    directions = jnp.eye(len(x))
                    divergence = jnp.trace(jax.vmap(push)(directions))
                else:
                    here, pushed = jax.jvp(velocity, state[:1], (probe,))
                    divergence = jnp.dot(probe, pushed)
                return here, divergence

            return heun(slope, (x, jnp.zeros(())), 1.0, 0.0, self.num_steps)

        batch = jnp.broadcast_shapes(z.shape[:-1], self.labels.shape[:-1])
        x = jnp.broadcast_to((z - self.centre) / self.spread, (*batch, z.shape[-1]))
        probes = [] if key is None else [jax.random.rademacher(key, x.shape, x.dtype)]
        noise, gone = self._by_row(trace, x, *probes)
        zeros = jnp.zeros_like(self.centre)
        normal = DiagonalGaussian(zeros, zeros)
        # Integrated from 1 to 0, it comes with the other sign.
        return normal.log_prob_by_dimension(noise) - jnp.log(self.spread), -gone
