"""The optimiser of a training: its kind, its learning rate by step, its clipping."""

import jax
import jax.numpy as jnp
import optax

from vae_jax.options import (
    Option,
    Refusal,
    Values,
    choice,
    optional,
    positive,
    share,
    weight,
    whole,
)


def _check_adam(values: Values) -> Refusal | None:
    if values["optimizer.weight_decay"]:
        return "optimizer.weight_decay", "adam has none: set it to 0 or use adamw"
    return None


def _clip_rms(bound: float) -> optax.GradientTransformation:
    """Scales updates down whose root mean square over all parameters is too large."""

    def clip(updates, params):
        leaves = jax.tree.leaves(updates)
        if not leaves:
            return updates
        squares = sum(jnp.sum(jnp.square(leaf)) for leaf in leaves)
        rms = jnp.sqrt(squares / sum(leaf.size for leaf in leaves))
        scale = bound / jnp.maximum(rms, bound)
        return jax.tree.map(lambda update: scale * update, updates)

    return optax.stateless(clip)


def _adam(rate, *between, b1, b2) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_adam(b1, b2), *between, optax.scale_by_learning_rate(rate)
    )


# Optimisers made from the learning rate, the weight decay, what comes between Adam and
# both, b1 and b2.
OPTIMIZERS = {
    "adam": Option(
        lambda rate, weight_decay, *between, **betas: _adam(rate, *between, **betas),
        check=_check_adam,
    ),
    "adamw": Option(
        lambda rate, weight_decay, *between, **betas: _adam(
            rate, *between, optax.add_decayed_weights(weight_decay), **betas
        )
    ),
}
SETTINGS = {
    "optimizer.name": choice("adamw", "Optimiser of optax.", OPTIMIZERS),
    "optimizer.learning_rate": positive(
        2e-4, "Learning rate; the highest, where it has a schedule."
    ),
    "optimizer.weight_decay": weight(
        1e-4, "Weight decay of every parameter, with adamw."
    ),
    "optimizer.schedule": choice(
        "constant",
        "Schedule of the learning rate; cosine falls to 0 at num_steps.",
        ("constant", "cosine"),
    ),
    "optimizer.warmup_steps": whole(
        0, "Steps over which the learning rate rises from 0, linearly.", low=0
    ),
    "optimizer.b1": share(0.9, "Decay of Adam's mean of the gradients."),
    "optimizer.b2": share(0.999, "Decay of Adam's mean of the gradients' squares."),
    "optimizer.clip_norm": optional(
        float, positive(1.0, "Bound on the global norm of the gradients.")
    ),
    "optimizer.clip_update": optional(
        float,
        positive(
            1.0,
            "Bound on the root mean square of an update without weight decay, in "
            "learning rates; parts with an optimiser of their own have their own.",
        ),
    ),
}


def warmup_of(schedule: str, warmup_steps: int, num_steps: int) -> int:
    """Returns the steps of warm-up: half of a run that a cosine finds no place in."""
    if schedule == "cosine" and num_steps <= warmup_steps:
        return num_steps // 2
    return warmup_steps


def learning_rate_schedule(
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    num_steps: int,
    first_step: int = 0,
) -> optax.ScalarOrSchedule:
    """Returns the learning rate by step.

    Args:
      learning_rate: the highest.
      schedule: "constant", or "cosine" to fall to 0 at `num_steps` along half a cosine.
      warmup_steps: steps of the rise from 0 to `learning_rate`, linear, before that;
        see `warmup_of`.
      num_steps: updates of the whole training.
      first_step: step of the first update.
    """
    warmup_steps = warmup_of(schedule, warmup_steps, num_steps)
    rate: optax.ScalarOrSchedule = learning_rate
    if schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, warmup_steps, num_steps
        )
    elif warmup_steps:
        rate = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    if not callable(rate) or not first_step:
        return rate
    return lambda count: rate(count + first_step)


def build_optimizer(
    *,
    name: str,
    learning_rate: float,
    weight_decay: float,
    schedule: str,
    warmup_steps: int,
    b1: float = 0.9,
    b2: float = 0.999,
    clip_norm: float | None,
    clip_update: float | None = None,
    num_steps: int,
    first_step: int = 0,
) -> optax.GradientTransformation:
    """Returns the optax chain that the settings under `config.optimizer` describe.

    Args:
      name: "adam", or "adamw" (Loshchilov & Hutter 2019).
      learning_rate: the highest.
      weight_decay: weight decay of adamw, on every parameter, as in the notebook.
      schedule: see `learning_rate_schedule`.
      warmup_steps: steps of the schedule's warm-up, see `warmup_of`.
      b1: decay of the mean of the gradients.
      b2: decay of the mean of their squares.
      clip_norm: bound on the gradients' global norm; None for none.
      clip_update: bound on the root mean square of what Adam makes of them, before the
        learning rate and the weight decay; None for none. Where gradients of one step
        after the other agree, as they do before a loss jumps, that grows towards 1;
        Shazeer & Stern (2018), section 6, bound it for each parameter by itself.
      num_steps: updates of the whole training.
      first_step: step of the first update.
    """
    rate = learning_rate_schedule(
        learning_rate, schedule, warmup_steps, num_steps, first_step
    )
    between = [] if clip_update is None else [_clip_rms(clip_update)]
    optimizer = OPTIMIZERS[name].make(rate, weight_decay, *between, b1=b1, b2=b2)
    if clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
