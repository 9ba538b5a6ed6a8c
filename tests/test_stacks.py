"""Every command works with a stack of layers; some are for stacks alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_tiny_config

from vae_jax import run as run_lib
from vae_jax.commands import (
    directions,
    edits,
    evaluation,
    interpolations,
    kept_codes,
    layers,
    mixing,
    prior_flags,
    samples,
    training,
    traversals,
)
from vae_jax.errors import UserError
from vae_jax.exploration import interpolation, sampling, stacks
from vae_jax.export import loading, saving
from vae_jax.keys import Stream, key
from vae_jax.models import build
from vae_jax.models.contract import unflatten
from vae_jax.report.writer import read_lines

pytestmark = pytest.mark.slow

SHAPE = ((2, 2, 3), (4, 4, 3), (4, 4, 3))
NUMBERS = 12 + 48 + 48


def config_of(data_dir):
    config = new_tiny_config(data_dir)
    config.model.name, config.model.network = "hierarchical", "ladder"
    config.model.hidden_dim = 512
    config.model.layers, config.model.widths = "2:1,4:2", "2:6,4:4"
    config.model.latent_dim = 3
    config.model.likelihood = "logistic_mixture"
    return config


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    return run_lib.train(config_of(data_dir), tmp_path_factory.mktemp("stack"))


def codes_of(run, indices):
    images = run.dataset.splits["test"].images[indices]
    return sampling.encode_images(run.model(), images)


def test_training_and_evaluation_know_the_nats_of_each_layer(run):
    for line in read_lines(run.workdir / "metrics.jsonl"):
        by_layer = [line[f"kl_layer_{number}"] for number in (1, 2, 3)]
        assert sum(by_layer) == pytest.approx(line["kl"], rel=1e-4)
    report = evaluation.evaluate_run(run)["test"]["ema"]
    by_layer = [report[f"kl_layer_{number}"] for number in (1, 2, 3)]
    np.testing.assert_allclose(report["kl_by_dimension"], by_layer, rtol=1e-5)
    assert report["iw_bound"] >= report["elbo"] - 1
    assert report["bits_per_dim"] > 0 and "active_units" not in report


def test_commands_take_the_numbers_of_all_layers(run):
    assert run.model().code_shape == SHAPE
    written = training.draw_run(run, 4)
    assert all(path.exists() for path in written)
    assert samples.sample(run, "prior", 5, 0).shape == (5, 16, 16, 1)
    directions.write_directions(run, 0)
    with np.load(run.workdir / "directions.npz") as saved:
        assert saved["difference"].shape == (len(run.attribute_names), NUMBERS)
    assert edits.edit(run, {"Smiling": 1.0}, [-1.0, 0.0]).images.shape[1:3] == (3, 16)
    way = interpolations.interpolate(run, seeds=[0, 1], num_steps=3)
    assert np.isfinite(way.frames).all()
    found = traversals.traverse(run, 2)
    assert sorted(found.record["order"]) == list(range(NUMBERS))
    assert found.record["kl_by_dimension"] is None
    assert "kl" not in kept_codes.dimensions(run)


def test_directions_of_long_codes_are_of_the_first_pictures(run, monkeypatch):
    monkeypatch.setattr(sampling, "LARGEST_CODES", 10 * NUMBERS + 1)
    found = directions.train_codes(run)
    assert len(found) == 10 < run.num_train
    images = run.dataset.splits["train"].images[:10]
    np.testing.assert_array_equal(found, sampling.encode_images(run.model(), images))
    arrays = directions.find_directions(run, 0)
    labels = run.attributes("train")[:10]
    for index in np.flatnonzero(labels.any(0) & ~labels.all(0))[:3]:
        has = labels[:, index]
        expected = found[has].mean(0) - found[~has].mean(0)
        np.testing.assert_allclose(arrays["difference"][index], expected, atol=1e-5)


def test_dimensions_of_long_codes_are_of_the_first_pictures(run, monkeypatch):
    monkeypatch.setattr(sampling, "LARGEST_CODES", 3 * NUMBERS + 1)
    monkeypatch.setattr(kept_codes.kept, "read", lambda *_, **how: {})
    monkeypatch.setattr(kept_codes.kept, "keep", lambda *_: None)
    images = run.dataset.splits["validation"].images[:3]
    codes = sampling.encode_images(run.model(), images)
    found = kept_codes.dimensions(run)
    np.testing.assert_allclose(found["mean"], codes.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found["variance"], codes.var(axis=0), atol=1e-5)


def test_a_loaded_ladder_draws_by_its_ema_and_its_constant(run):
    drawn = samples.sample(run, "prior", 3, 0)
    loaded = run_lib.load(run.workdir)
    np.testing.assert_array_equal(samples.sample(loaded, "prior", 3, 0), drawn)
    averaged, raw = (run.variables[kind].params["decoder"] for kind in ("ema", "raw"))
    assert np.any(averaged["constant"] != 0)
    assert np.any(averaged["constant"] != raw["constant"])
    there = loaded.variables["ema"].params["decoder"]
    np.testing.assert_array_equal(there["constant"], averaged["constant"])
    codes = codes_of(run, [0])
    decoded = sampling.decode_codes(loaded.model(), codes)
    by = {}
    for kind in ("ema", "raw"):
        model = build.merge(build.split(run.model())[0], run.variables[kind])
        by[kind] = sampling.decode_codes(model, codes)
    np.testing.assert_array_equal(decoded, by["ema"])
    assert np.abs(decoded - by["raw"]).max() > 1e-5


def test_each_number_knows_its_layer(run):
    assert np.bincount(stacks.layer_of_numbers(SHAPE)).tolist() == [12, 48, 48]
    found = stacks.resolution_of_numbers(run.model())
    assert np.bincount(found).tolist()[2:] == [12, 0, 96]


def test_an_edit_of_coarse_codes_leaves_the_fine_ones(run):
    found = edits.edit(run, {"Smiling": 1.0}, [2.0], up_to=2, num_images=3)
    assert found.record["up_to"] == 2
    own = codes_of(run, found.record["test_pictures"])
    direction = directions.read_directions(run, "deconfounded", 0)["Smiling"](own)
    assert np.all(direction[:, 12:] != 0)
    own[:, :12] += 2 * direction[:, :12]
    expected = sampling.decode_codes(run.model(), own)
    np.testing.assert_allclose(found.images[:, 1], expected, atol=1e-5)
    assert all(path.exists() for path in edits.draw_edit(run, found))
    with pytest.raises(UserError, match=r"--up_to is 4; allowed with .* is one of 2$"):
        edits.edit(run, {"Smiling": 1.0}, [2.0], up_to=4)


def test_a_way_between_coarse_codes_keeps_the_fine_ones_of_its_start(run):
    way = interpolations.interpolate(
        run, indices=[0, 1, 2, 3], num_steps=3, spherical=True, up_to=2
    )
    own = codes_of(run, [0, 1, 2, 3])
    for row, first, last in ((0, 0, 1), (1, 2, 3)):
        # The great circle of the coarse numbers, whatever the fine ones are.
        coarse = interpolation.interpolate(own[first][:12], own[last][:12], 3, True)
        codes = np.concatenate([coarse, np.tile(own[first][12:], (3, 1))], axis=1)
        expected = sampling.decode_codes(run.model(), codes)
        np.testing.assert_allclose(way.rows[row][1:-1], expected, atol=1e-5)
    through = np.concatenate([own[3][:12], own[0][12:]])[None]
    expected = sampling.decode_codes(run.model(), through)
    np.testing.assert_allclose(way.frames[6:7], expected, atol=1e-5)
    assert all(path.exists() for path in interpolations.draw_interpolation(run, way))
    with pytest.raises(UserError, match=r"--up_to is 4; allowed with .* is one of 2$"):
        interpolations.interpolate(run, indices=[0, 1], up_to=4)


def test_a_mixed_face_has_the_coarse_code_of_one_and_the_fine_code_of_another(run):
    found = mixing.mix(run, indices=[0, 1, 2])
    assert found.record["up_to"] == 2 and found.images.shape[:2] == (3, 3)
    own = [unflatten(jnp.asarray(code), SHAPE) for code in codes_of(run, [0, 1, 2])]
    for row, column in ((0, 0), (0, 1), (2, 1)):
        code = (own[row][0], *own[column][1:])
        expected = run.model().decode(jax.tree.map(lambda a: a[None], code)).mean[0]
        np.testing.assert_allclose(found.images[row, column], expected, atol=1e-5)
    assert all(path.exists() for path in mixing.draw_mixture(run, found))
    drawn = mixing.mix(run, seeds=[3, 4])
    np.testing.assert_array_equal(drawn.faces[1], drawn.images[1, 1])
    with pytest.raises(UserError, match=r"--up_to is 4; allowed with .* is one of 2$"):
        mixing.mix(run, 4)


def test_faces_are_mixed_where_both_count_alike(run, monkeypatch):
    # By size, how far a mixed face of levels 0 and 1 is from its coarse one.
    shares = {2: 0.9, 4: 0.4, 8: 0.1}

    def mixed_images(model, codes, labels, up_to):
        coarse, fine = np.meshgrid((0.0, 1.0), (0.0, 1.0), indexing="ij")
        mixed = coarse + shares[up_to] * (fine - coarse)
        return np.broadcast_to(mixed[..., None, None, None], (2, 2, 8, 8, 1))

    monkeypatch.setattr(mixing.abilities, "check_stack", lambda *_: [*shares, 16])
    monkeypatch.setattr(mixing, "_mixed_images", mixed_images)
    found = mixing.mix(run, indices=[0, 1])
    assert found.record["up_to"] == 4
    assert found.images[0, 1, 0, 0, 0] == 0.4
    assert mixing.mix(run, 8, indices=[0, 1]).record["up_to"] == 8


def test_the_atlas_keeps_layers_from_above_and_from_below(run):
    found = layers.look_into_layers(run, indices=[0, 1])
    assert found.record["kept"] == [3, 2, 1, 0]
    own = codes_of(run, [0, 1])
    kept_all = sampling.decode_codes(run.model(), own)
    for part in (found.from_above, found.from_below):
        np.testing.assert_allclose(part[:, 0], kept_all, atol=1e-5)
    # With none kept both are the same samples; in between they differ.
    np.testing.assert_allclose(found.from_above[:, -1], found.from_below[:, -1])
    assert np.abs(found.from_above[:, 1] - found.from_below[:, 1]).max() > 1e-3
    noise = sampling.draw_codes(run.model(), key(0, Stream.SAMPLING), 2)
    first = np.concatenate([own[:, :12], noise[:, 12:]], axis=1)
    expected = sampling.decode_codes(run.model(), first)
    np.testing.assert_allclose(found.from_above[:, 2], expected, atol=1e-5)
    assert len(found.record["kl_by_layer"]) == 3
    assert all(path.exists() for path in layers.draw_atlas(run, found))


def test_what_has_no_layers_is_refused(data_dir, tmp_path):
    config = new_tiny_config(data_dir)
    config.train.num_steps = 1
    flat = run_lib.train(config, tmp_path)
    with pytest.raises(UserError, match="--mode is mix, .* have one resolution"):
        mixing.mix(flat)
    with pytest.raises(UserError, match="holds no hierarchical model"):
        layers.look_into_layers(flat)


def test_resumed_is_the_same_to_the_last_bit(data_dir, tmp_path):
    whole = run_lib.train(config_of(data_dir), tmp_path / "whole")
    config = config_of(data_dir)
    config.train.num_steps = 8
    run_lib.train(config, tmp_path / "parts")
    again = run_lib.train(config_of(data_dir), tmp_path / "parts")
    for one, other in zip(
        jax.tree.leaves(whole.variables), jax.tree.leaves(again.variables), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_a_temperature_by_resolution_narrows_the_layers_there(run):
    model = run.model()
    usual = np.asarray(sampling.draw_codes(model, key(0, Stream.SAMPLING), 4))
    drawn = samples.sample(run, "prior", 4, 0, temperature={4: 0.0})
    expected = sampling.decode_codes(model, np.where(np.arange(NUMBERS) < 12, usual, 0))
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
    with pytest.raises(UserError, match=r"--temperature has 8:0\.5; .* are 2, 4$"):
        samples.sample(run, "prior", 4, 0, temperature={8: 0.5})


@pytest.mark.parametrize("text", ["4:1,4:2", "4:-1", "nan", "warm", "4:", "8:nan"])
def test_a_temperature_that_is_none(text):
    parse = prior_flags.parse_temperature
    assert parse("0.8") == 0.8 and parse("4:1,16:0.7") == {4: 1, 16: 0.7}
    with pytest.raises(UserError, match=f"^--temperature is '{text}'; allowed is"):
        parse(text)


def test_a_density_of_the_first_layers_leaves_the_others_to_their_prior(
    run, monkeypatch
):
    """One layer of twelve numbers is fitted where no more have room."""
    monkeypatch.setitem(kept_codes.LARGEST_FITTED, "gaussian", 59)
    monkeypatch.setattr(kept_codes.kept, "read", lambda *_, **how: {})
    monkeypatch.setattr(kept_codes.kept, "keep", lambda *_: None)
    fitted = kept_codes.fitted_density(run, "gaussian")
    _, known = kept_codes.encode_train(run, "gaussian", "a test")
    assert known.shape == (run.num_train, 12)
    np.testing.assert_allclose(fitted.means[0], known.mean(axis=0), rtol=1e-4)
    heat = np.repeat([0.0, 0.5, 1.0], [12, 48, 48])
    drawn = fitted.sample(NUMBERS, 300, 0, heat)
    assert drawn.shape == (300, NUMBERS)
    np.testing.assert_allclose(drawn[:, :12], fitted.means.repeat(300, 0), rtol=1e-5)
    np.testing.assert_allclose(drawn[:, 12:60].std(), 0.5, rtol=0.02)
    np.testing.assert_allclose(drawn[:, 60:].std(), 1.0, rtol=0.02)
    assert abs(np.corrcoef(drawn[:, 12:].T) - np.eye(96)).max() < 0.3
    images = samples.sample(run, "gaussian", 4, 0, temperature={2: 0.0, 4: 0.0})
    (mean,) = sampling.decode_codes(
        run.model(), np.pad(fitted.means, ((0, 0), (0, 96))).astype(np.float32)
    )
    np.testing.assert_allclose(images, np.broadcast_to(mean, images.shape), atol=1e-5)
    monkeypatch.setattr(sampling, "LARGEST_CODES", 12 * 5 + 11)
    for each, first in zip(
        kept_codes.encode_train(run, "gaussian", "a test", np.arange(40) > 1),
        kept_codes.encode_train(run, "gaussian", "a test", slice(2, 7)),
        strict=True,
    ):
        assert each.shape == (5, 12)
        np.testing.assert_allclose(each, first, atol=1e-5)
    with monkeypatch.context() as patch:
        numbers = np.arange(40)[:, None]
        patch.setattr(type(run), "labels", lambda _, split, which: numbers[which])
        patch.setattr(kept_codes.sampling, "encode_and_sample", lambda _, *rest: rest)
        images, labels, *_ = kept_codes.encode_train(
            run, "gaussian", "a test", np.arange(40) > 1
        )
    assert len(images) == 5 and labels.ravel().tolist() == [2, 3, 4, 5, 6]
    told = samples.said_of(run, "gaussian")
    assert told == "a Gaussian fitted to codes of the first layers"
    monkeypatch.setitem(kept_codes.LARGEST_FITTED, "gaussian", NUMBERS)
    assert samples.said_of(run, "gaussian") == "a Gaussian fitted to codes"
    monkeypatch.setitem(kept_codes.LARGEST_FITTED, "gaussian", 11)
    assert not kept_codes.can_be_fitted(run, "gaussian")


def test_an_exported_model_samples_by_a_density_of_the_first_layers(
    run, tmp_path, monkeypatch
):
    monkeypatch.setitem(kept_codes.LARGEST_FITTED, "gaussian", 59)
    monkeypatch.setattr(kept_codes.kept, "read", lambda *_, **how: {})
    monkeypatch.setattr(kept_codes.kept, "keep", lambda *_: None)
    saving.export(run, tmp_path / "model")
    found = loading.load(tmp_path / "model")
    assert found.density.means.shape == (1, 12)
    expected = samples.sample(run, "gaussian", 3, 5)
    np.testing.assert_allclose(found.sample(3, seed=5), expected, atol=1e-5)


def test_without_its_pictures_a_stack_is_sampled_by_its_prior(run, monkeypatch, capsys):
    def gone(*_):
        raise UserError("the pictures are gone")

    monkeypatch.setattr(samples.kept_codes, "fitted_density", gone)
    assert samples.best_samplers(run) == ["gaussian", "prior"]
    assert samples.samplers_at_hand(run) == ["prior"]
    assert "the pictures are gone" in capsys.readouterr().out
