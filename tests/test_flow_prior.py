"""Flows over codes: their solver, density, samples, loss, statistics and training."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import new_tiny_config
from flax import nnx
from scipy import special, stats

from vae_jax import main
from vae_jax import run as run_lib
from vae_jax.commands import directions, edits, prior_flags, samples
from vae_jax.commands.evaluation import evaluate_run
from vae_jax.config import default_config, validate
from vae_jax.errors import UserError
from vae_jax.export import loading, saving
from vae_jax.models import flow_density
from vae_jax.models.flow_density import FlowDensity, heun
from vae_jax.models.flow_prior import FlowPrior
from vae_jax.models.networks.velocity import Velocity
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.report.writer import read_lines

MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([0.3, 1.5, 1.0])


def of_components(weights, means, stds):
    """Returns the velocity that carries noise to a mixture of Gaussians, known.

    E[z - e | x_t = x], each component's share and conditional mean in closed form.
    """

    def velocity(x, time, labels):
        t = time[:, None, None]
        centres, variances = t * means, (1 - t) ** 2 + jnp.square(t * stds)
        apart = x[:, None] - centres
        log_share = -0.5 * (jnp.square(apart) / variances + jnp.log(variances))
        share = jax.nn.softmax(jnp.log(weights) + jnp.sum(log_share, -1), axis=-1)
        slope = means + (t * stds**2 - (1 - t)) / variances * apart
        return jnp.sum(share[..., None] * slope, axis=1)

    return velocity


def density(velocity, size, num_steps=64, labels=None, mean=None, std=None):
    mean = jnp.zeros(size) if mean is None else jnp.float32(mean)
    std = jnp.ones(size) if std is None else jnp.float32(std)
    labels = jnp.zeros(0) if labels is None else labels
    return FlowDensity(velocity, mean, std, labels, num_steps)


def gaussian(num_steps=64, **others):
    velocity = of_components(jnp.ones(1), jnp.float32(MEAN), jnp.float32(STD))
    return density(velocity, 3, num_steps, **others)


WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-1.0, 0.5], [1.5, -0.5]])
STDS = np.array([[0.4, 0.8], [0.7, 0.3]])


def mixture(num_steps=64):
    arrays = map(jnp.float32, (WEIGHTS, MEANS, STDS))
    return density(of_components(*arrays), 2, num_steps)


def log_mixture(z):
    each = stats.norm.logpdf(np.float64(z)[..., None, :], MEANS, STDS).sum(-1)
    return special.logsumexp(each, b=WEIGHTS, axis=-1)


def curved(x, time, labels):
    """A velocity of no symmetry whose divergence changes along its way."""
    turned = x @ jnp.float32([[0.3, -1.0], [0.8, 0.1]])
    return jnp.sin(2 * turned + time[:, None]) + 0.5 * x * jnp.cos(3 * x[:, ::-1])


def test_the_solvers_error_falls_with_the_square_of_its_steps():
    def slope(state, time):
        return {"x": 2 * time - 3 * state["x"]}

    # The solution of dx/dt = 2 t - 3 x that is 1 at 0.
    start, exact = {"x": jnp.float32(1)}, (2 - 2 / 3 + (3 + 2 / 3) * np.exp(-3)) / 3
    found = {n: heun(slope, start, 0.0, 1.0, n)["x"] for n in (1, 2, 10, 20, 40, 100)}
    errors = {n: abs(float(x) - exact) for n, x in found.items()}
    assert errors[1] > errors[2] > errors[10] > 1e-4 > errors[100]
    assert errors[10] / errors[20] == pytest.approx(4, rel=0.2)
    assert errors[20] / errors[40] == pytest.approx(4, rel=0.2)
    there = heun(slope, start, 0.0, 1.0, 50)
    back = heun(slope, there, 1.0, 0.0, 50)
    np.testing.assert_allclose(back["x"], 1, rtol=1e-3)


def test_a_gaussians_density_is_scipys():
    mean, std = np.array([1.0, 0, -2]), np.array([2.0, 0.5, 1])
    prior = gaussian(mean=mean, std=std)
    z = mean + std * np.random.default_rng(0).normal(size=(4, 5, 3))
    expected = stats.norm.logpdf(z, mean + std * MEAN, std * STD).sum(-1)
    np.testing.assert_allclose(prior.log_prob(jnp.float32(z)), expected, rtol=1e-3)


def test_codes_are_carried_along_a_gaussians_lines():
    mean, std = np.array([1.0, 0, -2]), np.array([2.0, 0.5, 1])
    prior = gaussian(num_steps=200, mean=mean, std=std)
    z = mean + std * np.random.default_rng(0).normal(size=(4, 3))
    # The quantiles of N(t MEAN, (1 - t)^2 + (t STD)^2) stay what they are.
    t, scores = 0.3, ((z - mean) / std - MEAN) / STD
    between = t * MEAN + np.sqrt((1 - t) ** 2 + (t * STD) ** 2) * scores
    noisy = prior.carried(jnp.float32(z), 1.0, t)
    np.testing.assert_allclose(noisy, mean + std * between, atol=2e-3)
    np.testing.assert_allclose(prior.carried(noisy, t, 1.0), z, atol=2e-3)


def test_codes_that_are_all_the_same_are_standardised():
    prior = FlowPrior(lambda x, time, labels: 0 * x, 2, num_steps=2)
    point = jnp.float32([[3.0, -1.0]])
    prior.update(DiagonalGaussian(point, jnp.full_like(point, -jnp.inf)))
    found = prior(None, jnp.zeros(0))
    np.testing.assert_allclose(found.sample(jax.random.key(0), 1), point, atol=1e-4)
    assert np.isfinite(found.matching(point, jax.random.key(1))).all()


def test_a_mixtures_density_and_samples_are_known():
    prior = mixture(num_steps=128)
    z = np.random.default_rng(0).normal(size=(40, 2))
    found = prior.log_prob(jnp.float32(z))
    np.testing.assert_allclose(found, log_mixture(z), atol=0.01)
    drawn = np.float64(prior.sample(jax.random.key(0), 20_000))
    for i in range(2):

        def cdf(x, i=i):
            return stats.norm.cdf(x[:, None], MEANS[:, i], STDS[:, i]) @ WEIGHTS

        assert stats.kstest(drawn[:, i], cdf).pvalue > 1e-3
    covariance = (
        np.einsum("k,ki,kj->ij", WEIGHTS, MEANS, MEANS)
        + np.diag(WEIGHTS @ STDS**2)
        - np.outer(WEIGHTS @ MEANS, WEIGHTS @ MEANS)
    )
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.04)


def test_the_density_of_any_flow_integrates_to_one_and_is_that_of_its_samples():
    prior = density(curved, 2, std=[0.7, 1.2])
    grid, cell = np.linspace(-7, 7, 141, retstep=True)
    places = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1)
    mass = np.exp(np.float64(prior.log_prob(jnp.float32(places)))) * cell**2
    assert mass.sum() == pytest.approx(1, abs=0.01)
    drawn = np.asarray(prior.sample(jax.random.key(1), 20_000))
    edges = np.concatenate([grid - cell / 2, grid[-1:] + cell / 2])
    counts, *_ = np.histogram2d(*drawn.T, bins=(edges, edges))
    coarse = [a[:140, :140].reshape(14, 10, 14, 10).sum((1, 3)) for a in (mass, counts)]
    error = np.sqrt(np.maximum(coarse[0], 1e-4) / 20_000)
    assert (np.abs(coarse[1] / 20_000 - coarse[0]) < 5 * error + 0.002).all()


def test_an_estimate_of_the_divergence_is_right_in_the_mean():
    prior = density(curved, 2, num_steps=8)
    z = jnp.float32(np.random.default_rng(2).normal(size=(5, 2)))
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = np.float64(jax.vmap(lambda key: prior.log_prob(z, key))(keys))
    error = draws.std(axis=0) / np.sqrt(len(keys))
    assert (error > 1e-3).all()
    exact = np.asarray(prior.log_prob(z))
    assert (np.abs(draws.mean(axis=0) - exact) < 5 * error).all()


def test_the_ratio_is_the_difference_of_two_densities_and_the_kl_is_not_analytic():
    prior, rng = gaussian(), np.random.default_rng(3)
    posterior = DiagonalGaussian(*jnp.float32(rng.normal(size=(2, 4, 3))))
    z = posterior.sample(jax.random.key(0), 6)
    for key in (None, jax.random.key(1)):
        expected = prior.log_prob(z, key) - posterior.log_prob(z)
        found = prior.log_ratio(posterior, z, key)
        assert found.shape == (6, 4)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert prior.kl_from(posterior) is None


def test_samples_lead_back_to_the_noise_that_they_came_from():
    prior, key = density(curved, 2, mean=[3.0, 0], std=[0.5, 2.0]), jax.random.key(0)
    noise = jax.random.normal(key, (50, 2))
    z = prior.sample(key, 50)
    assert not np.allclose(z, prior.centre + prior.spread * noise, atol=0.1)
    base, gone = prior._trace_back(z, None)
    expected = stats.norm.logpdf(noise) - np.log(prior.spread)
    np.testing.assert_allclose(base, expected, atol=0.01)
    np.testing.assert_allclose(prior.log_prob(z), base.sum(-1) - gone, rtol=1e-5)


def test_temperature_narrows_the_noise_and_none_leaves_the_path_of_its_mode():
    prior, key = gaussian(), jax.random.key(0)
    cold = np.asarray(prior.sample(key, 5, 0.0))
    np.testing.assert_allclose(cold, np.broadcast_to(MEAN, (5, 3)), atol=5e-3)
    assert np.isfinite(np.asarray(mixture().sample(key, 5, 0.0))).all()
    half, whole = (np.asarray(prior.sample(key, 2000, t)) for t in (0.5, 1.0))
    np.testing.assert_allclose(half - MEAN, 0.5 * (whole - MEAN), atol=0.01)
    np.testing.assert_array_equal(whole, prior.sample(key, 2000))
    np.testing.assert_allclose(whole.std(0), STD, rtol=0.06)


def towards(x, time, labels):
    """Carries noise to N(2 y, 0.5^2) along each label, and to N(0, 0.5^2) without."""
    return (
        of_components(jnp.ones(1), jnp.zeros((1, 2)), jnp.full((1, 2), 0.5))(
            x - time[:, None] * 2 * labels, time, labels
        )
        + 2 * labels
    )


def test_guidance_goes_where_the_labels_lead_and_zero_is_without_them():
    labels, key = jnp.float32([1, -1]), jax.random.key(0)
    prior = density(towards, 2, labels=labels)
    drawn = {
        w: np.asarray(prior.sample(key, 200, guidance=w)) for w in (0.0, 1.0, 2.0, 4.0)
    }
    without = density(towards, 2, labels=jnp.zeros(2)).sample(key, 200)
    np.testing.assert_allclose(drawn[0], without, atol=1e-4)
    np.testing.assert_allclose(drawn[1], prior.sample(key, 200), atol=1e-4)
    np.testing.assert_allclose(drawn[1].mean(0), 2 * labels, atol=0.1)
    along = [float((drawn[w] @ labels).mean()) for w in (0, 1, 2, 4)]
    assert (np.diff(along) > 1).all()


def test_labels_of_many_rows_are_each_for_their_own():
    rows = jnp.float32([[1, -1], [0, 0], [-1, 0]])
    prior, key = density(towards, 2, 16, labels=rows), jax.random.key(0)
    z = prior.sample(key, 80)
    assert z.shape == (80, 3, 2)
    np.testing.assert_allclose(z.mean(0), 2 * rows, atol=0.3)
    by_row = [
        density(towards, 2, 16, labels=row).log_prob(z[:9, i])
        for i, row in enumerate(rows)
    ]
    np.testing.assert_allclose(prior.log_prob(z[:9]), np.stack(by_row, 1), rtol=1e-4)
    assert prior.log_prob(z[0, 0]).shape == (3,)


def test_many_codes_are_carried_a_few_at_a_time(monkeypatch):
    prior, key = mixture(8), jax.random.key(0)
    whole = prior.sample(key, 7)
    log_prob = prior.log_prob(whole)
    monkeypatch.setattr(flow_density, "ROWS", 3)
    np.testing.assert_allclose(prior.sample(key, 7), whole, rtol=1e-5)
    np.testing.assert_allclose(prior.log_prob(whole), log_prob, rtol=1e-5)


def test_the_right_velocity_has_the_least_loss():
    rng = np.random.default_rng(0)
    z = jnp.float32(MEAN + STD * rng.normal(size=(20_000, 3)))
    right = gaussian()

    def loss(shift, scale):
        def velocity(x, time, labels):
            return scale * right.velocity(x, time, labels) + shift

        return float(density(velocity, 3).matching(z, jax.random.key(0)).mean())

    least = loss(0.0, 1.0)
    assert least < min(loss(0.1, 1.0), loss(-0.1, 1.0), loss(0.0, 1.1), loss(0.0, 0.9))
    # An error of the velocity adds its square.
    assert loss(0.3, 1.0) - least == pytest.approx(0.09, abs=0.01)
    # A code is standardised before.
    moved = density(right.velocity, 3, mean=[1.0, 2, 3], std=[2.0, 2, 2])
    again = moved.matching(moved.centre + moved.spread * z, jax.random.key(0))
    np.testing.assert_allclose(
        again, right.matching(z, jax.random.key(0)), rtol=1e-3, atol=1e-4
    )


def test_statistics_are_those_of_all_codes_however_they_come():
    rng = np.random.default_rng(0)
    means, logvars = (rng.normal(5, 2, (60, 4)), rng.normal(0, 1, (60, 4)))

    def after(*sizes):
        prior, first = FlowPrior(curved, 4, 8), 0
        for size in sizes:
            rows = slice(first, first + size)
            part = map(jnp.float32, (means[rows], logvars[rows]))
            prior.update(DiagonalGaussian(*part))
            first += size
        return prior(lambda images: None, jnp.zeros(0))

    expected = np.sqrt(means.var(axis=0) + np.exp(logvars).mean(axis=0))
    for sizes in ((60,), (20, 20, 20), (1, 9, 50)):
        found = after(*sizes)
        np.testing.assert_allclose(found.centre, means.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(found.spread, expected, rtol=1e-5)
    new = FlowPrior(curved, 4, 8)(lambda images: None, jnp.zeros(0))
    assert (new.centre == 0).all() and (new.spread == 1).all()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4,), "float32"), ((2, 2, 3), "float32"), ((2, 2, 3), "float16")],
)
def test_a_new_flow_is_a_gaussian_of_the_moments_of_its_codes(shape, dtype):
    size, rng = int(np.prod(shape)), np.random.default_rng(0)
    new = {"dtype": jnp.dtype(dtype), "rngs": nnx.Rngs(0)}
    prior = FlowPrior(Velocity(shape, 0, 8, 1, 2, **new), size, 16)
    mean, std = rng.normal(size=size), rng.uniform(0.5, 2, size)
    prior.mean[...], prior.variance[...] = jnp.float32(mean), jnp.float32(std**2)
    found = prior(lambda images: None, jnp.zeros(0))
    z = mean + std * rng.normal(size=(20, size))
    expected = stats.norm.logpdf(z, mean, std).sum(axis=-1)
    for key in (None, jax.random.key(0)):
        log_prob = found.log_prob(jnp.float32(z), key)
        np.testing.assert_allclose(log_prob, expected, rtol=1e-3)
    noise = jax.random.normal(jax.random.key(0), (20, size))
    drawn = found.sample(jax.random.key(0), 20)
    np.testing.assert_allclose(drawn, mean + std * noise, atol=0.01)


FLOW = {
    "model.prior": "flow",
    "model.prior_width": 16,
    "model.prior_depth": 2,
    "model.prior_steps": 4,
    "objective.name": "flow",
    "objective.num_samples": 2,
    "optimizer.learning_rate": 0.03,
    "parts.frozen": "encoder,decoder",
    "parts.initialised": "encoder,decoder",
    "eval.importance_samples": 1,
}


@pytest.fixture(scope="module")
def first_stage(data_dir, tmp_path_factory):
    """A VAE whose codes a flow is learned over."""
    workdir = tmp_path_factory.mktemp("flows") / "vae"
    return run_lib.train(new_tiny_config(data_dir), workdir)


def flow_config(first_stage, data_dir, **changes):
    config = new_tiny_config(data_dir)
    config.init_from = str(first_stage.workdir)
    config.update_from_flattened_dict(FLOW | changes)
    return config


@pytest.fixture(scope="module")
def flow_run(first_stage, data_dir):
    """A flow over the codes of `first_stage`, which is told an attribute."""
    config = flow_config(
        first_stage, data_dir, **{"model.attributes": "Smiling,Eyeglasses"}
    )
    return run_lib.train(config, first_stage.workdir.parent / "flow")


@pytest.mark.parametrize(
    "changes", [{"model.likelihood": "logistic"}, {"dataset.resampler": "box"}]
)
def test_a_flow_over_the_codes_of_another_model_is_refused(
    first_stage, data_dir, tmp_path, changes
):
    config = flow_config(first_stage, data_dir, **changes)
    (name,) = changes
    with pytest.raises(UserError, match=f"the same model alone; .* {name} .'"):
        run_lib.train(config, tmp_path)


def call_main(*given):
    """Does what the command line does, without its process."""
    with flagsaver.flagsaver():
        main.flags.FLAGS(["vae_jax", *given])
        main.main(["vae_jax"])


def assert_same_bits(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_flow_leaves_the_first_stage_as_it_is(first_stage, flow_run):
    before = first_stage.variables["ema"].params
    for kind in ("ema", "raw"):
        after = flow_run.variables[kind].params
        for part in ("encoder", "decoder"):
            assert_same_bits(after[part], before[part])
        assert np.abs(after["prior"]["velocity"]["head"]["kernel"]).max() > 0
    (steps, batch), state = (12, 8), flow_run.variables["ema"].state["prior"]
    assert float(state["count"]) == steps * batch
    lines = read_lines(flow_run.workdir / "metrics.jsonl")
    assert {"loss", "matching"} <= lines[-1].keys() and "elbo" not in lines[-1]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["matching"]) != 0
    images = jnp.float32(flow_run.dataset.splits["train"].images[:4]) / 255
    # Neither encoder nor decoder is told the labels.
    labels = jnp.ones((4, 2))
    model = flow_run.model()
    code = model.encode(images, labels)
    np.testing.assert_array_equal(code, first_stage.model().encode(images))
    np.testing.assert_array_equal(
        model.decode(code, labels).mean, first_stage.model().decode(code).mean
    )


def test_the_statistics_are_those_of_the_codes_it_saw(flow_run):
    images = jnp.float32(flow_run.dataset.splits["train"].images) / 255
    posterior = flow_run.model().posterior(images)
    prior = flow_run.model().prior_of()
    # 96 codes of 40 pictures, each two times or three.
    mean = np.asarray(posterior.mean)
    std = np.sqrt(mean.var(0) + np.exp(posterior.logvar).mean(0))
    assert (np.abs(prior.centre - mean.mean(0)) < 0.2 * std).all()
    np.testing.assert_allclose(prior.spread, std, rtol=0.2)


def test_a_flow_goes_on_bit_for_bit(first_stage, flow_run, data_dir):
    workdir = first_stage.workdir.parent / "parts"
    changes = {"model.attributes": "Smiling,Eyeglasses"}
    config = flow_config(first_stage, data_dir, **changes)
    for num_steps in (4, 12):
        config.train.num_steps = num_steps
        resumed = run_lib.train(config, workdir)
    assert_same_bits(resumed.variables, flow_run.variables)
    logs = [(run.workdir / "metrics.jsonl").read_bytes() for run in (flow_run, resumed)]
    assert logs[0] == logs[1]


def test_an_evaluation_says_what_the_flow_saves(flow_run):
    for figures in evaluate_run(flow_run)["test"].values():
        saved = figures["normal_kl"] - figures["kl"]
        assert figures["saved"] == pytest.approx(saved, abs=1e-3)
        assert figures["elbo"] == pytest.approx(figures["log_px"] - figures["kl"])
        bits = figures["normal_bits_per_dim"] - figures["bits_per_dim"]
        assert bits == pytest.approx(saved / (16 * 16 * np.log(2)), abs=1e-5)
    images = jnp.float32(flow_run.dataset.splits["test"].images) / 255
    q = flow_run.model().posterior(images)
    logvar = np.float64(q.logvar)
    kl = 0.5 * (np.float64(q.mean) ** 2 + np.exp(logvar) - 1 - logvar).sum(axis=-1)
    assert figures["normal_kl"] == pytest.approx(kl.mean(), rel=1e-4)


def test_edits_go_by_a_flow_that_is_told_the_attribute(flow_run, small_runs):
    told = directions.read_directions(flow_run, "flow", 0)
    assert [*told] == ["Smiling", "Eyeglasses"]
    codes = np.float32(np.random.default_rng(0).normal(size=(3, 4)))
    smiling = told["Smiling"](codes)
    assert np.abs(smiling).min() > 0
    assert np.abs(smiling - told["Eyeglasses"](codes)).max() > 1e-6
    found = edits.edit(
        flow_run, {"Smiling": 1.0}, [0.0, 2.0], estimator="flow", num_images=2
    )
    before, after = found.images[:, 1], found.images[:, 2]
    assert np.abs(before - after).max() > 1e-6
    for kind in ("flow", "conv"):
        with pytest.raises(UserError, match="--estimator=flow: the run has no flow"):
            edits.edit(small_runs(kind), {"Smiling": 1.0}, [0.0], estimator="flow")


def test_a_flow_is_learned_over_an_autoencoders_codes(data_dir, tmp_path, capsys):
    config = new_tiny_config(data_dir)
    config.model.name, config.objective.name = "ae", "mse"
    first = run_lib.train(config, tmp_path / "ae")
    told = {"model.name": "ae", "model.attributes": "Smiling,Eyeglasses"}
    run = run_lib.train(flow_config(first, data_dir, **told), tmp_path / "flow")
    for kind in ("ema", "raw"):
        after = run.variables[kind].params
        before = first.variables["ema"].params
        for part in ("encoder", "decoder"):
            assert_same_bits(after[part], before[part])
    model = run.model()
    codes = model.encode(jnp.float32(run.dataset.splits["train"].images) / 255)
    prior = model.prior_of()
    # 96 codes of 40 pictures, each two times or three.
    assert (np.abs(prior.centre - codes.mean(0)) < 0.2 * codes.std(0)).all()
    np.testing.assert_allclose(prior.spread, codes.std(axis=0), rtol=0.2)
    labels = prior_flags.parse_labels(run, "Smiling=1")
    drawn = [samples.sample(run, "prior", 3, 0, y) for y in (None, labels)]
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-6
    figures = evaluate_run(run)["test"]["ema"]
    assert "matching" in figures and "bits_per_dim" not in figures
    call_main("--mode=sample", f"--workdir={run.workdir}", "--attributes=Smiling=1")
    assert "samples.png" in capsys.readouterr().out
    saving.export(run, tmp_path / "model")
    passed_on = loading.load(tmp_path / "model")
    assert passed_on.sampler == "prior"
    np.testing.assert_allclose(passed_on.sample(3), drawn[0], atol=1e-5)


def test_the_flags_of_a_flow_change_its_samples(flow_run):
    workdir = f"--workdir={flow_run.workdir}"
    labels = prior_flags.parse_labels(flow_run, "Smiling=1")
    np.testing.assert_array_equal(labels, [1, 0])

    def draw(**how):
        return samples.sample(flow_run, "prior", 3, 0, labels, **how)

    usual = draw()
    np.testing.assert_array_equal(usual, draw(num_steps=4))
    np.testing.assert_allclose(usual, draw(guidance=1.0), atol=1e-5)
    assert not np.allclose(usual, draw(num_steps=1), atol=1e-6)
    assert not np.allclose(usual, draw(guidance=8.0), atol=1e-6)
    command = ["--mode=sample", workdir, "--num_images=3", "--attributes=Smiling=1"]
    call_main(*command, "--prior_steps=2", "--guidance=4", "--temperature=0")
    record = json.loads((flow_run.workdir / "images/samples.json").read_text())
    assert (record["num_steps"], record["guidance"], record["temperature"]) == (2, 4, 0)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--guidance=2"], "--guidance is 2; it goes with --attributes"),
        (
            ["--prior_steps=2", "--sampler=gaussian"],
            "--prior_steps is 2; it goes with --sampler=prior, and that is gaussian",
        ),
        (["--top_k=2"], "--top_k is 2, and the codes of the run"),
    ],
)
def test_flags_that_do_not_go_with_a_flow_are_refused(flow_run, flags, said):
    with pytest.raises(UserError, match=said):
        call_main("--mode=sample", f"--workdir={flow_run.workdir}", *flags)


@pytest.mark.parametrize("flag", ["--prior_steps=2", "--guidance=2"])
def test_a_run_without_a_flow_has_no_use_for_its_flags(first_stage, flag):
    with pytest.raises(UserError, match="holds no flow over codes; configs/latent_fl"):
        call_main("--mode=sample", f"--workdir={first_stage.workdir}", flag)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective.name": "elbo"}, "model.prior is 'flow'; it is learned with"),
        ({"model.prior": "normal"}, "objective.name is 'flow'; it trains model.prior"),
        ({"parts.frozen": "encoder"}, "parts.frozen is 'encoder'; with objective.name"),
        ({"eval.importance_samples": 2}, "eval.importance_samples is 2; log p"),
        ({"model.prior_heads": 3}, "model.prior_width is 16; it must be a multiple"),
    ],
)
def test_settings_that_do_not_go_with_a_flow_are_refused(tiny_config, changes, said):
    tiny_config.init_from = "runs/vae"
    tiny_config.update_from_flattened_dict(FLOW)
    validate(tiny_config)
    tiny_config.update_from_flattened_dict(changes)
    if changes.get("model.prior") == "normal":
        for name in ("prior_width", "prior_depth", "prior_steps"):
            tiny_config.model[name] = default_config().model[name]
    with pytest.raises(UserError, match=re.escape(said)):
        validate(tiny_config)
