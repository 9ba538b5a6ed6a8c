import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.data import batches
from vae_jax.data.cache import Split


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    return Split(
        images=rng.integers(0, 256, (23, 4, 4, 1), dtype=np.uint8),
        attributes=rng.random((23, 3)) > 0.5,
    )


def test_every_epoch_is_a_permutation_and_none_is_cut_short():
    order = batches.batch_indices(0, 0, 23 * 3, 4, 23).ravel()
    epochs = order[: 23 * 12].reshape(12, 23)
    for epoch in epochs:
        assert sorted(epoch) == list(range(23))
    assert len({tuple(epoch) for epoch in epochs}) == 12


def test_the_order_is_a_function_of_seed_and_step_alone():
    whole = batches.batch_indices(7, 0, 30, 5, 23)
    for first, count in ((0, 1), (4, 3), (29, 1), (11, 13)):
        part = batches.batch_indices(7, first, count, 5, 23)
        np.testing.assert_array_equal(part, whole[first : first + count])
    assert not np.array_equal(whole, batches.batch_indices(8, 0, 30, 5, 23))


def test_a_batch_may_be_larger_than_the_split():
    batch = batches.batch_indices(0, 0, 1, 24, 8)[0]
    assert sorted(batch) == sorted(list(range(8)) * 3)


def test_both_feeds_give_the_same_batches_bit_for_bit(split):
    plan = [(3, 2), (5, 5), (10, 1)]
    given = []
    for kind in ("device", "stream"):
        feed = batches.build_feed(kind, split, seed=3, batch_size=6)
        data = jax.tree.map(jnp.asarray, feed.data)
        given.append(
            [
                jax.tree.map(
                    np.asarray, jax.vmap(lambda x, f=feed, d=data: f.gather(d, x))(xs)
                )
                for xs in feed.stream(plan)
            ]
        )
    for (_, count), device, stream in zip(plan, *given, strict=True):
        assert device.keys() == stream.keys() == {"image", "attributes"}
        assert device["image"].shape == (count, 6, 4, 4, 1)
        assert device["image"].dtype == np.uint8
        for name in device:
            np.testing.assert_array_equal(device[name], stream[name])


def test_auto_streams_what_does_not_fit(split, monkeypatch):
    assert batches.resolve_feed("auto", split) == "device"
    monkeypatch.setattr(batches, "_device_memory", lambda: 2 * split.images.nbytes - 1)
    assert batches.resolve_feed("auto", split) == "stream"
    assert batches.resolve_feed("device", split) == "device"
