"""Models leave their run as they were; damaged or hostile files are named."""

import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_small_config
from PIL import Image

import vae_jax
from vae_jax import run as run_lib
from vae_jax.commands import captions, directions, kept, kept_codes, samples
from vae_jax.errors import UserError
from vae_jax.export import files, saving
from vae_jax.export.__main__ import main as export_main
from vae_jax.models.contract import flatten

st = pytest.importorskip("safetensors.numpy")
pytestmark = pytest.mark.slow
KINDS = ("vae", "ae", "conv", "transformer", "shared", "flow", "classifier")


@pytest.fixture(scope="module")
def folders(small_runs, tmp_path_factory):
    """Returns a function that gives the exported model of a run, to be read only."""
    folder = tmp_path_factory.mktemp("exported")

    def folder_of(kind):
        if not (folder / kind).exists():
            saving.export(small_runs(kind), folder / kind)
        return folder / kind

    return folder_of


def encoded_and_decoded(model, images):
    code = model.encode(images)
    return flatten(code), model.decode(code).mean


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_what_it_was(small_runs, folders, kind):
    run, found = small_runs(kind), vae_jax.load(folders(kind))
    images = jnp.float32(run.dataset.splits["test"].images) / 255
    if kind == "classifier":
        ours, theirs = (m.features(images) for m in (found.model, run.model()))
        np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(UserError, match="nothing to draw samples from"):
            found.sample(2)
        return
    ours, theirs = (encoded_and_decoded(m, images) for m in (found.model, run.model()))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    (best, *_) = samples.best_samplers(run)
    expected = samples.sample(run, best, 3, seed=5)
    np.testing.assert_allclose(found.sample(3, seed=5), expected, atol=1e-3)
    if best == "gaussian":
        # A covariance that is rounded may be none.
        fitted = kept_codes.fitted_density(run, best).covariances
        assert fitted.dtype == np.float64
        np.testing.assert_array_equal(found.density.covariances, fitted)
    with pytest.raises(UserError, match="seed is -1; allowed is"):
        found.sample(1, seed=-1)
    known = kept_codes.dimensions(run)
    np.testing.assert_array_equal(found.order, kept_codes.leading_first(known))
    np.testing.assert_array_equal(
        found.std, np.float32(kept_codes.spread(run, known)[1])
    )
    known = directions.read_directions(run, saving.ESTIMATOR, 0)
    assert found.directions.keys() == known.keys()
    zeros = np.zeros((1, len(found.directions["Smiling"])), np.float32)
    np.testing.assert_array_equal(
        found.directions["Smiling"], np.ravel(known["Smiling"](zeros))
    )


def test_a_folder_stands_alone_and_tells_no_path(small_runs, folders, tmp_path):
    folder = folders("vae")
    names = ["README.md", "codes.safetensors", "config.json", "model.safetensors"]
    assert sorted(p.name for p in folder.iterdir()) == [*names, "samples.png"]
    home = str(small_runs("vae").workdir.parent)
    config = json.loads((folder / "config.json").read_text())
    assert (
        home not in json.dumps(config) and not config["config"]["dataset"]["data_dir"]
    )
    card = (folder / "README.md").read_text()
    assert home not in card and sys.executable not in card
    assert card.startswith("---\nlibrary_name: vae_jax\nlicense: apache-2.0\n")
    figures = json.loads((small_runs("vae").workdir / "eval.json").read_text())
    (elbo,) = re.findall(r"\| elbo +\| (\S+) ±", card)
    assert float(elbo) == pytest.approx(figures["test"]["ema"]["elbo"], abs=1)
    with Image.open(folder / "samples.png") as picture:
        assert picture.size[0] > 300
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert vae_jax.load(moved).sample(1).shape == (1, 16, 16, 1)


COMMAND = "-m vae_jax.main --config=configs/vae.py --config.train.num_steps=4"


def test_a_card_tells_the_command_without_paths():
    of_machine = (
        " --config.dataset.data_dir=data --workdir runs/vae --config.init_from=before "
        "--config.objective.guide=runs/judge --config.distributed=10.0.0.1:80,2,0"
    )
    given = f"/home/me/bin/python3 {COMMAND}{of_machine} --config.seed 3"
    assert captions.without_paths(given) == f"python {COMMAND} --config.seed=3"
    own = "python -m vae_jax.main --config=/home/me/own.py --config.seed=3"
    assert captions.without_paths(own) == "python -m vae_jax.main --config.seed=3"
    notebook = "python -m ipykernel_launcher -f /home/me/kernel.json"
    assert captions.without_paths(notebook) is None


def test_a_folder_is_whole_or_as_it_was(small_runs, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving.grids, "image_grid", full)
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        with pytest.raises(UserError, match=f"cannot write .*{name}: No space"):
            saving.export(small_runs("vae"), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert not [*(tmp_path / "there").iterdir()]


@pytest.mark.parametrize(("kind", "sampler"), [("vae", "prior"), ("ae", None)])
def test_without_images_to_fit_the_prior_is_the_best_there_is(
    small_runs, tmp_path, monkeypatch, capsys, kind, sampler
):
    def gone():
        raise UserError("they are gone")

    run = dataclasses.replace(small_runs(kind), open_dataset=gone)
    monkeypatch.setattr(kept, "read", lambda *_, **how: {})
    saving.export(run, tmp_path / "to")
    assert "--sampler=gaussian needs the pictures" in capsys.readouterr().out
    found = vae_jax.load(tmp_path / "to")
    assert found.sampler == sampler and found.density is None
    assert (tmp_path / "to" / "samples.png").exists() == (sampler is not None)


def test_a_card_of_celeba_says_what_its_licence_allows(small_runs, tmp_path):
    run = small_runs("ae")
    run = dataclasses.replace(run, recipe={**run.recipe, "name": "celeb_a"})
    saving.export(run, tmp_path / "to")
    card = (tmp_path / "to" / "README.md").read_text()
    assert "license: other" in card and "non-commercial research only" in card


def test_what_trained_beside_the_model_stays_behind(data_dir, tmp_path):
    config = new_small_config(data_dir, "conv")
    config.objective.adversarial_weight, config.objective.critic_width = 0.2, 4
    run = run_lib.train(config, tmp_path / "run")
    assert "critic" in run.variables["ema"].params
    saving.export(run, tmp_path / "to")
    weights = tmp_path / "to" / files.WEIGHTS
    assert not [name for name in st.load_file(weights) if "critic" in name]
    images = jnp.float32(run.dataset.splits["test"].images) / 255
    ours = vae_jax.load(tmp_path / "to").model.encode(images)
    np.testing.assert_array_equal(ours, run.model().encode(images))


def damage(folder, how):
    """Spoils one of the files in a folder."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    content = json.loads(config.read_text())
    arrays = st.load_file(weights)
    name = min(arrays)
    if how == "flipped":
        data = bytearray(weights.read_bytes())
        data[-5] ^= 1
        weights.write_bytes(data)
        return
    # Who does harm on purpose mends them as well.
    del content["sha256"]
    config.write_text(json.dumps(content))
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-9])
    elif how == "header of 10 GB":
        weights.write_bytes(struct.pack("<Q", 10**10) + b"{}")
    elif how == "10 GB":
        with weights.open("r+b") as file:
            file.truncate(10**10)
    elif how == "pickled":
        weights.write_bytes(b"\x80\x04N.")
    elif how == "shape":
        st.save_file({**arrays, name: arrays[name][None].copy()}, weights)
    elif how == "type":
        st.save_file({**arrays, name: arrays[name].astype(np.float16)}, weights)
    elif how == "array missing":
        st.save_file({n: a for n, a in arrays.items() if n != name}, weights)
    elif how == "no weights":
        weights.unlink()
    elif how == "no json":
        config.write_text("{" * 100_000)
    elif how == "format":
        config.write_text(json.dumps(content | {"format": 2}))
    elif how == "setting":
        content["config"]["model"]["depths"] = 3
        config.write_text(json.dumps(content))
    elif how == "value":
        content["config"]["model"]["latent_dim"] = -1
        config.write_text(json.dumps(content))
    elif how == "kind of value":
        content["config"]["dataset"]["size"] = [16]
        config.write_text(json.dumps(content))
    elif how == "no object":
        config.write_text("[]")
    elif how == "no model":
        del content["config"]["model"]
        config.write_text(json.dumps(content))
    elif how == "sampler":
        config.write_text(json.dumps(content | {"sampler": "mixture"}))
    elif how == "size":
        config.write_text(json.dumps(content) + " " * 10**6)
    elif how in NO_FILES:
        file, made = NO_FILES[how]
        (folder / file).unlink()
        made(folder / file)
    elif how in HOSTILE_RECIPES:
        content["dataset"] |= HOSTILE_RECIPES[how]
        config.write_text(json.dumps(content))
    elif how == "no recipe":
        config.write_text(json.dumps(content | {"dataset": {}}))
    elif how in HOSTILE:
        content["config"]["model"] |= HOSTILE[how]
        config.write_text(json.dumps(content))
    elif how in HOSTILE_CODES:
        known = st.load_file(folder / "codes.safetensors") | HOSTILE_CODES[how]
        st.save_file(known, folder / "codes.safetensors")
    elif how == "no codes":
        (folder / "codes.safetensors").unlink()
    elif how == "directions":
        known = st.load_file(folder / "codes.safetensors")
        known["directions"] = known["directions"][:, :-1].copy()
        st.save_file(known, folder / "codes.safetensors")


LADDER = {"name": "hierarchical", "network": "ladder", "widths": "4:8"}
HOSTILE = {
    "a classifier's network": {"network": "strided"},
    "no end of blocks": {"network": "conv", "depth": 10**9},
    "no end of layers": LADDER | {"layers": "4:1000000"},
    "no end of numbers": {"hidden_dim": 2**31 - 1},
    "resolutions that do not divide": LADDER | {"layers": "5:2", "widths": "5:8"},
    "resolutions that differ": LADDER | {"layers": "8:2"},
    "digits": LADDER | {"layers": f"4:{'9' * 5000}"},
    "a setting of another model": {"depth": 3},
}
# They would never come to their end.
NO_FILES = {
    "settings from a pipe": ("config.json", os.mkfifo),
    "weights from a pipe": ("model.safetensors", os.mkfifo),
    "settings from a device": (
        "config.json",
        lambda path: path.symlink_to("/dev/zero"),
    ),
}
HOSTILE_RECIPES = {
    "images of another size": {"size": 24},
    "images of other channels": {"channels": 3},
    "images of no size": {"averaged_from": 16 * 10**6},
    "images between two sizes": {"averaged_from": 24},
    "a crop that is not known": {"crop": "auto"},
    "a resampler that is not known": {"resampler": ["bilinear"]},
}
HOSTILE_CODES = {
    "weight of no dimension": {"weights": np.array(1, np.float32)},
    "no components": {
        "weights": np.ones(0, np.float32),
        "means": np.ones((0, 4), np.float32),
        "covariances": np.ones((0, 4, 4), np.float32),
    },
    "dimension that is there twice": {"order": np.int32([0, 1, 1, 3])},
    "order of another size": {"order": np.arange(5, dtype=np.int32)},
    "spread that is not finite": {"std": np.full(4, np.inf, np.float32)},
    "no covariance": {"covariances": -np.eye(4, dtype=np.float64)[None]},
    "not finite": {"means": np.full((1, 4), np.nan, np.float32)},
    "too large": {"more": np.zeros(10**6, np.float32)},
}
DAMAGED = {
    "model.safetensors": [
        "flipped",
        "truncated",
        "header of 10 GB",
        "10 GB",
        "pickled",
        "shape",
        "type",
        "array missing",
        "no weights",
        "weights from a pipe",
    ],
    "config.json": [
        "no json",
        "format",
        "setting",
        "value",
        "kind of value",
        "no object",
        "no model",
        "sampler",
        "size",
        "settings from a pipe",
        "settings from a device",
        "no recipe",
        *HOSTILE_RECIPES,
        *HOSTILE,
    ],
    "codes.safetensors": ["directions", "no codes", *HOSTILE_CODES],
}


@pytest.mark.parametrize(
    ("named", "how"), [(file, how) for file, hows in DAMAGED.items() for how in hows]
)
def test_files_that_are_damaged_or_hostile_are_named_in_one_line(
    folders, tmp_path, named, how
):
    folder = shutil.copytree(folders("vae"), tmp_path / "model")
    damage(folder, how)
    with pytest.raises(UserError) as error:
        vae_jax.load(folder)
    told = str(error.value)
    assert told.startswith(str(folder / named)) and "\n" not in told
    # Only what is not there.
    assert ("it lacks model" in told) == (how == "no model")


def test_a_workdir_is_told_how_it_is_exported(small_runs):
    workdir = small_runs("ae").workdir
    with pytest.raises(UserError, match="is the workdir of a run.* -m vae_jax.export"):
        vae_jax.load(workdir)


def test_no_folder_is_left_of_an_export_that_failed(small_runs, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving.grids, "image_grid", full)
    with pytest.raises(UserError, match="No space left"):
        saving.export(small_runs("ae"), tmp_path / "mine" / "a" / "b")
    assert [*tmp_path.rglob("*")] == [tmp_path / "mine"]


def test_what_a_killed_export_left_is_as_if_it_were_not_there(small_runs, tmp_path):
    workdir, folder = small_runs("ae").workdir, tmp_path / "to"
    # It is killed as it writes, and so with the lock.
    code = f"""
import os, pathlib, signal
from vae_jax import run
from vae_jax.export import saving
saving.grids.image_grid = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
saving.export(run.load(pathlib.Path({str(workdir)!r})), pathlib.Path({str(folder)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert [path.name for path in folder.iterdir()] == [".unfinished"]
    left = {path.name for path in (folder / ".unfinished").iterdir()}
    assert {"lock", "config.json", "model.safetensors"} <= left
    # As a write that was torn leaves it.
    (folder / ".unfinished" / "README.md.0a1b2c.unfinished").write_text("# A")
    paths = saving.export(small_runs("ae"), folder)
    assert sorted(folder.iterdir()) == paths
    vae_jax.load(folder)


@pytest.mark.parametrize("name", ["config.json", ".unfinished/notes.txt"])
def test_nothing_is_deleted_that_may_be_a_users(small_runs, tmp_path, name):
    # The first may be of an export that was killed between its last two moves.
    (tmp_path / ".unfinished").mkdir()
    for each in (".unfinished/README.md", name):
        (tmp_path / each).write_text("mine")
    with pytest.raises(UserError, match=f"--to is .*, which holds {name}; allowed is"):
        saving.export(small_runs("ae"), tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / ".unfinished" / "README.md").exists()


def test_of_two_exports_into_a_folder_one_is_refused(small_runs, tmp_path, monkeypatch):
    real, refused = saving.grids.image_grid, []

    def meanwhile(*arguments):
        with pytest.raises(UserError, match="where another export is at work"):
            saving.export(small_runs("vae"), tmp_path / "to")
        refused.append(True)
        real(*arguments)

    monkeypatch.setattr(saving.grids, "image_grid", meanwhile)
    paths = saving.export(small_runs("ae"), tmp_path / "to")
    assert refused and sorted((tmp_path / "to").iterdir()) == paths
    assert vae_jax.load(tmp_path / "to").config.model.name == "ae"


def test_without_locks_what_is_unfinished_is_let_be(small_runs, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    left = tmp_path / ".unfinished" / "README.md"
    left.parent.mkdir()
    left.write_text("# A")
    with pytest.raises(UserError, match=r"at work or was killed; .*/\.unfinished$"):
        saving.export(small_runs("ae"), tmp_path)
    assert left.read_text() == "# A"
    assert len(saving.export(small_runs("ae"), tmp_path / "to")) == 5


@pytest.mark.parametrize("how", ["a file of a user", "a refusal"])
def test_what_hinders_the_last_moves_leaves_all_as_it_was(
    small_runs, tmp_path, monkeypatch, how
):
    real, folder = Path.rename, tmp_path / "to"

    def refused(path, target):
        if path.name == "samples.png":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, target)

    def meanwhile(*arguments):
        (folder / "README.md").write_text("mine")

    folder.mkdir()
    if how == "a refusal":
        monkeypatch.setattr(Path, "rename", refused)
    else:
        monkeypatch.setattr(saving.grids, "image_grid", meanwhile)
    with pytest.raises(UserError, match="Input/output|which holds README.md"):
        saving.export(small_runs("ae"), folder)
    left = [path.read_text() for path in folder.iterdir()]
    assert left == ([] if how == "a refusal" else ["mine"])


def test_a_folder_that_holds_something_is_refused(small_runs, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    given = [f"--workdir={small_runs('vae').workdir}", f"--to={tmp_path}"]
    assert export_main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("export: --to is ") and "new or empty folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_without_the_library_the_extra_is_named(small_runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[export\]\""):
        saving.export(small_runs("vae"), tmp_path / "to")
    assert not (tmp_path / "to").exists()
    with pytest.raises(UserError, match=r"pip install -e \"\.\[export\]\""):
        files.safetensors()


def test_importing_the_package_imports_nothing_large():
    code = "import sys, vae_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
