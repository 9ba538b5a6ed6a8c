"""What the modes do with a run: figures, edits, samples and the user's pictures."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import new_tiny_config
from PIL import Image
from scipy import stats

from vae_jax import main
from vae_jax import run as run_lib
from vae_jax.commands import (
    attributes,
    directions,
    edits,
    evaluation,
    judges,
    kept_codes,
    reconstructions,
    samples,
)
from vae_jax.data import synthetic_faces
from vae_jax.data.pictures import read_pictures
from vae_jax.errors import UserError
from vae_jax.evaluation.sharpness import compare, measure
from vae_jax.experiment import abstract_model
from vae_jax.exploration import judging, sampling
from vae_jax.models import build
from vae_jax.report import grids, tables

pytestmark = pytest.mark.slow


def learn_by_heart(config, tmp_path, steps):
    """Trains to know the 40 training faces, which then are the test split as well."""
    config.model.hidden_dim, config.optimizer.learning_rate = 64, 4e-3
    config.ema.decay = 0.9
    config.train.num_steps, config.train.steps_per_dispatch = steps, 50
    for section in (config.log, config.eval, config.checkpoint):
        section.every_steps = steps
    run = run_lib.train(config, tmp_path)
    train = run.dataset.splits["train"]
    splits = {**run.dataset.splits, "test": train}
    dataset = dataclasses.replace(run.dataset, splits=splits)
    return dataclasses.replace(run, open_dataset=lambda: dataset)


@pytest.fixture(scope="module")
def trained_vae(data_dir, tmp_path_factory):
    config = new_tiny_config(data_dir)
    config.model.latent_dim = 24
    config.objective.beta = 0.01
    return learn_by_heart(config, tmp_path_factory.mktemp("vae"), 900)


@pytest.fixture
def vae(trained_vae, tmp_path):
    """A copy that a test may write to."""
    shutil.copytree(trained_vae.workdir, tmp_path / "vae")
    return dataclasses.replace(trained_vae, workdir=tmp_path / "vae")


@pytest.fixture(scope="module")
def judge(data_dir, tmp_path_factory):
    config = new_tiny_config(data_dir)
    config.model.name, config.objective.name = "classifier", "cross_entropy"
    config.model.attributes, config.model.latent_dim = "auto", 32
    config.model.hidden_dim = 64
    return learn_by_heart(config, tmp_path_factory.mktemp("judge"), 900)


def test_reconstructions_are_the_same_however_few_codes_have_room(vae, monkeypatch):
    whole = evaluation._reconstructions(vae, "test", 7)
    monkeypatch.setattr(evaluation.sampling, "LARGEST_CODES", 3 * 24 + 1)
    parts = evaluation._reconstructions(vae, "test", 7)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_a_judge_sees_what_a_run_makes(vae, judge):
    report = evaluation.evaluate_run(vae, judge)
    written = evaluation.write_evaluation(vae, report)
    assert written == vae.workdir / "eval.json"
    assert report == json.loads(written.read_text())
    told = report["judge"]
    assert "other_judges" not in report and "is_guide" not in told
    assert told["num_images"] == 40
    assert told["pictures"]["accuracy"] > 0.95
    guess = vae.dataset.splits["test"].attributes.mean(axis=0)
    guess = np.maximum(guess, 1 - guess).mean()
    assert guess < told["reconstructions"]["accuracy"] <= told["pictures"]["accuracy"]
    # These test pictures are the training pictures.
    assert told["training_pictures"]["judge_frechet"] == pytest.approx(0, abs=1e-3)
    assert told["training_pictures"]["precision"] == 1.0
    same = told["reconstructions"]["judge_frechet"]
    found = told["training_reconstructions"]["judge_frechet"]
    assert found == pytest.approx(same, rel=1e-3)
    far = told["samples_prior"]["judge_frechet"]
    assert 0 < told["reconstructions"]["judge_frechet"] < far
    names = vae.dataset.attribute_names
    assert list(told["pictures"]["accuracy_by_attribute"]) == list(names)
    figures = report["test"]["ema"]
    assert figures["active_units"] == 24
    evaluated = evaluation.evaluate_run(judge)["test"]["ema"]
    by_attribute = evaluated["accuracy_by_attribute"]
    assert np.mean([*by_attribute.values()]) == pytest.approx(evaluated["accuracy"])
    assert by_attribute == pytest.approx(told["pictures"]["accuracy_by_attribute"])


def beside(images, real):
    return compare(measure(images), measure(real))


def test_reconstructions_are_held_against_the_pictures_with_and_without_a_judge(
    vae, judge, monkeypatch
):
    encoded = []
    encode = sampling.encode_images

    def watched(*arguments):
        encoded.append(arguments)
        return encode(*arguments)

    monkeypatch.setattr(sampling, "encode_images", watched)
    # As many training pictures as there are test pictures, not those of the test.
    test = vae.dataset.splits["test"]
    some = dataclasses.replace(test, images=test.images[30:])
    some = dataclasses.replace(some, attributes=test.attributes[30:])
    splits = {**vae.dataset.splits, "test": some}
    dataset = dataclasses.replace(vae.dataset, splits=splits)
    run = dataclasses.replace(vae, open_dataset=lambda: dataset)
    found = evaluation.evaluate_run(run)["sharpness"]
    assert list(found) == ["num_images", "reconstructions", "training_pictures"]
    assert found["num_images"] == 10
    pictures = np.float32(some.images) / 255
    model = vae.model("ema")
    rebuilt = np.asarray(model.decode(model.encode(jnp.asarray(pictures))).mean)
    expected = beside(rebuilt, pictures)
    told = found["reconstructions"]
    assert told.pop("bands") == pytest.approx(expected.pop("bands"), rel=1e-4)
    mse = [np.mean((a - b) ** 2) for a, b in zip(rebuilt, pictures, strict=True)]
    expected["psnr"] = np.mean(10 * np.log10(1 / np.float64(mse)))
    assert told == pytest.approx(expected, rel=1e-4)
    # The model's reconstructions of few pictures are blurred.
    assert told["sharpness"] < 1 and 10 < told["psnr"] < 60
    others = beside(np.float32(test.images[:10]) / 255, pictures)
    bands = others.pop("bands")
    assert found["training_pictures"].pop("bands") == pytest.approx(bands)
    assert found["training_pictures"] == pytest.approx(others)
    assert len(encoded) == 1
    judged = evaluation.evaluate_run(run, judge, judge)
    assert len(encoded) == 3
    names = [f"samples_{sampler}" for sampler in samples.SAMPLERS]
    expected = [*found, "training_reconstructions", *names]
    assert list(judged["sharpness"]) == expected
    # As many training pictures as there are test pictures, rebuilt.
    rebuilt = sampling.decode_codes(model, encode(model, test.images[:10]))
    expected = beside(rebuilt, pictures)["sharpness"]
    found = judged["sharpness"]["training_reconstructions"]["sharpness"]
    assert found == pytest.approx(expected, rel=1e-4)
    drawn = samples.sample(run, "gaussian", 10, run.config.seed)
    expected = beside(drawn, pictures)["sharpness"]
    assert judged["sharpness"]["samples_gaussian"]["sharpness"] == pytest.approx(
        expected
    )
    assert not {"sharpness", "judge"} & {*evaluation.evaluate_run(judge)}
    with pytest.raises(UserError, match="--judge is .*/judge.* holds a classifier"):
        evaluation.evaluate_run(judge, judge)


@pytest.mark.parametrize(
    ("changes", "patch"),
    [
        ({"network": "conv"}, 4),
        ({"network": "conv", "decoder_patch": 2}, 2),
        ({"network": "conv", "decoder": "style", "decoder_patch": 2}, 2),
        ({"name": "hierarchical", "network": "ladder", "layers": "4:1,8:1"}, 2),
    ],
)
def test_decoders_say_how_large_their_patches_are(tiny_config, changes, patch):
    tiny_config.model.update(changes)
    if "layers" in changes:
        tiny_config.model.widths = "4:4,8:4"
    graphdef, shapes = abstract_model(tiny_config)
    model = build.merge(graphdef, jax.tree.map(lambda a: np.zeros(a.shape), shapes))
    assert model.decoder.patch == patch


@pytest.mark.parametrize(("patch", "period"), [(None, 4), (2, 2), (1, 4), (16, 4)])
def test_borders_are_looked_for_where_a_decoder_has_them(
    vae, monkeypatch, patch, period
):
    if patch is not None:
        monkeypatch.setattr(type(vae.model().decoder), "patch", patch, raising=False)
    periods = []

    def watched(images, period):
        periods.append(period)
        return measure(images, period)

    monkeypatch.setattr(evaluation.sharpness, "measure", watched)
    evaluation._beside_pictures(vae, ())
    # The test pictures, reconstructions and training pictures.
    assert periods == [period] * 3


def test_several_judges_say_what_each_says_alone(vae, judge, tmp_path):
    config = judge.config.copy_and_resolve_references()
    config.train.num_steps, config.train.steps_per_dispatch = 4, 2
    for section in (config.log, config.eval, config.checkpoint):
        section.every_steps = 4
    other = run_lib.train(config, tmp_path / "other")
    both = evaluation.evaluate_run(vae, judge, other)
    assert both["judge"] == evaluation.evaluate_run(vae, judge)["judge"]
    assert both["other_judges"] == [evaluation.evaluate_run(vae, other)["judge"]]
    assert both["other_judges"][0]["workdir"] == str(other.workdir)
    table = tables.evaluation_table(both)
    for workdir in (judge.workdir, other.workdir):
        assert f"judge {workdir} " in table


def test_judges_are_listed_for_eval_and_one_goes_with_attributes(
    vae, judge, tmp_path, capsys
):
    shutil.copytree(judge.workdir, tmp_path / "a,b")
    given = f"--judge={judge.workdir},{tmp_path / 'a,b'}"
    with flagsaver.flagsaver():
        main.flags.FLAGS(["vae_jax", "--mode=eval", given])
        (written,) = evaluation.COMMAND.work(None, vae.workdir)
    report = json.loads(written.read_text())
    assert report["judge"]["workdir"] == str(judge.workdir)
    (other,) = report["other_judges"]
    assert other.pop("workdir") == str(tmp_path / "a,b")
    del report["judge"]["workdir"]
    assert other == report["judge"]
    assert capsys.readouterr().out.count("judge_frechet") == 2
    with flagsaver.flagsaver():
        main.flags.FLAGS(["vae_jax", "--mode=attributes", given])
        with pytest.raises(UserError, match="^--judge is '.*,.*a,b'; .* is one work"):
            attributes.COMMAND.work(None, vae.workdir)


def test_codes_are_held_against_the_factors_of_drawn_faces(tiny_config, tmp_path):
    synthetic_faces.prepare(tmp_path, sizes={"train": 200, "validation": 6, "test": 6})
    tiny_config.dataset.data_dir = str(tmp_path)
    tiny_config.train.num_steps = 4
    run = run_lib.train(tiny_config, tmp_path / "run")
    found = evaluation.evaluate_run(run)["disentanglement"]
    assert found["num_images"] == 200 and "mouth_curvature" in found["factors"]
    for name in ("mig", "factor_vae", "disentanglement", "completeness"):
        assert 0 <= found[name] < 0.6
    rows = [vars(synthetic_faces.factors_of("train", index)) for index in range(200)]
    factors = np.array([[row[name] for name in found["factors"]] for row in rows])
    encode = sampling.encode_images

    def known(model, images, labels):
        known = len(images) == len(factors)
        return np.float32(factors) if known else encode(model, images, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "encode_images", known)
        told = evaluation.evaluate_run(run)["disentanglement"]
    assert told["factor_vae"] == 1.0 and told["mig"] > found["mig"] + 0.2
    assert told["disentanglement"] > 0.9


def test_standard_errors_are_those_of_a_mean(vae, monkeypatch):
    seen = {}
    errors = evaluation.evaluate.standard_errors

    def watched(figures):
        seen.update(figures)
        return errors(figures)

    monkeypatch.setattr(evaluation.evaluate, "standard_errors", watched)
    report = evaluation.evaluate_run(vae)
    found = report["test"]["raw"]["standard_errors"]
    for name in ("elbo", "psnr", "mse"):
        assert found[name] == pytest.approx(stats.sem(seen[name]), rel=1e-5)
        assert report["test"]["raw"][name] == pytest.approx(seen[name].mean(), rel=1e-5)
    mse = np.asarray(seen["mse"], np.float64)
    np.testing.assert_allclose(seen["psnr"], -10 * np.log10(mse), rtol=1e-4)
    # The judge of likeness that is not the mean squared error.
    assert 0.3 < report["test"]["ema"]["ssim"] <= 1


def test_what_is_no_judge_of_these_pictures_is_refused(vae, tiny_config, tmp_path):
    with pytest.raises(UserError, match="--judge is .*vae.* no classifier"):
        judges.open_judge("judge", str(vae.workdir), vae)
    config = tiny_config.copy_and_resolve_references()
    config.model.name, config.objective.name = "classifier", "cross_entropy"
    config.model.attributes, config.objective.beta = "Smiling", 1.0
    config.dataset.size, config.train.num_steps = 8, 4
    run_lib.train(config, tmp_path / "other")
    with pytest.raises(UserError, match=r"--guide is .*dataset.size 8; .* has 16"):
        judges.open_judge("guide", str(tmp_path / "other"), vae)


def test_edits_flip_the_judge_and_are_written_down(vae, judge):
    directions.write_directions(vae, 0, guide=judge, attribute="Smiling")
    report = attributes.judge_edits(vae, judge, "Smiling", 0)
    written = attributes.write_judgement(vae, report)
    assert written == vae.workdir / "attributes.json"
    assert report == json.loads(written.read_text())
    assert list(report["estimators"]) == [
        "deconfounded",
        "difference",
        "notebook",
        "held",
    ]
    held_out = report["held_out"]
    smiling = vae.dataset.attribute_names.index("Smiling")
    count = vae.dataset.splits["test"].attributes[:, smiling].sum()
    assert held_out["with"] <= count and held_out["without"] <= 40 - count
    for figures in report["estimators"].values():
        first, *_, last = figures["curve"]
        assert first["flips_adding"] == first["flips_removing"] == 0
        assert first["feature_distance"] == 0 and not any(first["leakage"].values())
        assert last["feature_distance"] > 0
        at_rate = figures["at_flip_rate"]
        assert "Smiling" not in at_rate["leakage"]
        errors = at_rate["standard_errors"]
        assert list(errors["leakage"]) == list(at_rate["leakage"])
        assert errors["feature_distance"] > 0
        if figures["draws"] > 1:
            continue
        assert last["flips_adding"] > 0.5 and last["flips_removing"] > 0.5
        flips = min(at_rate["flips_adding"], at_rate["flips_removing"])
        assert flips >= 0.9 or at_rate["alpha"] == 8.0
    assert report["estimators"]["notebook"]["draws"] == 20
    with pytest.raises(UserError, match="'Winking'; the classifier in .* knows"):
        attributes.judge_edits(vae, judge, "Winking", 0)


def test_leakage_is_in_standard_deviations_over_reconstructions(vae, judge):
    alpha, names = 1.5, vae.dataset.attribute_names
    # It need not be the same at all codes.
    weights = np.random.default_rng(0).normal(size=(24, 24))

    def direction(codes):
        return np.tanh(codes @ weights)

    judged = attributes._Edits(vae, judge, "Smiling")
    found = judged.at(direction, alpha)
    codes = sampling.encode_images(vae.model(), vae.dataset.splits["test"].images)

    def log_odds(z):
        pictures = sampling.decode_codes(vae.model(), z.astype(np.float32))
        return judging.judge_images(judge.model(), pictures)[1]

    before = log_odds(codes)
    changes = [
        log_odds(codes[rows] + sign * alpha * direction(codes[rows])) - before[rows]
        for rows, sign in ((judged.without, 1), (judged.with_it, -1))
    ]
    changed = np.abs(np.concatenate(changes)) / before.std(axis=0)
    np.testing.assert_allclose(found["leakage"], changed.mean(axis=0), rtol=1e-3)
    errors = found["standard_errors"]
    np.testing.assert_allclose(errors["leakage"], stats.sem(changed), rtol=1e-3)
    removed = changes[1] + before[judged.with_it]
    share = np.mean(removed[:, names.index("Smiling")] <= 0)
    assert found["flips_removing"] == pytest.approx(share)


def test_directions_are_kept_with_the_parameters_they_are_of(vae, judge):
    directions.write_directions(vae, 0)
    path = vae.workdir / "directions.npz"
    with np.load(path) as arrays:
        names = vae.dataset.attribute_names
        assert tuple(arrays["attribute_names"]) == names
        assert arrays["difference"].shape == (len(names), 24)
        assert not [name for name in arrays if name.startswith("held.")]
    written = path.stat().st_mtime_ns
    directions.read_directions(vae, "notebook", 0)
    assert path.stat().st_mtime_ns == written
    weights = {"Smiling": 1.0}
    with pytest.raises(UserError, match="--attribute has 'Smiling'.*--guide"):
        edits.edit(vae, weights, [0.0], estimator="held")
    # Another program may have given the attributes another order.
    recipe = {**vae.recipe, "attribute_names": names[::-1]}
    order = dataclasses.replace(vae, recipe=recipe)
    directions.read_directions(order, "notebook", 0)
    assert path.stat().st_mtime_ns > written
    written = path.stat().st_mtime_ns
    later = dataclasses.replace(vae, step=vae.step + 1)
    directions.read_directions(later, "notebook", 0)
    assert path.stat().st_mtime_ns > written


@pytest.mark.parametrize("how", ["cut", "flipped", "pickled", "encrypted", "packed"])
def test_damaged_directions_are_found_anew(vae, capsys, how):
    found = directions.read_directions(vae, "notebook", 0)
    path = vae.workdir / "directions.npz"
    whole = path.read_bytes()
    with np.load(path) as arrays:
        at = whole.index(arrays["notebook"].tobytes())
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    damaged = {"cut": whole[:at], "flipped": flipped, "pickled": b"\x80\x04N."}
    # In the zip's directory of its files: a flag, and the number of a compression.
    entry = whole.rindex(b"PK\x01\x02")
    for name, place in (("encrypted", 8), ("packed", 10)):
        changed = bytearray(whole)
        changed[entry + place] ^= 1
        damaged[name] = bytes(changed)
    path.write_bytes(damaged[how])
    again = directions.read_directions(vae, "notebook", 0)
    assert f"{path} is damaged" in capsys.readouterr().out
    assert found.keys() == again.keys()
    directions.read_directions(vae, "notebook", 0)
    assert "damaged" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "part, other",
    [
        ("gaussian.means", np.zeros((1, 108))),
        ("gaussian.covariances", np.full((1, 24, 24), np.nan)),
        ("gaussian.weights", np.array(["1"])),
        ("dimensions.std", np.zeros(5, np.float32)),
        ("dimensions.variance", None),
    ],
)
def test_codes_of_another_model_are_found_anew(vae, capsys, part, other):
    kept_codes.keep(vae)
    path = vae.workdir / "codes.npz"
    with np.load(path) as arrays:
        whole = dict(arrays)
    changed = whole | {part: other}
    np.savez(path, **{name: a for name, a in changed.items() if a is not None})
    known = kept_codes.dimensions(vae)
    fitted = kept_codes.fitted_density(vae, "gaussian")
    note = f"{path} is not of this model ({part} is no array"
    assert (note in capsys.readouterr().out) == (other is not None)
    np.testing.assert_allclose(known["std"], whole["dimensions.std"], rtol=1e-5)
    np.testing.assert_allclose(fitted.means, whole["gaussian.means"], rtol=1e-5)
    kept_codes.dimensions(vae)
    assert capsys.readouterr().out == ""


def test_directions_of_another_model_are_found_anew(vae, capsys):
    found = directions.read_directions(vae, "notebook", 0)
    path = vae.workdir / "directions.npz"
    with np.load(path) as arrays:
        cut = {n: a[:, :5] if a.ndim == 2 else a for n, a in arrays.items()}
    np.savez(path, **cut)
    again = directions.read_directions(vae, "notebook", 0)
    assert f"{path} is not of this model" in capsys.readouterr().out
    codes = np.ones((1, 24), np.float32)
    for name, direction in found.items():
        np.testing.assert_allclose(again[name](codes), direction(codes), rtol=1e-5)


def test_attributes_are_edited_together_by_their_weights():
    ways = {
        "A": lambda codes: np.ones_like(codes),
        "B": lambda codes: 10 * codes,
        "C": lambda codes: codes - 1e6,
    }
    codes = np.float32([[1, 2], [3, 4]])
    together = edits._sum(ways, {"A": 2.0, "B": -0.5}, "difference")(codes)
    np.testing.assert_allclose(together, [[-3, -8], [-13, -18]])
    with pytest.raises(UserError, match="'D', which has no direction by .*=difference"):
        edits._sum(ways, {"A": 1.0, "D": 1.0}, "difference")


@pytest.mark.parametrize("text", ["Smiling=nan", "Smiling=inf", "Smiling,Smiling=2"])
def test_weights_that_are_none(vae, text):
    with pytest.raises(
        UserError, match="^--attribute has .*; allowed is NAME or NAME="
    ):
        edits.parse_weights(vae, text)


def test_attributes_of_any_name_are_names_of_files_in_images(vae):
    # Earlier programs took such names from attributes.csv.
    evil = "a/../../../../evil"
    names = [evil if n == "Smiling" else n for n in vae.attribute_names]
    dataset = dataclasses.replace(vae.dataset, attribute_names=tuple(names))
    recipe = vae.recipe | {"attribute_names": names}
    run = dataclasses.replace(vae, recipe=recipe, open_dataset=lambda: dataset)
    found = edits.edit(run, {evil: 1.0}, [0.0], num_images=2)
    picture, figures = edits.draw_edit(run, found)
    assert picture.parent == figures.parent == vae.workdir / "images"
    assert picture.is_file()
    odd = [evil, "x/y/z", "x_y_z", "..", "Big Nose", "n" * 300, "n" * 301, "ü" * 99]
    files = [edits._file_name([name]) for name in odd]
    assert len(set(files)) == len(odd)
    assert files[2:5:2] == ["edit_x_y_z", "edit_Big Nose"]
    for name in files:
        assert Path(name).name == name and len(name.encode()) < 200


def test_an_edit_at_zero_is_the_reconstruction(vae):
    weights = edits.parse_weights(vae, "Smiling,Eyeglasses=-0.5")
    assert weights == {"Smiling": 1.0, "Eyeglasses": -0.5}
    found = edits.edit(vae, weights, [-1.0, 0.0, 1.0], num_images=4)
    picture, figures = edits.draw_edit(vae, found)
    assert picture.name == "edit_Smiling_Eyeglasses.png"
    chosen = json.loads(figures.read_text())["test_pictures"]
    with Image.open(picture) as grid:
        levels = np.asarray(grid)
    # 4 rows of the picture and three edits, of 16 pixels eight times enlarged, between
    # the headings of the columns and the caption.
    top = grids.LINE + 2
    assert levels.shape[1] == 4 * 130 + 2 and levels.shape[0] > 4 * 130 + top
    model = vae.model()
    images = vae.dataset.splits["test"].images[chosen[:1]] / np.float32(255)
    reconstructed = model.decode(model.encode(jnp.asarray(images))).mean
    cell = levels[top : top + 128 : 8, 2 + 2 * 130 : 2 * 130 + 130 : 8]
    expected = np.round(255 * np.asarray(reconstructed[0, ..., 0]))
    np.testing.assert_allclose(cell, expected, atol=1)
    smiling = vae.dataset.attribute_names.index("Smiling")
    has = vae.dataset.splits["test"].attributes[chosen, smiling]
    assert list(has) == [False, False, True, True]


def test_edits_take_more_of_one_kind_where_there_are_few_of_the_other(vae):
    test, attributes = vae.dataset.splits["test"], vae.dataset.attribute_names
    smiling = attributes.index("Smiling")

    def chosen(places, number):
        few = {n: getattr(test, n)[places] for n in ("images", "attributes")}
        splits = {**vae.dataset.splits, "test": dataclasses.replace(test, **few)}
        dataset = dataclasses.replace(vae.dataset, splits=splits)
        run = dataclasses.replace(vae, open_dataset=lambda: dataset)
        found = edits.edit(run, {"Smiling": 1.0}, [0.0], num_images=number)
        return [*few["attributes"][found.record["test_pictures"], smiling]]

    smiles = np.flatnonzero(test.attributes[:, smiling])
    others = np.flatnonzero(~test.attributes[:, smiling])
    assert chosen(smiles[:4], 1) == [True]
    assert chosen(smiles[:2], 3) == [True, True]
    assert chosen([*others[:4], smiles[0]], 4) == [False, False, False, True]


GIVEN = {
    "edit": {
        "attribute": "Smiling=-0.5",
        "alpha": "-1,2",
        "estimator": "notebook",
        "num_images": "3",
        "seed": "7",
    },
    "traverse": {"pictures": "PICTURE", "num_images": "3", "format": "svg"},
    "reconstruct": {"num_images": "5"},
    "codes": {"num_images": "3"},
}


@pytest.mark.parametrize("mode", GIVEN)
def test_a_caption_has_the_command_that_makes_the_picture_anew(
    small_runs, tmp_path, monkeypatch, mode
):
    captions = []
    monkeypatch.setattr(
        grids, "image_grid", lambda *_, caption, **__: captions.append(caption[-1])
    )
    workdir = tmp_path / "run"
    shutil.copytree(small_runs("vq" if mode == "codes" else "vae").workdir, workdir)
    picture = tmp_path / "me.png"
    Image.new("L", (20, 20)).save(picture)
    given = GIVEN[mode] | {"mode": mode, "workdir": str(workdir), "checkpoint": "best"}
    given = {
        name: text.replace("PICTURE", str(picture)) for name, text in given.items()
    }
    with flagsaver.flagsaver():
        main.flags.FLAGS(["vae_jax", *(f"--{n}={text}" for n, text in given.items())])
        main.main(["vae_jax"])
    assert captions
    for caption in captions:
        told = dict(word[2:].split("=", 1) for word in shlex.split(caption)[3:])
        assert told == given


@pytest.mark.parametrize(
    ("mode", "file"), [("reconstruct", "reconstructions"), ("report", "curves")]
)
def test_pictures_for_papers_are_beside_the_usual_ones(
    small_runs, tmp_path, mode, file
):
    workdir = tmp_path / "run"
    shutil.copytree(small_runs("vae").workdir, workdir)
    before = {*(workdir / "images").glob("*.png")}
    for suffix in ("pdf", "svg"):
        with flagsaver.flagsaver():
            given = [f"--mode={mode}", f"--workdir={workdir}", f"--format={suffix}"]
            main.flags.FLAGS(["vae_jax", *given])
            main.main(["vae_jax"])
        assert (workdir / "images" / f"{file}.{suffix}").stat().st_size > 1000
    assert {*(workdir / "images").glob("*.png")} == before
    if mode == "report":
        assert "--format" not in (workdir / "report.html").read_text()


@pytest.mark.parametrize(
    ("mode", "file"),
    [("reconstruct", "reconstructions_realism_0.5"), ("report", "curves")],
)
def test_the_dial_is_in_the_names_of_what_it_changes(small_runs, tmp_path, mode, file):
    workdir = tmp_path / "run"
    shutil.copytree(small_runs("dial").workdir, workdir)
    given = [f"--mode={mode}", f"--workdir={workdir}", "--realism=0.5", "--format=svg"]
    with flagsaver.flagsaver():
        main.flags.FLAGS(["vae_jax", *given])
        main.main(["vae_jax"])
    assert [path.stem for path in workdir.rglob("*.svg")] == [file]


def test_single_samples_are_png_files_alone(small_runs, tmp_path):
    given = ["--mode=sample", f"--workdir={small_runs('vae').workdir}", "--format=pdf"]
    with flagsaver.flagsaver(), pytest.raises(UserError, match="--folder allowed is p"):
        main.flags.FLAGS(["vae_jax", *given, f"--folder={tmp_path / 'new'}"])
        main.main(["vae_jax"])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Winking", "--attribute has 'Winking'; .*Smiling"),
        ("Smiling=much", "has 'Smiling=much'; allowed is NAME or NAME=NUMBER"),
        ("", "--attribute has ''"),
    ],
)
def test_attributes_that_cannot_be_edited_are_refused(
    tiny_config, tmp_path, text, said
):
    tiny_config.train.num_steps = 4
    run = run_lib.train(tiny_config, tmp_path)
    with pytest.raises(UserError, match=said):
        edits.parse_weights(run, text)


def test_reconstructions_show_the_standard_deviation(tiny_config, tmp_path):
    tiny_config.train.num_steps = 4
    tiny_config.model.likelihood, tiny_config.model.std = "fixed_gaussian", 0.25
    run = run_lib.train(tiny_config, tmp_path)
    found = reconstructions.reconstruct(run, 1)
    path, _ = reconstructions.draw_reconstructions(run, found)
    figures = json.loads(path.with_suffix(".json").read_text())
    assert figures["mean_std"] == figures["largest_std"] == 0.25
    with Image.open(path) as picture:
        levels = np.asarray(picture)
    # One row below the headings: three images of 16 pixels, eight times enlarged, with
    # margins of 2 between.
    top = grids.LINE + 2
    original, _, std = (
        levels[top : top + 128 : 8, left : left + 128 : 8] for left in (2, 132, 262)
    )
    truth = run.dataset.splits["validation"].images[0]
    np.testing.assert_array_equal(original, truth.repeat(3, axis=-1))
    # The brightest, as none is larger.
    brightest = grids.to_levels(grids.heat(np.ones((1, 1, 1)), 1.0))
    np.testing.assert_array_equal(std, np.broadcast_to(brightest, std.shape))


def test_samples_do_not_depend_on_how_many_fit_in_a_batch(
    tiny_config, tmp_path, monkeypatch
):
    tiny_config.train.num_steps = 4
    run = run_lib.train(tiny_config, tmp_path)
    whole = {s: samples.sample(run, s, 7, 0) for s in samples.SAMPLERS}
    monkeypatch.setattr("vae_jax.exploration.batching.BATCH_SIZE", 3)
    np.testing.assert_allclose(
        samples.sample(run, "prior", 7, 0), whole["prior"], atol=1e-6
    )
    assert len({images.tobytes() for images in whole.values()}) == 3
    colder = samples.sample(run, "prior", 7, 0, temperature=0.1)
    assert colder.std(axis=0).mean() < whole["prior"].std(axis=0).mean()


RECIPE = {"crop": "notebook", "resampler": "bilinear", "size": 16, "channels": 1}


def test_own_pictures_are_cut_as_the_data_set_is(tmp_path, capsys, faces):
    rng = np.random.default_rng(0)
    aligned = Image.fromarray(rng.integers(0, 256, (218, 178, 3), np.uint8))
    wide = Image.fromarray(rng.integers(0, 256, (40, 100), np.uint8))
    aligned.save(tmp_path / "a.png")
    wide.save(tmp_path / "b.bmp")
    files = [str(tmp_path / name) for name in ("a.png", "b.bmp")]
    found = read_pictures(files, RECIPE)
    assert found.shape == (2, 16, 16, 1) and found.dtype == np.uint8
    box = aligned.crop((15, 40, 163, 188)).convert("L").resize((16, 16), 2)
    np.testing.assert_array_equal(found[0, ..., 0], np.asarray(box))
    square = wide.convert("RGB").crop((30, 0, 70, 40)).convert("L").resize((16, 16), 2)
    np.testing.assert_array_equal(found[1, ..., 0], np.asarray(square))
    said = capsys.readouterr().out
    assert "(15, 40, 163, 188) (notebook)" in said and "(30, 0, 70, 40)" in said


def test_a_turned_picture_is_turned_back(tmp_path):
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(levels).rotate(90)
    turned.save(tmp_path / "t.png", exif=exif)
    recipe = {**RECIPE, "size": 8, "crop": "centre"}
    (found,) = read_pictures([str(tmp_path / "t.png")], recipe)
    np.testing.assert_array_equal(found[..., 0], levels)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    for name in ("notes.txt", "nowhere.png"):
        with pytest.raises(UserError, match=f"{name} is no picture"):
            read_pictures([str(tmp_path / name)], RECIPE)
