"""The training state and the compiled update: gradients, optimiser, EMA, loss scale."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from vae_jax import trees
from vae_jax.keys import Stream, key
from vae_jax.options import share

PyTree = Any


@struct.dataclass
class LossScale:
    """The dynamic loss scale of float16 training (Micikevicius et al. 2018, 3.2).

    Attributes:
      scale: the factor on the loss; a power of two.
      streak: updates applied since the scale last changed.
    """

    scale: Float[Array, ""]
    streak: Int[Array, ""]


# Twice the scale after so many updates without overflow, half of it at each overflow;
# never below 1, where a loss that still overflows is no fault of the scale.
SCALE_INIT, SCALE_MAX, SCALE_MIN = 2.0**15, 2.0**24, 1.0
GROWTH_INTERVAL = 2000


SETTINGS = {
    "ema.decay": share(
        0.999, "Decay of the average of the parameters, after its warm-up."
    ),
}


@struct.dataclass
class TrainState:
    """Everything that a checkpoint holds, as plain pytrees of arrays.

    Attributes:
      step: updates so far, skipped ones included: the only clock.
      skipped: updates skipped so far, for their loss or gradients were not finite.
      faults: updates that were skipped last, one after the other; not counted are
        overflows of float16 that a smaller loss scale may mend.
      params: float32.
      ema_params: the exponential moving average of `params`.
      opt_state: optax's.
      state: arrays that the model learns without gradients, such as a codebook; often
        empty.
      loss_scale: None unless training in float16.
    """

    step: Int[Array, ""]
    skipped: Int[Array, ""]
    faults: Int[Array, ""]
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree
    state: PyTree
    loss_scale: LossScale | None


def trained(params: PyTree, frozen: Sequence[str]) -> PyTree:
    """Returns the parts of the parameters that are not frozen."""
    return {name: part for name, part in params.items() if name not in frozen}


def create_state(
    params: PyTree,
    state: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    float16: bool,
    frozen: Sequence[str] = (),
) -> TrainState:
    """Returns the state before the first update; the EMA starts at the parameters.

    Args:
      params: the model's parameters.
      state: arrays that the model keeps beside its parameters.
      optimizer: see `optimizers.build_optimizer`.
      float16: whether to scale the loss.
      frozen: parts that are not trained, of which the optimiser keeps nothing.
    """

    # A donated state may not hold the same buffer twice: hence a copy, and new zeros.
    def zero():
        return jnp.zeros((), jnp.int32)

    return TrainState(
        step=zero(),
        skipped=zero(),
        faults=zero(),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(trained(params, frozen)),
        state=state,
        loss_scale=LossScale(jnp.float32(SCALE_INIT), zero()) if float16 else None,
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
    )


def _all_finite(grads: PyTree) -> Bool[Array, ""]:
    """Says whether all gradients are finite, and so are their squares, as Adam's are.

    Products with a vector find it at the speed of memory, which XLA's reductions on a
    CPU do not reach; in a sum, what overflows or is no number stays so.
    """
    sums = [
        jnp.sum(jnp.atleast_1d(g) @ jnp.full(g.shape[-1:] or 1, 2.0**64, g.dtype))
        for g in jax.tree.leaves(grads)
    ]
    return jnp.isfinite(jnp.stack(sums)).all()


def build_update(
    loss_fn: Callable,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    seed: int,
    frozen: Sequence[str] = (),
    first_steps: Mapping[str, int] = MappingProxyType({}),
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, Array]]]:
    """Returns update(state, batch) -> (state, metrics), one step of training.

    Where the loss, a gradient or the new state of the model is not finite, the update
    is skipped: nothing advances but `step`, the counts of such updates, and the loss
    scale of float16.

    The metrics are `loss_fn`'s, `applied`, 1 or 0, and `faults`, see `TrainState`.

    Args:
      loss_fn: (params, state, batch, key, step) -> (loss, (metrics, state)).
      optimizer: see `optimizers.build_optimizer`.
      ema_decay: see `ema_decay_at`.
      seed: the random numbers of a step are a function of (seed, step).
      frozen: parts that are not trained: no gradient of theirs is computed, and their
        state stays as it is.
      first_steps: step at which each parameter starts to train, by name; others start
        at 0. Its EMA warms up from there.
    """

    def update(state: TrainState, batch: PyTree):
        step_key = key(seed, Stream.UPDATE, state.step)
        scale = 1.0 if state.loss_scale is None else state.loss_scale.scale

        def scaled_loss_fn(learning: dict[str, PyTree]):
            params = {**state.params, **learning}
            loss, aux = loss_fn(params, state.state, batch, step_key, state.step)
            return loss * scale, aux

        (loss, (metrics, model_state)), grads = jax.value_and_grad(
            scaled_loss_fn, has_aux=True
        )(trained(state.params, frozen))
        if state.loss_scale is not None:
            grads = jax.tree.map(lambda g: g / scale, grads)
        held = [name for name in frozen if name in state.state]
        finite = jnp.isfinite(loss) & _all_finite(grads)
        for leaf in jax.tree.leaves(model_state):
            finite &= jnp.isfinite(leaf).all()

        def apply(before):
            learning = trained(before.params, frozen)
            updates, opt_state = optimizer.update(grads, before.opt_state, learning)
            learnt: Any = optax.apply_updates(learning, updates)
            num_updates = before.step - before.skipped
            decays = {
                first: ema_decay_at(ema_decay, num_updates - first)
                for first in {0, *first_steps.values()}
            }
            averaged: Any = jax.tree.map(
                lambda ema, new, first: ema + (1 - decays[first]) * (new - ema),
                trained(before.ema_params, frozen),
                learnt,
                trees.map_names(lambda name: first_steps.get(name, 0), learnt),
            )
            return before.replace(
                params={**before.params, **learnt},
                ema_params={**before.ema_params, **averaged},
                opt_state=opt_state,
                state=model_state | {n: before.state[n] for n in held},
            )

        # A choice leaf by leaf, of the new or the old, would keep XLA from writing the
        # new over the old, and cost half a step of the notebook's VAE on a CPU.
        after = jax.lax.cond(finite, apply, lambda before: before, state)
        mendable = state.loss_scale is not None and scale > SCALE_MIN
        after = after.replace(
            step=state.step + 1,
            skipped=state.skipped + jnp.where(finite, 0, 1),
            faults=jnp.where(finite | mendable, 0, state.faults + 1),
        )
        if state.loss_scale is not None:
            after = after.replace(loss_scale=_next_loss_scale(state.loss_scale, finite))
        applied = finite.astype(jnp.float32)
        return after, {**metrics, "applied": applied, "faults": after.faults}

    return update


def build_dispatch(
    update: Callable[[TrainState, PyTree], tuple[TrainState, dict[str, Array]]],
    gather: Callable[[PyTree, PyTree], PyTree],
    out_shardings: Any = None,
    compiler_options: dict[str, Any] | None = None,
) -> Callable[[TrainState, PyTree, PyTree], tuple[TrainState, dict[str, Array]]]:
    """Compiles K updates as one program, bit-equal to K single ones.

    Args:
      update: see `build_update`.
      gather: (data, x) -> batch, from a feed: how an element of `xs` becomes a batch.
      out_shardings: sharding of (state, metrics); None leaves it to XLA.
      compiler_options: XLA's.

    Returns:
      dispatch(state, data, xs) -> (state, metrics [K]); the state is donated, K is the
      leading axis of `xs`.
    """

    def dispatch(state: TrainState, data: PyTree, xs: PyTree):
        return jax.lax.scan(lambda carry, x: update(carry, gather(data, x)), state, xs)

    return jax.jit(
        dispatch,
        donate_argnums=0,
        out_shardings=out_shardings,
        compiler_options=compiler_options,
    )
