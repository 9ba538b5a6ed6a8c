import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats
from scipy.special import logsumexp

from vae_jax.config import default_config
from vae_jax.data.cache import Split
from vae_jax.evaluation import evaluate
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.elbo import bits_per_dim, log_weights
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.models.objectives import Objective, beta_elbo, capacity_elbo
from vae_jax.models.penalised_elbos import mmd_elbo

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 6, 4, 2), dtype=np.uint8)
ATTRIBUTES = np.random.default_rng(1).uniform(size=(11, 4)) < 0.5


def make(attributes=""):
    settings = default_config().model
    settings.latent_dim, settings.hidden_dim = 3, 8
    settings.attributes = attributes
    return build.build_model(
        settings,
        precision="fp32",
        image_shape=(6, 4, 2),
        rngs=nnx.Rngs(1),
    )


@pytest.fixture(scope="module")
def model():
    return make()


def evaluated(model, per_image, batch_size=4, images=IMAGES, seed=2, label_columns=()):
    graphdef, variables = build.split(model)
    evaluator = evaluate.build_evaluator(
        graphdef,
        per_image,
        seed=seed,
        batch_size=batch_size,
        label_columns=label_columns,
    )
    return evaluator(variables, Split(images, ATTRIBUTES[: len(images)]))


FIGURES = evaluate.objective_figures(beta_elbo(1.0))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_each_image_counts_once_whatever_the_batch(model, batch_size):
    figures = evaluated(model, FIGURES, batch_size)
    reference = evaluated(model, FIGURES, 5)
    for name, values in figures.items():
        assert values.shape == ((11, 3) if name == "kl_by_dimension" else (11,))
        # A dimension's KL near 0 is a difference of numbers near 1.
        atol = 1e-6 if name == "kl_by_dimension" else 0
        np.testing.assert_allclose(values, reference[name], rtol=1e-5, atol=atol)


def test_noise_belongs_to_the_image_not_to_its_place(model):
    all_of_them = evaluated(model, FIGURES)
    first_three = evaluated(model, FIGURES, images=IMAGES[:3])
    np.testing.assert_allclose(
        all_of_them["log_px"][:3], first_three["log_px"], rtol=1e-5
    )
    other_seed = evaluated(model, FIGURES, seed=3)
    assert not np.allclose(all_of_them["log_px"], other_seed["log_px"])
    np.testing.assert_allclose(all_of_them["kl"], other_seed["kl"], rtol=1e-5)


@pytest.mark.slow
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


def test_codes_are_the_modes_that_encoding_returns(model):
    figures = evaluated(model, evaluate.autoencoder_figures(1, 1))
    codes = model.encode(to_unit_interval(jnp.asarray(IMAGES)))
    expected = np.reshape(codes, (len(IMAGES), -1))
    np.testing.assert_allclose(figures["code"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "chunk"), [(1, 1), (7, 3), (7, 7), (7, 16)])
def test_the_bound_is_the_log_of_the_mean_weight(model, samples, chunk):
    figures = evaluated(model, evaluate.bound_figures(samples, chunk))
    image_key = key(2, Stream.EVALUATION, 4)
    image = to_unit_interval(jnp.asarray(IMAGES[4:5]))
    weights = []
    for index in range(-(-samples // chunk)):
        terms = model(image, jax.random.fold_in(image_key, index), num_samples=chunk)
        weights.extend(np.float64(log_weights(terms)[:, 0]))
    expected = logsumexp(weights[:samples]) - np.log(samples)
    np.testing.assert_allclose(figures["iw_bound"][4], expected, rtol=1e-5)


@pytest.mark.slow
def test_the_bound_rises_from_the_elbo(model):
    elbo = evaluated(model, FIGURES)["elbo"].mean()
    few, many = (
        evaluated(model, evaluate.bound_figures(k, 50))["iw_bound"].mean()
        for k in (5, 500)
    )
    assert elbo < few < many


@pytest.mark.slow
def test_log_weights_never_use_the_analytic_kl(model):
    image = to_unit_interval(jnp.asarray(IMAGES[:2]))
    terms = model(image, jax.random.key(0), num_samples=4)
    (layer,) = terms.layers
    broken = terms.replace(layers=(layer.replace(kl=jnp.full_like(layer.kl, jnp.nan)),))
    z, mean = np.float64(terms.code), np.float64(layer.posterior.mean)
    std = np.exp(0.5 * np.float64(layer.posterior.logvar))
    log_ratio = (stats.norm.logpdf(z) - stats.norm.logpdf(z, mean, std)).sum(-1)
    expected = np.float64(terms.log_px) + log_ratio
    np.testing.assert_allclose(log_weights(broken), expected, rtol=1e-6)


@pytest.mark.slow
def test_bits_per_dim_of_a_uniform_guess_is_eight(model):
    # A decoder that spreads its mass evenly over the levels needs 8 bits, and a
    # posterior at the prior costs nothing.
    image = to_unit_interval(jnp.asarray(IMAGES[:2]))
    terms = model(image, jax.random.key(0))
    (layer,) = terms.layers
    pixels = 6 * 4 * 2
    guess = terms.replace(
        log_mass=jnp.full((1, 2), -pixels * jnp.log(256.0)),
        layers=(layer.replace(kl=jnp.zeros_like(layer.kl)),),
    )
    np.testing.assert_allclose(bits_per_dim(guess), 8, rtol=1e-6)
    costly = guess.replace(layers=(layer.replace(kl=jnp.ones_like(layer.kl)),))
    extra = 3 / (pixels * np.log(2))
    np.testing.assert_allclose(bits_per_dim(costly), 8 + extra, rtol=1e-6)


@pytest.mark.slow
def test_a_conditional_model_sees_each_images_own_labels():
    model = make("Smiling,Male")
    for per_image in (FIGURES, evaluate.bound_figures(3, 2)):
        figures = evaluated(model, per_image, label_columns=(3, 1))
        for index in (0, 10):
            image = to_unit_interval(jnp.asarray(IMAGES[index]))
            labels = jnp.where(jnp.asarray(ATTRIBUTES[index, [3, 1]]), 1.0, -1.0)
            image_key = key(2, Stream.EVALUATION, index)
            for name, expected in per_image(model, image, labels, image_key).items():
                np.testing.assert_allclose(figures[name][index], expected, rtol=1e-5)
            other = per_image(model, image, -labels, image_key)
            name = "log_px" if "log_px" in other else "iw_bound"
            assert not np.allclose(figures[name][index], other[name])


def test_means_are_taken_in_double_precision():
    values = np.full(2**20, 0.1, np.float32)
    values[0] = 2**24
    expected = (2**24 + (2**20 - 1) * np.float64(np.float32(0.1))) / 2**20
    objective = Objective(lambda terms, images: {}, lambda means, step: means["x"])
    means = evaluate.means(objective, {"x": values})
    assert means["x"] == pytest.approx(expected, rel=1e-12)
    assert means["loss"] == pytest.approx(expected, rel=1e-6)


def test_means_give_the_loss_of_the_whole_split_with_its_schedules_at_their_end(model):
    figures = evaluated(model, FIGURES)
    kl, log_px = (np.float64(figures[name]).mean() for name in ("kl", "log_px"))
    by_dimension = np.float64(figures["kl_by_dimension"]).mean(axis=0)
    bits = float(np.median(by_dimension))
    for objective, loss in (
        (beta_elbo(3.0, kl_warmup_steps=10**6), 3 * kl - log_px),
        # The bound is on the split's means, not on each image's KL.
        (beta_elbo(free_bits=bits), np.maximum(by_dimension, bits).sum() - log_px),
        (capacity_elbo(2.0, gamma=5.0, capacity_steps=10**6), 5 * abs(kl - 2) - log_px),
        # A penalty is of training.
        (mmd_elbo(0.5, mmd_weight=100.0), 0.5 * kl - log_px),
    ):
        means = evaluate.means(objective, figures)
        assert means["loss"] == pytest.approx(loss, rel=1e-5)
        assert means["elbo"] == pytest.approx(log_px - kl, rel=1e-6)
        assert set(means) == {"loss", "elbo", "kl", "log_px", "mse"}
