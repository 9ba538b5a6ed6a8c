import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.priors import StandardNormal


def standard_normal(latent_dim):
    def encode(images):
        raise AssertionError("it needs no encoder")

    return StandardNormal(latent_dim)(encode, jnp.zeros(0))


def posterior():
    rng = np.random.default_rng(1)
    mean, logvar = rng.normal(size=(2, 3, 5)).astype(np.float32)
    return DiagonalGaussian(jnp.asarray(mean), jnp.asarray(2 * logvar))


def test_log_densities_are_scipys():
    q = posterior()
    z = jnp.asarray(np.random.default_rng(2).normal(size=(7, 3, 5)), jnp.float32)
    std = np.exp(0.5 * np.asarray(q.logvar))
    expected = stats.norm.logpdf(z, q.mean, std).sum(-1)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-4)
    expected = stats.norm.logpdf(z).sum(-1)
    np.testing.assert_allclose(standard_normal(5).log_prob(z), expected, rtol=1e-5)


def test_closed_form_kl_is_the_monte_carlo_kl():
    q, prior = posterior(), standard_normal(5)
    z = q.sample(jax.random.key(0), 200_000)
    samples = np.float64(q.log_prob(z) - prior.log_prob(z))
    error = samples.std(axis=0) / np.sqrt(len(samples))
    closed = np.asarray(q.kl(prior).sum(-1))
    assert (np.abs(samples.mean(axis=0) - closed) < 4 * error + 1e-4).all()


def test_kl_is_zero_at_the_prior_and_positive_beside_it():
    zero, off = jnp.zeros((1, 3)), jnp.full((1, 3), 0.5)
    prior = standard_normal(3)
    np.testing.assert_array_equal(DiagonalGaussian(zero, zero).kl(prior), 0)
    for q in (DiagonalGaussian(off, zero), DiagonalGaussian(zero, off)):
        assert (q.kl(prior) > 0).all()
    assert (DiagonalGaussian(zero, -off).kl(prior) > 0).all()


def test_posterior_samples_use_the_standard_deviation():
    q = DiagonalGaussian(jnp.full((1, 1), 3.0), jnp.full((1, 1), -2.0))
    z = q.sample(jax.random.key(0), 100_000)
    assert z.shape == (100_000, 1, 1)
    np.testing.assert_allclose(z.mean(), 3.0, atol=0.01)
    np.testing.assert_allclose(z.std(), np.exp(-1), rtol=0.01)


def test_prior_samples_are_standard_normal():
    z = np.asarray(standard_normal(2).sample(jax.random.key(0), 50_000))
    assert z.shape == (50_000, 2)
    assert stats.kstest(z[:, 0], "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.02
