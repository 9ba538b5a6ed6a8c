"""One, two and nine training pictures: every part works, or says what it needs."""

import json

import pytest
from conftest import new_tiny_config

from vae_jax import run as run_lib
from vae_jax.commands import (
    attributes,
    directions,
    evaluation,
    kept_codes,
    reconstructions,
    samples,
    traversals,
)
from vae_jax.data import synthetic_faces
from vae_jax.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[(1, 1), (2, 1), (9, 3)], ids=str)
def few(request, tmp_path_factory):
    """A run, a judge and how many pictures there are in training and otherwise."""
    number, others = request.param
    folder = tmp_path_factory.mktemp("few")
    sizes = {"train": number, "validation": others, "test": others}
    synthetic_faces.prepare(folder, sizes=sizes)
    config = new_tiny_config(folder)
    config.train.num_steps = 4
    run = run_lib.train(config, folder / "run")
    config.model.name, config.objective.name = "classifier", "cross_entropy"
    config.model.attributes = "auto"
    return run, run_lib.train(config, folder / "judge"), number, others


def test_what_the_command_does_after_training(few):
    run, *_ = few
    report = evaluation.evaluate_run(run)
    # NaN is no JSON.
    json.dumps(report, allow_nan=False)
    assert report["sharpness"]["reconstructions"]["sharpness"] > 0
    found = reconstructions.reconstruct(run, 64)
    reconstructions.draw_reconstructions(run, found)
    kept_codes.keep(run)
    directions.read_directions(run, "deconfounded", 0)
    json.dumps(traversals.traverse(run).record, allow_nan=False)


def test_a_sampler_needs_as_many_pictures_as_it_has_parts(few):
    run, _, number, _ = few
    for sampler, needed in (("prior", 0), ("gaussian", 2), ("mixture", 10)):
        if number >= needed:
            assert samples.sample(run, sampler, 3, 0).shape == (3, 16, 16, 1)
            continue
        said = f"--sampler={sampler} is fitted to {needed} .*; the run's are {number}"
        with pytest.raises(UserError, match=said):
            samples.sample(run, sampler, 3, 0)


def test_a_judge_needs_neighbours(few):
    run, judge, number, others = few
    count, split = (number, "train") if number < 4 else (others, "test")
    said = f"--judge compares 4 pictures at least; the split {split} of .* has {count}"
    with pytest.raises(UserError, match=said):
        evaluation.evaluate_run(run, judge)
    with pytest.raises(UserError, match="two of both are needed"):
        attributes.judge_edits(run, judge, "Smiling", 0)


@pytest.mark.parametrize("name", ["mmd", "tc", "capacity", "iwae"])
def test_objectives_that_compare_pictures(tmp_path, name):
    sizes = {"train": 1, "validation": 1, "test": 1}
    synthetic_faces.prepare(tmp_path / "tfds", sizes=sizes)
    config = new_tiny_config(tmp_path / "tfds")
    config.objective.name = name
    config.objective.num_samples = 3 if name == "iwae" else 1
    config.train.num_steps = 2
    if name == "tc":
        with pytest.raises(UserError, match="'tc', .* 2 at least, .* has 1$"):
            run_lib.train(config, tmp_path)
        return
    assert run_lib.train(config, tmp_path).step == 2
