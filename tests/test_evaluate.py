import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import logsumexp

from vae_jax.evaluation import evaluate, metrics
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.models.objectives import beta_elbo

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 6, 4, 2), dtype=np.uint8)


@pytest.fixture(scope="module")
def model():
    return build.build_model(
        name="vae",
        latent_dim=3,
        hidden_dim=8,
        likelihood="gaussian",
        precision="fp32",
        image_shape=(6, 4, 2),
        rngs=nnx.Rngs(1),
    )


def evaluated(model, per_image, batch_size=4, images=IMAGES, seed=2):
    graphdef, params = build.split(model)
    evaluator = evaluate.build_evaluator(
        graphdef, per_image, seed=seed, batch_size=batch_size
    )
    return evaluator(params, images)


FIGURES = evaluate.objective_figures(beta_elbo(1.0))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_each_image_counts_once_whatever_the_batch(model, batch_size):
    figures = evaluated(model, FIGURES, batch_size)
    reference = evaluated(model, FIGURES, 5)
    for name, values in figures.items():
        assert values.shape == (11,)
        np.testing.assert_allclose(values, reference[name], rtol=1e-5)


def test_noise_belongs_to_the_image_not_to_its_place(model):
    all_of_them = evaluated(model, FIGURES)
    first_three = evaluated(model, FIGURES, images=IMAGES[:3])
    np.testing.assert_allclose(
        all_of_them["log_px"][:3], first_three["log_px"], rtol=1e-5
    )
    other_seed = evaluated(model, FIGURES, seed=3)
    assert not np.allclose(all_of_them["log_px"], other_seed["log_px"])
    np.testing.assert_allclose(all_of_them["kl"], other_seed["kl"], rtol=1e-5)


def test_figures_are_the_models_terms(model):
    figures = evaluated(model, FIGURES)
    for index in (0, 10):
        image = to_unit_interval(jnp.asarray(IMAGES[index : index + 1]))
        terms = model(image, key(2, Stream.EVALUATION, index))
        np.testing.assert_allclose(
            figures["log_px"][index], terms.log_px[0, 0], rtol=1e-5
        )
        expected = terms.log_px[0, 0] - terms.layers[0].kl.sum()
        np.testing.assert_allclose(figures["elbo"][index], expected, rtol=1e-5)
        mse = np.mean((terms.mean[0, 0] - image[0]) ** 2)
        np.testing.assert_allclose(figures["mse"][index], mse, rtol=1e-5)


@pytest.mark.parametrize(("samples", "chunk"), [(1, 1), (7, 3), (7, 7), (7, 16)])
def test_the_bound_is_the_log_of_the_mean_weight(model, samples, chunk):
    figures = evaluated(model, evaluate.bound_figures(samples, chunk))
    image_key = key(2, Stream.EVALUATION, 4)
    image = to_unit_interval(jnp.asarray(IMAGES[4:5]))
    weights = []
    for index in range(-(-samples // chunk)):
        terms = model(image, jax.random.fold_in(image_key, index), num_samples=chunk)
        weights.extend(np.float64(metrics.log_weights(terms)[:, 0]))
    expected = logsumexp(weights[:samples]) - np.log(samples)
    np.testing.assert_allclose(figures["iw_bound"][4], expected, rtol=1e-5)


def test_the_bound_rises_from_the_elbo(model):
    elbo = evaluated(model, FIGURES)["elbo"].mean()
    few, many = (
        evaluated(model, evaluate.bound_figures(k, 50))["iw_bound"].mean()
        for k in (5, 500)
    )
    assert elbo < few < many


def test_log_weights_never_use_the_analytic_kl(model):
    image = to_unit_interval(jnp.asarray(IMAGES[:2]))
    terms = model(image, jax.random.key(0), num_samples=4)
    (latent,) = terms.layers
    broken = terms.replace(
        layers=(latent.replace(kl=jnp.full_like(latent.kl, jnp.nan)),)
    )
    expected = terms.log_px + latent.log_pz - latent.log_qz
    np.testing.assert_allclose(metrics.log_weights(broken), expected, rtol=1e-6)


def test_bits_per_dim_of_a_uniform_guess_is_eight(model):
    # A decoder that spreads its mass evenly over the levels needs 8 bits, and a
    # posterior at the prior costs nothing.
    image = to_unit_interval(jnp.asarray(IMAGES[:2]))
    terms = model(image, jax.random.key(0))
    (latent,) = terms.layers
    pixels = 6 * 4 * 2
    guess = terms.replace(
        log_mass=jnp.full((1, 2), -pixels * jnp.log(256.0)),
        layers=(latent.replace(kl=jnp.zeros_like(latent.kl)),),
    )
    np.testing.assert_allclose(metrics.bits_per_dim(guess), 8, rtol=1e-6)
    costly = guess.replace(layers=(latent.replace(kl=jnp.ones_like(latent.kl)),))
    extra = 3 / (pixels * np.log(2))
    np.testing.assert_allclose(metrics.bits_per_dim(costly), 8 + extra, rtol=1e-6)


def test_means_are_taken_in_double_precision():
    values = np.full(2**20, 0.1, np.float32)
    values[0] = 2**24
    expected = (2**24 + (2**20 - 1) * np.float64(np.float32(0.1))) / 2**20
    assert evaluate.means({"x": values})["x"] == pytest.approx(expected, rel=1e-12)
