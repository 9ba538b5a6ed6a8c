"""Perceptual and adversarial pulls against closed forms and finite differences."""

import dataclasses
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy import special

from tests.conftest import new_tiny_config
from vae_jax import config as config_lib
from vae_jax import run as run_lib
from vae_jax.commands import evaluation, judges, reconstructions
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import Terms, Variables
from vae_jax.models.guide import perceptual_distance
from vae_jax.models.networks.critic import Critic
from vae_jax.models.sharpening import Scales, Sharpening
from vae_jax.models.vae import LIKELIHOODS, VAE
from vae_jax.options import make
from vae_jax.report import tables
from vae_jax.report.writer import read_lines

SHAPE = (16, 16, 1)
LATE = jnp.int32(10_000)
BATCH = 16


def config_of(**objective):
    config = config_lib.default_config()
    config.dataset.size = 16
    config.model.latent_dim, config.model.hidden_dim = 3, 8
    config.objective.guide_width = config.objective.critic_width = 2
    config.objective.update(objective)
    return config


def build_of(config, seed=0):
    """Returns a model's structure and variables, of which no array is all zeros."""
    model = build.build_model(
        config.model,
        objective=config.objective,
        precision="fp32",
        image_shape=SHAPE,
        rngs=nnx.Rngs(seed),
    )
    graphdef, variables = build.split(model)
    leaves, structure = jax.tree.flatten(variables.params)
    rng = np.random.default_rng(seed)
    moved = [a + jnp.float32(0.1 * rng.normal(size=a.shape)) for a in leaves]
    params = jax.tree.unflatten(structure, moved)
    return graphdef, Variables(params, variables.state)


@pytest.fixture(scope="module")
def images():
    levels = np.random.default_rng(3).integers(0, 256, (BATCH, *SHAPE))
    return jnp.asarray(levels, jnp.uint8)


def both(**settings):
    weights = {"perceptual_weight": 0.3, "adversarial_weight": 0.2}
    return config_of(**weights | settings)


def step_of(config, images, step=LATE):
    """Returns gradients, metrics and state of one step, and what it began with."""
    graphdef, variables = build_of(config)
    objective = build.build_objective(config.objective, 100)
    loss_fn = build.build_loss_fn(graphdef, objective)

    def run(params):
        return loss_fn(
            params, variables.state, {"image": images}, jax.random.key(1), step
        )

    grads, (metrics, state) = jax.jit(jax.grad(run, has_aux=True))(variables.params)
    return grads, metrics, state, (graphdef, variables)


def along(direction, tree):
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), direction, tree)
    return float(sum(jax.tree.leaves(products)))


def direction_like(tree, seed):
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda a: jnp.float32(rng.normal(size=a.shape)), tree)
    return jax.tree.map(lambda a: a / math.sqrt(along(drawn, drawn)), drawn)


def slope(function, params, direction, size=2e-3):
    """Returns a central difference of a function along a direction."""
    ends = [
        float(
            function(
                jax.tree.map(lambda a, d, s=sign: a + s * size * d, params, direction)
            )
        )
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * size)


@pytest.mark.slow
def test_every_part_learns_from_its_own_loss_alone(images):
    config = both()
    grads, metrics, state, (graphdef, variables) = step_of(config, images)
    x, key = images / jnp.float32(255), jax.random.key(1)
    plain = build.build_objective(config_of().objective, 100)
    scales = {name: float(a) for name, a in state["scales"].items()}
    kept = jax.device_get(variables.params)

    def reconstruct(params):
        model = build.merge(graphdef, Variables(params, variables.state))
        return model(x, key, None, 1).mean[0]

    before = build.merge(graphdef, variables)
    made_before = reconstruct(variables.params)

    @jax.jit
    def autoencoders_loss(learning):
        model = build.merge(
            graphdef, Variables(variables.params | learning, variables.state)
        )
        loss, _ = plain(model, x, None, key, LATE)
        made = reconstruct(variables.params | learning)
        perceptual = jnp.mean(perceptual_distance(before.guide, made, x))
        gap = before.critic(x) - before.critic(made)
        fooled = jnp.mean(jax.nn.softplus(gap))
        return (
            loss
            + 0.3 * scales["perceptual"] * perceptual
            + 0.2 * scales["adversarial"] * fooled
        )

    @jax.jit
    def critics_loss(critic_params):
        params = variables.params | {"critic": critic_params}
        model = build.merge(graphdef, Variables(params, variables.state))
        gap = model.critic(x) - model.critic(made_before)
        loss = jnp.mean(jax.nn.softplus(-gap))
        for some in (x[::8], made_before[::8]):
            gradient = jax.grad(lambda a: jnp.sum(model.critic(a)))(some)
            loss += 0.5 * jnp.sum(jnp.square(gradient)) / len(some)
        return loss

    # A guide's features have kinks, which differences would step over.
    learning = {name: variables.params[name] for name in ("encoder", "decoder")}
    expected = jax.grad(autoencoders_loss)(learning)
    for ours, theirs in zip(
        jax.tree.leaves({name: grads[name] for name in learning}),
        jax.tree.leaves(expected),
        strict=True,
    ):
        size = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-3 * size)
    direction = direction_like(variables.params["critic"], 7)
    expected = slope(critics_loss, variables.params["critic"], direction)
    assert along(direction, grads["critic"]) == pytest.approx(expected, rel=0.02)
    np.testing.assert_equal(
        jax.device_get(state["guide"]), jax.device_get(variables.state["guide"])
    )
    np.testing.assert_equal(jax.device_get(variables.params), kept)
    # What is added has gradients only.
    loss, _ = plain(build.merge(graphdef, variables), x, None, key, LATE)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-6)


def test_the_first_steps_are_the_critics_own(images):
    config = both(perceptual_weight=0.0, critic_steps=50)
    grads, *_, (graphdef, variables) = step_of(config, images, jnp.int32(49))
    plain = build.build_loss_fn(
        graphdef, build.build_objective(config_of().objective, 100)
    )
    expected, _ = jax.jit(jax.grad(plain, has_aux=True))(
        variables.params,
        variables.state,
        {"image": images},
        jax.random.key(1),
        jnp.int32(49),
    )
    for part in ("encoder", "decoder"):
        for ours, theirs in zip(
            *map(jax.tree.leaves, (grads[part], expected[part])), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert max(np.abs(a).max() for a in jax.tree.leaves(grads["critic"])) > 0
    later, *_ = step_of(config, images, jnp.int32(100))
    difference = jax.tree.map(jnp.subtract, later["decoder"], expected["decoder"])
    assert along(difference, difference) > 1e-5 * along(
        expected["decoder"], expected["decoder"]
    )


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_terms_pull_at_the_mean_and_not_at_the_width(images, likelihood):
    """And not at all where an image's share is 0."""
    config = both()
    config.model.likelihood = likelihood
    graphdef, variables = build_of(config)
    model = build.merge(graphdef, variables)
    x = images / jnp.float32(255)
    rng = np.random.default_rng(0)
    maps = tuple(
        jnp.asarray(rng.normal(size=(1, BATCH, *SHAPE)), jnp.float32)
        for _ in range(model.likelihood.num_maps)
    )
    sharpen = Sharpening(0.3, 0.2, 1.0, 0)
    shares = jnp.ones(BATCH).at[-1].set(0)

    def added(maps):
        px = make(LIKELIHOODS, likelihood, config.model, 1)(maps)
        terms = Terms(mean=px.mean, code=jnp.zeros((1, BATCH, 3)), px=px)
        value, _ = sharpen(build.merge(graphdef, variables), terms, x, LATE, shares)
        return value

    value, gradients = jax.jit(jax.value_and_grad(added))(maps)
    assert value == 0
    gradients = [*map(np.asarray, gradients)]
    assert all(np.isfinite(each).all() for each in gradients)
    pulled = [number for number, each in enumerate(gradients) if each.any()]
    # The first map, or of a mixture the second of each component.
    is_mixture = likelihood == "logistic_mixture"
    assert pulled == ([1, 4, 7] if is_mixture else [0])
    for number in pulled:
        assert [bool(each.any()) for each in gradients[number][0]] == [
            *[True] * (BATCH - 1),
            False,
        ]


def test_some_images_are_pulled_at_as_if_there_were_no_others(images):
    graphdef, variables = build_of(both())
    x = images / jnp.float32(255)
    made = jnp.asarray(np.random.default_rng(0).uniform(size=(1, *x.shape)))
    sharpen = Sharpening(0.3, 0.2, 1.0, 0)

    def slopes(some, pulled, made=made, step=LATE):
        def added(params, made):
            model = build.merge(graphdef, Variables(params, variables.state))
            px = make(LIKELIHOODS, "fixed_gaussian", both().model, 1)((made,))
            terms = Terms(mean=px.mean, code=jnp.zeros((1, len(some), 3)), px=px)
            return sharpen(model, terms, some, step, None, pulled)[0]

        drawn = made[:, : len(some)]
        return jax.jit(jax.grad(added, argnums=(0, 1)))(variables.params, drawn)

    of_parts, of_images = slopes(x, slice(12))
    alone, of_those = slopes(x[:12], slice(None))
    assert not of_images[:, 12:].any()
    # The loss is a mean over the batch; what the critic learns by, over those it sees.
    np.testing.assert_allclose(
        of_images[:, :12], of_those * 12 / BATCH, rtol=1e-4, atol=1e-6
    )

    def assert_same(one, two):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            one,
            two,
        )

    assert_same(of_parts, alone)
    # In the next step the critic is penalised at the images after these.
    later, _ = slopes(x[:12], slice(None), step=LATE + 1)
    turned = jnp.roll(x[:12], -1, axis=0), jnp.roll(made[:, :12], -1, axis=1)
    shifted, _ = slopes(turned[0], slice(None), turned[1])
    assert_same(later["critic"], shifted["critic"])
    with pytest.raises(AssertionError):
        assert_same(later["critic"], alone["critic"])


class _Linear(nnx.Module):
    """A critic of which everything is known."""

    def __init__(self, weights):
        self.weights = nnx.Param(weights)

    def __call__(self, images):
        return images.reshape(len(images), -1) @ self.weights[...]


class _Bare:
    """A model of nothing but a critic."""

    def __init__(self, critic):
        self.critic, self.scales = critic, Scales()


def sharpened(critic, made, x, std=0.5, **settings):
    """Returns the gradients in the critic's parameters and the place, and metrics."""
    sharpen = Sharpening(0.0, **{"adversarial_weight": 1.0, **settings})
    graphdef, params = nnx.split(critic)

    def added(params, mean):
        model = _Bare(nnx.merge(graphdef, params))
        px = make(LIKELIHOODS, "fixed_gaussian", config_of().model, 1)((mean[None],))
        px = px.replace(mean=mean[None], std=jnp.float32(std))
        terms = Terms(mean=px.mean, code=jnp.zeros((1, len(x), 3)), px=px)
        return sharpen(model, terms, x, LATE)

    slopes = jax.jit(jax.grad(added, argnums=(0, 1), has_aux=True))
    (by_params, by_place), seen = slopes(nnx.to_pure_dict(params), made)
    return by_params, by_place, seen


def test_the_penalties_of_a_linear_critic_are_its_weights_squares(images):
    x = images / jnp.float32(255)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=256), jnp.float32)
    by_params, _, seen = sharpened(
        _Linear(weights), x, x, critic_penalty=3.0, critic_steps=0
    )
    # R1 and R2 are |w|^2 each. Images equal to their originals teach nothing else.
    assert float(seen["critic_slope"]) == pytest.approx(
        2 * float(weights @ weights), rel=1e-5
    )
    np.testing.assert_allclose(
        by_params["weights"], 3.0 / 2 * 2 * 2 * weights, rtol=1e-4, atol=1e-5
    )
    assert float(seen["critic_gap"]) == pytest.approx(0, abs=1e-6)
    assert float(seen["critic_loss"]) == pytest.approx(math.log(2), rel=1e-6)


def test_the_scale_is_that_of_the_likelihoods_gradient(images):
    """For a linear critic and a Gaussian both gradients have a closed form."""
    x = np.float64(images) / 255
    made = np.float32(np.random.default_rng(2).uniform(size=x.shape))
    weights = np.float32(np.random.default_rng(1).normal(size=256))
    _, by_place, seen = sharpened(
        _Linear(jnp.asarray(weights)),
        jnp.asarray(made),
        jnp.asarray(x, jnp.float32),
        critic_penalty=0.0,
        critic_steps=0,
    )
    gaps = (x - made).reshape(BATCH, -1) @ weights
    fooling = -1 / (1 + np.exp(-gaps))[:, None] * weights
    likelihoods = (made - x).reshape(BATCH, -1) / 0.5**2
    scale = np.linalg.norm(likelihoods) / np.linalg.norm(fooling)
    assert float(seen["adversarial_scale"]) == pytest.approx(scale, rel=1e-4)
    np.testing.assert_allclose(
        np.asarray(by_place).reshape(BATCH, -1),
        scale * fooling / BATCH,
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("size", [0.5, 1.0, 3.0, 1e4])
def test_a_critic_that_is_sure_pulls_as_it_should(images, size):
    """Also where its own loss has no gradient left in float32."""
    x, weights = images / jnp.float32(255), jnp.full(256, size, jnp.float32)
    by_params, by_place, seen = sharpened(
        _Linear(weights), 0.5 * x, x, critic_penalty=0.0, critic_steps=0
    )
    assert float(seen["critic_gap"]) > 50 * size
    assert np.isfinite(by_params["weights"]).all()
    # softplus(gap) has a slope of 1 there.
    likelihoods = np.asarray(0.5 * x).reshape(BATCH, -1) / 0.5**2
    scale = np.linalg.norm(likelihoods) / (size * math.sqrt(256 * BATCH))
    assert float(seen["adversarial_scale"]) == pytest.approx(scale, rel=1e-3)
    np.testing.assert_allclose(
        np.asarray(by_place).reshape(BATCH, -1), -scale * size / BATCH, rtol=1e-3
    )


@pytest.mark.parametrize("size", [0.0, 1e-30])
def test_a_critic_that_knows_nothing_does_not_pull(images, size):
    x, weights = images / jnp.float32(255), jnp.full(256, size, jnp.float32)
    _, by_place, seen = sharpened(
        _Linear(weights), 0.5 * x, x, critic_penalty=0.0, critic_steps=0
    )
    assert float(seen["adversarial_scale"]) == 0
    np.testing.assert_array_equal(by_place, 0)


COMBINED = {
    "samples": {"objective.num_samples": 3},
    "iwae": {"objective.name": "iwae", "objective.num_samples": 2},
    "mmd": {"objective.name": "mmd"},
    "tc": {"objective.name": "tc", "objective.beta": 2.0},
    "capacity": {"objective.name": "capacity"},
    "labels": {"model.attributes": "Smiling,Eyeglasses"},
    "spatial": {"model.network": "conv", "model.code_size": 4, "model.width": 4},
    "vamp": {"model.prior": "vamp", "model.prior_components": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", COMBINED)
def test_whatever_a_vae_is_made_of_it_is_sharpened(sharp_config, tmp_path, case):
    config = sharp_config
    if "model.network" in COMBINED[case]:
        config.model.hidden_dim = 512
    config.update_from_flattened_dict(COMBINED[case])
    config.model.realism, config.train.num_steps = True, 4
    run = run_lib.train(config, tmp_path / "run")
    first, *_ = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert first["skipped"] == 0 and first["critic_loss"] > 0
    assert first["adversarial_scale"] > 0 and first["perceptual_scale"] > 0
    assert run.step == 4


@pytest.mark.slow
def test_one_batch_moves_a_scale_by_little(images):
    x = images / jnp.float32(255)
    sharpen = Sharpening(0.0, 1.0, 0.0, 0)
    model, scales = (
        _Bare(Critic(SHAPE, 2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))),
        [],
    )
    for std in (0.5, 0.5, 0.05, 0.5):
        px = make(LIKELIHOODS, "fixed_gaussian", config_of().model, 1)((x[None],))
        px = px.replace(mean=0.5 * x[None], std=jnp.float32(std))
        sharpen(model, Terms(mean=px.mean, code=x[None, :, 0, 0], px=px), x, LATE)
        scales.append(float(model.scales.adversarial[...]))
    assert scales[1] == pytest.approx(scales[0], rel=1e-6)
    assert scales[2] == pytest.approx(scales[1] * 1.15, rel=1e-5)
    assert scales[3] < scales[2]


@pytest.mark.parametrize("size", [16, 20, 64])
def test_a_critic_scores_images_of_any_size(size):
    critic = Critic((size, size, 3), 2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(5, size, size, 3)))
    scores = critic(jnp.float32(x))
    assert scores.shape == (5,) and scores.dtype == jnp.float32
    # Each image's own: no statistics of the batch.
    np.testing.assert_allclose(critic(jnp.float32(x[2:3]))[0], scores[2], rtol=1e-5)
    # Near 1 at the beginning: the gains keep the variance.
    assert 0.05 < np.std(scores) < 5


@pytest.fixture(scope="module")
def guide_run(data_dir, tmp_path_factory):
    """A classifier that guides, barely trained."""
    config = new_tiny_config(data_dir)
    config.model.name, config.model.network = "classifier", "strided"
    config.model.attributes, config.model.width = "auto", 2
    config.model.hidden_dim = 512
    config.objective.name = "cross_entropy"
    workdir = tmp_path_factory.mktemp("guides") / "guide"
    run_lib.train(config, workdir)
    return workdir


@pytest.fixture
def sharp_config(tiny_config, guide_run):
    tiny_config.objective.update(
        perceptual_weight=0.3,
        adversarial_weight=0.2,
        guide=str(guide_run),
        guide_width=2,
        critic_width=2,
        critic_steps=2,
    )
    return tiny_config


@pytest.mark.slow
@pytest.mark.optimised
def test_a_stopped_run_goes_on_without_its_guide(sharp_config, guide_run, tmp_path):
    whole = run_lib.train(sharp_config, tmp_path / "whole")
    guide = shutil.copytree(guide_run, tmp_path / "guide")
    sharp_config.objective.guide = str(guide)
    sharp_config.train.num_steps = 8
    run_lib.train(sharp_config, tmp_path / "parts")
    shutil.rmtree(guide)
    sharp_config.train.num_steps = 12
    resumed = run_lib.train(sharp_config, tmp_path / "parts")
    for kind in ("ema", "raw"):
        jax.tree.map(
            np.testing.assert_array_equal,
            whole.variables[kind],
            resumed.variables[kind],
        )
    logs = [
        (tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")
    ]
    assert logs[0] == logs[1]
    there = run_lib.load(guide_run).variables["ema"].params["encoder"]
    np.testing.assert_array_equal(
        resumed.variables["ema"].state["guide"]["arrays"]["layers.1.kernel"],
        there["layers"][1]["kernel"],
    )
    assert resumed.variables["ema"].state["scales"]["adversarial"] > 0


@pytest.mark.slow
def test_a_critic_that_is_no_number_is_named(sharp_config, tmp_path, capsys):
    # A step that leaves float32.
    sharp_config.parts.optimizer = "critic.learning_rate=1e38"
    run_lib.train(sharp_config, tmp_path / "run")
    (note,) = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "skipped, first" in line
    ][:1]
    assert "critic_loss" in note and "elbo" not in note


@pytest.mark.slow
def test_a_judge_that_was_the_guide_is_told(sharp_config, guide_run, tmp_path, capsys):
    sharp_config.train.num_steps = 4
    run = run_lib.train(sharp_config, tmp_path / "run")
    # Where it is does not matter, nor do another seed's arrays of the same shapes.
    moved = shutil.copytree(guide_run, tmp_path / "moved")
    config = run_lib.load(guide_run).config.copy_and_resolve_references()
    config.seed += 1
    run_lib.train(config, tmp_path / "other")
    guide, other = (
        judges.open_judge("judge", path, run) for path in (moved, tmp_path / "other")
    )
    capsys.readouterr()
    report = evaluation.evaluate_run(run, other, guide)
    assert "is_guide" not in report["judge"]
    (told,) = report["other_judges"]
    assert told["is_guide"] is True
    said = [line for line in capsys.readouterr().out.splitlines() if "note:" in line]
    assert said == [
        f"note: the judge {moved} is the guide that the run in {run.workdir} was "
        "trained with: its figures flatter that run"
    ]
    table = tables.evaluation_table(report)
    assert f"judge {moved} (the guide)" in table and table.count("the guide") == 1


@pytest.mark.slow
def test_a_judge_of_another_network_is_no_guide(sharp_config, tmp_path):
    sharp_config.train.num_steps = 4
    run = run_lib.train(sharp_config, tmp_path / "run")
    config = new_tiny_config(sharp_config.dataset.data_dir)
    config.model.name, config.model.network = "classifier", "mlp"
    config.model.attributes, config.objective.name = "auto", "cross_entropy"
    config.train.num_steps = 4
    judge = run_lib.train(config, tmp_path / "judge")
    assert not judges.is_guide(run, judge)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(sharp_config, tmp_path, precision):
    sharp_config.precision = precision
    run = run_lib.train(sharp_config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"skipped": 0.0' in lines and "NaN" not in lines
    assert run.step == 12


@pytest.mark.slow
def test_a_run_may_start_from_a_plain_one(tiny_config, guide_run, tmp_path, capsys):
    plain = run_lib.train(tiny_config, tmp_path / "plain")
    tiny_config.init_from = str(tmp_path / "plain")
    tiny_config.objective.update(
        adversarial_weight=0.2, critic_width=2, critic_steps=100
    )
    tiny_config.train.num_steps = 4
    sharp = run_lib.train(tiny_config, tmp_path / "sharp")
    told = capsys.readouterr().out
    assert re.search(r"of the \d+ arrays of the model 8 start as in .*new are", told)
    assert "params/critic/head/kernel" in told
    before, after = (
        run.variables["raw"].params["decoder"]["head"]["kernel"]
        for run in (plain, sharp)
    )
    # Four updates of a small rate, from where the other ended.
    assert 0 < np.abs(after - before).max() < 0.01


def test_a_dial_weighs_what_pulls_at_each_image(images):
    """Two images of one batch, of which the dial of one stands at 0."""
    x = images[:2] / jnp.float32(255)
    critic = _Linear(
        jnp.asarray(np.random.default_rng(1).normal(size=256), jnp.float32)
    )
    sharpen = Sharpening(0.0, 1.0, 0.0, 0)

    def pulled(realism):
        def added(mean):
            px = make(LIKELIHOODS, "fixed_gaussian", config_of().model, 1)((mean,))
            px = px.replace(mean=mean)
            terms = Terms(mean=mean, code=mean, px=px)
            return sharpen(_Bare(critic), terms, x, LATE, realism)

        gradient, seen = jax.grad(added, has_aux=True)(0.5 * x[None])
        return np.asarray(gradient)[0], seen

    first, seen = pulled(jnp.float32([1, 0]))
    half, seen_half = pulled(jnp.float32([0.5, 0]))
    np.testing.assert_array_equal(first[1], 0)
    np.testing.assert_allclose(half[0], 0.5 * first[0], rtol=1e-5)
    # As strong at 1 as a model without a dial: its scale knows of no dial.
    assert float(seen["adversarial_scale"]) == pytest.approx(
        float(seen_half["adversarial_scale"]), rel=1e-5
    )


@pytest.mark.slow
def test_a_dial_is_turned_when_a_run_is_looked_into(sharp_config, tmp_path):
    sharp_config.model.realism = True
    sharp_config.optimizer.learning_rate = 0.1
    run = run_lib.train(sharp_config, tmp_path / "run")
    loaded = run_lib.load(tmp_path / "run")
    codes = jnp.ones((2, 4))

    def drawn(run, **dial):
        return np.asarray(run.model().decode(codes, **dial).mean)

    np.testing.assert_array_equal(drawn(run), drawn(loaded))
    turned = dataclasses.replace(loaded, realism=1.0)
    assert np.abs(drawn(turned) - drawn(loaded)).max() > 1e-4
    np.testing.assert_allclose(
        drawn(turned), drawn(loaded, realism=jnp.ones(2)), rtol=1e-6
    )
    # What the decoder reads behind a code.
    assert loaded.model().decoder.hidden.kernel[...].shape[0] == 4 + 1


def test_a_dial_adds_maps_as_far_as_it_is_turned():
    calm, added = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 1))

    def decoder(codes):
        # A map, and the one for the dial; both know what the dial says.
        dial = codes[:, -1][:, None, None, None]
        return calm + dial, added * dial

    px = make(LIKELIHOODS, "bernoulli", config_of().model, 1)
    model = VAE(None, decoder, px, None, (2,), has_dial=True)
    turned = np.float32([0, 0.25, 1])
    found = model.decode(jnp.ones((3, 2)), realism=jnp.asarray(turned)).mean
    dial = turned[:, None, None, None]
    expected = special.expit(calm + dial + dial * added * dial)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    model.realism = 0.25
    np.testing.assert_allclose(
        model.decode(jnp.ones((3, 2))).mean[1], expected[1], rtol=1e-5
    )


def test_a_dial_needs_a_decoder_that_has_one(tiny_config, tmp_path):
    tiny_config.train.num_steps = 4
    run = run_lib.train(tiny_config, tmp_path / "run")
    with pytest.raises(ValueError, match="the decoder has no dial"):
        run.model().decode(jnp.ones((2, 4)), realism=jnp.ones(2))
    turned = dataclasses.replace(run, realism=0.5)
    with pytest.raises(UserError, match=r"realism is 0.5; .*model.realism=True"):
        turned.model()


@pytest.mark.slow
def test_a_reconstruction_shows_what_was_invented(sharp_config, tmp_path):
    sharp_config.model.realism = True
    run = run_lib.train(sharp_config, tmp_path / "run")
    plain = reconstructions.reconstruct(run, 3)
    assert plain.invented is None and plain.record["realism"] == 0
    turned = dataclasses.replace(run, realism=1.0)
    found = reconstructions.reconstruct(turned, 3)
    expected = np.abs(found.means - plain.means) / plain.stds
    np.testing.assert_allclose(found.invented, expected, rtol=1e-4, atol=1e-6)
    assert found.record["mean_invented"] == pytest.approx(expected.mean(), rel=1e-4)
    assert found.record["realism"] == 1
    sizes = {}
    for each, what in ((turned, found), (run, plain)):
        path, _ = reconstructions.draw_reconstructions(each, what)
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    # Three images to a row, then two of them with a column more; a line on its colours.
    turned, plain = (sizes[f"reconstructions{dial}.png"] for dial in ("_realism_1", ""))
    assert turned[0] < plain[0] and turned[1] > plain[1]


REFUSED = {
    "odd_size": (
        {"adversarial_weight": 0.2, "size": 63},
        "dataset.size.*multiple of 2",
    ),
    "size_of_no_guide": (
        {"perceptual_weight": 0.2, "size": 63},
        "dataset.size.*with a guide",
    ),
    "dial_of_nothing": ({"realism": True}, "model.realism.*objective.perceptual"),
    "guide_of_nothing": (
        {"guide": "runs/guide"},
        "objective.guide.*perceptual_weight, which is 0: set it to None",
    ),
    "critic_of_nothing": (
        {"critic_width": 8},
        "objective.critic_width.*objective.adversarial_weight",
    ),
    "negative": (
        {"adversarial_weight": -1.0},
        "objective.adversarial_weight.*at least 0",
    ),
    "other_objective": (
        {"name": "mse", "adversarial_weight": 0.2},
        "objective.adversarial_weight.*goes with objective.name",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_would_do_nothing_are_refused(case):
    settings, said = REFUSED[case]
    config = config_lib.default_config()
    if settings.get("name") == "mse":
        config.model.name = "ae"
    config.objective.update(
        {name: value for name, value in settings.items() if name in config.objective}
    )
    config.model.realism = settings.get("realism", False)
    config.dataset.size = settings.get("size", 64)
    with pytest.raises(UserError, match=f"config.{said}"):
        config_lib.validate(config)


def test_a_guide_must_be_there_and_see_the_same_images(sharp_config, tmp_path):
    def refused(said, **settings):
        config = sharp_config.copy_and_resolve_references()
        config.objective.update(
            {n: v for n, v in settings.items() if n in config.objective}
        )
        config.dataset.update(
            {n: v for n, v in settings.items() if n in config.dataset}
        )
        with pytest.raises(UserError, match=said):
            run_lib.train(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    refused("(?s)config.objective.guide is None.*configs/judge.py", guide=None)
    refused("config.objective.guide is '.*/nowhere'", guide=str(tmp_path / "nowhere"))
    refused("model.width 2; config.objective.guide_width is 4", guide_width=4)
    refused("dataset.channels 1; this run has 3", channels=3)


def test_nothing_changes_without_weights(images):
    graphdef, variables = build_of(config_of())
    assert variables.params.keys() == {"encoder", "decoder"} and not variables.state
    assert build.build_objective(config_of().objective, 100).sharpening is None
    with_parts = build_of(both())[1].params
    # The model itself starts as it does without: its parts come first.
    model = build.build_model(
        config_of().model,
        objective=both().objective,
        precision="fp32",
        image_shape=SHAPE,
        rngs=nnx.Rngs(0),
    )
    plain = build.build_model(
        config_of().model, precision="fp32", image_shape=SHAPE, rngs=nnx.Rngs(0)
    )
    for part in ("encoder", "decoder"):
        ours, theirs = (build.split(m)[1].params[part] for m in (model, plain))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert with_parts.keys() == {"encoder", "decoder", "critic"}
