"""Samples that are copies of training images, and samples that are not."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from experiments import neighbours
from vae_jax.errors import UserError


def pixels(images):
    return images.reshape(len(images), -1)


def test_the_nearest_are_scikit_learns_however_they_are_cut(monkeypatch):
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (11, 4, 4, 1), np.uint8)
    images = {n: rng.uniform(size=(5, 4, 4, 1)).astype(np.float32) for n in "ab"}
    monkeypatch.setattr(neighbours, "CHUNK", 4)
    found = neighbours.nearest(images, train, pixels, "pixels")
    both = np.concatenate([train, train[:, :, ::-1]]) / 255
    tree = NearestNeighbors(n_neighbors=1).fit(pixels(both))
    for name, those in images.items():
        apart, which = tree.kneighbors(pixels(those))
        np.testing.assert_array_equal(found[name][0], which[:, 0] % 11)
        np.testing.assert_allclose(found[name][1], apart[:, 0], rtol=1e-5)


def test_copies_are_told_from_other_images(small_runs, monkeypatch):
    run, judge = small_runs("conv"), small_runs("classifier")
    train = np.float32(run.dataset.splits["train"].images) / 255
    monkeypatch.setattr(neighbours, "judge_images", lambda _, x: (pixels(x)[:, ::2], 0))

    def learnt_by_heart(run, sampler, number, seed):
        # Mirrored, and so no training image as it is.
        return train[:number, :, ::-1]

    def new(run, sampler, number, seed):
        return 1 - train[:number]

    shares = {}
    for drawn in (learnt_by_heart, new):
        monkeypatch.setattr(neighbours, "sample", drawn)
        report, shown = neighbours.look(run, judge, "prior", 0)
        for space in ("features", "pixels"):
            shares[drawn, space] = report[space]["samples"]["share_nearer"]
        pairs = shown.reshape(-1, 2, *shown.shape[2:])
        turned = np.abs(pairs[:, 0] - pairs[:, 1, :, ::-1]).max() < 1e-6
        assert turned == (drawn is learnt_by_heart)
    assert shares[learnt_by_heart, "features"] == shares[learnt_by_heart, "pixels"] == 1
    assert shares[new, "features"] == shares[new, "pixels"] == 0


def test_a_hundredth_of_the_test_images_measures_the_others(small_runs, monkeypatch):
    run, judge = small_runs("conv"), small_runs("classifier")
    by_set = {
        "samples": np.arange(100) / 10,
        "test_reconstructions": np.arange(101) * 1.0 + 2,
        "train_reconstructions": np.zeros(5),
    }
    monkeypatch.setattr(
        neighbours,
        "nearest",
        lambda images, *others: {
            name: (np.zeros(len(each), int), each) for name, each in by_set.items()
        },
    )
    monkeypatch.setattr(
        neighbours,
        "sample",
        lambda run, sampler, number, seed: np.zeros(
            (100, *run.dataset.splits["test"].images.shape[1:])
        ),
    )
    report, _ = neighbours.look(run, judge, "prior", 0)
    for space in ("features", "pixels"):
        found = report[space]
        # A hundredth of 101 distances from 2 to 102 lies below 3.
        assert found["distance"] == pytest.approx(3)
        assert found["samples"]["share_nearer"] == pytest.approx(0.3)
        assert found["test_reconstructions"]["share_nearer"] == pytest.approx(1 / 101)
        assert found["train_reconstructions"]["share_nearer"] == 1


def test_the_command_leaves_figures_and_a_picture(small_runs, tmp_path, capsys):
    run, judge = small_runs("flow"), small_runs("classifier")
    neighbours.main(
        [f"--workdir={run.workdir}", f"--judge={judge.workdir}", f"--out={tmp_path}"]
    )
    report = json.loads((tmp_path / "neighbours.json").read_text())
    assert report["sampler"] == "prior"
    assert report["num_train"] == len(run.dataset.splits["train"].images)
    assert "share that is nearer" in capsys.readouterr().out
    with Image.open(tmp_path / "neighbours.png") as picture:
        assert picture.height > 4 * 16


def test_what_has_no_neighbours_is_told_in_a_line(small_runs, tmp_path):
    judge, run = small_runs("classifier").workdir, small_runs("flow").workdir
    for workdir, others, said in (
        (judge, [f"--judge={judge}"], "holds a classifier"),
        (run, [], "--judge"),
        (run, [f"--judge={run}"], "holds no classifier"),
        (tmp_path, [f"--judge={judge}"], "holds no run|no run"),
    ):
        with pytest.raises(UserError, match=said):
            neighbours.main([f"--workdir={workdir}", *others, f"--out={tmp_path}/o"])
    assert not (tmp_path / "o").exists()
