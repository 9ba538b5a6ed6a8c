"""A model whose evidence and posterior are known: x = W z + b + noise, all Gaussian.

W's columns are orthogonal, so that the exact posterior has a diagonal covariance and
belongs to the family of the encoder. Everything in float64, through the real `VAE`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from vae_jax.evaluation.evaluate import bound_figures, objective_figures
from vae_jax.models.elbo import kl_per_image, log_weights
from vae_jax.models.likelihoods import Gaussian
from vae_jax.models.objectives import beta_elbo, importance_weighted
from vae_jax.models.priors import MixtureOfGaussians, StandardNormal
from vae_jax.models.vae import VAE

NOISE = 0.4
# Six pixels, two latent dimensions.
W = np.array([[1.0, 0.5], [-0.5, 1.0], [0.2, 0], [0, 0.3], [0, 0], [0, 0]])
B = np.array([0.5, 0.4, 0.1, 0.9, 0.3, 0.6])
SHAPE = (2, 3, 1)
# The covariance of the exact posterior, (I + W'W / noise^2)^-1.
PRECISION = np.eye(2) + W.T @ W / NOISE**2
VARIANCE = 1 / np.diag(PRECISION)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Encoder(nnx.Module):
    """The exact posterior, or one that is wrong by a shift and a factor."""

    def __init__(self, shift=0.0, factor=1.0):
        gain = np.diag(VARIANCE) @ W.T / NOISE**2
        self.gain = nnx.Param(jnp.asarray(gain))
        self.offset = nnx.Param(jnp.asarray(shift - gain @ B))
        self.logvar = nnx.Param(jnp.log(jnp.asarray(factor * VARIANCE)))

    def __call__(self, images, labels):
        mean = images.reshape(len(images), -1) @ self.gain[...].T + self.offset[...]
        logvar = jnp.broadcast_to(self.logvar[...], mean.shape)
        return jnp.concatenate([mean, logvar], axis=-1)


class Decoder(nnx.Module):
    def __call__(self, z):
        maps = z @ jnp.asarray(W.T) + jnp.asarray(B)
        return (maps.reshape(*z.shape[:-1], *SHAPE),)


class Likelihood(nnx.Module):
    """The pixels' mean is the map itself: nothing that squashes is linear."""

    num_maps = 1

    def __call__(self, maps):
        return Gaussian(maps[0], jnp.asarray(NOISE))


def model(shift=0.0, factor=1.0, prior=None):
    prior = prior or StandardNormal(2)
    return VAE(Encoder(shift, factor), Decoder(), Likelihood(), prior, (2,))


@functools.partial(jax.jit, static_argnames="num_samples")
def terms_of(vae, images, key, num_samples):
    return vae(images, key, num_samples=num_samples)


def draw_images(num_images):
    rng = np.random.default_rng(3)
    z = rng.normal(size=(num_images, 2))
    x = z @ W.T + B + NOISE * rng.normal(size=(num_images, 6))
    return jnp.asarray(x.reshape(-1, *SHAPE))


def evidence(images):
    covariance = W @ W.T + NOISE**2 * np.eye(6)
    flat = np.asarray(images).reshape(-1, 6)
    return np.atleast_1d(stats.multivariate_normal.logpdf(flat, B, covariance))


def sampled(terms):
    (layer,) = terms.layers
    return terms.replace(layers=(layer.replace(kl=None),))


def test_the_exact_posterior_is_diagonal_and_in_the_encoders_family():
    np.testing.assert_allclose(PRECISION, np.diag(np.diag(PRECISION)), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [1, 5, 50])
def test_bounds_are_the_evidence_at_the_exact_posterior(num_samples):
    images = draw_images(8)
    terms = terms_of(model(), images, jax.random.key(0), num_samples=num_samples)
    assert terms.log_px is not None and terms.log_px.dtype == jnp.float64
    expected = evidence(images)
    # Not on average: every weight of every sample is the evidence.
    np.testing.assert_allclose(
        log_weights(terms), np.tile(expected, (num_samples, 1)), atol=1e-9
    )
    elbo = beta_elbo().figures(sampled(terms), images)["elbo"]
    iwae = importance_weighted(num_samples).figures(terms, images)["iwae"]
    np.testing.assert_allclose(elbo, expected, atol=1e-9)
    np.testing.assert_allclose(iwae, expected, atol=1e-9)


def test_the_elbo_by_the_analytic_kl_is_the_evidence_on_average():
    images = draw_images(4)
    terms = terms_of(model(), images, jax.random.key(0), num_samples=40_000)
    log_px = np.asarray(terms.log_px)
    error = log_px.std(0) / np.sqrt(len(log_px))
    elbo = beta_elbo().figures(terms, images)["elbo"]
    assert (np.abs(elbo - evidence(images)) < 4 * error).all()
    assert (error < 0.01).all()


def test_a_wrong_posterior_costs_its_divergence_from_the_exact_one():
    images = draw_images(4)
    shift, factor = np.array([0.3, -0.2]), 2.0
    terms = terms_of(
        model(shift, factor), images, jax.random.key(0), num_samples=40_000
    )
    gap = 0.5 * np.sum(factor + shift**2 / VARIANCE - 1 - np.log(factor))
    assert gap > 0.5
    for kind in (terms, sampled(terms)):
        weights = np.asarray(terms.log_px) + (
            0 if kind is terms else np.asarray(kind.layers[0].log_ratio)
        )
        error = weights.std(0) / np.sqrt(len(weights))
        elbo = beta_elbo().figures(kind, images)["elbo"]
        assert (np.abs(elbo - (evidence(images) - gap)) < 5 * error).all()
        assert (error < 0.02).all()


@pytest.mark.slow
def test_more_importance_samples_come_closer_to_the_evidence_from_below():
    # Copies of one image, for the mean over samples of each copy's own.
    image = draw_images(1)
    wrong = model(np.array([0.4, -0.3]), 1.5)
    expected = evidence(image)[0]
    bounds, errors = [], []
    for k, copies in ((1, 4000), (5, 4000), (50, 2000), (500, 1000)):
        images = jnp.tile(image, (copies, 1, 1, 1))
        terms = terms_of(wrong, images, jax.random.key(k), num_samples=k)
        iwae = importance_weighted(k).figures(terms, images)["iwae"]
        bounds.append(float(iwae.mean()))
        errors.append(float(iwae.std()) / np.sqrt(copies))
    steps = np.diff(bounds)
    assert (steps > 3 * np.hypot(errors[1:], errors[:-1])).all(), (bounds, errors)
    assert expected - 0.02 < bounds[-1] < expected
    # k = 1 is the ELBO, whose gap is known.
    gap = 0.5 * np.sum(1.5 + np.array([0.4, -0.3]) ** 2 / VARIANCE - 1 - np.log(1.5))
    assert abs(bounds[0] - (expected - gap)) < 5 * errors[0]


@pytest.mark.slow
def test_evaluations_bounds_are_the_evidence_at_the_exact_posterior():
    images = draw_images(3)
    keys = jax.random.split(jax.random.key(0), 3)
    for num_samples, chunk in ((1, 1), (5, 2), (8, 8)):
        per_image = functools.partial(bound_figures(num_samples, chunk), model())
        figures = jax.jit(jax.vmap(lambda i, k, f=per_image: f(i, None, k)))(
            images, keys
        )
        np.testing.assert_allclose(figures["iw_bound"], evidence(images), atol=1e-9)


@pytest.mark.slow
def test_evaluations_bound_does_not_depend_on_how_the_samples_are_chunked():
    # 4000 samples whole and in chunks of which the last is cut short.
    image, wrong = draw_images(1)[0], model(np.array([0.3, -0.2]), 1.5)
    for chunk in (4000, 900):
        bound = bound_figures(4000, chunk)(wrong, image, None, jax.random.key(1))
        np.testing.assert_allclose(
            bound["iw_bound"], evidence(image[None])[0], atol=0.05
        )


@pytest.mark.slow
def test_evaluations_elbo_is_the_objectives():
    images, key = draw_images(1), jax.random.key(5)
    wrong = model(0.3, 1.5)
    objective = beta_elbo(num_samples=3)
    figures = objective_figures(objective)(wrong, images[0], None, key)
    terms = terms_of(wrong, images, key, num_samples=3)
    np.testing.assert_allclose(
        figures["elbo"],
        np.mean(terms.log_px, 0)[0] - kl_per_image(terms)[0],
        atol=1e-9,
    )


def test_a_prior_of_which_the_standard_normal_is_a_case_changes_no_bound():
    # A mixture of equal components: the KL is then sampled, the weights are the same.
    prior = MixtureOfGaussians(2, 3, rngs=nnx.Rngs(0))
    prior.mean[...] = jnp.zeros((3, 2))
    images = draw_images(4)
    terms = terms_of(model(prior=prior), images, jax.random.key(0), num_samples=5)
    assert terms.layers[0].kl is None
    elbo = beta_elbo().figures(terms, images)["elbo"]
    np.testing.assert_allclose(elbo, evidence(images), atol=1e-9)
