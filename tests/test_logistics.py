"""Mixtures of discretised logistics: sums over levels, moments, samples, by numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from vae_jax.models.likelihoods import ROUNDING_STD
from vae_jax.models.logistics import (
    DiscretizedLogistic,
    LearnedLogisticMixture,
    LogisticMixture,
)

GRID = np.arange(256) / 255
MAPS = [-100.0, -10.0, -1.0, 0.0, 2.0, 100.0]


def mixture(channels, components, bits=8, seed=0, wide=1.0, number=1):
    """Of parameters that are the same for `number` images of one pixel."""
    rng = np.random.default_rng(seed)
    pairs = channels * (channels - 1) // 2

    def draw(*shape):
        return np.broadcast_to(rng.normal(size=shape), (number, 1, 1, *shape))

    parts = (
        draw(components),
        0.5 + 0.3 * draw(channels, components),
        0.05 * np.exp(wide * draw(channels, components)),
        0.5 * draw(pairs, components),
    )
    return LogisticMixture(*(jnp.asarray(part, jnp.float32) for part in parts), bits)


def pixels(values):
    return jnp.asarray(np.reshape(values, (len(values), 1, 1, -1)), jnp.float32)


@pytest.mark.parametrize("components", [1, 3, 10])
@pytest.mark.parametrize("bits", [8, 5, 1])
def test_gray_levels_sum_to_1_whatever_the_maps_say(components, bits):
    rng = np.random.default_rng(components)
    likelihood = LearnedLogisticMixture(1, components, bits)
    assert likelihood.num_maps == 3 * components
    for _ in range(30):
        maps = rng.choice(MAPS, size=(likelihood.num_maps, 1))
        shape = (likelihood.num_maps, 256, 1, 1, 1)
        px = likelihood(
            tuple(jnp.float32(np.broadcast_to(maps[..., None, None, None], shape)))
        )
        masses = np.exp(np.float64(px.log_mass(pixels(GRID))))
        np.testing.assert_allclose(masses.sum(), 1, atol=1e-5)


@pytest.mark.parametrize("components", [1, 3])
def test_colours_of_few_levels_sum_to_1(components):
    bits = 3
    levels = (np.arange(2**bits) << (8 - bits)) / 255
    colours = np.array(list(itertools.product(levels, repeat=3)))
    for seed in range(5):
        px = mixture(3, components, bits, seed, number=len(colours))
        masses = np.exp(np.float64(px.log_mass(pixels(colours))))
        # Each stands for 32 levels of a channel.
        np.testing.assert_allclose(32**3 * masses.sum(), 1, atol=1e-5)
        # Whatever is below the level in an image makes no difference.
        rng = np.random.default_rng(seed)
        others = colours + rng.integers(0, 32, colours.shape) / 255
        again = np.exp(np.float64(px.log_mass(pixels(others))))
        np.testing.assert_allclose(again, masses, rtol=1e-4)


def test_levels_of_fewer_bits_hold_those_of_more():
    """Eight levels of 8 bits share the mass of theirs of 5 bits."""
    fine = mixture(1, 3, number=256).log_mass(pixels(GRID))
    coarse = mixture(1, 3, bits=5, number=256).log_mass(pixels(GRID))
    sums = np.exp(np.float64(fine)).reshape(32, 8).sum(1)
    np.testing.assert_allclose(8 * np.exp(coarse), np.repeat(sums, 8), rtol=1e-4)


def test_the_mass_of_a_colour_is_scipys():
    px = mixture(3, 2, wide=0.3, number=400)
    images = np.random.default_rng(3).integers(1, 255, (400, 3)) / 255
    logits, location, scale, coefficients = (
        np.float64(part[0, 0, 0])
        for part in (px.logits, px.location, px.scale, px.coefficients)
    )
    r, g, _ = images.T[..., None] - 0.5
    places = np.stack(
        [
            np.broadcast_to(location[0], (400, 2)),
            location[1] + coefficients[0] * r,
            location[2] + coefficients[1] * r + coefficients[2] * g,
        ],
        axis=1,
    )
    edges = [images[..., None] + side / 255 for side in (-0.5, 0.5)]
    low, high = (stats.logistic.cdf(edge, places, scale) for edge in edges)
    by_component = np.log(np.maximum(high - low, 1e-300)).sum(1)
    expected = special.logsumexp(by_component, b=special.softmax(logits), axis=1)
    # Where the difference of two cdfs keeps digits.
    kept = expected > -30
    assert kept.sum() > 50
    actual = np.asarray(px.log_mass(pixels(images)))
    np.testing.assert_allclose(actual[kept], expected[kept], rtol=1e-3)


def test_one_component_is_a_logistic():
    px = mixture(1, 1, number=256)
    one = DiscretizedLogistic(px.location[..., 0], px.scale[..., 0])
    images = pixels(GRID)
    np.testing.assert_allclose(px.log_mass(images), one.log_mass(images), rtol=1e-5)
    np.testing.assert_allclose(px.mean, one.mean, rtol=1e-5)
    np.testing.assert_allclose(px.std, one.std, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 4])
def test_samples_are_levels_as_frequent_as_probable(channels, bits):
    number = 40_000
    px = mixture(channels, 2, bits, seed=2, wide=0.3, number=number)
    drawn = np.asarray(px.sample(jax.random.key(0)))[:, 0, 0]
    width = 256 >> bits
    levels = (255 * drawn - (width - 1) / 2) / width
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert levels.min() >= -1e-3 and levels.max() <= 2**bits - 1 + 1e-3
    # The mean of the surprise over samples is the entropy by the masses: the same
    # samples judged, and fresh ones.
    again = np.asarray(px.sample(jax.random.key(1)))[:, 0, 0]
    means = [
        np.mean(px.log_mass(pixels(np.round(255 * d) / 255))) for d in (drawn, again)
    ]
    np.testing.assert_allclose(*means, rtol=0.02)
    if channels == 1:
        centres = (width * np.arange(2**bits) + (width - 1) / 2) / 255
        px_all = mixture(1, 2, bits, seed=2, wide=0.3, number=2**bits)
        masses = width * np.exp(px_all.log_mass(pixels(np.round(255 * centres) / 255)))
        counts = np.bincount(np.round(levels[:, 0]).astype(int), minlength=2**bits)
        error = 5 * np.sqrt(masses * (1 - masses) / number) + 1e-4
        assert (np.abs(counts / number - masses) < error).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_moments_are_those_of_samples(channels):
    number = 100_000
    px = mixture(channels, 3, seed=4, wide=0.2, number=number)
    # Away from the ends, where clipping changes neither.
    px = px.replace(location=0.5 + 0.3 * (px.location - 0.5), scale=0.3 * px.scale)
    drawn = np.asarray(px.sample(jax.random.key(0)))[:, 0, 0]
    np.testing.assert_allclose(px.mean[0, 0, 0], drawn.mean(0), atol=2e-3)
    # That of the first channel; of the others it is given those before.
    np.testing.assert_allclose(px.std[0, 0, 0, 0], drawn[:, 0].std(), rtol=0.02)


def test_maps_of_zero_have_a_faces_mean_and_spread():
    px = LearnedLogisticMixture(1, 3, 8)(tuple(jnp.zeros((9, 1, 1, 1, 1))))
    np.testing.assert_allclose(px.mean, 0.5, atol=1e-6)
    np.testing.assert_allclose(px.scale, np.exp(-2) + ROUNDING_STD, rtol=1e-6)


@pytest.mark.parametrize("value", MAPS)
def test_gradients_are_finite_at_extreme_maps(value):
    likelihood = LearnedLogisticMixture(3, 2, 8)
    maps = tuple(jnp.full((likelihood.num_maps, 3, 1, 1, 3), value))
    images = pixels([[0.0, 0.5, 1.0], [1.0, 0.0, 0.2], [0.7, 0.7, 0.7]])
    gradient = jax.grad(lambda maps: likelihood(maps).log_mass(images).sum())(maps)
    assert all(np.isfinite(each).all() for each in gradient)
