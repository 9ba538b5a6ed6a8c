import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from vae_jax.config import default_config
from vae_jax.models import build
from vae_jax.models.elbo import kl_per_image
from vae_jax.models.losses import mean_squared_error
from vae_jax.models.objectives import beta_elbo


@functools.cache
def make(name, size=8, channels=3, precision="fp32", latent_dim=5, hidden_dim=7):
    settings = default_config().model
    settings.name = name
    settings.latent_dim, settings.hidden_dim = latent_dim, hidden_dim
    return build.build_model(
        settings,
        precision=precision,
        image_shape=(size, size, channels),
        rngs=nnx.Rngs(0),
    )


def count(model):
    return sum(a.size for a in jax.tree.leaves(build.split(model)[1]))


@pytest.mark.parametrize(
    ("name", "latent", "hidden", "parameters"),
    [("ae", 256, 2048, 17_834_240), ("vae", 100, 512, 6_454_472)],
)
def test_the_notebooks_parameter_counts(name, latent, hidden, parameters):
    model = nnx.eval_shape(
        lambda: make(name, 64, 1, latent_dim=latent, hidden_dim=hidden)
    )
    assert count(model) == parameters


@pytest.mark.slow
def test_initial_weights_are_lecun_normal_and_biases_zero():
    kernel = make("vae", 64, 1, hidden_dim=64).encoder.hidden.kernel[...]
    np.testing.assert_allclose(kernel.std(), 1 / np.sqrt(4096), rtol=0.02)
    for model in (make("ae"), make("vae")):
        _, variables = build.split(model)
        leaves = jax.tree_util.tree_leaves_with_path(variables.params)
        biases = [a for path, a in leaves if path[-1].key == "bias"]
        assert len(biases) == 4
        assert all((b == 0).all() for b in biases)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["ae", "vae"])
def test_parameters_and_outputs_are_float32_in_every_precision(name, precision):
    model = make(name, precision=precision)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    terms = model(images, jax.random.key(1))
    arrays = jax.tree.leaves((build.split(model)[1], terms))
    assert {a.dtype for a in arrays} == {jnp.dtype("float32")}
    full = make(name)(images, jax.random.key(1))
    difference = np.abs(terms.mean - full.mean).max()
    assert difference < 0.05
    assert (difference == 0) == (precision == "fp32")


@pytest.mark.slow
def test_autoencoder_is_the_notebooks_formula():
    model = make("ae")
    p = build.split(model)[1].params
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    images = jnp.asarray(images)

    def dense(x, layer):
        return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    hidden = np.maximum(dense(images.reshape(2, -1), p["encoder"]["hidden"]), 0)
    z = dense(hidden, p["encoder"]["head"])
    hidden = np.maximum(dense(z, p["decoder"]["hidden"]), 0)
    out = 1 / (1 + np.exp(-dense(hidden, p["decoder"]["head"])))
    np.testing.assert_allclose(model.encode(images), z, rtol=1e-4, atol=1e-5)
    terms = model(images, jax.random.key(0))
    np.testing.assert_allclose(terms.mean[0], out.reshape(images.shape), rtol=1e-4)
    loss, metrics = mean_squared_error()(
        model, images, None, jax.random.key(0), jnp.int32(0)
    )
    np.testing.assert_allclose(
        loss, np.mean((out - images.reshape(2, -1)) ** 2), rtol=1e-4
    )
    code_norm = metrics.pop("code_norm")
    np.testing.assert_allclose(code_norm, (z**2).sum(-1).mean() / 2, rtol=1e-4)
    assert metrics == {"loss": loss, "mse": loss}


def test_the_autoencoders_terms_owe_nothing_to_the_key():
    model = make("ae")
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    one, other = (model(images, jax.random.key(i), num_samples=3) for i in (1, 2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.mean.shape == (1, 2, 8, 8, 3) and one.code.shape == (1, 2, 5)
    assert one.layers == () and one.log_px is None and one.log_mass is None
    np.testing.assert_array_equal(one.code[0], model.encode(images))


@pytest.mark.slow
def test_the_autoencoders_penalties_are_of_its_decoder_alone():
    model = make("ae")
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    terms = model(images, jax.random.key(1))
    leaves = jax.tree.leaves(build.split(model)[1].params["decoder"])
    l2 = sum(np.sum(np.square(np.float64(leaf))) for leaf in leaves)
    squares = mean_squared_error(decoder_penalty="l2", decoder_weight=1.0)
    found = squares.penalty(model, terms, None, jax.random.key(1))
    np.testing.assert_allclose(found["penalty"], l2, rtol=1e-5)
    gradient = mean_squared_error(decoder_penalty="gradient", decoder_weight=1.0)

    def estimate(image, key):
        alone = model(image[None], jax.random.key(1))
        return gradient.penalty(model, alone, None, key)["penalty"]

    jacobian = jax.vmap(jax.jacobian(lambda z: model.decode(z).mean))(terms.code[0])
    keys = jax.random.split(jax.random.key(3), 2000)
    estimates = jax.vmap(jax.vmap(estimate, (0, None)), (None, 0))(images, keys)
    assert not np.allclose(estimates[0], estimates[1])
    np.testing.assert_allclose(
        estimates.mean(axis=0), np.square(jacobian).sum((1, 2, 3, 4)), rtol=0.05
    )


@pytest.mark.slow
def test_vae_terms_agree_with_their_definitions():
    model = make("vae")
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    terms = model(images, jax.random.key(1), num_samples=3)
    (layer,), z = terms.layers, terms.code
    assert z.shape == (3, 4, 5)
    assert terms.mean.shape == (3, 4, 8, 8, 3)
    px = model.decode(z)
    np.testing.assert_allclose(terms.mean, px.mean, rtol=1e-5)
    np.testing.assert_allclose(terms.log_px, px.log_prob(images), rtol=1e-5)
    np.testing.assert_allclose(terms.log_mass, px.log_mass(images), rtol=1e-5)
    posterior = model.posterior(images)
    np.testing.assert_allclose(layer.posterior.mean, posterior.mean, rtol=1e-5)
    np.testing.assert_allclose(layer.posterior.logvar, posterior.logvar, rtol=1e-5)
    assert not np.allclose(z[0], z[1])
    mean, std = np.float64(posterior.mean), np.exp(0.5 * np.float64(posterior.logvar))
    log_qz = stats.norm.logpdf(np.float64(z), mean, std).sum(-1)
    log_pz = stats.norm.logpdf(np.float64(z)).sum(-1)
    np.testing.assert_allclose(layer.log_ratio, log_pz - log_qz, rtol=1e-4, atol=1e-5)
    kl = 0.5 * (mean**2 + std**2 - 1 - 2 * np.log(std)).sum(-1)
    np.testing.assert_allclose(kl_per_image(terms), kl, rtol=1e-5)


@pytest.mark.slow
def test_objective_weighs_the_kl_and_reports_the_plain_elbo():
    model = make("vae")
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    terms = model(images, jax.random.key(1))
    given = (model, images, None, jax.random.key(1), jnp.int32(0))
    plain, plain_metrics = beta_elbo(1.0)(*given)
    heavy, heavy_metrics = beta_elbo(4.0)(*given)
    kl, log_px = plain_metrics["kl"], plain_metrics["log_px"]
    np.testing.assert_allclose(plain, -plain_metrics["elbo"], rtol=1e-6)
    np.testing.assert_allclose(heavy - plain, 3 * kl, rtol=1e-4)
    np.testing.assert_allclose(heavy_metrics["elbo"], log_px - kl, rtol=1e-6)
    # Sums over pixels, means over images.
    np.testing.assert_allclose(log_px, terms.log_px.mean(), rtol=1e-6)


@pytest.mark.slow
def test_a_kl_that_is_not_analytic_is_sampled():
    model = make("vae")
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    terms = model(images, jax.random.key(1), num_samples=2)
    (layer,) = terms.layers
    sampled = terms.replace(layers=(layer.replace(kl=None), layer))
    expected = layer.kl.sum(-1) - np.mean(layer.log_ratio, axis=0)
    np.testing.assert_allclose(kl_per_image(sampled), expected, rtol=1e-5)


def test_the_code_of_an_image_is_the_posteriors_mean():
    model = make("vae")
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    features = model.encoder(images, jnp.zeros((2, 0)))
    np.testing.assert_array_equal(model.encode(images), features[:, :5])
    np.testing.assert_array_equal(model.posterior(images).logvar, features[:, 5:])


def test_split_refuses_state_that_the_step_would_lose():
    with pytest.raises(
        ValueError, match="Dropout|RngStream|unmatched|filter|Non-exhaustive"
    ):
        build.split(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
