import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.config import default_config
from vae_jax.training import step as step_lib


def quadratic(params, extra, batch, key, step):
    """A loss with noise, on two leaves; `batch["image"]` is the target."""
    noise = jax.random.normal(key, params["w"].shape)
    loss = (
        jnp.mean(jnp.square(params["w"] + 0.1 * noise - batch["image"]))
        + params["b"] ** 2
    )
    return loss, ({"loss": loss, "seen": step.astype(jnp.float32)}, extra)


def make(loss_fn=quadratic, float16=False, decay=0.9, optimizer=None):
    optimizer = optimizer or optax.adam(0.1)
    params = {"w": jnp.arange(3.0), "b": jnp.float32(2)}
    state = step_lib.create_state(params, optimizer, float16=float16)
    update = step_lib.build_update(loss_fn, optimizer, ema_decay=decay, seed=5)
    return state, update


def scanned(update, state, targets):
    dispatch = step_lib.build_dispatch(update, lambda data, x: {"image": x})
    return dispatch(state, {}, targets)


def assert_same_bits(left, right):
    for (path, a), (_, b) in zip(
        jax.tree_util.tree_leaves_with_path(left),
        jax.tree_util.tree_leaves_with_path(right),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=str(path))


TARGETS = jax.random.normal(jax.random.key(0), (6, 3))


@pytest.mark.parametrize("float16", [False, True])
def test_a_scan_is_single_updates_bit_for_bit(float16):
    state, update = make(float16=float16)
    together, metrics = scanned(update, state, TARGETS)
    single, _ = make(float16=float16)
    losses = []
    for target in TARGETS:
        single, each = scanned(update, single, target[None])
        losses.append(each["loss"][0])
    assert_same_bits(together, single)
    np.testing.assert_array_equal(metrics["loss"], losses)
    np.testing.assert_array_equal(metrics["seen"], range(6))
    assert int(together.step) == 6


def test_the_state_is_donated():
    state, update = make()
    buffers = jax.tree.leaves(state)
    scanned(update, state, TARGETS)
    assert all(b.is_deleted() for b in buffers)


def test_one_adamw_step_is_the_papers():
    # Loshchilov & Hutter (2019), algorithm 2, at step 1: both moments equal the
    # gradient's after bias correction.
    settings = default_config().optimizer
    settings.learning_rate, settings.weight_decay = 0.05, 0.3
    optimizer = step_lib.build_optimizer(**settings, num_steps=100)

    def loss_fn(params, extra, batch, key, step):
        loss = jnp.sum(params["w"] * jnp.asarray([2.0, -0.5, 0.1]))
        return loss, ({"loss": loss}, extra)

    state, update = make(loss_fn, optimizer=optimizer)
    after, _ = update(state, {})
    w = np.arange(3.0)
    np.testing.assert_allclose(
        after.params["w"], w - 0.05 * (np.sign([2, -0.5, 0.1]) + 0.3 * w), rtol=1e-5
    )


def test_schedule_and_clipping_are_parts_of_the_config():
    settings = default_config().optimizer
    settings.name, settings.weight_decay, settings.learning_rate = "adam", 0.0, 1.0

    def updates(count, gradient=1.0):
        optimizer = step_lib.build_optimizer(**settings, num_steps=20)
        params = jnp.zeros(4)
        state, sizes = optimizer.init(params), []
        for _ in range(count):
            change, state = optimizer.update(jnp.full(4, gradient), state, params)
            sizes.append(-float(change[0]))
        return np.array(sizes)

    settings.warmup_steps = 5
    np.testing.assert_allclose(updates(8), [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1], atol=1e-3)
    settings.schedule = "cosine"
    expected = 0.5 * (1 + np.cos(np.pi * np.arange(15) / 15))
    np.testing.assert_allclose(updates(20)[5:], expected, atol=1e-3)
    settings.schedule, settings.warmup_steps = "constant", 0
    settings.clip_norm = 1e-9
    # Adam divides a clipped gradient by its own size plus 1e-8: here a twentieth.
    np.testing.assert_allclose(updates(1), 0.5e-9 / (0.5e-9 + 1e-8), rtol=1e-3)


def test_ema_follows_its_recursion_with_warm_up():
    state, update = make(decay=0.9)
    ema = jax.tree.map(np.float64, state.params)
    for n in range(60):
        state, _ = jax.jit(update)(state, {"image": TARGETS[n % 6]})
        decay = min(0.9, (1 + n) / (10 + n))
        ema = jax.tree.map(
            lambda e, p, d=decay: d * e + (1 - d) * np.float64(p), ema, state.params
        )
    np.testing.assert_allclose(state.ema_params["w"], ema["w"], rtol=1e-4)
    assert min(0.9, 60 / 69) < 0.9 and float(
        step_lib.ema_decay_at(0.9, jnp.int32(81))
    ) == np.float32(0.9)
    # A constant decay would still hold 0.9**5 of the start after five updates.
    kept = np.prod([(1 + n) / (10 + n) for n in range(5)])
    assert kept < 0.01


def overflowing(params, extra, batch, key, step):
    """Overflows float16 in its gradient where the batch says so."""
    loss = jnp.sum(params["w"].astype(jnp.float16) * batch["image"].astype(jnp.float16))
    return loss.astype(jnp.float32), ({"loss": loss.astype(jnp.float32)}, extra)


def test_an_overflow_skips_the_update_and_halves_the_scale():
    state, update = make(overflowing, float16=True)
    update = jax.jit(update)
    fine, huge = jnp.full(3, 1e-3), jnp.full(3, 6e4)
    state, metrics = update(state, {"image": fine})
    assert metrics["applied"] == 1 and int(state.loss_scale.streak) == 1
    skipped, metrics = update(state, {"image": huge})
    assert metrics["applied"] == 0
    for part in ("params", "ema_params", "opt_state"):
        assert_same_bits(getattr(skipped, part), getattr(state, part))
    assert int(skipped.step) == 2 and int(skipped.loss_scale.skipped) == 1
    assert float(skipped.loss_scale.scale) == step_lib.SCALE_INIT / 2
    # The EMA's warm-up counts applied updates: as if the skipped one had not been.
    after, _ = update(skipped, {"image": fine})
    decay = 2 / 11
    expected = decay * state.ema_params["w"] + (1 - decay) * after.params["w"]
    np.testing.assert_allclose(after.ema_params["w"], expected, rtol=1e-6)


def test_the_scale_grows_after_a_streak_and_stays_within_its_bounds():
    scale = step_lib.LossScale(
        jnp.float32(step_lib.SCALE_MAX / 2),
        jnp.int32(step_lib.GROWTH_INTERVAL - 1),
        jnp.int32(0),
    )
    grown = step_lib._next_loss_scale(scale, jnp.bool_(True))
    assert float(grown.scale) == step_lib.SCALE_MAX and int(grown.streak) == 0
    again = step_lib._next_loss_scale(
        grown.replace(streak=scale.streak), jnp.bool_(True)
    )
    assert float(again.scale) == step_lib.SCALE_MAX
    least = grown.replace(scale=jnp.float32(step_lib.SCALE_MIN))
    assert float(step_lib._next_loss_scale(least, jnp.bool_(False)).scale) == 1


def test_scaled_gradients_are_the_plain_ones():
    plain, update = make()
    scaled, scaled_update = make(float16=True)
    plain, _ = scanned(update, plain, TARGETS)
    scaled, _ = scanned(scaled_update, scaled, TARGETS)
    # The scale is a power of two: nothing is rounded by it.
    assert_same_bits(plain.params, scaled.params)
