import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.models.likelihoods import (
    ROUNDING_STD,
    Gaussian,
    LearnedGaussian,
    to_unit_interval,
)

LEVELS = jnp.arange(256, dtype=jnp.uint8).reshape(256, 1, 1, 1)


def gaussian(mean, std, dtype=jnp.float32):
    shape = (256, 1, 1, 1)
    return Gaussian(jnp.full(shape, mean, dtype), jnp.full(shape, std, dtype))


def test_unit_interval_keeps_the_ends():
    images = to_unit_interval(jnp.asarray([[[0], [51], [255]]], jnp.uint8))
    np.testing.assert_allclose(images.ravel(), [0, 0.2, 1], rtol=1e-7)
    assert images.dtype == jnp.float32


def test_log_prob_is_scipys_density():
    rng = np.random.default_rng(0)
    x, mean = rng.uniform(size=(2, 3, 4, 5, 2))
    std = rng.uniform(0.01, 2, size=(3, 4, 5, 2))
    expected = stats.norm.logpdf(x, mean, std).sum((1, 2, 3))
    actual = Gaussian(jnp.float32(mean), jnp.float32(std)).log_prob(jnp.float32(x))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("std", [ROUNDING_STD, 0.004, 0.05, 0.098, 0.0981, 0.3, 10.0])
@pytest.mark.parametrize("mean", [0.0, 0.2, 0.5, 0.999, 1.0])
def test_levels_sum_to_one(mean, std):
    single = gaussian(mean, std).log_mass(to_unit_interval(LEVELS))
    assert abs(np.exp(np.float64(single)).sum() - 1) < 1e-5
    with jax.enable_x64(True):
        double = gaussian(mean, std, jnp.float64).log_mass(jnp.asarray(LEVELS / 255.0))
        assert double.dtype == jnp.float64
        assert abs(np.exp(np.asarray(double)).sum() - 1) < 1e-9


@pytest.mark.parametrize("std", [0.002, 0.03, 0.2, 2.0])
def test_log_mass_is_the_integral_over_the_bin(std):
    mean, levels = 0.37, np.arange(1, 255)
    # The bins within reach of double precision's own difference of two cdfs.
    levels = levels[np.abs(levels / 255 - mean) < 5 * std]
    edges = np.stack([levels - 0.5, levels + 0.5]) / 255
    expected = np.log(np.diff(stats.norm.cdf(edges, mean, std), axis=0)[0])
    actual = gaussian(mean, std).log_mass(to_unit_interval(LEVELS))[levels]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_log_mass_stays_finite_far_out():
    assert np.isfinite(
        gaussian(0.0, ROUNDING_STD).log_mass(to_unit_interval(LEVELS))
    ).all()
    assert np.isfinite(
        gaussian(1.0, ROUNDING_STD).log_mass(to_unit_interval(LEVELS))
    ).all()


def test_learned_variance_has_a_smooth_floor():
    likelihood = LearnedGaussian()
    maps = (jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), -60.0))
    px = likelihood(maps)
    np.testing.assert_allclose(px.mean, 0.5)
    np.testing.assert_allclose(px.std, ROUNDING_STD, rtol=1e-6)
    # Without a floor the density of a perfect prediction would be about 30 nats here.
    assert (
        px.log_prob(px.mean)[0] / 4 < -np.log(ROUNDING_STD * np.sqrt(2 * np.pi)) + 1e-5
    )
    slope = jax.grad(lambda v: likelihood((maps[0], v)).std.sum())(maps[1] + 46)
    assert (slope > 0).all()


def test_logvar_is_the_logarithm_of_the_variance():
    px = LearnedGaussian()((jnp.zeros((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), -2.0)))
    np.testing.assert_allclose(px.std**2, np.exp(-2) + ROUNDING_STD**2, rtol=1e-6)


def test_samples_have_the_stated_moments():
    px = Gaussian(jnp.full((20_000, 1, 1, 1), 0.3), jnp.full((20_000, 1, 1, 1), 0.1))
    samples = px.sample(jax.random.key(0))
    np.testing.assert_allclose(samples.mean(), 0.3, atol=0.003)
    np.testing.assert_allclose(samples.std(), 0.1, rtol=0.03)
