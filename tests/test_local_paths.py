"""Whatever a path holds: training, going on, opening and sampling find it again."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from conftest import new_tiny_config
from PIL import Image

from vae_jax import config as config_lib
from vae_jax import main
from vae_jax import run as run_lib
from vae_jax.commands import samples
from vae_jax.data import synthetic_faces
from vae_jax.errors import UserError
from vae_jax.local_paths import local_path, split_paths
from vae_jax.training import orbax_files

pytestmark = pytest.mark.slow

NAMES = [
    "[x]",
    "runs [old] *?[!a]",
    "x[0:3] {SPLIT}-00000-of-00001",
    "a\\b",
    '{a} %20 50% b=c,d:e #1 it\'s "f" $HOME~&;|@3<>',
    "new\nline",
    "josé 日本.",
    "-x",
    "n" * 200,
]


def ascii_of(name):
    return ascii(name)[:12]


@pytest.fixture(scope="module")
def small_config(data_dir):
    config = new_tiny_config(data_dir)
    config.dataset.size, config.model.latent_dim, config.model.hidden_dim = 8, 2, 4
    config.train.num_steps = 4
    return config


def assert_same(left, right):
    for a, b in zip(
        run_lib.jax.tree.leaves(left.variables),
        run_lib.jax.tree.leaves(right.variables),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES, ids=ascii_of)
def test_a_run_is_found_again_in_a_folder_of_any_name(
    small_config, tmp_path, tmp_path_factory, monkeypatch, name
):
    links = tmp_path_factory.mktemp("links")
    monkeypatch.setattr(tempfile, "tempdir", str(links))
    workdir = tmp_path / name / "run"
    config = small_config.copy_and_resolve_references()
    run_lib.train(config, workdir)
    config.train.num_steps = 8
    trained = run_lib.train(config, str(workdir))
    loaded = run_lib.load(workdir)
    assert loaded.step == 8
    assert_same(loaded, trained)
    images = samples.sample(loaded, "prior", 2, 0)
    path, _ = samples.draw_samples(loaded, "samples.png", {"prior": images}, {})
    with Image.open(path) as picture:
        assert picture.size[0] > 16
    config.init_from = str(workdir)
    config.train.num_steps = 4
    run_lib.train(config, tmp_path / "next")
    # Nothing is written beside: not even by a pattern that fits other folders.
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "next"])
    assert not list(links.iterdir())


@pytest.mark.parametrize("name", NAMES, ids=ascii_of)
def test_pictures_are_found_again_in_a_folder_of_any_name(tmp_path, name):
    data_dir = tmp_path / name / "tfds"
    synthetic_faces.prepare(data_dir, sizes={"train": 4, "validation": 2, "test": 2})
    for _ in range(2):
        dataset = run_lib.cache.load("synthetic_faces", data_dir, size=8)
        assert dataset.splits["train"].images.shape == (4, 8, 8, 1)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_relative_and_linked_workdirs(small_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk [1]").mkdir()
    (tmp_path / "link").symlink_to("disk [1]")
    run_lib.train(small_config, "link/run")
    assert run_lib.load("disk [1]/run").step == 4
    assert run_lib.load(tmp_path / "link" / "run").step == 4
    run_lib.train(small_config, "../" + tmp_path.name + "/up")
    assert run_lib.load("up").step == 4


def test_a_temporary_folder_that_orbax_would_misread_is_named(
    small_config, tmp_path, monkeypatch
):
    (tmp_path / "[t]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "[t]"))
    with pytest.raises(UserError, match=r"^TMPDIR is '.*\[t\]', from where a link"):
        run_lib.train(small_config, tmp_path / "[x]")


def with_another_leaf(path, state):
    return state.replace(step=np.float32(0))


@pytest.mark.parametrize(
    ("where", "name", "value", "said"),
    [
        # What Orbax does where its path is a pattern.
        (orbax_files, "_MISREAD", frozenset(), "manifest.ocdbt is absent"),
        (orbax_files, "load", with_another_leaf, r"step: float32\[\] there, int32"),
    ],
)
def test_a_save_that_nobody_could_read_is_found_at_once(
    small_config, tmp_path, monkeypatch, where, name, value, said
):
    monkeypatch.setattr(where, name, value)
    config = small_config.copy_and_resolve_references()
    config.train.num_steps = 8
    workdir = tmp_path / "[x]"
    with pytest.raises(
        UserError, match=rf"4\.unfinished was written, but .*\n.*{said}"
    ):
        run_lib.train(config, workdir)
    assert not (workdir / "checkpoints" / "4").exists()
    # At the first save, not after the training.
    assert (workdir / "metrics.jsonl").read_text().count('"train"') == 1
    monkeypatch.undo()
    assert run_lib.train(config, workdir).step == 8


ADDRESSES = ["gs://bucket/run", "s3://b/r", "https://x.org/a.zip", "gs:/b", "", "\0"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_refused_before_any_work(small_config, tmp_path, address):
    with pytest.raises(UserError, match="^--x is .*; allowed is a path on"):
        local_path(address, "--x")
    for open_it in (run_lib.load, lambda path: run_lib.train(small_config, path)):
        with pytest.raises(UserError, match="^workdir is "):
            open_it(address)
    for name in ("init_from", "dataset.data_dir"):
        config = small_config.copy_and_resolve_references()
        config.update_from_flattened_dict({name: address})
        with pytest.raises(UserError, match=f"^config.{name} is .*a path on this"):
            config_lib.validate(config)


@pytest.mark.parametrize("flag", ["workdir", "folder", "judge", "guide"])
def test_flags_take_paths_alone_and_expand_home(flag, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    with flagsaver.flagsaver():
        main.flags.FLAGS(["vae_jax", f"--{flag}=~/runs/x"])
        found = main.flags.FLAGS[flag].value
        assert found in (Path("/home/anna/runs/x"), [Path("/home/anna/runs/x")])
        with pytest.raises(UserError, match=f"^--{flag} is 's3://b/x'; allowed"):
            main.flags.FLAGS(["vae_jax", f"--{flag}=s3://b/x"])


def test_home_is_expanded_in_settings_and_arguments(
    small_config, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    os.symlink(data_dir, tmp_path / "tfds")
    config = small_config.copy_and_resolve_references()
    config.dataset.data_dir = "~/tfds"
    run = run_lib.train(config, "~/first")
    assert run.workdir == tmp_path / "first"
    assert run.config.dataset.data_dir == str(tmp_path / "tfds")
    config.init_from = "~/first"
    run_lib.train(config, "~/second")
    assert run_lib.load("~/second").step == 4
    with pytest.raises(UserError, match="'~nobody-of-that-name/x'; allowed"):
        run_lib.load("~nobody-of-that-name/x")


def test_a_comma_belongs_to_the_name_of_a_file_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.png", "c.png", 'd"e",f,g.png'):
        Path(name).write_bytes(b"")
    text = 'c.png,a,b.png,d"e",f,g.png,c.png,nowhere,x.png'
    assert list(map(str, split_paths(text, "--pictures"))) == [
        "c.png",
        "a,b.png",
        'd"e",f,g.png',
        "c.png",
        "nowhere",
        "x.png",
    ]
    for text in ("", "c.png,", "c.png,,c.png", "c.png,gs://b/c.png"):
        with pytest.raises(UserError, match="^--pictures is '.*'; allowed is a path"):
            split_paths(text, "--pictures")


def test_a_comma_belongs_to_the_name_of_a_folder_where_folders_are_listed(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "c"):
        Path(name).mkdir()
    Path("c,d").write_bytes(b"")
    with flagsaver.flagsaver():
        main.flags.FLAGS(["vae_jax", "--judge=c,d,a,b,nowhere"])
        listed = main.flags.FLAGS["judge"].value
        assert listed == [*map(Path, ("c", "d", "a,b", "nowhere"))]
        with pytest.raises(UserError, match="^--judge is ''; allowed is a path on"):
            main.flags.FLAGS(["vae_jax", "--judge=c,,d"])
