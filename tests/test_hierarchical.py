"""The hierarchical VAE against closed forms, and what keeps its layers alive."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from configs import hvae
from vae_jax.config import validate
from vae_jax.errors import UserError
from vae_jax.evaluation import evaluate
from vae_jax.experiment import assemble
from vae_jax.models import build
from vae_jax.models.contract import Draw, Variables, flatten, unflatten
from vae_jax.models.elbo import kl_per_image, log_weights
from vae_jax.models.hierarchical import HierarchicalVAE
from vae_jax.models.likelihoods import Gaussian
from vae_jax.models.networks import cosines, ladder
from vae_jax.models.networks.latent_layers import (
    FARTHEST,
    LARGEST_GAIN,
    NARROWEST,
    WIDEST,
    Departure,
    LatentLayer,
)
from vae_jax.models.networks.layers import Conv3x3
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.sharpening import Sharpening

# z1 of one number, z2 of two: z2 = A z1 + S e2, x = W z2 + NOISE e. W's columns are
# orthogonal, so that the exact posterior of z2 given z1 is diagonal.
A, S, NOISE = np.array([0.8, -0.5]), np.array([0.6, 1.3]), 0.4
W = np.array([[1.0, 0.5], [-0.5, 1.0], [0.2, 0], [0, 0.8]])
OFFSET = np.array([0.5, 0.4, 0.1, 0.9])
# Of x given z1, and of x.
COVARIANCE_1 = W @ np.diag(S**2) @ W.T + NOISE**2 * np.eye(4)
COVARIANCE = COVARIANCE_1 + np.outer(W @ A, W @ A)


class LinearEncoder(nnx.Module):
    """The exact posterior of each layer's noise, or one wrong by a shift."""

    def __init__(self, shift):
        self.shift = shift

    def __call__(self, images):
        return [images.reshape(len(images), -1)]

    def departures(self):
        gain_1 = np.linalg.solve(COVARIANCE_1, W @ A)
        precision_1 = 1 + (W @ A) @ gain_1
        precision_2 = 1 + S**2 * np.sum(W**2, axis=0) / NOISE**2

        def first(x, images):
            mean = jnp.asarray((images - OFFSET) @ gain_1 / precision_1 + self.shift)
            logvar = jnp.full(mean.shape, -math.log(precision_1))
            return DiagonalGaussian(*(a[:, None, None, None] for a in (mean, logvar)))

        def second(x, images):
            # x is what is above: A z1.
            left = images - OFFSET - x[:, 0, 0] @ W.T
            mean = left @ W * S / NOISE**2 / precision_2
            logvar = jnp.broadcast_to(-np.log(precision_2), mean.shape)
            return DiagonalGaussian(mean[:, None, None], logvar[:, None, None])

        return [(0, first), (0, second)]


class LinearDecoder(nnx.Module):
    def __call__(self, rows, code_of):
        x = code_of(0, jnp.zeros((rows, 1, 1, 1))) * A
        z = x + S * code_of(1, x)
        return ((z @ W.T + OFFSET).reshape(rows, 2, 2, 1),)


class Likelihood(nnx.Module):
    num_maps = 1

    def __call__(self, maps):
        return Gaussian(maps[0], jnp.asarray(NOISE))


def linear(shift=0.0):
    shapes = ((1, 1, 1), (1, 1, 2))
    return HierarchicalVAE(LinearEncoder(shift), LinearDecoder(), Likelihood(), shapes)


@functools.partial(jax.jit, static_argnames=("shift", "num_samples"))
def linear_terms(images, shift, num_samples):
    return linear(shift)(images, jax.random.key(0), num_samples=num_samples)


def linear_images(number):
    rng = np.random.default_rng(0)
    return rng.multivariate_normal(OFFSET, COVARIANCE, number).reshape(-1, 2, 2, 1)


def test_every_sample_of_the_exact_posterior_weighs_the_evidence():
    images = linear_images(6)
    exact = stats.multivariate_normal(OFFSET, COVARIANCE).logpdf(images.reshape(6, -1))
    with jax.enable_x64(True):
        terms = linear_terms(jnp.asarray(images), 0.0, 3)
        weights = np.asarray(log_weights(terms))
    np.testing.assert_allclose(weights, np.broadcast_to(exact, (3, 6)), rtol=1e-9)


def test_another_posterior_is_below_the_evidence_by_its_kl():
    images = linear_images(4)
    exact = stats.multivariate_normal(OFFSET, COVARIANCE).logpdf(images.reshape(4, -1))
    with jax.enable_x64(True):
        terms = linear_terms(jnp.asarray(images), 1.0, 100_000)
        kl = np.asarray(kl_per_image(terms))
        elbo = np.mean(np.asarray(terms.log_px), axis=0) - kl
        weights = np.asarray(log_weights(terms))
        (_, first), _ = linear().encoder.departures()
        variance = np.exp(first(None, images.reshape(4, -1)).logvar.item(0))
    # Only the first layer is wrong, by a shift: KL = shift^2 / (2 variance).
    np.testing.assert_allclose(exact - elbo, 1 / 2 / variance, rtol=0.02)
    # The analytic KL is the mean of the sampled one, and the bound of many samples is
    # the evidence.
    sampled = np.mean(weights - np.asarray(terms.log_px), axis=0)
    np.testing.assert_allclose(-sampled, kl, rtol=0.01)
    bound = np.log(np.mean(np.exp(weights), axis=0))
    np.testing.assert_allclose(bound, exact, atol=0.03)


def test_the_kl_of_noise_is_that_of_the_latent_variable():
    rng = np.random.default_rng(1)
    mean, scale = rng.normal(size=5), np.exp(rng.normal(size=5))
    q = DiagonalGaussian(
        jnp.asarray(rng.normal(size=5)), jnp.asarray(rng.normal(size=5))
    )
    p = DiagonalGaussian(jnp.zeros(5), jnp.zeros(5))
    of_z = DiagonalGaussian(mean + scale * q.mean, q.logvar + 2 * np.log(scale))
    of_prior = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(2 * np.log(scale)))
    np.testing.assert_allclose(p.kl_from(q), of_prior.kl_from(of_z), rtol=1e-4)


def settings(**changes):
    config = hvae.get_config()
    config.precision = "fp32"
    config.dataset.size = 16
    config.model.layers, config.model.widths = "2:1,4:2", "2:6,4:4"
    config.model.latent_dim = 3
    config.train.num_steps = 100
    config.update_from_flattened_dict(changes)
    validate(config)
    return config


@functools.cache
def tiny(colour=False):
    changes = {"dataset.channels": 3} if colour else {}
    experiment, rng = assemble(settings(**changes), 50), np.random.default_rng(0)

    def draw(array):
        inputs = np.prod(array.shape[:-1]) if len(array.shape) > 1 else 9
        return jnp.float32(rng.normal(size=array.shape) / np.sqrt(inputs))

    return build.merge(experiment.graphdef, jax.tree.map(draw, experiment.shapes))


def tiny_images(number=3, channels=1):
    shape = (number, 16, 16, channels)
    levels = np.random.default_rng(1).integers(0, 256, shape)
    return jnp.float32(levels / 255)


@functools.partial(jax.jit, static_argnames="num_samples")
def terms_of(model, images, key, num_samples):
    return model(images, key, num_samples=num_samples)


def test_decoding_a_code_is_the_reconstruction():
    model, images = tiny(), tiny_images()
    terms = terms_of(model, images, jax.random.key(0), num_samples=2)
    decoded = jax.jit(lambda model, code: model.decode(code).mean)(model, terms.code)
    np.testing.assert_allclose(decoded, terms.mean, rtol=1e-4, atol=1e-5)
    code = model.encode(images, key=jax.random.key(1))
    again = unflatten(flatten(code), model.code_shape)
    for one, other in zip(code, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_nats_of_a_layer_are_the_mean_of_what_its_codes_cost():
    model, images = tiny(), tiny_images()
    terms = terms_of(model, images, jax.random.key(0), num_samples=1000)
    for layer in terms.layers:
        costs = -np.float64(layer.log_ratio)
        error = costs.std(axis=0) / np.sqrt(len(costs))
        # The KL given what is above varies with it, and is a mean over it as well.
        np.testing.assert_array_less(
            np.abs(costs.mean(axis=0) - layer.kl[:, 0]), 5 * error
        )
        assert np.all(layer.kl > 3 * error)


def test_a_code_follows_those_above():
    """Each posterior is given the codes above it, and its image, and nothing below."""
    model, images = tiny(), tiny_images()
    terms = terms_of(model, images, jax.random.key(0), num_samples=1)
    other = terms_of(model, images, jax.random.key(1), num_samples=1)
    # Of the first layer the posterior depends on the image alone, of others on noise.
    np.testing.assert_allclose(terms.layers[0].kl, other.layers[0].kl, rtol=1e-5)
    for one, two in zip(terms.layers[1:], other.layers[1:], strict=True):
        assert np.all(np.abs(one.kl - two.kl) > 1e-4)


def test_layers_that_are_dropped_tell_nothing_and_cost_nothing():
    model, images = tiny(), tiny_images()
    left = np.array([1, 3, 2])

    @jax.jit
    def terms_left(model, images):
        return model(images, jax.random.key(0), num_samples=2, layers_left=left)

    dropped = terms_left(model, images)
    whole = terms_of(model, images, jax.random.key(0), num_samples=2)
    for number, (one, all_of_it) in enumerate(
        zip(dropped.layers, whole.layers, strict=True)
    ):
        gone = number >= left
        assert np.all(np.asarray(one.kl)[gone] == 0)
        assert np.all(np.asarray(one.log_ratio)[:, gone] == 0)
        assert np.all(np.asarray(dropped.code[number])[:, gone] == 0)
        # Those above are what they were, and so is an image that keeps all its layers.
        np.testing.assert_allclose(one.kl[~gone], all_of_it.kl[~gone], rtol=1e-5)
    np.testing.assert_allclose(dropped.mean[:, 1], whole.mean[:, 1], rtol=1e-4)
    decoded = jax.jit(lambda model, code: model.decode(code).mean)(model, dropped.code)
    np.testing.assert_allclose(decoded, dropped.mean, rtol=1e-4, atol=1e-5)


def test_layers_are_dropped_from_the_shares_that_were_asked_for():
    config = settings(
        **{
            "model.layers": "2:1,4:2,8:1",
            "model.widths": "2:4,4:4,8:4",
            "model.drop_layers": "4:0.2,8:0.5",
        }
    )
    experiment = assemble(config, 50)
    model = build.merge(experiment.graphdef, experiment.shapes)
    # One layer is above resolution 4, and three are above 8; of four none is missing.
    assert model.layers_left(10).tolist() == [1, 1, 3, 3, 3, 4, 4, 4, 4, 4]


def test_training_drops_layers_and_validation_does_not():
    experiment = assemble(settings(**{"model.drop_layers": "4:0.9"}), 50)
    model, images = tiny(), tiny_images(8)
    model.dropped = ((1, 0.99),)
    objective = experiment.objective

    @jax.jit
    def both(model, images):
        key = jax.random.key(0)
        loss, metrics = objective(model, images, None, key, jnp.array(0))
        evaluated = evaluate.objective_figures(objective)
        return loss, metrics, evaluated(model, images[0], None, key)

    loss, metrics, figures = both(model, images)
    assert metrics["kl_layer_1"] > 0 and metrics["kl_layer_2"] == 0
    assert figures["kl_by_dimension"][1] > 0
    np.testing.assert_allclose(loss, -metrics["elbo"], rtol=1e-6)


@pytest.mark.parametrize(("batch_size", "told"), [(1, "0, 0"), (4, "1, 1")])
def test_shares_of_too_small_a_batch_are_refused(batch_size, told):
    changes = {"model.layers": "2:1,4:2,8:1", "model.widths": "2:4,4:4,8:4"}
    changes |= {"model.drop_layers": "4:0.2,8:0.25", "train.batch_size": batch_size}
    with pytest.raises(UserError, match=f"drop_layers .* that is {told} images"):
        settings(**changes)


def test_dropped_layers_do_not_go_with_mmd():
    with pytest.raises(UserError, match="drop_layers is '4:0.5'.* mmd would compare"):
        settings(**{"objective.name": "mmd", "model.drop_layers": "4:0.5"})


def test_what_sharpens_pulls_at_images_with_dropped_layers_alone():
    experiment = assemble(settings(**{"model.drop_layers": "4:0.5"}), 50)
    model, images, key = tiny(), tiny_images(8), jax.random.key(0)
    model.dropped = ((1, 0.5),)
    seen = []

    class Watched(Sharpening):
        def __call__(self, model, terms, images, step, shares, pulled):
            seen.append((shares, terms.layers[1].kl[:, 0] == 0, pulled))
            return jnp.zeros(()), {}

    objective = dataclasses.replace(
        experiment.objective, sharpening=Watched(0.5, 0.0, 1.0, 0)
    )
    objective(model, images, None, key, jnp.array(0))
    ((shares, is_dropped, pulled),) = seen
    assert shares is None and pulled == slice(4)
    assert is_dropped[pulled].all() and not is_dropped[4:].any()


def test_a_posterior_stays_within_its_bounds():
    rngs = nnx.Rngs(0)
    departure = Departure(4, 3, Conv3x3, dtype=jnp.dtype("float32"), rngs=rngs)
    rng = np.random.default_rng(0)
    x, features = (jnp.float32(1e6 * rng.normal(size=(2, 4, 4, 4))) for _ in range(2))
    q = departure(x, features)
    assert np.max(np.abs(q.mean)) <= FARTHEST
    assert np.max(q.logvar) <= WIDEST and np.min(q.logvar) >= NARROWEST
    # Far out they are reached, so that what is bounded is what was asked for.
    assert np.max(np.abs(q.mean)) > 0.99 * FARTHEST
    # Where nothing is asked for, the posterior is the prior.
    departure.head.kernel[...] = jnp.zeros_like(departure.head.kernel[...])
    still = departure(x, features)
    np.testing.assert_allclose(still.mean, 0, atol=1e-6)
    np.testing.assert_allclose(still.logvar, 0, atol=1e-6)


def test_the_bits_of_a_long_code_lose_no_digits():
    """Two log densities of 142,000 nats differ by 180, known to a thousandth.

    The difference of their sums in float32 is not.
    """
    rng = np.random.default_rng(0)
    mean, logvar = 0.05 * rng.normal(size=(2, 1, 100_000))
    noise = rng.normal(size=mean.shape)
    p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))

    def nats():
        q = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(logvar))
        z = jnp.asarray(mean + np.exp(0.5 * logvar) * noise)
        densities = [jnp.sum(each.log_prob_by_dimension(z)) for each in (p, q)]
        ratio, kl = float(p.log_ratio(q, z)[0]), float(jnp.sum(p.kl_from(q)))
        return ratio, kl, [float(each) for each in densities]

    *single, sums = nats()
    with jax.enable_x64(True):
        *double, exact = nats()
    assert 100 < abs(double[0]) < 1000 and abs(exact[0]) > 100_000
    np.testing.assert_allclose(single, double, atol=1e-3)
    assert abs(sums[0] - sums[1] - double[0]) > 2e-3


@pytest.mark.parametrize("colour", [False, True])
def test_samples_are_finite_at_every_temperature(colour):
    model = tiny(colour)

    @jax.jit
    def sample(temperature):
        z = model.prior_of().sample(jax.random.key(0), 10_000, temperature)
        return model.decode(unflatten(z, model.code_shape)).mean

    for temperature in (0.0, 0.7, 1.0, 3.0):
        images = np.asarray(sample(temperature))
        assert np.all(np.isfinite(images))
        assert images.min() >= 0 and images.max() <= 1
    # At 0 all samples are one.
    still = np.asarray(sample(0.0))
    np.testing.assert_allclose(
        still, np.broadcast_to(still[:1], still.shape), atol=1e-6
    )


def test_the_noise_of_layers_is_no_other_draw():
    """Nothing else that a step draws has the key of a layer's noise."""
    key = jax.random.key(7)
    keys = [jax.random.key_data(k) for k in tiny()._keys(key)]
    others = [jax.random.key_data(jax.random.fold_in(key, draw)) for draw in Draw]
    for one in keys:
        assert all((np.asarray(one) != np.asarray(other)).any() for other in others)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_a_patch_is_the_sum_of_its_waves(patch):
    images = tiny_images(channels=3)
    coefficients = cosines.to_cosines(images, patch)
    assert coefficients.shape == (3, 16 // patch, 16 // patch, 3 * patch**2)
    again = cosines.from_cosines(coefficients, patch)
    np.testing.assert_allclose(again, 4 * (images - 0.5), atol=1e-4)
    basis = cosines.cosine_basis(patch)
    product = basis @ basis.T
    np.testing.assert_allclose(product, np.diag(np.diag(product)), atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("layers", "4:2,8", "4:2,8:3,16:4 say"),
        ("layers", "4:2,16:1", "each twice"),
        ("layers", "4:0,8:1", "numbers by resolution"),
        ("widths", "2:6,4:5", "even"),
        ("widths", "4:4,8:4", "the resolutions of model.layers are 2, 4"),
        ("layers", "3:1,6:1", "the resolutions of model.layers are 3, 6"),
        ("drop_layers", "4", "8:0.25,16:0.4 say"),
        ("drop_layers", "4:1.0", "above 0 and below 1"),
        ("drop_layers", "4:nan", "above 0 and below 1"),
        ("drop_layers", "4:0.3,4:0.4", "by resolution"),
        ("drop_layers", "2:0.1,4:0.3", "but the coarsest: 4"),
        ("network", "conv", "goes with model.network ladder"),
        ("name", "vae", "goes with model.name hierarchical"),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(setting, value, told):
    with pytest.raises(UserError, match=told):
        settings(**{f"model.{setting}": value})


@pytest.mark.parametrize("number", [1, 16])
def test_the_codes_of_all_layers_add_as_much_as_one(number):
    """Whatever the depth, so that a deep ladder starts no wilder than a shallow one."""
    dtype, rngs = jnp.dtype("float32"), nnx.Rngs(0)
    common = {"remat": False, "dtype": dtype, "rngs": rngs}
    decoder = ladder.Decoder((16, 16, 1), {4: number}, {4: 64}, 64, 1, **common)
    kernels = [layer.joining.kernel[...] for layer in decoder.stages["r4"].layers]
    assert len(kernels) == number
    variance = sum(float(jnp.mean(jnp.square(kernel))) * 64 for kernel in kernels)
    assert variance == pytest.approx(1, rel=0.1)


def test_the_layers_of_all_resolutions_count_together():
    common = {"remat": False, "dtype": jnp.dtype("float32"), "rngs": nnx.Rngs(0)}
    layers, widths = {2: 4, 4: 12}, {2: 64, 4: 64}
    decoder = ladder.Decoder((16, 16, 1), layers, widths, 64, 1, **common)
    for at, number in layers.items():
        for layer in decoder.stages[f"r{at}"].layers:
            variance = 64 * float(jnp.mean(jnp.square(layer.joining.kernel[...])))
            assert variance == pytest.approx(1 / 16, rel=0.1), number


def test_the_factor_on_a_code_stays_within_its_bound():
    rngs = nnx.Rngs(0)
    layer = LatentLayer(6, 3, 1.0, Conv3x3, dtype=jnp.dtype("float32"), rngs=rngs)
    rng = np.random.default_rng(0)
    x, kernel = (jnp.float32(rng.normal(size=size)) for size in ((2, 4, 4, 6), (6, 3)))
    # What is added is the code, scaled.
    layer.joining.kernel[...] = jnp.eye(3, 6)

    def factor(kernel):
        layer.scale.kernel[...] = kernel
        return (layer.join(x, jnp.ones((2, 4, 4, 3))) - x)[..., :3]

    np.testing.assert_allclose(factor(jnp.zeros((6, 3))), 1, atol=1e-5)
    found = factor(1e6 * kernel)
    assert 0 <= found.min() + 1e-5 and found.max() <= LARGEST_GAIN + 1e-5
    # Far out it is reached, so that what is bounded is what was asked for.
    assert found.max() > 0.99 * LARGEST_GAIN


@pytest.mark.parametrize(
    ("at", "kernel"), [(1, (4, 4)), (2, (4, 4)), (4, (3, 3, 4, 4))]
)
def test_kernels_are_no_larger_than_their_maps(at, kernel):
    config = settings(
        **{
            "model.layers": ",".join(f"{size}:1" for size in (at, 2 * at)),
            "model.widths": ",".join(f"{size}:8" for size in (at, 2 * at)),
        }
    )
    shapes = assemble(config, 50).shapes.params
    down = shapes["decoder"]["stages"][f"r{at}"]["layers"][0]["block"]
    up = shapes["encoder"]["stages"][f"r{at}"]
    for block in (down, up["blocks"][0], up["departures"][0]):
        assert block["spatial"]["kernel"].shape == kernel


@pytest.mark.parametrize("colour", [False, True])
def test_a_ladder_computes_its_blocks_again_with_the_same_gradients(colour):
    channels = 3 if colour else 1
    _, variables = build.split(tiny(colour))

    def gradients(remat):
        changes = {"model.remat": remat, "dataset.channels": channels}
        graphdef = assemble(settings(**changes), 50).graphdef

        @jax.jit
        def of(params):
            model = build.merge(graphdef, Variables(params, variables.state))
            terms = model(tiny_images(2, channels), jax.random.key(0))
            return jnp.mean(kl_per_image(terms)) - jnp.mean(terms.log_px)

        assert ("remat" in str(jax.make_jaxpr(of)(variables.params))) == remat
        return jax.grad(of)(variables.params)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(a).max())

    jax.tree.map(close, gradients(False), gradients(True))
