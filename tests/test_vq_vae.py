"""The VQ-VAE: its bound, who learns from what, its prior, and resuming."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_tiny_config
from flax import nnx

from vae_jax import config as config_lib
from vae_jax import run as run_lib
from vae_jax.config import default_config
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.contract import unflatten


def config_of(quantizer="gradient"):
    config = default_config()
    config.model.name, config.objective.name = "vq", "quantised"
    config.model.prior = "uniform"
    config.model.network, config.model.width, config.model.code_size = "conv", 4, 4
    config.model.latent_dim, config.model.quantizer = 2, quantizer
    if quantizer == "fsq":
        config.model.levels = "3,4"
    else:
        config.model.codebook_size = 5
    return config


def new_model(config):
    model = build.build_model(
        config.model, precision="fp32", image_shape=(16, 16, 1), rngs=nnx.Rngs(0)
    )
    return model, build.build_objective(config.objective, 100)


IMAGES = jnp.float32(np.random.default_rng(0).uniform(size=(6, 16, 16, 1)))
QUANTIZERS = pytest.mark.parametrize("quantizer", ["gradient", "ema", "fsq"])


@QUANTIZERS
def test_the_bound_counts_the_codes_and_decodes_what_stands_for_them(quantizer):
    config = config_of(quantizer)
    model, objective = new_model(config)
    terms = model(IMAGES, jax.random.key(0))
    figures = objective.figures(terms, IMAGES)
    num_codes = 12 if quantizer == "fsq" else 5
    np.testing.assert_allclose(figures["kl"], 16 * math.log(num_codes), rtol=1e-6)
    # What is decoded are the codes by index, and no more than that.
    numbers = model.look_up(model.indices(model.encode(IMAGES)))
    looked_up = unflatten(numbers, model.code_shape)
    np.testing.assert_allclose(
        model.decode(looked_up).mean, terms.mean[0], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        figures["log_px"], model.decode(looked_up).log_prob(IMAGES), rtol=1e-4
    )


def test_the_uniform_prior_adds_up_to_one_over_all_maps():
    config = config_of()
    config.model.codebook_size, config.model.code_size = 3, 2
    model = build.build_model(
        config.model, precision="fp32", image_shape=(8, 8, 1), rngs=nnx.Rngs(0)
    )
    maps = jnp.array([*itertools.product(range(3), repeat=4)])
    log_probs = model.prior_of().log_prob(model.look_up(maps))
    assert np.exp(np.float64(log_probs)).sum() == pytest.approx(1)


@QUANTIZERS
def test_samples_of_the_prior_are_codes_each_as_likely(quantizer):
    model, _ = new_model(config_of(quantizer))
    prior, num_codes = model.prior_of(), model.quantizers[0].num_codes
    drawn = prior.sample(jax.random.key(1), 2000)
    indices = model.indices(unflatten(drawn, model.code_shape))
    np.testing.assert_allclose(model.look_up(indices), drawn, atol=1e-6)
    shares = np.bincount(np.ravel(indices), minlength=num_codes) / indices.size
    np.testing.assert_allclose(shares, 1 / num_codes, atol=0.01)
    # Each number has the moments of the codebook, at every place.
    codes = np.asarray(model.quantizers[0].look_up(jnp.arange(num_codes)))
    dims = codes.shape[1]
    for number in range(drawn.shape[1]):
        own = codes[:, number % dims]
        assert drawn[:, number].mean() == pytest.approx(own.mean(), abs=0.15)
        assert drawn[:, number].std() == pytest.approx(own.std(), rel=0.1)


def gradients(config, pull_weight):
    config.objective.pull_weight = pull_weight
    model, objective = new_model(config)
    graphdef, variables = build.split(model)
    loss_fn = build.build_loss_fn(graphdef, objective)
    batch = {"image": jnp.uint8(255 * IMAGES), "attributes": np.zeros((6, 0), bool)}

    def loss(params):
        return loss_fn(params, variables.state, batch, jax.random.key(0), jnp.int32(0))

    return jax.grad(lambda params: loss(params)[0])(variables.params)


def test_the_codebook_learns_from_the_pull_alone_and_the_decoder_not_from_it():
    without, with_pull = gradients(config_of(), 0.0), gradients(config_of(), 1.0)
    assert not np.any(without["quantizers"][0]["entries"])
    assert np.any(with_pull["quantizers"][0]["entries"])
    # The encoder learns through the quantiser even without.
    assert np.any(without["encoder"]["head"]["kernel"])
    # And from the commitment, which what was quantised already would not feel.
    for quantizer in ("gradient", "ema"):
        pulled, free = (gradients(config_of(quantizer), w) for w in (1.0, 0.0))
        moved = pulled["encoder"]["head"]["kernel"] - free["encoder"]["head"]["kernel"]
        assert np.abs(moved).max() > 1e-4
    jax.tree.map(
        np.testing.assert_array_equal, without["decoder"], with_pull["decoder"]
    )


def test_a_batch_is_looked_up_before_the_averages_move_on():
    config = config_of("ema")
    config.model.codebook_decay = 0.1
    model, objective = new_model(config)
    graphdef, variables = build.split(model)
    loss_fn = build.build_loss_fn(graphdef, objective)
    batch = {"image": jnp.uint8(255 * IMAGES), "attributes": np.zeros((6, 0), bool)}
    key, step = jax.random.key(0), jnp.int32(0)
    _, (metrics, state) = loss_fn(variables.params, variables.state, batch, key, step)
    images = batch["image"] / jnp.float32(255)

    def log_px(state):
        own = build.merge(graphdef, variables.replace(state=state))
        return float(own(images, key).log_px.mean())

    assert metrics["log_px"] == pytest.approx(log_px(variables.state), rel=1e-5)
    assert log_px(state) != pytest.approx(log_px(variables.state), rel=1e-4)


@pytest.mark.slow
@pytest.mark.optimised
@QUANTIZERS
def test_a_resumed_run_ends_with_the_same_bits(quantizer, data_dir, tmp_path):
    def train(folder, num_steps):
        config = new_tiny_config(data_dir)
        own = config_of(quantizer)
        config.model, config.objective = own.model, own.objective
        if quantizer == "ema":
            # So many codes that some are dead after a few updates.
            config.model.codebook_size, config.model.codebook_decay = 64, 0.3
        config.train.num_steps = num_steps
        return run_lib.train(config, tmp_path / folder)

    whole = train("whole", 12)
    begun = train("resumed", 4)
    resumed = train("resumed", 12)
    jax.tree.map(np.testing.assert_array_equal, whole.variables, resumed.variables)
    if quantizer == "ema":
        for run in (begun, whole):
            # Averages of shares add up to 1, and to more since codes began anew.
            state = run.variables["ema"].state["quantizers"][0]
            assert np.sum(state["shares"]) > 1 + 1e-5
        # Its codes are those of the last update, not an average of averages.
        raw = whole.variables["raw"].state["quantizers"][0]
        np.testing.assert_array_equal(state["entries"], raw["entries"])


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"model.code_size": None}, "config.model.code_size is None"),
        ({"objective.name": "elbo"}, "allowed is quantised"),
        ({"model.codebook_size": 70_000}, "65536"),
        ({"model.quantizer": "fsq"}, "config.model.latent_dim is 2"),
        ({"model.quantizer": "fsq", "model.levels": "8,1"}, "config.model.levels is"),
        ({"model.commitment": -1.0}, "config.model.commitment is -1.0"),
        ({"model.attributes": "Smiling"}, "prior transformer or masked"),
        ({"model.prior": "normal"}, "allowed is uniform, transformer, masked"),
        ({"model.prior": "transformer", "model.prior_width": 9}, "multiple of"),
        ({"model.prior": "transformer"}, "init_from is None; model.prior transformer"),
        ({"model.prior": "masked"}, "init_from is None; model.prior masked"),
        ({"model.two_maps": True, "dataset.size": 16}, "those above are none"),
        ({"model.two_maps": True, "dataset.size": 50}, "config.dataset.size is 50"),
        ({"model.two_maps": True, "model.code_size": 5}, "5 is none of the res"),
        (
            {"model.network": "mlp", "model.width": 64, "model.code_size": None},
            "it must be conv",
        ),
        ({"model.name": "vae", "objective.name": "elbo"}, "allowed is normal"),
    ],
)
def test_what_does_not_go_together_is_refused(changed, said):
    config = config_of()
    with config.unlocked():
        config.update_from_flattened_dict(changed)
    if changed.get("model.quantizer"):
        config.model.codebook_size = 512
    with pytest.raises(UserError, match=said):
        config_lib.validate(config)


def two_maps(**changed):
    config = config_of("ema")
    config.dataset.size, config.model.two_maps = 32, True
    with config.unlocked():
        config.update_from_flattened_dict(changed)
    config_lib.validate(config)
    model = build.build_model(
        config.model, precision="fp32", image_shape=(32, 32, 1), rngs=nnx.Rngs(0)
    )
    return config, model


def test_the_fine_map_is_chosen_in_view_of_the_coarse_codes():
    _, model = two_maps()
    # A new guess has a last layer that is not zero, a new block adds nothing.
    images = jnp.float32(np.random.default_rng(0).uniform(size=(3, 32, 32, 1)))
    coarse, fine = model.encode(images)
    assert coarse.shape == (3, 4, 4, 2) and fine.shape == (3, 8, 8, 2)
    own = model.encoder(images)[1]
    codes = model.quantizers[0].quantize(coarse)
    np.testing.assert_allclose(fine - own, model.guess(codes), atol=1e-5)
    assert np.abs(fine - own).max() > 1e-3
    terms = model(images, jax.random.key(0))
    rates = [-float(layer.log_ratio[0, 0]) for layer in terms.layers]
    assert rates == pytest.approx([16 * math.log(5), 64 * math.log(5)])
    # The decoder sees both.
    before = model.decode((coarse, fine)).mean
    for changed in ((coarse + 1, fine), (coarse, fine + 1)):
        assert np.abs(model.decode(changed).mean - before).max() > 1e-4


def test_places_are_counted_row_by_row_the_coarse_map_first():
    _, model = two_maps()
    code = [
        jnp.float32(np.random.default_rng(s).normal(size=(1, s, s, 2))) for s in (4, 8)
    ]
    indices = np.asarray(model.indices(tuple(code)))[0]
    for quantizer, vectors, first in zip(model.quantizers, code, (0, 16), strict=True):
        side = vectors.shape[1]
        for row, column in ((0, 1), (1, 0), (side - 1, 2)):
            expected = quantizer.nearest(vectors[0, row, column])
            assert indices[first + row * side + column] == expected


PRIORS = pytest.mark.parametrize("prior", ["transformer", "masked"])


@pytest.fixture(scope="module")
def first_stage(data_dir, tmp_path_factory):
    config = new_tiny_config(data_dir)
    own = config_of("ema")
    config.model, config.objective = own.model, own.objective
    return run_lib.train(config, tmp_path_factory.mktemp("vq"))


def prior_config(first_stage, prior):
    config = first_stage.config.copy_and_resolve_references()
    config.init_from = str(first_stage.workdir)
    config.parts.frozen = config.parts.initialised = "encoder,decoder,quantizers"
    config.model.prior = prior
    config.model.prior_width, config.model.prior_depth = 8, 1
    config.model.prior_heads = 2
    config.optimizer.learning_rate = 1e-2
    return config


@pytest.mark.slow
def test_codebooks_that_learn_by_gradient_and_the_guess_stay_as_well(
    data_dir, tmp_path
):
    config = new_tiny_config(data_dir)
    own, _ = two_maps(**{"model.quantizer": "gradient"})
    config.model, config.objective = own.model, own.objective
    config.dataset.size, config.train.num_steps = 32, 4
    first = run_lib.train(config, tmp_path / "first")
    config = prior_config(first, "transformer")
    config.parts.frozen = config.parts.initialised = "encoder,decoder,quantizers,guess"
    run = run_lib.train(config, tmp_path / "second")
    before, after = first.variables["ema"].params, dict(run.variables["raw"].params)
    assert {"quantizers", "guess"} < before.keys()
    new = after.pop("prior")
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(new["sequence"]["heads"]))
    before = {name: before[name] for name in after}
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.slow
@pytest.mark.optimised
@PRIORS
def test_a_prior_learns_and_all_else_stays_bit_for_bit(prior, first_stage, tmp_path):
    config = prior_config(first_stage, prior)
    config.train.num_steps = 12
    run = run_lib.train(config, tmp_path / "whole")
    for kind in ("ema", "raw"):
        before, after = first_stage.variables["ema"], run.variables[kind]
        for part in ("encoder", "decoder"):
            jax.tree.map(
                np.testing.assert_array_equal, before.params[part], after.params[part]
            )
        jax.tree.map(np.testing.assert_array_equal, before.state, after.state)
    images = jnp.float32(first_stage.dataset.splits["train"].images[:8]) / 255
    rates = [
        float(-each.model()(images, jax.random.key(0)).layers[0].log_ratio.mean())
        for each in (first_stage, run)
    ]
    assert rates[1] < rates[0] == pytest.approx(16 * math.log(5))
    config.train.num_steps = 4
    run_lib.train(config, tmp_path / "resumed")
    config.train.num_steps = 12
    resumed = run_lib.train(config, tmp_path / "resumed")
    jax.tree.map(np.testing.assert_array_equal, run.variables, resumed.variables)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed, said",
    [
        (
            {"model.codebook_size": 6},
            r"quantizers.*does not fill; settings that differ \(here, there\): "
            r"model.codebook_size \(6, 5\); shapes",
        ),
        ({"model.latent_dim": 3}, r"there\): model.latent_dim \(3, 2\); shapes"),
        (
            {"dataset.size": 32, "model.code_size": 8},
            r"there\): .*model.code_size \(8, 4\)",
        ),
        (
            {"dataset.size": 32, "model.two_maps": True},
            r"there\): .*model.two_maps \(True, False\)",
        ),
        (
            {
                "model.quantizer": "fsq",
                "model.levels": "3,4",
                "model.codebook_size": 512,
                "parts.frozen": "encoder,decoder",
                "parts.initialised": "encoder,decoder",
            },
            r"there\): .*model.quantizer \('fsq', 'ema'\)",
        ),
        ({"parts.frozen": "quantizer"}, "parts of this model are decoder, encoder"),
        ({"parts.frozen": "encoder,decoder,quantizers,prior"}, "whole model"),
        ({"init_from": None}, "init_from is None; .* the codes of a run of a VQ-VAE"),
        ({"init_from": None, "parts.initialised": ""}, "init_from is None; .* codes"),
    ],
)
def test_a_prior_is_refused_on_another_vq_vae(changed, said, first_stage, tmp_path):
    config = prior_config(first_stage, "transformer")
    with config.unlocked():
        config.update_from_flattened_dict(changed)
    with pytest.raises(UserError, match=f"(?s){said}"):
        run_lib.train(config, tmp_path / "refused")


@pytest.mark.slow
def test_a_prior_is_refused_on_a_model_whose_codes_are_none(
    first_stage, small_runs, tmp_path
):
    config = prior_config(first_stage, "transformer")
    config.init_from = str(small_runs("vae").workdir)
    with pytest.raises(UserError, match=r"there\): .*model.name \('vq', 'vae'\)"):
        run_lib.train(config, tmp_path / "refused")


def test_the_pull_is_over_all_places_of_both_maps():
    _, model = two_maps()
    code = tuple(
        jnp.float32(np.random.default_rng(s).normal(size=(2, s, s, 2))) for s in (4, 8)
    )
    expected = np.zeros(2)
    for quantizer, vectors in zip(model.quantizers, code, strict=True):
        chosen = np.asarray(quantizer.look_up(quantizer.nearest(vectors)))
        expected += 0.25 * np.square(np.asarray(vectors) - chosen).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(model.pull(code), expected, rtol=1e-5)
