"""New images: from the prior, and from a density fitted to codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vae_jax.config import default_config
from vae_jax.exploration import batching
from vae_jax.exploration.densities import Density, fit_density
from vae_jax.exploration.sampling import (
    encode_and_sample,
    encode_images,
    sample_fitted,
    sample_prior,
)
from vae_jax.models import build


def make(name, **settings):
    config = default_config().model
    config.update({"name": name, "latent_dim": 3, "hidden_dim": 8, **settings})
    return build.build_model(
        config, precision="fp32", image_shape=(4, 4, 1), rngs=nnx.Rngs(0)
    )


def pictures(number=23):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (number, 4, 4, 1), dtype=np.uint8)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 250])
def test_autoencoders_codes_do_not_depend_on_the_batch_size(batch_size, monkeypatch):
    monkeypatch.setattr(batching, "BATCH_SIZE", batch_size)
    model, images = make("ae"), pictures()
    _, codes = encode_and_sample(model, images, None, jax.random.key(0))
    expected = model.encode(jnp.float32(images) / 255)
    assert codes.shape == (23, 3)
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=1e-6)


def test_vaes_codes_are_independent_samples_of_the_posteriors(monkeypatch):
    monkeypatch.setattr(batching, "BATCH_SIZE", 2000)
    model = make("vae")
    images = np.tile(pictures(1), (6000, 1, 1, 1))
    _, codes = encode_and_sample(model, images, None, jax.random.key(0))
    posterior = model.posterior(jnp.float32(images[:1]) / 255)
    means = encode_images(model, images[:3])
    np.testing.assert_allclose(means, np.repeat(posterior.mean, 3, 0), rtol=1e-5)
    std = np.exp(0.5 * np.asarray(posterior.logvar[0]))
    np.testing.assert_allclose(codes.mean(0), posterior.mean[0], atol=5 * 0.02)
    np.testing.assert_allclose(codes.std(0), std, rtol=0.06)
    # Each batch has noise of its own.
    assert len(np.unique(codes[:, 0])) > 5990


def test_codes_are_of_each_images_own_labels(monkeypatch):
    model, images = make("vae", attributes="A,B"), pictures(7)
    labels = jnp.asarray(
        np.random.default_rng(1).choice([-1.0, 1.0], (7, 2)), jnp.float32
    )
    monkeypatch.setattr(batching, "BATCH_SIZE", 3)
    codes = encode_images(model, images, labels)
    expected = model.posterior(jnp.float32(images) / 255, labels).mean
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)
    unknown = encode_images(model, images)
    assert not np.allclose(unknown, codes, atol=1e-3)


def test_one_component_is_the_codes_mean_and_covariance():
    rng = np.random.default_rng(0)
    codes = np.float32(rng.normal(size=(300, 3)) @ rng.normal(size=(3, 3)) + 2)
    fitted = fit_density(codes, 1, seed=0)
    np.testing.assert_allclose(fitted.means[0], codes.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        fitted.covariances[0], np.cov(codes.T, bias=True), rtol=1e-4, atol=1e-5
    )


def test_components_find_the_clusters():
    rng = np.random.default_rng(0)
    centres = np.array([[-5.0, 0, 0], [5, 0, 0], [0, 5, 5]])
    codes = np.float32(centres[rng.integers(0, 3, 600)] + rng.normal(size=(600, 3)) / 2)
    means = fit_density(codes, 3, seed=1).means
    distances = np.linalg.norm(means[:, None] - centres, axis=-1)
    assert sorted(distances.argmin(1)) == [0, 1, 2]
    assert distances.min(1).max() < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ae", "vae"])
def test_fitted_samples_are_decoded_draws_of_the_codes_distribution(name):
    model = make(name)
    rng = np.random.default_rng(0)
    codes = np.float32(rng.normal(size=(2000, 3)) @ rng.normal(size=(3, 3)) + 1)
    fitted = fit_density(codes, 2, seed=3)
    samples = np.asarray(sample_fitted(model, fitted, 4000, 3))
    assert samples.shape == (4000, 4, 4, 1)
    expected = np.asarray(model.decode(jnp.asarray(codes)).mean)
    np.testing.assert_allclose(samples.mean(0), expected.mean(0), atol=0.03)
    np.testing.assert_allclose(samples.std(0), expected.std(0), atol=0.03)
    # The components' order is not the samples'.
    halves = samples[:2000].mean(0) - samples[2000:].mean(0)
    assert np.abs(halves).max() < 0.05
    np.testing.assert_array_equal(samples, sample_fitted(model, fitted, 4000, 3))


def test_the_factors_of_a_rounded_covariance_are_of_the_nearest():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(200, 20)) @ rng.normal(size=(20, 100))
    exact = np.cov(mixed.T) + 1e-6 * np.eye(100)
    rounded = np.float64(np.float32(exact))
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky(rounded)
    for covariance in (exact, rounded):
        (factor,) = Density(np.ones(1), np.zeros((1, 100)), covariance[None]).factors
        np.testing.assert_allclose(factor @ factor.T, exact, atol=1e-3)


def test_more_samples_of_a_density_begin_with_those_of_fewer():
    rng = np.random.default_rng(0)
    codes = np.float32(rng.normal(size=(100, 3)) + rng.choice([-5, 5], (100, 1)))
    for number in (1, 2):
        fitted = fit_density(codes, number, seed=0)
        many = fitted.sample(4, 12, seed=5)
        for fewer in (1, 5):
            np.testing.assert_allclose(fitted.sample(4, fewer, seed=5), many[:fewer])
        assert np.abs(fitted.sample(4, 12, seed=6) - many).min() > 1e-6


def test_fitted_samples_are_shuffled_between_components():
    model = make("ae")
    rng = np.random.default_rng(0)
    sign = rng.choice([-6.0, 6.0], (400, 1))
    fitted = fit_density(np.float32(sign + rng.normal(size=(400, 3)) / 3), 2, seed=0)
    pixel = np.asarray(sample_fitted(model, fitted, 200, 0)).reshape(200, -1)
    side = pixel[:, 0] > np.median(pixel[:, 0])
    assert 60 < np.abs(np.diff(side.astype(int))).sum() < 140


def test_prior_samples_are_means_decoded_at_the_priors_codes():
    model, key = make("vae"), jax.random.key(7)
    samples = sample_prior(model, key, 3000)
    assert samples.shape == (3000, 4, 4, 1)
    z = np.random.default_rng(0).normal(size=(3000, 3))
    expected = np.asarray(model.decode(jnp.float32(z)).mean)
    np.testing.assert_allclose(samples.mean(0), expected.mean(0), atol=0.03)
    np.testing.assert_allclose(samples.std(0), expected.std(0), atol=0.03)


def test_temperature_draws_nearer_to_the_code_zero():
    model, key = make("vae"), jax.random.key(7)
    at_zero = model.decode(jnp.zeros((1, 3))).mean
    spread = [
        float(jnp.abs(sample_prior(model, key, 100, temperature=t) - at_zero).mean())
        for t in (0.0, 0.5, 1.0)
    ]
    assert spread[0] < 1e-6 < spread[1] < spread[2]


def test_prior_samples_know_their_labels():
    model, key = make("vae", attributes="A,B", prior="conditional"), jax.random.key(7)
    model.prior.linear.kernel[...] = jnp.ones((2, 6))
    yes = sample_prior(model, key, 50, jnp.asarray([1.0, 1.0]))
    no = sample_prior(model, key, 50, jnp.asarray([-1.0, -1.0]))
    unknown = sample_prior(model, key, 50)
    np.testing.assert_allclose(unknown, sample_prior(model, key, 50, jnp.zeros(2)))
    assert yes.shape == no.shape == unknown.shape == (50, 4, 4, 1)
    # The same noise through p(z|y), and y beside z in the decoder.
    noise = np.asarray(model.prior_of().sample(key, 50))
    z = 2.0 + np.exp(1.0) * noise
    expected = model.decode(jnp.float32(z), jnp.asarray([1.0, 1.0])).mean
    np.testing.assert_allclose(yes, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(yes, no, atol=1e-2)
