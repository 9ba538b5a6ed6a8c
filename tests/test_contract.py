"""What every model keeps to, held against numpy: see models/contract.py."""

import functools
import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from vae_jax import run as run_lib
from vae_jax.config import default_config, validate
from vae_jax.data.cache import Split
from vae_jax.experiment import assemble
from vae_jax.models import build
from vae_jax.models import vae as vae_lib
from vae_jax.models.contract import (
    Autoencoder,
    DiscreteCodes,
    ImageDistribution,
    Prior,
    Quantizer,
    State,
    Variables,
    code_size,
    flatten,
    unflatten,
)
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.priors import Mixture
from vae_jax.training import step as step_lib

pytestmark = pytest.mark.slow

RECIPES = sorted(
    path.stem for path in (Path(__file__).parents[1] / "configs").glob("[!_]*.py")
)
NETWORKS = {
    "mlp": {"dataset.size": 8, "model.hidden_dim": 16},
    "conv": {"dataset.size": 16, "model.network": "conv", "model.width": 2},
    # Codes [B,4,4,3], of the one stage that 16 pixels have.
    "spatial": {
        "dataset.size": 16,
        "model.network": "conv",
        "model.width": 2,
        "model.code_size": 4,
    },
}
PRIORS = {
    "normal": {},
    "conditional": {"model.attributes": "A,B"},
    "mixture": {"model.prior_components": 3},
    "vamp": {"model.prior_components": 3},
}
OBJECTIVES = {
    "free bits": {"objective.free_bits": 0.01},
    "capacity": {"objective.name": "capacity"},
    "iwae": {"objective.name": "iwae", "objective.num_samples": 3},
    "mmd": {"objective.name": "mmd"},
    "tc": {"objective.name": "tc", "objective.beta": 3.0},
}
AE = {"model.name": "ae", "objective.name": "mse"}
STYLE = {
    "dataset.size": 32,
    "model.network": "conv",
    "model.width": 2,
    "model.skips": True,
    "model.decoder": "style",
}
# Maps of 4x4 codes, and of 8x8 above them.
VQ = {"dataset.size": 32, "model.code_size": 4, "model.codebook_size": 5}
LADDER = {
    "dataset.size": 16,
    "model.layers": "2:1,4:2",
    "model.widths": "2:6,4:4",
}
TRANSFORMER = {"model.prior_width": 8, "model.prior_depth": 1, "model.prior_heads": 2}
FLOW = {
    "model.prior": "flow",
    "model.prior_steps": 3,
    "objective.name": "flow",
    "parts.frozen": "encoder,decoder",
    "eval.importance_samples": 1,
}
CASES = {
    **{f"ae, {network}": NETWORKS[network] | AE for network in NETWORKS},
    **{
        f"vae, {network}, {prior}": NETWORKS[network]
        | PRIORS[prior]
        | {"model.prior": prior}
        for network in NETWORKS
        for prior in PRIORS
    },
    "ae, style": STYLE | AE,
    "vae, conv, mixture of logistics": NETWORKS["conv"]
    | {"model.likelihood": "logistic_mixture", "dataset.channels": 3},
    "vae, style by resolution, labels": STYLE
    | {"model.styles": "by_resolution", "model.attributes": "A,B"},
    "vae, mlp, labels": NETWORKS["mlp"] | {"model.attributes": "A,B"},
    **{
        f"vae, {network}, flow": NETWORKS[network] | FLOW | TRANSFORMER
        for network in ("mlp", "spatial")
    },
    "ae, mlp, flow, labels": NETWORKS["mlp"]
    | FLOW
    | TRANSFORMER
    | {"model.name": "ae", "model.attributes": "A,B"},
}
TRAINED_OTHERWISE = {
    "vq, two maps, masked": {
        "model.name": "vq",
        "objective.name": "quantised",
        "model.network": "conv",
        "model.width": 2,
        "model.two_maps": True,
        "model.prior": "masked",
        "init_from": "runs/vq_vae",
        "model.attributes": "A,B",
        **VQ,
        **TRANSFORMER,
    },
    **{f"{name}, mlp": NETWORKS["mlp"] | OBJECTIVES[name] for name in OBJECTIVES},
    **{
        f"rae, conv, {penalty}": NETWORKS["conv"]
        | {"model.name": "ae", "objective.name": "rae"}
        | {"objective.decoder_penalty": penalty}
        for penalty in ("l2", "gradient")
    },
}


def tiny(name):
    """Returns the config of a case or of a recipe, small enough for seconds."""
    if name in RECIPES:
        config = importlib.import_module(f"configs.{name}").get_config()
        network = config.model.network
        size = {"dataset.size": 16, "model.width": 2}
        changes = {
            "mlp": NETWORKS["mlp"],
            "conv": size,
            "strided": size,
            "ladder": LADDER,
        }[network]
        if config.model.decoder_patch == 2:
            # Its finest stage has half of the width.
            changes = changes | {"model.width": 4}
        if config.model.prior == "vamp":
            changes = changes | PRIORS["vamp"]
        if config.model.name == "vq":
            changes = changes | VQ
        if config.model.prior in ("transformer", "flow"):
            changes = changes | TRANSFORMER
        if config.model.attributes:
            changes = changes | PRIORS["conditional"]
    else:
        config, changes = default_config(), (CASES | TRAINED_OTHERWISE)[name]
    config.precision = "fp32"
    config.model.latent_dim = 3
    config.update_from_flattened_dict(changes)
    # As `resolve` leaves it.
    config.train.num_steps = 100
    validate(config)
    return config


@functools.cache
def made(name):
    """Returns an experiment and variables that no training starts from.

    New blocks and new priors are zeros, of which a fault could make zeros as well.
    """
    experiment, rng = assemble(tiny(name), 50), np.random.default_rng(0)

    def draw(array):
        inputs = np.prod(array.shape[:-1]) if len(array.shape) > 1 else 9
        return jnp.float32(rng.normal(size=array.shape) / np.sqrt(inputs))

    shapes = experiment.shapes
    # Of what is counted or squared, none is negative.
    state = jax.tree.map(lambda array: jnp.abs(draw(array)), shapes.state)
    return experiment, Variables(jax.tree.map(draw, shapes.params), state)


def model_of(name):
    experiment, variables = made(name)
    return build.merge(experiment.graphdef, variables)


def num_labels(name):
    return len(build.label_names(made(name)[0].config.model))


def images_of(name, batch=3):
    dataset = made(name)[0].config.dataset
    shape = (batch, dataset.size, dataset.size, dataset.channels)
    return jnp.float32(np.random.default_rng(1).uniform(size=shape))


def labels_of(name, batch=3):
    """Returns what is known of each image, None for a model without labels."""
    if not num_labels(name):
        return None
    signs = np.random.default_rng(2).choice([-1.0, 1.0], (batch, num_labels(name)))
    return jnp.float32(signs)


MODELS = [*CASES, *(name for name in RECIPES if tiny(name).model.name != "classifier")]
FLOWS = [name for name in MODELS if tiny(name).model.prior == "flow"]
WITH_PRIOR = [
    name
    for name in MODELS
    if tiny(name).model.name in ("vae", "hierarchical") and name not in FLOWS
]
# What is told labels with an autoencoder is its prior alone: test_flow_prior.py.
LABELLED = [
    name
    for name in MODELS
    if tiny(name).model.attributes and tiny(name).model.name != "ae"
]
every_model = pytest.mark.parametrize("name", MODELS)
every_prior = pytest.mark.parametrize("name", WITH_PRIOR)

# Programs, where calling a model outside would be one for each operation.
encode = jax.jit(
    lambda model, images, labels=None, key=None: model.encode(images, labels, key)
)
decode = jax.jit(lambda model, code, labels=None: model.decode(code, labels).mean)
posterior_of = jax.jit(lambda model, images, labels: model.posterior(images, labels))
prior_of = jax.jit(lambda model, labels: model.prior_of(labels))


@functools.partial(jax.jit, static_argnames="num_samples")
def terms_of(model, images, key, labels, num_samples):
    return model(images, key, labels, num_samples)


def assert_same_bits(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def assert_close(left, right, rtol=1e-4, atol=1e-5):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def at(tree, index):
    return jax.tree.map(lambda a: a[index], tree)


def shapes(tree):
    return jax.tree.map(lambda a: a.shape, tree)


@every_model
def test_codes_images_and_terms_have_their_shapes(name):
    model, images, labels = model_of(name), images_of(name), labels_of(name)
    assert isinstance(model, Autoencoder)
    code = encode(model, images, labels)
    settings = made(name)[0].config.model
    side = settings.code_size
    expected = (side, side, 3) if side else (3,)
    if settings.name == "vq":
        expected = (expected, (2 * side, 2 * side, 3))[: 1 + settings.two_maps]
    if settings.name == "hierarchical":
        expected = ((2, 2, 3), (4, 4, 3), (4, 4, 3))
    if isinstance(code, tuple):
        assert shapes(code) == tuple((3, *each) for each in expected)
    else:
        assert shapes(code) == (3, *expected)
    assert model.code_shape == expected
    numbers = np.concatenate(
        [np.asarray(leaf).reshape(3, -1) for leaf in jax.tree.leaves(code)], axis=-1
    )
    np.testing.assert_array_equal(flatten(code), numbers)
    assert numbers.shape[1] == code_size(model.code_shape)
    mean = decode(model, code, labels)
    assert mean.shape == images.shape and mean.dtype == jnp.float32
    assert 0 <= mean.min() < mean.max() <= 1
    terms = terms_of(model, images, jax.random.key(0), labels, num_samples=2)
    samples = 1 if settings.name in ("ae", "vq") else 2
    assert shapes(terms.code) == jax.tree.map(lambda leaf: (samples, *leaf.shape), code)
    assert terms.mean.shape == (samples, *images.shape)
    # They are decoded sample by sample and image by image.
    for index in range(samples):
        each = decode(model, at(terms.code, index), labels)
        np.testing.assert_allclose(terms.mean[index], each, rtol=1e-4, atol=1e-6)
    for layer in terms.layers:
        assert layer.log_ratio.shape == (samples, 3)
        if layer.posterior is None:
            # Of a stack all numbers of a layer are one group.
            assert layer.kl is None or layer.kl.shape == (3, 1)
            continue
        assert layer.posterior.mean.shape == layer.posterior.logvar.shape
        assert layer.posterior.mean.shape == numbers.shape
        assert layer.kl is None or layer.kl.shape == numbers.shape
        assert not np.allclose(terms.code[0], terms.code[1])
    for likelihood in filter(lambda a: a is not None, (terms.log_px, terms.log_mass)):
        assert likelihood.shape == (samples, 3)
    assert (terms.log_px is None) == (terms.log_mass is None)


@every_model
def test_a_key_draws_from_the_posterior_and_none_is_its_mean(name):
    model, images, labels = model_of(name), images_of(name), labels_of(name)
    code = encode(model, images, labels)
    keys = jax.random.split(jax.random.key(0), 4000)

    @jax.jit
    def draw(model, keys):
        one = lambda key: model.encode(images, labels, key)  # noqa: E731
        return jax.vmap(one)(keys)

    samples = draw(model, keys)
    # One by one as all together.
    for index in range(2):
        assert_close(at(samples, index), encode(model, images, labels, keys[index]))
    if made(name)[0].config.model.name == "hierarchical":
        # The first layer's posterior depends on no noise: its mean is the code.
        first, error = np.float64(samples[0]), 5 / np.sqrt(len(keys))
        assert (first.std(0) > 0.01).all()
        assert (abs(first.mean(0) - code[0]) < error * first.std(0)).all()
        return
    if not hasattr(model, "posterior"):
        assert_same_bits(encode(model, images, labels, keys[0]), code)
        assert_same_bits(at(samples, 0), at(samples, -1))
        return
    posterior = posterior_of(model, images, labels)
    numbers, mean = flatten(code), np.float64(posterior.mean)
    np.testing.assert_allclose(numbers, mean, rtol=1e-5, atol=1e-6)
    std = np.exp(0.5 * np.float64(posterior.logvar))
    noise = (np.float64(samples).reshape(len(keys), *mean.shape) - mean) / std
    # Five standard errors.
    np.testing.assert_allclose(noise.mean(0), 0, atol=5 / np.sqrt(len(keys)))
    np.testing.assert_allclose(noise.var(0), 1, atol=5 * np.sqrt(2 / len(keys)))
    # Each image and each number has noise of its own.
    correlation = np.corrcoef(noise.reshape(len(keys), -1)[:, :9].T)
    assert np.abs(correlation - np.eye(9)).max() < 5 / np.sqrt(len(keys))


@pytest.mark.parametrize("batch", [(3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize(
    "shape", [(5,), (2, 3, 4), ((2, 2, 3), (4,)), ((1,), (2, 3, 1), (2,))]
)
def test_numbers_go_into_codes_in_order_and_come_back(shape, batch):
    parts = [shape] if isinstance(shape[0], int) else list(shape)
    sizes = [int(np.prod(part)) for part in parts]
    assert code_size(shape) == sum(sizes)
    numbers = np.random.default_rng(0).normal(size=(*batch, sum(sizes)))
    numbers = numbers.astype(np.float32)
    code = unflatten(jnp.asarray(numbers), shape)
    assert isinstance(code, tuple) == (len(parts) > 1)
    leaves, first = jax.tree.leaves(code), 0
    for leaf, part, size in zip(leaves, parts, sizes, strict=True):
        own = numbers[..., first : first + size].reshape(*batch, *part)
        np.testing.assert_array_equal(leaf, own)
        first += size
    # `flatten` takes one axis of codes; of more, each along the others.
    back = flatten
    for _ in batch[1:]:
        back = jax.vmap(back)
    np.testing.assert_array_equal(back(code), numbers)


def known_prior(name, label):
    """Returns weights [K], means [K,N] and deviations [K,N] by numpy, in float64."""
    model, prior = model_of(name), made(name)[0].config.model.prior
    size = code_size(model.code_shape)
    if prior == "normal":
        return np.ones(1), np.zeros((1, size)), np.ones((1, size))
    if prior == "conditional":
        linear = model.prior.linear
        features = np.float64(label) @ np.float64(linear.kernel[...])
        features = features + np.float64(linear.bias[...])
        return np.ones(1), features[None, :size], np.exp(0.5 * features[None, size:])
    if prior == "mixture":
        weights = special.softmax(np.float64(model.prior.logits[...]))
        std = np.exp(0.5 * np.float64(model.prior.logvar[...]))
        return weights, np.float64(model.prior.mean[...]), std
    pseudo = special.expit(np.float64(model.prior.pseudo_inputs[...]))
    features = np.float64(model.encoder(jnp.float32(pseudo), jnp.zeros((3, 0))))
    mean, logvar = (half.reshape(3, -1) for half in np.split(features, 2, axis=-1))
    return np.full(3, 1 / 3), mean, np.exp(0.5 * logvar)


def known_label(name):
    labels = labels_of(name)
    return None if labels is None else labels[0]


def log_density(z, weights, mean, std):
    each = stats.norm.logpdf(np.float64(z)[..., None, :], mean, std).sum(-1)
    return special.logsumexp(each, b=weights, axis=-1)


@every_prior
def test_temperature_narrows_each_component_around_its_own_mean(name):
    weights, means, stds = known_prior(name, known_label(name))
    prior, key, number = (
        prior_of(model_of(name), known_label(name)),
        jax.random.key(5),
        20_000,
    )
    assert isinstance(prior, Prior)
    usual, cold, cool, warm = (
        np.asarray(prior.sample(key, number, *temperature))
        for temperature in ((), (0.0,), (0.7,), (1.0,))
    )
    assert usual.shape == (number, means.shape[1])
    assert_same_bits(warm, usual)
    # At 0 no sample is beside a mean, each of which is as frequent as it weighs.
    found, which, counts = np.unique(
        cold, axis=0, return_inverse=True, return_counts=True
    )
    assert len(found) == len(means)
    nearest = np.square(found[:, None] - means).sum(-1).argmin(1)
    assert sorted(nearest) == list(range(len(means)))
    np.testing.assert_allclose(found, means[nearest], rtol=1e-4, atol=1e-5)
    error = np.sqrt(weights * (1 - weights) / number)[nearest]
    assert (np.abs(counts / number - weights[nearest]) <= 5 * error).all()
    # The same key draws the same components.
    own = nearest[which.reshape(-1)]
    for samples, temperature in ((cool, 0.7), (usual, 1.0)):
        noise = (samples - means[own]) / stds[own]
        for component in range(len(means)):
            of_it = noise[own == component]
            bound = 5 * temperature / np.sqrt(of_it.size)
            assert abs(of_it.mean()) < bound
            assert abs(of_it.std() - temperature) < bound
        # Whatever the key does: the moments of the narrowed mixture.
        mean = weights @ means
        variance = weights @ ((temperature * stds) ** 2 + means**2) - mean**2
        error = np.sqrt(variance / number)
        assert (np.abs(samples.mean(0) - mean) < 5 * error + 1e-5).all()
        np.testing.assert_allclose(samples.var(0), variance, rtol=0.1)


@every_prior
def test_the_priors_moments_and_density_are_those_of_its_samples(name):
    weights, means, stds = known_prior(name, known_label(name))
    prior, number = prior_of(model_of(name), known_label(name)), 20_000
    samples = np.float64(prior.sample(jax.random.key(6), number))
    assert prior.mean.shape == prior.std.shape == (means.shape[1],)
    mean = weights @ means
    std = np.sqrt(weights @ (stds**2 + means**2) - mean**2)
    np.testing.assert_allclose(prior.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prior.std, std, rtol=1e-4)
    error = samples.std(0) / np.sqrt(number)
    assert (np.abs(samples.mean(0) - np.float64(prior.mean)) < 5 * error).all()
    np.testing.assert_allclose(samples.std(0), prior.std, rtol=0.05)
    density = prior.log_prob(jnp.float32(samples[:50]))
    expected = log_density(np.float32(samples[:50]), weights, means, stds)
    np.testing.assert_allclose(density, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["vq_vae", "vq_vae_2", "vq_prior", "vq, two maps, masked"]
)
def test_a_prior_over_indices_is_one_over_numbers(name):
    model, labels = model_of(name), labels_of(name)
    assert isinstance(model, DiscreteCodes)
    assert all(isinstance(each, Quantizer) for each in model.quantizers)
    prior, key = model.prior_of(labels), jax.random.key(5)
    assert isinstance(prior, Prior) and not hasattr(prior, "mean")
    size, batch = code_size(model.code_shape), () if labels is None else (3,)
    samples = prior.sample(key, 40)
    assert samples.shape == (40, *batch, size)
    # They are codes, and stand for themselves.
    indices = model.indices(unflatten(samples, model.code_shape))
    assert indices.min() >= 0 and indices.max() < 5
    np.testing.assert_allclose(model.look_up(indices), samples, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(prior.sample(key, 40, 1.0), samples)
    by_map = model.by_map(indices)
    expected_sizes = [h * w for h, w, _ in model.code_shape]
    assert [part.shape[-1] for part in by_map] == expected_sizes
    # The density of numbers that are no codes is that of the nearest codes.
    few, generator = samples[:4], np.random.default_rng(0)
    log_probs = np.asarray(prior.log_prob(few))
    assert log_probs.shape == (4, *batch) and np.isfinite(log_probs).all()
    moved = few + 1e-4 * generator.normal(size=few.shape).astype(np.float32)
    np.testing.assert_allclose(prior.log_prob(moved), log_probs, rtol=1e-4)
    if tiny(name).model.prior == "uniform":
        expected = -sum(expected_sizes) * np.log(5)
        np.testing.assert_allclose(log_probs, expected, rtol=1e-6)
        return
    by_place = model.prior.log_prob_by_place(indices[:4], labels)
    expected = np.float64(by_place).sum(axis=-1)
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4)
    # Codes drawn cold are likelier than those drawn warm.
    cold = prior.log_prob(prior.sample(key, 40, 0.1))
    assert np.mean(cold) > np.mean(prior.log_prob(samples))


def test_codes_of_other_models_are_not_discrete():
    assert not isinstance(model_of("vae, conv, mixture"), DiscreteCodes)
    assert not isinstance(model_of("ae, conv"), DiscreteCodes)


@pytest.mark.parametrize("name", [n for n in WITH_PRIOR if tiny(n).model.name == "vae"])
def test_the_log_ratio_is_the_difference_of_two_densities(name):
    model, images, labels = model_of(name), images_of(name), labels_of(name)
    terms = terms_of(model, images, jax.random.key(7), labels, num_samples=4)
    (layer,) = terms.layers
    z = np.float64(terms.code).reshape(4, 3, -1)
    q_mean = np.float64(layer.posterior.mean)
    q_std = np.exp(0.5 * np.float64(layer.posterior.logvar))
    log_q = stats.norm.logpdf(z, q_mean, q_std).sum(-1)
    for index in range(3):
        known = known_prior(name, None if labels is None else labels[index])
        expected = log_density(z[:, index], *known) - log_q[:, index]
        np.testing.assert_allclose(
            layer.log_ratio[:, index], expected, rtol=1e-4, atol=1e-4
        )
        if layer.kl is not None:
            _, (p_mean,), (p_std,) = known
            shift = (q_mean[index] - p_mean) ** 2 / (2 * p_std**2)
            ratio = q_std[index] / p_std
            kl = shift + 0.5 * ratio**2 - 0.5 - np.log(ratio)
            np.testing.assert_allclose(layer.kl[index], kl, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in FLOWS if tiny(n).model.name == "vae"])
def test_a_flow_is_a_prior_whose_ratio_is_estimated_without_bias(name):
    model, images = model_of(name), images_of(name)
    prior, posterior = prior_of(model, None), posterior_of(model, images, None)
    size = code_size(model.code_shape)
    assert isinstance(prior, Prior)
    assert prior.centre.shape == prior.spread.shape == (size,)
    usual, cold = (prior.sample(jax.random.key(0), 4, t) for t in (1.0, 0.0))
    assert usual.shape == cold.shape == (4, size) and np.isfinite(cold).all()
    assert np.ptp(usual, axis=0).min() > 0 == np.ptp(cold, axis=0).max()
    terms = terms_of(model, images, jax.random.key(7), None, num_samples=200)
    z = terms.code.reshape(200, 3, size)
    exact = jax.jit(lambda prior, z: prior.log_ratio(posterior, z))(prior, z)
    (layer,) = terms.layers
    assert layer.kl is None and layer.log_ratio.shape == exact.shape == (200, 3)
    apart = np.float64(layer.log_ratio - exact)
    error = apart.std(axis=0) / np.sqrt(200)
    assert (np.abs(apart.mean(axis=0)) < 5 * error + 1e-4).all() and error.max() > 1e-4


@pytest.mark.parametrize("num_components", [None, 3])
def test_the_log_ratio_keeps_digits_that_a_difference_of_sums_loses(num_components):
    size, rng = 20_000, np.random.default_rng(0)

    def normal(*shape, scale):
        return jnp.float32(scale * rng.normal(size=(*shape, size)))

    # A posterior near the prior, as that of a code of many numbers is.
    q = DiagonalGaussian(normal(scale=0.05), normal(scale=0.05))
    weights, logits = np.ones(1), jnp.zeros(3)
    p = DiagonalGaussian(jnp.zeros(size), jnp.zeros(size))
    means, logvars = p.mean[None], p.logvar[None]
    if num_components:
        means, logvars = normal(3, scale=0.02), normal(3, scale=0.02)
        weights = np.full(3, 1 / 3)
        p = Mixture(logits, DiagonalGaussian(means, logvars))
    z = q.sample(jax.random.key(0), 100)
    stds = np.exp(0.5 * np.float64(logvars))
    log_p = log_density(z, weights, np.float64(means), stds)
    q_std = np.exp(0.5 * np.float64(q.logvar))
    log_q = stats.norm.logpdf(np.float64(z), np.float64(q.mean), q_std).sum(-1)
    by_number, by_sums = p.log_ratio(q, z), p.log_prob(z) - q.log_prob(z)
    errors = [np.abs(np.float64(a) - (log_p - log_q)) for a in (by_number, by_sums)]
    assert errors[0].max() < 1e-3 < errors[1].max()
    assert 5 * errors[0].mean() < errors[1].mean()


@pytest.mark.parametrize("name", LABELLED)
def test_labels_may_be_given_for_all_for_some_or_not_at_all(name):
    model, images, given = model_of(name), images_of(name), labels_of(name)
    # Nothing is known of the second image, and one label less of the third.
    partly = given.at[1].set(0).at[2, 0].set(0)
    code = encode(model, images, given)

    def all_of(labels):
        return {
            "code": encode(model, images, labels),
            "sample": encode(model, images, labels, jax.random.key(1)),
            "image": decode(model, code, labels),
            "terms": terms_of(model, images, jax.random.key(2), labels, num_samples=2),
        }

    with_all, with_some, without = map(all_of, (given, partly, None))
    assert_close(all_of(jnp.zeros_like(given)), without)
    assert_close(all_of(jnp.zeros(given.shape[1:])), without)
    assert_close(all_of(given[0]), all_of(jnp.tile(given[:1], (3, 1))))
    for part in ("code", "sample", "image"):
        known, some, unknown = (f[part] for f in (with_all, with_some, without))
        assert_close((some[0], some[1]), (known[0], unknown[1]))
        for index in range(3):
            assert not np.allclose(known[index], unknown[index], atol=1e-4)
        assert not np.allclose(some[2], known[2], atol=1e-5)
        assert not np.allclose(some[2], unknown[2], atol=1e-5)
    # One prior for each image, or one of which no image says anything.
    of_rows, of_none = prior_of(model, partly), prior_of(model, None)
    assert of_none.mean.shape == (code_size(model.code_shape),)
    if made(name)[0].config.model.prior == "conditional":
        assert_close(of_rows.mean[1], of_none.mean)
        for index in range(3):
            of_one = prior_of(model, partly[index])
            assert_close(
                (of_rows.mean[index], of_rows.std[index]), (of_one.mean, of_one.std)
            )
        assert not np.allclose(of_rows.mean[0], of_none.mean, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [n for n in MODELS if tiny(n).model.name == "ae" and n not in FLOWS],
)
def test_an_autoencoder_has_no_use_for_labels_and_no_prior(name):
    model, images = model_of(name), images_of(name)
    labels = jnp.ones((3, 2))
    code = encode(model, images)
    assert_same_bits(encode(model, images, labels), code)
    assert_same_bits(decode(model, code, labels), decode(model, code))
    assert model.prior is None
    with pytest.raises(TypeError, match="no prior"):
        model.prior_of()


@every_model
def test_programs_give_what_single_operations_give(name):
    model, images, labels = model_of(name), images_of(name, 2), labels_of(name, 2)
    key = jax.random.key(3)
    code = model.encode(images, labels)
    assert_close(encode(model, images, labels), code)
    drawn = model.encode(images, labels, key)
    assert_close(encode(model, images, labels, key), drawn)
    decoded = model.decode(code, labels)
    assert isinstance(decoded, ImageDistribution)
    assert_close(decode(model, code, labels), decoded.mean)
    eager = model(images, key, labels, 2)
    compiled = terms_of(model, images, key, labels, num_samples=2)
    assert jax.tree.structure(eager) == jax.tree.structure(compiled)
    assert_close(compiled, eager, rtol=1e-3, atol=1e-4)


def batch_of(name, batch=8):
    rng, dataset = np.random.default_rng(4), made(name)[0].config.dataset
    shape = (batch, dataset.size, dataset.size, dataset.channels)
    return {
        "image": jnp.asarray(rng.integers(0, 256, shape, dtype=np.uint8)),
        "attributes": jnp.asarray(rng.random((batch, 2)) < 0.5),
    }


@pytest.mark.parametrize("name", [*CASES, *RECIPES, *TRAINED_OTHERWISE])
def test_every_parameter_learns(name):
    experiment, variables = made(name)
    columns = tuple(range(num_labels(name)))
    loss_fn = experiment.loss_fn(columns)

    @jax.jit
    def slopes_of(learning, batch):
        # After the start of a warm-up, where the KL weighs nothing.
        step = jnp.int32(50)

        def loss_of(learning):
            params, key = {**variables.params, **learning}, jax.random.key(0)
            return loss_fn(params, variables.state, batch, key, step)

        return jax.value_and_grad(loss_of, has_aux=True)(learning)

    learning = step_lib.trained(variables.params, experiment.frozen)
    (loss, (metrics, state)), slopes = slopes_of(learning, batch_of(name))
    assert np.isfinite(loss) and metrics["loss"] == loss
    assert jax.tree.structure(state) == jax.tree.structure(variables.state)
    names = jax.tree_util.tree_leaves_with_path(slopes)
    assert len(names) == len(jax.tree.leaves(learning)) > 3
    for path, slope in names:
        where = jax.tree_util.keystr(path)
        assert np.isfinite(slope).all(), where
        assert np.any(np.asarray(slope)), where


class Counting(vae_lib.VAE):
    """Counts the images that it is updated by, and keeps the sum of their codes."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.count = State(jnp.zeros(()))
        self.total = State(jnp.zeros(self.code_shape))

    def update_state(self, terms):
        codes = terms.code[0]
        self.count[...] = self.count[...] + len(codes)
        self.total[...] = self.total[...] + jnp.sum(codes, axis=0)


@pytest.fixture
def counting(monkeypatch):
    """Configs build a VAE that has state."""
    monkeypatch.setattr(vae_lib, "VAE", Counting)
    experiment = assemble(tiny("vae, mlp, normal"), 50)
    assert set(experiment.shapes.state) == {"count", "total"}
    return experiment


def test_the_loss_returns_the_state_that_its_batch_made(counting):
    start, batch = counting.initial_state(), batch_of("vae, mlp, normal")
    before = {"count": jnp.float32(5), "total": jnp.arange(3.0)}
    key, step = jax.random.key(0), jnp.int32(0)
    loss_fn = counting.loss_fn()
    _, (_, after) = jax.jit(loss_fn)(start.params, before, batch, key, step)
    model = build.merge(counting.graphdef, Variables(start.params, before))
    terms = model(batch["image"] / jnp.float32(255), key)
    assert set(after) == {"count", "total"} and float(after["count"]) == 13
    expected = np.arange(3.0) + np.sum(terms.code[0], axis=0)
    np.testing.assert_allclose(after["total"], expected, rtol=1e-4, atol=1e-5)
    # Calling the model alone counts nothing.
    assert_same_bits(build.split(model)[1].state, before)


def test_updates_carry_the_state_and_skipped_ones_leave_it(counting):
    update, batch = jax.jit(counting.update()), batch_of("vae, mlp, normal")
    once, metrics = update(counting.initial_state(), batch)
    twice, _ = update(once, batch)
    assert metrics["applied"] == 1
    assert [float(s.state["count"]) for s in (once, twice)] == [8, 16]
    assert np.any(np.asarray(once.state["total"]))
    assert once.opt_state is not None and "count" not in once.params
    head = twice.params["decoder"]["head"]
    hurt = {**head, "bias": head["bias"].at[0].set(jnp.nan)}
    decoder = {**twice.params["decoder"], "head": hurt}
    hurt = twice.replace(params={**twice.params, "decoder": decoder})
    skipped, metrics = update(hurt, batch)
    assert metrics["applied"] == 0 and int(skipped.step) == 3
    assert_same_bits(skipped.state, twice.state)


def test_evaluation_leaves_the_state_alone(counting):
    start, batch = counting.initial_state(), batch_of("vae, mlp, normal", 5)
    state = {"count": jnp.float32(3), "total": jnp.ones(3)}
    before = jax.device_get(state)
    variables = Variables(start.params, state)
    split = Split(np.asarray(batch["image"]), np.zeros((5, 0), bool))
    evaluator = counting.evaluator()
    first, again = (evaluator(variables, split) for _ in range(2))
    assert_same_bits(first, again)
    assert first["elbo"].shape == (5,)
    assert_same_bits(variables.state, before)


@pytest.mark.usefixtures("counting")
def test_a_run_keeps_its_state_over_a_stop_and_in_its_checkpoints(
    tiny_config, tmp_path
):
    whole = run_lib.train(tiny_config, tmp_path / "whole")
    tiny_config.train.num_steps = 4
    stopped = run_lib.train(tiny_config, tmp_path / "parts")
    assert float(stopped.variables["raw"].state["count"]) == 4 * 8
    tiny_config.train.num_steps = 12
    resumed = run_lib.train(tiny_config, tmp_path / "parts")
    assert float(whole.variables["raw"].state["count"]) == 12 * 8
    assert_same_bits(whole.variables, resumed.variables)
    logs = [(tmp_path / n / "metrics.jsonl").read_bytes() for n in ("whole", "parts")]
    assert logs[0] == logs[1]
    loaded = run_lib.load(tmp_path / "parts")
    assert_same_bits(loaded.variables, whole.variables)
    # Not averaged, as the EMA's parameters are.
    assert_same_bits(loaded.variables["ema"].state, loaded.variables["raw"].state)
    assert float(loaded.model().count[...]) == 12 * 8
    # State is no parameter.
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    sizes = [leaf.size for leaf in jax.tree.leaves(whole.variables["raw"].params)]
    assert record["num_parameters"] == sum(sizes)
    # Another run starts where this one's state was.
    tiny_config.init_from = str(tmp_path / "whole")
    tiny_config.train.num_steps = 4
    started = run_lib.train(tiny_config, tmp_path / "started")
    assert float(started.variables["raw"].state["count"]) == (12 + 4) * 8
