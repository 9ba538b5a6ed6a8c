"""Layers that networks share: convolutions as others compute them, and their order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from vae_jax.models.networks import layers, winograd

FLOAT32 = jnp.dtype("float32")
BFLOAT16 = jnp.dtype("bfloat16")


def noise(shape, seed=0):
    # By numpy, because JAX compiles a program for each shape that it draws.
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def test_space_to_depth_puts_each_square_of_pixels_into_one_place():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    y = layers.space_to_depth(x, 2)
    assert y.shape == (2, 2, 3, 12)
    for i in range(2):
        for j in range(2):
            here = y[:, 1, 2, 3 * (2 * i + j) : 3 * (2 * i + j) + 3]
            np.testing.assert_array_equal(here, x[:, 2 + i, 4 + j])
    np.testing.assert_array_equal(layers.depth_to_space(y, 2), x)
    assert layers.depth_to_space(y[0], 2).shape == (4, 6, 3)


def new_conv(dtype=FLOAT32):
    layer = layers.Conv3x3(3, 4, dtype=dtype, rngs=nnx.Rngs(0))
    # A new one has zeros.
    layer.bias[...] = noise(4)
    return layer


def test_convolution_is_scipys_correlation_with_zeros_outside():
    layer = new_conv()
    x = noise((2, 5, 6, 3))
    kernel = np.float64(layer.kernel[...])
    expected = np.tile(layer.bias[...], (2, 5, 6, 1))
    for b in range(2):
        for f in range(4):
            expected[b, ..., f] += sum(
                signal.correlate2d(x[b, ..., c], kernel[..., c, f], mode="same")
                for c in range(3)
            )
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)
    layer.stride = 2
    halved = expected[:, ::2, ::2]
    np.testing.assert_allclose(layer(x), halved, rtol=1e-4, atol=1e-5)


# By patches, by patches at stride 2, by Winograd's algorithm.
WAYS = pytest.mark.parametrize(
    "height, width, channels, stride",
    [(5, 6, 3, 1), (5, 6, 3, 2), (8, 12, 16, 2), (8, 12, 16, 1)],
)


@WAYS
def test_gradients_on_a_cpu_are_those_of_xlas_convolution(
    height, width, channels, stride
):
    # What accelerators run, run here.
    x = noise((2, height, width, channels))
    kernel = noise((3, 3, channels, 4)) / channels
    # At stride 2 maps that would fit go by patches all the same.
    assert winograd.fits(x) == (channels == 16)
    weights = noise((2, -(-height // stride), -(-width // stride), 4), seed=1)

    def total(product, x, kernel):
        return jnp.sum(weights * jnp.sin(product(x, kernel, stride)))

    here, reference = (
        jax.jit(jax.value_and_grad(functools.partial(total, product), (0, 1)))(
            x, kernel
        )
        for product in (layers._convolve_on_cpu, layers._convolve)
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        here,
        reference,
    )


@WAYS
def test_gradients_on_a_cpu_have_gradients(height, width, channels, stride):
    # As the penalty of a regularised autoencoder on its decoder's Jacobian needs.
    x = noise((2, height, width, channels))
    kernel = noise((3, 3, channels, 4)) / channels

    def penalty(product, x, kernel):
        slope = jax.grad(lambda x: jnp.sum(jnp.sin(product(x, kernel, stride))))(x)
        return jnp.sum(jnp.square(slope))

    here, reference = (
        jax.jit(jax.grad(functools.partial(penalty, product), (0, 1)))(x, kernel)
        for product in (layers._convolve_on_cpu, layers._convolve)
    )
    for a, b in zip(here, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def test_winograds_convolution_rounds_little_more_than_a_sum_of_products():
    x, kernel = noise((4, 16, 8, 64)), noise((3, 3, 64, 32), seed=1) / 24
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[:, i : i + 16, j : j + 8] @ np.float64(kernel[i, j])
        for i in range(3)
        for j in range(3)
    )

    def error(y):
        return np.sqrt(np.mean(np.square(np.float64(y) - exact)))

    found = error(winograd.convolve(x, kernel))
    assert found < 5 * error(layers._multiply_patches(x, kernel, 1))
    assert found < 2e-6


def test_half_precision_and_few_channels_are_left_to_sums_of_products():
    x = noise((1, 4, 4, 16))
    assert winograd.fits(x)
    assert not winograd.fits(x.astype(BFLOAT16))
    assert not winograd.fits(x[..., :12])
    assert not winograd.fits(x[:, :3])
    assert not winograd.fits(x[:, :, :3])


@pytest.mark.slow
def test_bf16_products_are_near_float32s_and_train_float32_kernels():
    layer = new_conv(BFLOAT16)
    x = noise((2, 5, 6, 3))
    y, grads = jax.value_and_grad(lambda m: jnp.sum(jnp.square(m(x))))(layer)
    y_full, grads_full = jax.value_and_grad(lambda m: jnp.sum(jnp.square(m(x))))(
        new_conv()
    )
    assert layer(x).dtype == BFLOAT16
    assert grads.kernel[...].dtype == FLOAT32
    np.testing.assert_allclose(np.float32(y), y_full, rtol=0.02)
    assert np.float32(y) != y_full
    difference = grads.kernel[...] - grads_full.kernel[...]
    assert np.linalg.norm(difference) < 0.02 * np.linalg.norm(grads_full.kernel[...])


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 4, 3)])
def test_codes_of_any_leading_axes_are_decoded_one_by_one(batch):
    def decode(z):
        assert z.ndim == 2
        return z[:, None, None, :3], z[:, None, :2, None]

    z = noise((*batch, 5))
    first, second = layers.decode_rows(decode, z, 1)
    np.testing.assert_array_equal(first, z[..., None, None, :3])
    np.testing.assert_array_equal(second, z[..., None, :2, None])


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 4, 3)])
def test_spatial_codes_of_any_leading_axes_are_decoded_one_by_one(batch):
    def decode(code):
        # Other axes than a row's own would be another picture's.
        assert code.shape[1:] == (2, 4, 5)
        return code[..., :3], code.sum((1, 2, 3))[:, None, None, None]

    code = noise((*batch, 2, 4, 5))
    first, second = layers.decode_rows(decode, code, 3)
    np.testing.assert_array_equal(first, code[..., :3])
    expected = np.float64(code).sum((-3, -2, -1), keepdims=True)
    np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-5)
