"""Every likelihood against scipy, exact sums over the levels, and its own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats

from vae_jax.models.likelihoods import (
    ROUNDING_STD,
    Bernoulli,
    BernoulliPixels,
    FixedGaussian,
    Gaussian,
    LearnedGaussian,
    OptimalGaussian,
    SharedGaussian,
    to_unit_interval,
)
from vae_jax.models.logistics import DiscretizedLogistic, LearnedLogistic

GRID = np.arange(256) / 255
LOGITS = [-30.0, -3.0, -1e-3, -1e-4, 0.0, 1e-4, 2e-4, 3e-4, 0.1, 3.0, 30.0]
LOCATIONS = [0.0, 0.37, 1.0]
SCALES = [ROUNDING_STD, 0.01, 0.3, 10.0]
KINDS = {
    "gaussian": LearnedGaussian(),
    "shared_gaussian": SharedGaussian(),
    "optimal_gaussian": SharedGaussian(optimal=True),
    "fixed_gaussian": FixedGaussian(0.2),
    "bernoulli": BernoulliPixels(),
    "logistic": LearnedLogistic(),
}


def column(values, dtype=jnp.float32):
    """One pixel for each value."""
    return jnp.asarray(np.reshape(values, (-1, 1, 1, 1)), dtype)


def gaussian(mean, std, dtype=jnp.float32):
    shape = (256, 1, 1, 1)
    return Gaussian(jnp.full(shape, mean, dtype), jnp.full(shape, std, dtype))


def bernoulli(logit, dtype=jnp.float32, size=256):
    return Bernoulli(jnp.full((size, 1, 1, 1), logit, dtype))


def logistic(location, scale, dtype=jnp.float32, size=256):
    shape = (size, 1, 1, 1)
    return DiscretizedLogistic(
        jnp.full(shape, location, dtype), jnp.full(shape, scale, dtype)
    )


def random_images(*shape, levels=True):
    images = np.random.default_rng(5).uniform(size=shape)
    return np.round(255 * images) / 255 if levels else images


def exact_masses(location, scale):
    """Of the 256 levels; the upper half by survival functions, to keep its digits."""
    edges = (np.arange(255) + 0.5) / 255
    cdf = np.concatenate([[0], stats.logistic.cdf(edges, location, scale), [1]])
    sf = np.concatenate([[1], stats.logistic.sf(edges, location, scale), [0]])
    return np.where(cdf[1:] < 0.5, np.diff(cdf), -np.diff(sf))


def test_unit_interval_keeps_the_ends():
    images = to_unit_interval(jnp.asarray([[[0], [51], [255]]], jnp.uint8))
    np.testing.assert_allclose(images.ravel(), [0, 0.2, 1], rtol=1e-7)
    assert images.dtype == jnp.float32


@pytest.mark.parametrize(
    "std", [0.01, 0.5, np.random.default_rng(0).uniform(0.01, 2, size=(3, 4, 5, 2))]
)
def test_gaussian_log_prob_is_scipys_density(std):
    x, mean = random_images(2, 3, 4, 5, 2)
    expected = stats.norm.logpdf(x, mean, std).sum((1, 2, 3))
    px = Gaussian(jnp.float32(mean), jnp.float32(std))
    np.testing.assert_allclose(px.log_prob(jnp.float32(x)), expected, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("std", [0.002, 0.03, 0.2, 2.0, 100.0])
def test_gaussian_log_mass_is_the_integral_over_the_bin(std):
    mean, levels = 0.37, np.arange(1, 255)
    # The bins within reach of double precision's own difference of two cdfs.
    levels = levels[np.abs(levels / 255 - mean) < 5 * std]
    edges = np.stack([levels - 0.5, levels + 0.5]) / 255
    expected = np.log(np.diff(stats.norm.cdf(edges, mean, std), axis=0)[0])
    actual = gaussian(mean, std).log_mass(column(GRID))[levels]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("optimal", [False, True])
def test_shared_variance_is_exp_logvar_above_the_floor(optimal):
    x = random_images(3, 4, 5, 2)
    maps = np.random.default_rng(1).normal(size=x.shape)
    likelihood = SharedGaussian(optimal=optimal)
    for logvar in (-60.0, -8.0, 1.0):
        likelihood.logvar[...] = jnp.float32(logvar)
        std = np.sqrt(np.exp(logvar) + 1 / (12 * 255**2))
        px = likelihood((jnp.float32(maps),))
        assert px.std.shape == ()
        expected = stats.norm.logpdf(x, special.expit(maps), std).sum((1, 2, 3))
        np.testing.assert_allclose(px.log_prob(jnp.float32(x)), expected, rtol=2e-5)


def test_fixed_std_is_the_one_given():
    x = random_images(3, 4, 5, 2)
    maps = np.random.default_rng(1).normal(size=x.shape)
    px = FixedGaussian(0.2)((jnp.float32(maps),))
    expected = stats.norm.logpdf(x, special.expit(maps), 0.2).sum((1, 2, 3))
    np.testing.assert_allclose(px.log_prob(jnp.float32(x)), expected, rtol=1e-5)


def test_bernoulli_log_prob_is_the_negative_cross_entropy():
    x = random_images(3, 4, 5, 2, levels=False)
    x[0, 0, 0], x[0, 0, 1] = 0, 1
    logits = np.random.default_rng(1).normal(scale=5, size=x.shape)
    white = special.expit(logits)
    expected = (special.xlogy(x, white) + special.xlog1py(1 - x, -white)).sum((1, 2, 3))
    px = BernoulliPixels()((jnp.float32(logits),))
    np.testing.assert_allclose(px.log_prob(jnp.float32(x)), expected, rtol=1e-5)
    np.testing.assert_allclose(px.mean, white, rtol=1e-5)
    whole = np.round(x)
    np.testing.assert_allclose(
        px.log_prob(jnp.float32(whole)),
        stats.bernoulli.logpmf(whole, white).sum((1, 2, 3)),
        rtol=1e-4,
    )


def test_bernoulli_masses_are_the_exponential_family_of_the_levels():
    for logit in LOGITS:
        expected = special.log_softmax(GRID * logit)
        actual = bernoulli(logit).log_mass(column(GRID))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_bernoulli_masses_fall_from_their_mean_level_when_the_logit_rises():
    # d log p(level) / d logit = level - mean level, in an exponential family.
    slope = jax.vmap(jax.grad(lambda logits, x: Bernoulli(logits).log_mass(x)))
    for logit in LOGITS:
        mean = special.softmax(GRID * logit) @ GRID
        actual = slope(column([logit] * 256), column(GRID)).ravel()
        np.testing.assert_allclose(actual, GRID - mean, atol=2e-3)


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("scale", SCALES)
def test_logistic_masses_are_scipys_with_open_ends(location, scale):
    masses = exact_masses(location, scale)
    actual = np.asarray(logistic(location, scale).log_mass(column(GRID)))
    # The others are below double precision's smallest normal number.
    there = masses > 1e-300
    assert there.sum() >= 200 and (actual[~there] < -690).all()
    expected = np.log(masses[there])
    np.testing.assert_allclose(actual[there], expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(
        actual, logistic(location, scale).log_prob(column(GRID))
    )


def test_learned_logistic_reads_its_maps_as_location_and_log_squared_scale():
    maps = np.random.default_rng(1).normal(size=(2, 1, 3, 2, 1))
    px = LearnedLogistic()((jnp.float32(maps[0]), jnp.float32(maps[1])))
    np.testing.assert_allclose(px.location, special.expit(maps[0]), rtol=1e-5)
    np.testing.assert_allclose(
        np.square(px.scale - ROUNDING_STD), np.exp(maps[1]), rtol=1e-5
    )


@pytest.mark.slow
def test_the_256_levels_sum_to_one():
    def total(px, dtype):
        log_mass = px.log_mass(column(GRID, dtype))
        assert log_mass.dtype == dtype
        return np.exp(np.float64(log_mass)).sum()

    def gaussians(dtype):
        for mean in (0.0, 0.2, 0.5, 0.999, 1.0):
            # From 0.09804 on the mass is computed in another way.
            for std in (ROUNDING_STD, 0.004, 0.05, 0.098, 0.0981, 0.3, 10.0):
                px = gaussian(mean, std, dtype)
                yield px
                yield px.replace(std=px.std[0, 0, 0, 0])

    def others(dtype):
        yield from (bernoulli(logit, dtype) for logit in LOGITS)
        yield from (logistic(at, s, dtype) for at in LOCATIONS for s in SCALES)

    for px in (*gaussians(jnp.float32), *others(jnp.float32)):
        assert abs(total(px, jnp.float32) - 1) < 1e-5, px
    with jax.enable_x64(True):
        for px in gaussians(jnp.float64):
            assert abs(total(px, jnp.float64) - 1) < 1e-9, px
        for px in others(jnp.float64):
            assert abs(total(px, jnp.float64) - 1) < 1e-6, px


def test_logistic_mean_is_that_of_the_levels_to_within_a_twentieth_of_a_level():
    # What rounding does to the mean: measured at most 0.047 levels, at the floor of the
    # scale beside black and white, and 0.011 / (scale in levels) from one level up.
    near_black = np.linspace(0, 3, 13) / 255
    for location in (*near_black, 0.37, *(1 - near_black)):
        for scale in (ROUNDING_STD, 1 / 255, 5 / 255, 0.3, 10.0):
            exact = exact_masses(location, scale) @ np.arange(256)
            actual = 255 * float(logistic(location, scale, size=1).mean[0, 0, 0, 0])
            bound = (0.011 / (255 * scale) if 255 * scale >= 1 else 0.05) + 5e-4
            assert abs(actual - exact) < bound, (location, scale)


def test_logistic_samples_are_levels_with_the_stated_probabilities():
    px = logistic(0.1, 0.05, size=200_000)
    samples = 255 * np.asarray(px.sample(jax.random.key(0))).ravel()
    levels = np.round(samples).astype(int)
    np.testing.assert_allclose(samples, levels, atol=1e-4)
    assert levels.min() == 0
    expected = len(levels) * np.exp(logistic(0.1, 0.05).log_mass(column(GRID)))
    usual = expected > 10
    counts = np.bincount(levels, minlength=256)
    observed = [*counts[usual], counts[~usual].sum()]
    wanted = np.array([*expected[usual], expected[~usual].sum()], np.float64)
    wanted *= len(levels) / wanted.sum()
    assert stats.chisquare(observed, wanted).pvalue > 1e-3


def test_bernoulli_samples_are_black_and_white_in_the_stated_shares():
    logits = np.array([-30.0, -1.0, 0.0, 2.0, 30.0], np.float32)
    px = Bernoulli(jnp.broadcast_to(logits[:, None], (40_000, 5, 1)))
    samples = np.asarray(px.sample(jax.random.key(1)))[..., 0]
    assert set(np.unique(samples)) == {0, 1}
    np.testing.assert_allclose(samples.mean(0), special.expit(logits), atol=0.01)
    assert abs(np.corrcoef(samples[:, 1:4].T)[0, 1]) < 0.02


def test_gaussian_samples_have_the_stated_standard_deviation():
    px = Gaussian(jnp.full((20_000, 1, 1, 1), 0.3), jnp.full((20_000, 1, 1, 1), 0.1))
    np.testing.assert_allclose(px.sample(jax.random.key(0)).std(), 0.1, rtol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_mean_that_is_stated(kind):
    likelihood = KINDS[kind]
    maps = tuple(
        jnp.full((40_000, 1, 1, 1), value)
        for value in (-0.8, -3.0)[: likelihood.num_maps]
    )
    px = likelihood(maps)
    samples = px.sample(jax.random.key(2))
    assert samples.shape == px.mean.shape and samples.dtype == jnp.float32
    error = float(samples.std()) / 200
    assert abs(float(samples.mean()) - float(px.mean[0, 0, 0, 0])) < 4 * error
    assert error > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_maps_leave_values_and_gradients_finite(kind):
    likelihood = KINDS[kind]
    extremes = np.array([-200.0, -60, -30, -1e-3, 0, 1e-4, 30, 60, 200])
    first, second = np.meshgrid(extremes, extremes)
    maps = tuple(column(m.ravel()) for m in (first, second)[: likelihood.num_maps])

    @jax.jit
    def log_prob(maps, images):
        return likelihood(maps).log_prob(images).sum()

    @jax.jit
    def log_mass(maps, images):
        return likelihood(maps).log_mass(images)

    for level in (0.0, 1 / 255, 0.5, 254 / 255, 1.0):
        images = jnp.full(maps[0].shape, np.float32(level))
        value, slopes = jax.value_and_grad(log_prob)(maps, images)
        assert np.isfinite(value), level
        for slope in slopes:
            assert np.isfinite(slope).all(), level
        assert np.isfinite(log_mass(maps, images)).all(), level


@pytest.mark.parametrize(
    "kind", ["gaussian", "shared_gaussian", "optimal_gaussian", "logistic"]
)
def test_descent_brings_a_log_variance_back_from_where_exp_overflows(kind):
    graphdef, params = nnx.split(KINDS[kind])
    # Not the ends, whose open bins a wider logistic makes likelier.
    images = column(GRID[1:-1])
    far = jnp.full(images.shape, 200.0)

    @jax.jit
    def loss(params, second_map):
        likelihood = nnx.merge(graphdef, params)
        maps = (jnp.zeros(images.shape), second_map)[: likelihood.num_maps]
        return -likelihood(maps).log_prob(images).sum()

    params = jax.tree.map(lambda p: jnp.full(p.shape, 200.0), params)
    value, slopes = jax.value_and_grad(loss, (0, 1))(params, far)
    assert np.isfinite(value)
    # The shared variance is a parameter, the others are maps.
    (slope,) = jax.tree.leaves(slopes[0]) or slopes[1:]
    assert (slope > 0).all()


def test_optimal_gaussians_means_are_pulled_as_by_half_n_log_mse():
    x = jnp.float32(random_images(3, 4, 5, 2))
    mean = jnp.float32(random_images(2, 3, 4, 5, 2, levels=False))
    pixels = x[0].size

    def sigma_vae_loss(mean):
        return 0.5 * pixels * jnp.log(jnp.mean(jnp.square(x - mean)))

    def loss(mean, std):
        return -jnp.mean(OptimalGaussian(mean, std).log_prob(x))

    expected = np.asarray(jax.grad(sigma_vae_loss)(mean))
    for std in (0.02, 0.7):
        actual = jax.grad(loss)(mean, jnp.float32(std))
        # The floor under the variance is the difference: 1e-5 of these errors.
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_optimal_gaussians_std_has_the_value_and_slope_of_an_ordinary_one():
    x = random_images(3, 4, 5, 2)
    mean = random_images(3, 4, 5, 2, levels=False)[::-1]

    def total(std):
        px = OptimalGaussian(jnp.float32(mean), std)
        return px.log_prob(jnp.float32(x)).sum()

    squares = np.square(x - mean).sum()
    for std in (0.02, 0.7):
        value, slope = jax.value_and_grad(total)(jnp.float32(std))
        expected = stats.norm.logpdf(x, mean, std).sum()
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        np.testing.assert_allclose(slope, squares / std**3 - x.size / std, rtol=1e-4)


@pytest.mark.parametrize("optimal", [False, True])
def test_gradient_descent_brings_the_shared_variance_to_the_mean_squared_error(
    optimal,
):
    x = jnp.float32(random_images(3, 4, 5, 2))
    maps = (jnp.zeros(x.shape),)
    graphdef, params = nnx.split(SharedGaussian(optimal=optimal))

    @jax.jit
    def descend(params):
        def loss(params):
            return -nnx.merge(graphdef, params)(maps).log_prob(x).sum() / x.size

        return jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params))

    for _ in range(100):
        params = descend(params)
    (logvar,) = jax.tree.leaves(params)
    mse = np.square(np.asarray(x) - 0.5).mean()
    np.testing.assert_allclose(logvar, np.log(mse), atol=1e-3)
