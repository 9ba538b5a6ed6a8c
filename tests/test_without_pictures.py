"""A run is used where its pictures are not, and says what it needs them for."""

import dataclasses
import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import new_tiny_config
from PIL import Image

from tests.test_checkpoint import files_of_at_most
from vae_jax import main
from vae_jax import run as run_lib
from vae_jax.commands import (
    directions,
    edits,
    evaluation,
    interpolations,
    kept_codes,
    reconstructions,
    samples,
    traversals,
)
from vae_jax.commands import kept as kept_lib
from vae_jax.commands.reconstructions import reconstruct
from vae_jax.errors import UserError

pytestmark = pytest.mark.slow

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), np.uint8)


@pytest.fixture(scope="module", params=["vae", "ae"])
def kept(request, data_dir, tmp_path_factory):
    """What a command leaves that has trained."""
    config = new_tiny_config(data_dir)
    config.model.name = request.param
    config.objective.name = "elbo" if request.param == "vae" else "mse"
    run = run_lib.train(config, tmp_path_factory.mktemp("kept"))
    kept_codes.keep(run)
    return run


@pytest.fixture
def bare(kept, tmp_path):
    """A copy of the run on a machine without the pictures."""
    workdir = tmp_path / "run"
    shutil.copytree(kept.workdir, workdir)
    record = json.loads((workdir / "run.json").read_text())
    record["config"]["dataset"]["data_dir"] = str(tmp_path / "gone")
    record["config"]["dataset"]["name"] = record["dataset"]["name"] = "celeb_a"
    (workdir / "run.json").write_text(json.dumps(record))
    return run_lib.load(workdir)


def test_what_needs_no_pictures(kept, bare):
    assert bare.attribute_names == kept.dataset.attribute_names
    is_vae = kept.config.model.name == "vae"
    for sampler in ("prior", "gaussian") if is_vae else ("gaussian",):
        found, expected = (samples.sample(r, sampler, 5, 3) for r in (bare, kept))
        np.testing.assert_array_equal(found, expected)
    edited = edits.edit(bare, {"Smiling": 1.0}, [0.0, 1.0], pictures=PICTURES)
    way = interpolations.interpolate(bare, pictures=(["a", "b"], PICTURES))
    if is_vae:
        interpolations.interpolate(bare, seeds=[1, 2])
    here, there = (traversals.traverse(r, 3, picture=PICTURES[0]) for r in (bare, kept))
    assert here.record == there.record
    for found in (edited, way, here, reconstruct(kept, 2)):
        assert found.record["checkpoint_step"] == kept.step


def test_what_needs_them_says_what_for(bare):
    celeba = "needs the pictures that the run in .*data_dir says where they are now: "
    for purpose, work in {
        "--sampler=mixture": lambda: samples.sample(bare, "mixture", 2, 0),
        "--mode=edit without --pictures": lambda: edits.edit(
            bare, {"Smiling": 1.0}, [0.0]
        ),
        "--mode=interpolate of test pictures": lambda: interpolations.interpolate(bare),
        "--mode=traverse of test pictures": lambda: traversals.traverse(bare),
        "--mode=reconstruct": lambda: reconstruct(bare, 2),
        "an evaluation": lambda: evaluation.evaluate_run(bare),
        "finding directions": lambda: directions.write_directions(bare, 0),
        "what was asked for": lambda: bare.dataset,
    }.items():
        with pytest.raises(UserError, match=f"^{purpose} {celeba}.*celeb_a"):
            work()


def test_figures_of_dimensions_are_those_of_the_validation_pictures(kept):
    found, model = kept_codes.dimensions(kept), kept.model()
    images = jnp.float32(kept.dataset.splits["validation"].images) / 255
    mean = model.encode(images)
    np.testing.assert_allclose(found["mean"], np.mean(mean, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["variance"], np.var(mean, 0), rtol=1e-3)
    if kept.config.model.name == "vae":
        logvar = model.posterior(images).logvar
        kl = 0.5 * (np.exp(logvar) + np.square(mean) - 1 - logvar)
        np.testing.assert_allclose(found["kl"], kl.mean(0), rtol=1e-4)
    else:
        assert "kl" not in found


def test_codes_of_other_parameters_are_not_used(bare):
    later = dataclasses.replace(bare, step=bare.step + 1)
    with pytest.raises(UserError, match="^--sampler=gaussian needs the pictures"):
        samples.sample(later, "gaussian", 2, 0)
    path = bare.workdir / "codes.npz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="^--sampler=gaussian needs the pictures"):
        samples.sample(bare, "gaussian", 2, 0)


def test_what_is_kept_is_of_the_runs_own_pictures_and_latest_checkpoint(kept, tmp_path):
    shutil.copytree(kept.workdir, tmp_path / "run")
    run = dataclasses.replace(kept, workdir=tmp_path / "run")
    files = [run.workdir / name for name in ("codes.npz", "directions.npz")]
    before = [path.read_bytes() for path in files]
    earlier = dataclasses.replace(run, step=run.step - 1)
    recipe = {**run.recipe, "fingerprint": "of others"}
    others = dataclasses.replace(run, recipe=recipe, step=run.step + 1)
    for other in (earlier, others):
        kept_codes.fitted_density(other, "mixture")
        kept_codes.dimensions(other)
        assert directions.read_directions(other, "deconfounded", 0)
        kept_codes.keep(other)
        assert [path.read_bytes() for path in files] == before
    with pytest.raises(UserError, match=f"directions.npz is of step {run.step}, and"):
        directions.write_directions(earlier, 0)
    with pytest.raises(UserError, match="directions.npz is kept of the pictures alone"):
        directions.write_directions(others, 0)
    # Fewer pictures than the run was trained on are no reason to fail.
    dataset = run.dataset
    train = dataset.splits["train"]
    train = dataclasses.replace(
        train, images=train.images[:30], attributes=train.attributes[:30]
    )
    fewer = dataclasses.replace(dataset, splits={**dataset.splits, "train": train})
    others = dataclasses.replace(others, open_dataset=lambda: fewer)
    assert len(kept_codes.encode_train(others, "gaussian", "a test")[0]) == 30


def test_each_part_that_is_missing_is_kept_anew(kept, tmp_path):
    shutil.copytree(kept.workdir, tmp_path / "run")
    run = dataclasses.replace(kept, workdir=tmp_path / "run")
    (run.workdir / "directions.npz").unlink()
    (run.workdir / "codes.npz").unlink()
    kept_codes.fitted_density(run, "mixture")
    kept_codes.keep(run)
    assert (run.workdir / "directions.npz").exists()
    with np.load(run.workdir / "codes.npz") as saved:
        parts = {name.partition(".")[0] for name in saved}
    assert {"gaussian", "mixture", "dimensions"} <= parts


def test_a_workdir_that_is_only_to_be_read_costs_what_is_kept_alone(
    kept, tmp_path, monkeypatch, capsys
):
    run = dataclasses.replace(kept, workdir=tmp_path / "nowhere")
    assert samples.sample(run, "mixture", 2, 0).shape == (2, 16, 16, 1)
    assert "note: cannot write" in capsys.readouterr().out
    with pytest.raises(UserError, match="cannot write .*directions.npz"):
        directions.write_directions(run, 0)


def test_a_full_disk_leaves_no_part_of_what_is_kept(kept, tmp_path):
    run = dataclasses.replace(kept, workdir=tmp_path)
    with (
        pytest.raises(UserError, match="cannot write .*codes.npz: File too large"),
        files_of_at_most(1_000),
    ):
        kept_lib.write(run, "codes.npz", {"mean": np.zeros(1_000)})
    assert not [*tmp_path.iterdir()]


def test_attributes_are_found_by_name_in_other_pictures(kept):
    dataset = kept.dataset
    first, *others = dataset.attribute_names
    changed = {
        name: dataclasses.replace(
            split, attributes=np.concatenate([split.attributes] * 2, axis=1)[:, 1:]
        )
        for name, split in dataset.splits.items()
    }
    names = (*others, first, *(f"new {name}" for name in others))
    moved = dataclasses.replace(dataset, splits=changed, attribute_names=names)
    run = dataclasses.replace(kept, open_dataset=lambda: moved)
    found = run.attributes("train")
    np.testing.assert_array_equal(found, dataset.splits["train"].attributes)
    run.config.model.attributes, before = first, run.config.model.attributes
    labels = run.labels("train")[:, 0]
    run.config.model.attributes = before
    np.testing.assert_array_equal(labels > 0, dataset.splits["train"].attributes[:, 0])
    fewer = dataclasses.replace(moved, attribute_names=names[:3])
    run = dataclasses.replace(kept, open_dataset=lambda: fewer)
    with pytest.raises(UserError, match=f"^run.json has {first!r}; the attributes of"):
        run.attributes("train")


def cli(capsys, monkeypatch, *arguments):
    """Runs the command line; returns its status, its output and its errors."""
    monkeypatch.setattr(sys, "argv", ["vae_jax", *map(str, arguments)])
    monkeypatch.setattr(main, "keep_compiled_programs", lambda: None)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        main.cli()
    return (ended.value.code or 0, *capsys.readouterr())


def test_the_place_of_the_pictures_counts_in_every_mode(
    kept, bare, data_dir, tmp_path, capsys, monkeypatch
):
    record = json.loads((bare.workdir / "run.json").read_text())
    record["config"]["dataset"]["name"] = "synthetic_faces"
    record["dataset"]["name"] = "synthetic_faces"
    (bare.workdir / "run.json").write_text(json.dumps(record))
    # Nor are ten thousand faces drawn in order to sample.
    samples.sample(run_lib.load(bare.workdir), "gaussian", 2, 0)
    assert not (tmp_path / "gone").exists()
    (tmp_path / "moved").symlink_to(data_dir)
    monkeypatch.chdir(tmp_path)
    here = "--config.dataset.data_dir=moved"
    mode, workdir = "--mode=reconstruct", f"--workdir={bare.workdir}"
    status, out, err = cli(capsys, monkeypatch, mode, workdir, here)
    assert status == 0, err
    assert "reconstructions.png" in out
    assert not (tmp_path / "gone").exists()
    # Where a run was started is not where it is looked into.
    record["config"]["distributed"] = "10.0.0.1:1234,8,0"
    (bare.workdir / "run.json").write_text(json.dumps(record))
    status, out, err = cli(capsys, monkeypatch, mode, workdir, here)
    assert status == 0, err
    other = "--config.model.latent_dim=5"
    status, _, err = cli(capsys, monkeypatch, mode, workdir, here, other)
    assert status == 2 and "model.latent_dim: 4 in the run, 5 given" in err
    status, _, err = cli(capsys, monkeypatch, mode, here)
    assert status == 2 and "--config is missing, and --workdir is missing" in err
    status, _, err = cli(capsys, monkeypatch, mode, "--workdir=nowhere", here)
    assert status == 2 and "--workdir is 'nowhere': there is no run" in err


def test_ones_own_pictures_are_reconstructed(bare, tmp_path, capsys, monkeypatch):
    size = bare.config.dataset.size
    levels = np.random.default_rng(0).integers(0, 256, (2, size, size), np.uint8)
    files = [str(tmp_path / f"{number}.png") for number in range(2)]
    for file, each in zip(files, levels, strict=True):
        Image.fromarray(each).save(file)
    mode, workdir = "--mode=reconstruct", f"--workdir={bare.workdir}"
    given, told = f"--pictures={','.join(files)}", []
    monkeypatch.setattr(
        reconstructions.grids,
        "image_grid",
        lambda *rest, caption, **how: told.extend(caption),
    )
    status, out, err = cli(capsys, monkeypatch, mode, workdir, given)
    assert status == 0, err
    assert told[1].endswith(f"--workdir={bare.workdir} {given}")
    assert "reconstructions.png" in out
    path = bare.workdir / "images" / "reconstructions.json"
    record = json.loads(path.read_text())
    model = bare.model()
    images = jnp.asarray(levels[..., None] / 255, jnp.float32)
    expected = jnp.mean(jnp.square(model.decode(model.encode(images)).mean - images))
    assert record["pictures"] == files and record["num_images"] == 2
    np.testing.assert_allclose(record["mse"], expected, rtol=1e-4)
    status, _, err = cli(capsys, monkeypatch, mode, workdir, given, "--num_images=2")
    assert status == 2 and "--num_images and --pictures are given" in err


def test_samples_are_not_mixed_with_other_files(bare, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "fakes"
    common = ["--mode=sample", f"--workdir={bare.workdir}", f"--folder={folder}"]
    common.append("--sampler=gaussian")

    def draw(*arguments):
        return cli(capsys, monkeypatch, *common, *arguments)

    assert draw("--num_images=5")[0] == 0
    pictures = [f"0000{number}.png" for number in range(5)]
    assert sorted(p.name for p in folder.iterdir()) == [*pictures, "samples.json"]
    before = (folder / "00000.png").read_bytes()
    status, _, err = draw("--num_images=3", "--seed=1")
    assert status == 2 and "holds 5 samples of this run already" in err
    assert (folder / "00000.png").read_bytes() == before
    assert draw("--num_images=3", "--seed=1", "--replace")[0] == 0
    assert sorted(p.name for p in folder.glob("*.png")) == pictures[:3]
    assert (folder / "00000.png").read_bytes() != before
    assert json.loads((folder / "samples.json").read_text())["seed"] == 1
    # Nobody's but this run's samples are deleted.
    Image.new("L", (8, 8)).save(folder / "me.png")
    status, _, err = draw("--replace")
    assert status == 2 and "which holds 5 other files (me.png)" in err
    (folder / "me.png").unlink()
    (folder / "samples.json").write_text('{"workdir": "/elsewhere"}')
    assert draw("--replace")[0] == 2
    assert sorted(p.name for p in folder.glob("*.png")) == pictures[:3]
    status, _, err = cli(capsys, monkeypatch, *common[:2], "--replace")
    assert status == 2 and "--replace is given; it goes with --folder" in err


def test_a_folder_of_pictures_that_is_not_there_is_not_made(kept, tmp_path):
    place = tmp_path / "mistyped"
    with pytest.raises(UserError, match="mistyped'; allowed is a folder"):
        run_lib.load(kept.workdir, data_dir=place)
    assert not place.exists()
