import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.errors import UserError
from vae_jax.training import step as step_lib
from vae_jax.training.checkpoint import Checkpoints


def state_of(value, width=3, float16=True):
    params = {"layers": {0: jnp.full(width, value), 1: jnp.full((2, 2), value)}}
    state = step_lib.create_state(params, optax.adamw(0.1), float16=float16)
    return state.replace(step=jnp.int32(value))


def test_the_whole_state_comes_back_in_kind(tmp_path):
    state = state_of(7).replace(extra={"codebook": jnp.ones((4, 2), jnp.bfloat16)})
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        checkpoints.save(state, 7, loss=None)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(7, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_latest_and_best_are_kept(tmp_path):
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        assert checkpoints.step_of("latest") is None
        assert checkpoints.step_of("best") is None
        for step, loss in ((1, 5.0), (2, -3.0), (3, None), (4, 2.0), (5, None)):
            checkpoints.save(state_of(step), step, loss)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.step_of("latest") == 5
        assert checkpoints.step_of("best") == 2
    assert sorted(f.name for f in tmp_path.iterdir()) == ["2", "5"]


def test_saving_does_not_see_later_updates(tmp_path):
    # The state is donated to the next update while the save is still writing.
    bump = jax.jit(lambda s: jax.tree.map(lambda a: a + 1, s), donate_argnums=0)
    state = state_of(1, width=1_000_000)
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        checkpoints.save(state, 1, loss=None)
        for _ in range(20):
            state = bump(state)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(1, state)
    assert (np.asarray(restored.params["layers"][0]) == 1).all()


def test_another_architecture_is_refused_leaf_by_leaf(tmp_path):
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        checkpoints.save(state_of(1), 1, loss=None)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError) as error:
            checkpoints.restore(1, state_of(1, width=4))
        message = str(error.value)
        assert "params/layers/0: (3,) there, (4,) expected" in message
        assert "params/layers/1" not in message
        with pytest.raises(
            UserError, match="loss_scale/scale: .* there, absent expected"
        ):
            checkpoints.restore(1, state_of(1, float16=False))


def test_only_a_writer_removes_what_is_half_written(tmp_path):
    half = tmp_path / "3.orbax-checkpoint-tmp"
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        checkpoints.save(state_of(1), 1, loss=None)
    half.mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.step_of("latest") == 1
    assert half.exists()
    with Checkpoints(tmp_path, writable=True) as checkpoints:
        assert checkpoints.step_of("latest") == 1
    # Orbax removes it in the background.
    deadline = time.monotonic() + 10
    while half.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not half.exists()
