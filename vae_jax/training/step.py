"""The training state and the compiled update: gradients, optimiser, EMA, loss scale."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from vae_jax.keys import Stream, key

PyTree = Any


@struct.dataclass
class LossScale:
    """The dynamic loss scale of float16 training (Micikevicius et al. 2018, 3.2).

    Attributes:
      scale: the factor on the loss; a power of two.
      streak: updates applied since the scale last changed.
      skipped: updates skipped so far because their gradients were not finite.
    """

    scale: Float[Array, ""]
    streak: Int[Array, ""]
    skipped: Int[Array, ""]


# Twice the scale after so many updates without overflow, half of it at each overflow;
# never below 1, where a loss that still overflows is no fault of the scale.
SCALE_INIT, SCALE_MAX, SCALE_MIN = 2.0**15, 2.0**24, 1.0
GROWTH_INTERVAL = 2000


@struct.dataclass
class TrainState:
    """Everything that a checkpoint holds, as plain pytrees of arrays.

    Attributes:
      step: updates so far, skipped ones included: the only clock.
      params: float32.
      ema_params: the exponential moving average of `params`.
      opt_state: optax's.
      extra: state without gradients, such as a codebook; empty by default.
      loss_scale: None unless training in float16.
    """

    step: Int[Array, ""]
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree
    extra: PyTree
    loss_scale: LossScale | None


def build_optimizer(
    *,
    name: str,
    learning_rate: float,
    weight_decay: float,
    schedule: str,
    warmup_steps: int,
    clip_norm: float | None,
    num_steps: int,
) -> optax.GradientTransformation:
    """Returns the optax chain that the settings under `config.optimizer` describe.

    Args:
      name: "adam", or "adamw" (Loshchilov & Hutter 2019).
      learning_rate: the highest.
      weight_decay: of adamw, on every parameter, as in the notebook.
      schedule: "constant", or "cosine" to fall to 0 at `num_steps` along half a cosine.
      warmup_steps: from 0 to `learning_rate`, linearly, before that.
      clip_norm: bound on the gradients' global norm; None for none.
      num_steps: of the whole training.
    """
    rate: optax.ScalarOrSchedule = learning_rate
    if schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, warmup_steps, num_steps
        )
    elif warmup_steps:
        rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    if name == "adamw":
        optimizer = optax.adamw(rate, weight_decay=weight_decay)
    else:
        optimizer = optax.adam(rate)
    if clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def create_state(
    params: PyTree, optimizer: optax.GradientTransformation, *, float16: bool
) -> TrainState:
    """Returns the state before the first update; the EMA starts at the parameters."""

    # A donated state may not hold the same buffer twice: hence a copy, and new zeros.
    def zero():
        return jnp.zeros((), jnp.int32)

    return TrainState(
        step=zero(),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        extra={},
        loss_scale=LossScale(jnp.float32(SCALE_INIT), zero(), zero())
        if float16
        else None,
    )


def ema_decay_at(decay: float, num_updates: Int[Array, ""]) -> Float[Array, ""]:
    """Returns min(decay, (1 + n) / (10 + n)) for the n-th update, n from 0.

    The warm-up forgets the initial parameters, of which a constant 0.999 would keep
    8% after 2,500 updates.
    """
    return jnp.minimum(decay, (1 + num_updates) / (10 + num_updates))


def _next_loss_scale(old: LossScale, finite: Array) -> LossScale:
    streak = jnp.where(finite, old.streak + 1, 0)
    grow = streak == GROWTH_INTERVAL
    scale = jnp.where(
        finite,
        jnp.where(grow, jnp.minimum(2 * old.scale, SCALE_MAX), old.scale),
        jnp.maximum(old.scale / 2, SCALE_MIN),
    )
    return LossScale(
        scale=scale,
        streak=jnp.where(grow, 0, streak),
        skipped=old.skipped + jnp.where(finite, 0, 1),
    )


def build_update(
    loss_fn: Callable,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    seed: int,
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, Array]]]:
    """Returns update(state, batch) -> (state, metrics), one step of training.

    The metrics are `loss_fn`'s and `applied`: 1, or 0 where float16 gradients were
    not finite, and then nothing but `step` and the loss scale advances.

    Args:
      loss_fn: (params, extra, batch, key, step) -> (loss, (metrics, extra)).
      optimizer: see `build_optimizer`.
      ema_decay: see `ema_decay_at`.
      seed: the random numbers of a step are a function of (seed, step).
    """

    def update(state: TrainState, batch: PyTree):
        step_key = key(seed, Stream.UPDATE, state.step)
        scale = 1.0 if state.loss_scale is None else state.loss_scale.scale

        def scaled_loss_fn(params):
            loss, aux = loss_fn(params, state.extra, batch, step_key, state.step)
            return loss * scale, aux

        grads, (metrics, extra) = jax.grad(scaled_loss_fn, has_aux=True)(state.params)
        num_updates = state.step
        if state.loss_scale is not None:
            grads = jax.tree.map(lambda g: g / scale, grads)
            num_updates = state.step - state.loss_scale.skipped
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = ema_decay_at(ema_decay, num_updates)
        ema_params = jax.tree.map(
            lambda ema, new: ema + (1 - decay) * (new - ema), state.ema_params, params
        )
        updated = TrainState(
            step=state.step + 1,
            params=params,
            ema_params=ema_params,
            opt_state=opt_state,
            extra=extra,
            loss_scale=state.loss_scale,
        )
        if state.loss_scale is None:
            return updated, {**metrics, "applied": jnp.float32(1)}
        finite = jnp.isfinite(optax.tree.norm(grads))
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), updated, state
        )
        kept = kept.replace(
            step=state.step + 1, loss_scale=_next_loss_scale(state.loss_scale, finite)
        )
        return kept, {**metrics, "applied": finite.astype(jnp.float32)}

    return update


def build_dispatch(
    update: Callable[[TrainState, PyTree], tuple[TrainState, dict[str, Array]]],
    gather: Callable[[PyTree, PyTree], PyTree],
) -> Callable[[TrainState, PyTree, PyTree], tuple[TrainState, dict[str, Array]]]:
    """Compiles K updates as one program, bit-equal to K single ones.

    Args:
      update: see `build_update`.
      gather: (data, x) -> batch, from a feed: how an element of `xs` becomes a batch.

    Returns:
      dispatch(state, data, xs) -> (state, metrics [K]); the state is donated, K is the
      leading axis of `xs`.
    """

    def dispatch(state: TrainState, data: PyTree, xs: PyTree):
        return jax.lax.scan(lambda carry, x: update(carry, gather(data, x)), state, xs)

    return jax.jit(dispatch, donate_argnums=0)
