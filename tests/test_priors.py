"""Priors and posteriors against scipy, integrals, and their own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special, stats

from vae_jax.config import default_config
from vae_jax.models import build, penalised_elbos
from vae_jax.models.objectives import beta_elbo
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.priors import ConditionalNormal, Mixture, StandardNormal

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEAN = np.array([[-1.5, 0.0], [1.0, 2.0], [0.0, -2.0]])
LOGVAR = np.array([[-1.0, 0.5], [0.0, -2.0], [0.3, -0.5]])


def standard_normal(latent_dim):
    def encode(images):
        raise AssertionError("it needs no encoder")

    return StandardNormal(latent_dim)(encode, jnp.zeros(0))


def posterior():
    rng = np.random.default_rng(1)
    mean, logvar = rng.normal(size=(2, 3, 5)).astype(np.float32)
    return DiagonalGaussian(jnp.asarray(mean), jnp.asarray(2 * logvar))


def mixture() -> Mixture:
    # Any constant may be added to the logits.
    logits = jnp.asarray(np.log(WEIGHTS) + 1.7, jnp.float32)
    components = DiagonalGaussian(jnp.float32(MEAN), jnp.float32(LOGVAR))
    return Mixture(logits, components)


def vae(**settings):
    config = default_config().model
    config.update({"latent_dim": 3, "hidden_dim": 6, "prior_components": 4, **settings})
    return build.build_model(
        config, precision="fp32", image_shape=(4, 4, 1), rngs=nnx.Rngs(0)
    )


def images(batch=5):
    return jax.random.uniform(jax.random.key(9), (batch, 4, 4, 1))


def log_density(z, weights, mean, logvar):
    each = stats.norm.logpdf(z[..., None, :], mean, np.exp(0.5 * logvar)).sum(-1)
    return special.logsumexp(each, b=weights, axis=-1)


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
    closed = np.asarray(prior.kl_from(q).sum(-1))
    assert (np.abs(samples.mean(axis=0) - closed) < 4 * error + 1e-4).all()


def test_kl_is_zero_at_the_prior_and_positive_beside_it():
    zero, off = jnp.zeros((1, 3)), jnp.full((1, 3), 0.5)
    prior = standard_normal(3)
    np.testing.assert_array_equal(prior.kl_from(DiagonalGaussian(zero, zero)), 0)
    for q in (DiagonalGaussian(off, zero), DiagonalGaussian(zero, off)):
        assert (prior.kl_from(q) > 0).all()
    assert (prior.kl_from(DiagonalGaussian(zero, -off)) > 0).all()


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


def test_mixtures_density_is_scipys():
    z = 3 * np.random.default_rng(0).normal(size=(4, 5, 2))
    expected = log_density(z, WEIGHTS, MEAN, LOGVAR)
    np.testing.assert_allclose(mixture().log_prob(jnp.float32(z)), expected, rtol=1e-5)


def test_mixtures_density_integrates_to_one():
    grid = np.linspace(-8, 8, 401, dtype=np.float32)
    z = jnp.asarray(np.stack(np.meshgrid(grid, grid), axis=-1))
    total = np.exp(np.float64(mixture().log_prob(z))).sum() * (16 / 400) ** 2
    assert abs(total - 1) < 1e-4


def test_mixtures_samples_have_its_moments_and_marginals():
    z = np.asarray(mixture().sample(jax.random.key(0), 50_000))
    assert z.shape == (50_000, 2)
    mean = WEIGHTS @ MEAN
    second = np.einsum("k,ki,kj->ij", WEIGHTS, MEAN, MEAN)
    covariance = second - np.outer(mean, mean) + np.diag(WEIGHTS @ np.exp(LOGVAR))
    np.testing.assert_allclose(z.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.05)
    for d in range(2):
        std = np.exp(0.5 * LOGVAR[:, d])

        def cdf(x, d=d, std=std):
            return stats.norm.cdf(x[:, None], MEAN[:, d], std) @ WEIGHTS

        assert stats.kstest(z[:, d], cdf).pvalue > 1e-3


@pytest.mark.slow
def test_mixture_of_gaussians_learns_means_variances_and_weights():
    model = vae(prior="mixture")
    graphdef, variables = build.split(model)

    def loss(variables):
        model, key = build.merge(graphdef, variables), jax.random.key(0)
        return beta_elbo()(model, images(), None, key, jnp.int32(0))[0]

    slopes = jax.jit(jax.grad(loss))(variables).params["prior"]
    assert set(slopes) == {"mean", "logvar", "logits"}
    assert all((s != 0).all() for s in slopes.values())
    # log_softmax: raising all logits alike is no change.
    np.testing.assert_allclose(slopes["logits"].sum(), 0, atol=1e-5)


@pytest.mark.slow
def test_vamps_density_is_the_mean_of_posteriors_at_its_pseudo_inputs():
    model = vae(prior="vamp")
    pseudo = model.prior.pseudo_inputs[...]
    assert pseudo.shape == (4, 4, 4, 1)
    posterior = model.posterior(jax.nn.sigmoid(pseudo))
    z = np.random.default_rng(0).normal(size=(2, 5, 3))
    expected = log_density(
        z,
        np.full(4, 0.25),
        np.float64(posterior.mean),
        np.float64(posterior.logvar),
    )
    actual = model.prior_of().log_prob(jnp.float32(z))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_vamps_pseudo_inputs_and_the_encoder_learn_from_the_prior():
    graphdef, variables = build.split(vae(prior="vamp"))
    z = jax.random.normal(jax.random.key(0), (6, 3))

    def loss(variables):
        return build.merge(graphdef, variables).prior_of().log_prob(z).sum()

    slopes = jax.jit(jax.grad(loss))(variables).params
    by_image = jnp.abs(slopes["prior"]["pseudo_inputs"]).sum((1, 2, 3))
    assert (by_image > 0).all()
    assert (slopes["encoder"]["head"]["bias"] != 0).any()
    assert all((s == 0).all() for s in jax.tree.leaves(slopes["decoder"]))


def test_vamps_kl_is_unbiased():
    model, x = vae(prior="vamp"), images(2)
    model.prior.pseudo_inputs[...] = 3 * model.prior.pseudo_inputs[...]
    # Posteriors as wide apart as those of a trained model.
    model.encoder.head.kernel[...] = 6 * model.encoder.head.kernel[...]
    terms = jax.jit(lambda m: m(x, jax.random.key(0), num_samples=20_000))(model)
    assert terms.layers[0].kl is None
    draws = -np.asarray(terms.layers[0].log_ratio)
    figures = beta_elbo().figures(terms, x)
    np.testing.assert_allclose(figures["kl"], draws.mean(0), rtol=1e-4)
    assert "kl_by_dimension" not in figures
    # By hand, from the numbers of the encoder alone and other noise.
    pseudo = jax.nn.sigmoid(model.prior.pseudo_inputs[...])
    q, p = model.posterior(x), model.posterior(pseudo)
    q_mean, q_std = np.float64(q.mean), np.exp(0.5 * np.float64(q.logvar))
    z = q_mean + q_std * np.random.default_rng(0).normal(size=(20_000, 2, 3))
    by_hand = stats.norm.logpdf(z, q_mean, q_std).sum(-1) - log_density(
        z, np.full(4, 0.25), np.float64(p.mean), np.float64(p.logvar)
    )
    error = (draws.std(0) + by_hand.std(0)) / np.sqrt(20_000)
    assert (np.abs(figures["kl"] - by_hand.mean(0)) < 4 * error).all()
    assert (by_hand.mean(0) > 0).all()


def test_conditional_prior_starts_as_the_standard_normal_for_every_label():
    prior = ConditionalNormal(3, 2, rngs=nnx.Rngs(0))
    pz = prior(lambda x: x, jnp.asarray([[1.0, -1.0], [0.0, 1.0]]))
    np.testing.assert_array_equal(pz.mean, np.zeros((2, 3)))
    np.testing.assert_array_equal(pz.logvar, np.zeros((2, 3)))


@pytest.mark.slow
def test_conditional_priors_kl_is_the_one_between_two_gaussians():
    model = vae(prior="conditional", attributes="A,B")
    model.prior.linear.kernel[...] = 0.7 * jax.random.normal(jax.random.key(4), (2, 6))
    model.prior.linear.bias[...] = 0.3 * jax.random.normal(jax.random.key(5), (6,))
    x, labels = images(3), jnp.asarray([[1.0, -1.0], [0.0, 1.0], [0.0, 0.0]])
    terms = jax.jit(lambda m: m(x, jax.random.key(0), labels, 40_000))(model)
    (layer,) = terms.layers
    features = np.float64(labels) @ np.float64(model.prior.linear.kernel[...])
    features += np.float64(model.prior.linear.bias[...])
    mean, std = features[:, :3], np.exp(0.5 * features[:, 3:])
    q_mean = np.float64(layer.posterior.mean)
    q_std = np.exp(0.5 * np.float64(layer.posterior.logvar))
    z = np.float64(terms.code[:50])
    log_pz = stats.norm.logpdf(z, mean, std).sum(-1)
    log_qz = stats.norm.logpdf(z, q_mean, q_std).sum(-1)
    np.testing.assert_allclose(
        model.prior_of(labels).log_prob(terms.code[:50]), log_pz, rtol=1e-4
    )
    np.testing.assert_allclose(
        layer.log_ratio[:50], log_pz - log_qz, rtol=1e-4, atol=1e-5
    )
    shift = q_mean - mean
    closed = np.log(std / q_std) + (q_std**2 + shift**2) / (2 * std**2) - 0.5
    np.testing.assert_allclose(layer.kl, closed, rtol=1e-3, atol=1e-4)
    draws = -np.float64(layer.log_ratio)
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - layer.kl.sum(-1)) < 4 * error + 1e-4).all()
    # Another label, another prior.
    assert not np.allclose(closed[0], closed[1])


@pytest.mark.slow
def test_what_mmd_compares_codes_with_are_draws_of_the_prior(monkeypatch):
    model = vae(prior="mixture")
    model.prior.mean[...] = model.prior.mean[...] + 4
    x, key, compared = images(2000), jax.random.key(0), []

    def watched(codes, drawn, scale):
        compared.extend([codes, drawn])
        assert scale == 6
        return jnp.zeros(())

    monkeypatch.setattr(penalised_elbos, "mmd", watched)
    terms = model(x, key)
    penalised_elbos.mmd_elbo(1.0, mmd_weight=1.0).penalty(model, terms, None, key)
    codes, prior_z = compared
    np.testing.assert_array_equal(codes, terms.code[0])
    assert prior_z.shape == (2000, 3)
    # Their noise is not that of the codes.
    posterior = terms.layers[0].posterior
    noise = np.asarray((codes - posterior.mean) / posterior.std)
    assert np.abs(np.corrcoef(noise.T, prior_z.T)[:3, 3:]).max() < 0.12
    means = np.asarray(model.prior.mean[...])
    covariance = np.cov(means.T, bias=True) + np.eye(3)
    np.testing.assert_allclose(prior_z.mean(0), means.mean(0), atol=0.15)
    np.testing.assert_allclose(np.cov(prior_z.T), covariance, atol=0.3)
