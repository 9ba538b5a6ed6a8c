"""What only a GPU can show; `python -m pytest -m gpu` there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import training
from vae_jax import run
from vae_jax.data import batches
from vae_jax.experiment import assemble
from vae_jax.models.networks import layers
from vae_jax.training import step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.optimised,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU"),
]


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_gradients_are_those_of_the_cpu(stride):
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(2, 8, 8, 32)))
    kernel = np.float32(rng.normal(size=(3, 3, 32, 16)) / 17)

    def total(product, x, kernel):
        return jnp.sum(jnp.sin(product(x, kernel, stride)))

    found = []
    for device, product in (
        (jax.devices("gpu")[0], layers._convolve),
        (jax.devices("cpu")[0], layers._convolve_on_cpu),
    ):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            gradient = jax.grad(lambda *a, p=product: total(p, *a), (0, 1))
            found.append(jax.device_get(jax.jit(gradient)(x, kernel)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *found
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_updates_move_nothing_between_host_and_device(precision):
    config = training.plain(training.RECIPES["conv VAE"](), 16)
    config.precision = precision
    split = training.pictures(config, 64)
    experiment = assemble(config, 64)
    feed = batches.build_feed("device", split, seed=0, batch_size=16)
    dispatch = step.build_dispatch(experiment.update(), feed.gather)
    data, state = jax.device_put(feed.data), experiment.initial_state()
    first, second = map(jax.device_put, feed.stream([(0, 10), (10, 10)]))
    state, before = dispatch(state, data, first)
    with jax.transfer_guard("disallow"):
        state, after = dispatch(state, data, second)
        jax.block_until_ready(state)
    assert np.mean(after["loss"]) < np.mean(before["loss"])


def test_deterministic_runs_end_with_the_same_bits(tiny_config, tmp_path):
    tiny_config.model.network, tiny_config.dataset.size = "conv", 32
    tiny_config.precision, tiny_config.deterministic = "bf16", True
    first, second = (
        jax.tree.leaves(run.train(tiny_config, tmp_path / name).variables)
        for name in ("first", "second")
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
