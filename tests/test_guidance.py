"""What guidance by labels does to a flow's samples, by a judge."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_small_config
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from experiments import guidance
from vae_jax import run as run_lib
from vae_jax.errors import UserError
from vae_jax.exploration import judging

# The classifier of small_runs knows them the other way round.
NAMES = ("Eyeglasses", "Smiling")


@pytest.fixture(scope="module")
def flow(data_dir, tmp_path_factory):
    """A flow that is told two attributes."""
    config = new_small_config(data_dir, "flow")
    config.model.attributes = ",".join(NAMES)
    return run_lib.train(config, tmp_path_factory.mktemp("guidance") / "flow")


def test_the_shares_are_those_of_images_that_are_as_was_asked(
    flow, small_runs, monkeypatch
):
    judge = small_runs("classifier")

    keys = []

    def drawn(model, labels, scale, key):
        keys.append((scale, tuple(jax.random.key_data(key).tolist())))
        # Guidance above 1 draws what was asked, and below nothing of it.
        spots = np.float32(labels > 0) if scale > 1 else np.zeros_like(labels)
        return spots[:, :, None, None]

    def by_spots(model, images):
        spots = np.float32(images).reshape(len(images), -1)[:, :2]
        logits = (2 * spots - 1)[:, ::-1]
        return spots + np.arange(len(images))[:, None], logits

    monkeypatch.setattr(guidance, "drawn", drawn)
    monkeypatch.setattr(judging, "judge_images", by_spots)
    report = guidance.look(flow, judge, [0.0, 2.0], 16, seed=0)
    assert report["asked_alone"] == {name: [0.5, 1.0] for name in NAMES}
    assert [each["accuracy"] for each in report["all_asked"]] == [0.5, 1.0]
    # Each guidance has the same noise, and each attribute other noise.
    assert {key for scale, key in keys if scale} == {
        key for scale, key in keys if not scale
    }
    assert len(set(keys)) == len(keys) == 6
    asked = np.asarray(flow.labels("test")) > 0
    pictures = np.float32(flow.dataset.splits["test"].images) / 255
    judged = by_spots(None, pictures)[1][:, ::-1] > 0
    shares = guidance.balanced_accuracy(asked, judged)
    told = np.array([*report["pictures"].values()], float)
    np.testing.assert_allclose(told, shares)
    for row in guidance.table(report).splitlines()[2:4]:
        assert "not raised" not in row
    # One of sixteen more than half may be chance.
    report["asked_alone"]["Smiling"] = [0.5, 0.5 + 1 / 16]
    first, second = guidance.table(report).splitlines()[2:4]
    assert "not raised" not in first and "not raised" in second


def test_images_follow_their_own_rows_of_labels(flow):
    labels = np.float32([[1, 0], [-1, 0], [0, 1]])
    model, noise = flow.model(), jax.random.key(4)
    images = guidance.drawn(model, labels, 3.0, noise)
    prior = model.prior_of(jnp.asarray(labels))
    told = prior.sample(noise, 1, guidance=3.0)[0]
    np.testing.assert_allclose(images, model.decode(told).mean, atol=1e-5)
    unguided = guidance.drawn(model, labels, 0.0, noise)
    others = guidance.drawn(model, -labels, 0.0, noise)
    np.testing.assert_array_equal(unguided, others)


def test_the_balanced_accuracy_is_scikit_learns():
    has, judged = np.asarray(jax.random.bernoulli(jax.random.key(0), 0.3, (2, 50, 3)))
    found = guidance.balanced_accuracy(has, judged)
    expected = [balanced_accuracy_score(has[:, i], judged[:, i]) for i in range(3)]
    np.testing.assert_allclose(found, expected)
    assert np.isnan(guidance.balanced_accuracy(np.ones((4, 1), bool), judged[:4, :1]))


def test_the_command_leaves_figures_and_a_picture(flow, small_runs, tmp_path, capsys):
    judge = small_runs("classifier")
    guidance.main(
        [
            f"--workdir={flow.workdir}",
            f"--judge={judge.workdir}",
            "--guidance=0,1.5",
            "--num_images=4",
            f"--out={tmp_path}",
        ]
    )
    report = json.loads((tmp_path / "guidance.json").read_text())
    assert report["guidance"] == [0, 1.5]
    assert set(report["asked_alone"]) == set(NAMES)
    shares = np.array([*report["asked_alone"].values()])
    assert np.isin(shares, [0, 0.25, 0.5, 0.75, 1]).all()
    assert "W = 1.5" in capsys.readouterr().out
    with Image.open(tmp_path / "guidance.png") as picture:
        assert picture.width == 1320


def test_what_cannot_be_guided_is_told_in_a_line(flow, small_runs, tmp_path):
    judge, plain = small_runs("classifier").workdir, small_runs("flow").workdir
    for workdir, others, said in (
        (plain, [f"--judge={judge}"], "a flow that is told no labels"),
        (judge, [f"--judge={judge}"], "holds a classifier"),
        (flow.workdir, [], "--judge"),
        (flow.workdir, [f"--judge={plain}"], "holds no classifier"),
        (flow.workdir, ["--guidance=1,x"], "'1,x'; allowed are numbers from 0 to"),
        (flow.workdir, ["--guidance=-1"], "'-1'; allowed are numbers from 0 to"),
        (flow.workdir, ["--guidance=1e39"], "'1e39'; allowed are numbers from 0 to"),
        (flow.workdir, ["--seed=-1"], "'-1'; allowed is a whole number from 0 to"),
        (flow.workdir, ["--num_images=3"], "'3'; allowed is an even number above 0"),
        (flow.workdir, [f"--judge={judge}", "--config.seed=1"], "--config.seed=1"),
    ):
        with pytest.raises(UserError, match=said):
            guidance.main([f"--workdir={workdir}", *others, f"--out={tmp_path / 'o'}"])
    assert not (tmp_path / "o").exists()
