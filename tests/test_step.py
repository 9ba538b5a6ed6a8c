import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vae_jax.config import default_config
from vae_jax.experiment import assemble
from vae_jax.models import build
from vae_jax.training import optimizers
from vae_jax.training import step as step_lib


def quadratic(params, state, batch, key, step):
    """A loss with noise, on two leaves; `batch["image"]` is the target."""
    noise = jax.random.normal(key, params["w"].shape)
    loss = (
        jnp.mean(jnp.square(params["w"] + 0.1 * noise - batch["image"]))
        + params["b"] ** 2
    )
    return loss, ({"loss": loss, "seen": step.astype(jnp.float32)}, state)


def make(loss_fn=quadratic, float16=False, decay=0.9, optimizer=None):
    optimizer = optimizer or optax.adam(0.1)
    params = {"w": jnp.arange(3.0), "b": jnp.float32(2)}
    state = step_lib.create_state(params, {}, optimizer, float16=float16)
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


@pytest.mark.slow
@pytest.mark.optimised
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
    optimizer = optimizers.build_optimizer(**settings, num_steps=100)

    def loss_fn(params, state, batch, key, step):
        loss = jnp.sum(params["w"] * jnp.asarray([2.0, -0.5, 0.1]))
        return loss, ({"loss": loss}, state)

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
        optimizer = optimizers.build_optimizer(**settings, num_steps=20)
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
    # A warm-up that would fill the run is given half of it.
    settings.warmup_steps = 20
    rises, falls = np.arange(10) / 10, 0.5 * (1 + np.cos(np.pi * np.arange(10) / 10))
    np.testing.assert_allclose(updates(20), [*rises, *falls], atol=1e-3)
    settings.schedule, settings.warmup_steps = "constant", 0
    settings.clip_norm = 1e-9
    # Adam divides a clipped gradient by its own size plus 1e-8: here a twentieth.
    np.testing.assert_allclose(updates(1), 0.5e-9 / (0.5e-9 + 1e-8), rtol=1e-3)


def test_an_update_is_bounded_over_all_parameters_and_the_decay_is_not():
    settings = default_config().optimizer
    settings.learning_rate, settings.weight_decay = 0.5, 0.3
    settings.clip_update = 0.1
    optimizer = optimizers.build_optimizer(**settings, num_steps=20)
    adam = optax.scale_by_adam(settings.b1, settings.b2)
    rng = np.random.default_rng(0)
    params = {"a": jnp.float32(rng.normal(size=3)), "b": jnp.float32([[4.0, -2.0]])}
    state, plain = optimizer.init(params), adam.init(params)
    scales = []
    # Gradients that agree grow Adam's updates, and such as turn shrink them.
    for sign in (1, 1, 1, -1, -1, 1, -1, 1, -1, 1, -1, 1):
        gradients = {
            name: jnp.float32(3 * sign + rng.normal(size=param.shape))
            for name, param in params.items()
        }
        found, state = optimizer.update(gradients, state, params)
        unbounded, plain = adam.update(gradients, plain)
        flat = np.concatenate([np.ravel(each) for each in jax.tree.leaves(unbounded)])
        scales.append(min(1, 0.1 / np.sqrt(np.mean(flat**2))))
        for name, param in params.items():
            expected = -0.5 * (scales[-1] * unbounded[name] + 0.3 * param)
            np.testing.assert_allclose(found[name], expected, rtol=1e-5)
    # Both sides of the bound were seen.
    assert min(scales) < 0.2 and max(scales) == 1


def test_bounded_updates_go_with_parts_that_have_optimisers_of_their_own(tiny_config):
    """Also where none is left for the optimiser of the others."""
    tiny_config.optimizer.clip_update = 0.01
    tiny_config.parts.frozen = "encoder"
    tiny_config.parts.optimizer = "decoder.learning_rate=0.5"
    experiment = assemble(tiny_config, 40)
    before = experiment.initial_state()
    size = tiny_config.dataset.size
    batch = {"image": np.zeros((8, size, size, 1), np.uint8)}
    after, _ = jax.jit(experiment.update())(before, batch)
    moved = jax.tree.map(
        lambda new, old: np.ravel(new - old),
        after.params["decoder"],
        before.params["decoder"],
    )
    rms = np.sqrt(np.mean(np.concatenate(jax.tree.leaves(moved)) ** 2))
    assert rms == pytest.approx(0.5 * 0.01, rel=0.05)


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


def overflowing(params, state, batch, key, step):
    """Overflows float16 in its gradient where the batch says so."""
    loss = jnp.sum(params["w"].astype(jnp.float16) * batch["image"].astype(jnp.float16))
    return loss.astype(jnp.float32), ({"loss": loss.astype(jnp.float32)}, state)


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
    assert int(skipped.step) == 2 and int(skipped.skipped) == 1
    assert int(skipped.faults) == metrics["faults"] == 0
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
    )
    grown = step_lib._next_loss_scale(scale, jnp.bool_(True))
    assert float(grown.scale) == step_lib.SCALE_MAX and int(grown.streak) == 0
    again = step_lib._next_loss_scale(
        grown.replace(streak=scale.streak), jnp.bool_(True)
    )
    assert float(again.scale) == step_lib.SCALE_MAX
    least = grown.replace(scale=jnp.float32(step_lib.SCALE_MIN))
    assert float(step_lib._next_loss_scale(least, jnp.bool_(False)).scale) == 1


@jax.custom_vjp
def with_gradient(x, gradient):
    """Zero, whose gradient by `x` is as given."""
    return 0.0 * jnp.nan_to_num(gradient)


with_gradient.defvjp(
    lambda x, gradient: (with_gradient(x, gradient), gradient),
    lambda gradient, cotangent: (cotangent * gradient, None),
)


def faulty(params, state, batch, key, step):
    """The quadratic loss with a fault in itself, or in its gradient by `b` alone."""
    loss, (metrics, _) = quadratic(params, state, batch, key, step)
    loss += batch["loss"] + with_gradient(params["b"], batch["gradient"])
    return loss, (metrics | {"loss": loss}, {"last": loss})


def faults(**at):
    """Batches of `TARGETS`, with faults at some steps."""
    added = {name: np.zeros(len(TARGETS), np.float32) for name in ("loss", "gradient")}
    for name, values in at.items():
        for step, value in values.items():
            added[name][step] = value
    return {"image": TARGETS} | added


def run_faulty(batches, float16=False, single=False):
    state, update = make(faulty, float16=float16)
    state = state.replace(state={"last": jnp.float32(0)})
    dispatch = step_lib.build_dispatch(update, lambda data, x: x)
    if not single:
        return dispatch(state, {}, batches)
    each = []
    for step in range(len(TARGETS)):
        x = jax.tree.map(lambda a, s=step: a[s : s + 1], batches)
        state, metrics = dispatch(state, {}, x)
        each.append(metrics)
    return state, jax.tree.map(lambda *a: np.concatenate(a), *each)


LEARNT = ("params", "ema_params", "opt_state", "state")


@pytest.mark.slow
@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("loss", np.nan),
        ("loss", np.inf),
        ("gradient", np.nan),
        ("gradient", np.inf),
        ("gradient", -np.inf),
        # Its square, which Adam keeps, overflows.
        ("gradient", 1e30),
    ],
)
def test_a_fault_skips_the_update_and_is_counted(where, value, float16):
    batches = faults(**{where: {3: value}})
    first = jax.tree.map(lambda a: a[:3], batches)
    before, _ = run_faulty(first, float16)
    upto = jax.tree.map(lambda a: a[:4], batches)
    after, metrics = run_faulty(upto, float16)
    np.testing.assert_array_equal(metrics["applied"], [1, 1, 1, 0])
    for part in LEARNT:
        assert_same_bits(getattr(after, part), getattr(before, part))
    assert int(after.step) == 4 and int(after.skipped) == 1
    # In float16 a smaller scale may mend it.
    assert int(after.faults) == metrics["faults"][-1] == (0 if float16 else 1)
    # The next one goes on, and the count of those in a row ends.
    whole, metrics = run_faulty(batches, float16)
    np.testing.assert_array_equal(metrics["applied"], [1, 1, 1, 0, 1, 1])
    assert int(whole.skipped) == 1 and int(whole.faults) == 0
    for leaf in jax.tree.leaves(whole):
        assert np.isfinite(leaf).all()


@pytest.mark.optimised
@pytest.mark.parametrize("float16", [False, True])
def test_a_scan_with_faults_is_single_updates_bit_for_bit(float16):
    batches = faults(loss={0: np.nan, 4: np.inf}, gradient={3: np.nan, 4: np.nan})
    together, metrics = run_faulty(batches, float16)
    single, each = run_faulty(batches, float16, single=True)
    assert_same_bits(together, single)
    assert_same_bits(metrics, each)
    np.testing.assert_array_equal(metrics["applied"], [0, 1, 1, 0, 0, 1])


def test_the_same_steps_without_their_faults_are_as_if_they_had_not_been():
    # But for the clock, which no part of Adam's or the EMA's reads.
    def loss_fn(params, state, batch, key, step):
        loss = jnp.mean(jnp.square(params["w"] - batch["image"])) + batch["loss"]
        return loss, ({"loss": loss}, state)

    batches = {"image": TARGETS, "loss": np.array([0, np.nan, 0, np.nan, 0, 0])}
    kept = jax.tree.map(lambda a: a[np.array([0, 2, 4, 5])], batches)
    ends = []
    for given in (batches, kept):
        state, update = make(loss_fn)
        ends.append(
            step_lib.build_dispatch(update, lambda data, x: x)(state, {}, given)
        )
    for part in LEARNT:
        assert_same_bits(getattr(ends[0][0], part), getattr(ends[1][0], part))


def test_updates_with_large_gradients_are_all_applied():
    """However large they are, as long as they are finite."""

    def steep(params, state, batch, key, step):
        loss, aux = quadratic(params, state, batch, key, step)
        return 1e12 * loss, aux

    state, update = make(steep)
    update = jax.jit(update)
    for number in range(100):
        state, metrics = update(state, {"image": TARGETS[number % 6]})
        assert metrics["applied"] == 1
    assert int(state.skipped) == 0 and abs(float(state.params["b"])) < 0.1


def test_float16_that_never_gets_finite_is_a_fault_once_the_scale_is_least():
    state, update = make(faulty, float16=True)
    state = state.replace(state={"last": jnp.float32(0)})
    bad = {"image": jnp.zeros((30, 3)), "loss": jnp.zeros(30)}
    bad |= {"gradient": jnp.full(30, jnp.inf)}
    state, metrics = step_lib.build_dispatch(update, lambda data, x: x)(state, {}, bad)
    halvings = int(np.log2(step_lib.SCALE_INIT))
    expected = [*[0] * halvings, *range(1, 30 - halvings + 1)]
    np.testing.assert_array_equal(metrics["faults"], expected)
    assert float(state.loss_scale.scale) == 1 and int(state.skipped) == 30


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_two_thousand_steps_of_half_precision_stay_finite(precision):
    config = default_config()
    config.model.latent_dim, config.model.hidden_dim = 2, 8
    graphdef, variables = build.split(
        build.build_model(
            config.model,
            precision=precision,
            image_shape=(8, 8, 1),
            rngs=nnx.Rngs(0),
        )
    )
    optimizer = optax.adamw(1e-3)
    update = step_lib.build_update(
        build.build_loss_fn(graphdef, build.build_objective(config.objective, 64)),
        optimizer,
        ema_decay=0.99,
        seed=0,
    )
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
    # Half of the picture is one colour: the variances fall to their floor.
    images[:, :4] = 255
    state = step_lib.create_state(
        variables.params, variables.state, optimizer, float16=precision == "fp16"
    )
    dispatch = step_lib.build_dispatch(update, lambda data, x: {"image": data[x]})
    losses = []
    for first in range(0, 2000, 50):
        chosen = np.arange(first, first + 50)[:, None] * 16 + np.arange(16)
        state, metrics = dispatch(state, images, chosen % 64)
        losses += list(metrics["loss"][metrics["applied"] > 0])
        for leaf in jax.tree.leaves(state):
            assert np.isfinite(leaf).all()
    assert int(state.step) == 2000 and int(state.skipped) < 20
    assert np.mean(losses[-50:]) < np.mean(losses[:50]) - 10


def test_scaled_gradients_are_the_plain_ones():
    plain, update = make()
    scaled, scaled_update = make(float16=True)
    plain, _ = scanned(update, plain, TARGETS)
    scaled, _ = scanned(scaled_update, scaled, TARGETS)
    # The scale is a power of two: nothing is rounded by it.
    assert_same_bits(plain.params, scaled.params)


def test_the_state_of_a_frozen_part_stays_and_a_bad_one_skips_the_update():
    def loss_fn(params, state, batch, key, step):
        state = {name: count + batch for name, count in state.items()}
        loss = jnp.sum(params["a"]["w"] ** 2) + jnp.sum(params["b"]["w"] ** 2)
        return loss, ({"loss": loss}, state)

    params = {"a": {"w": jnp.ones(2)}, "b": {"w": jnp.ones(2)}}
    given = {"a": jnp.float32(0), "b": jnp.float32(0)}
    optimizer = optax.sgd(0.1)
    settings = {"ema_decay": 0.9, "seed": 0, "frozen": ("a",)}
    update = jax.jit(step_lib.build_update(loss_fn, optimizer, **settings))
    before = step_lib.create_state(
        params, given, optimizer, float16=False, frozen=("a",)
    )
    after, metrics = update(before, jnp.float32(3))
    assert metrics["applied"] == 1
    assert {n: float(a) for n, a in after.state.items()} == {"a": 0, "b": 3}
    np.testing.assert_array_equal(after.params["a"]["w"], params["a"]["w"])
    assert not np.array_equal(after.params["b"]["w"], params["b"]["w"])
    skipped, metrics = update(after, jnp.float32(jnp.nan))
    assert metrics["applied"] == 0 and skipped.skipped == 1
    for name in LEARNT:
        for a, b in zip(
            jax.tree.leaves(getattr(after, name)),
            jax.tree.leaves(getattr(skipped, name)),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
