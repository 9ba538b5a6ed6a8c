"""Every recipe, as it stands but for its size, builds and takes a step."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from vae_jax import config as config_lib
from vae_jax import run as run_lib
from vae_jax.report.writer import read_lines

RECIPES = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py"))


def recipe(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_a_step(name, data_dir, tmp_path):
    config = recipe(name)
    config_lib.validate(config)
    config.dataset.name, config.dataset.data_dir = "synthetic_faces", str(data_dir)
    config.train.num_steps = 1
    run = run_lib.train(config, tmp_path)
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["split"] for line in lines] == ["train", "validation"]
    assert np.isfinite([line["loss"] for line in lines]).all()
    assert run.step == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_what_differs_from_the_defaults(name):
    text = (Path(__file__).parents[1] / "configs" / f"{name}.py").read_text()
    changed = config_lib.flatten(recipe(name))
    defaults = config_lib.flatten(config_lib.default_config())
    differing = {k for k in changed if changed[k] != defaults[k]}
    stated = {k for k in changed if f"config.{k} = " in text}
    assert stated == differing


def test_the_notebooks_training():
    vae, ae = config_lib.flatten(recipe("vae")), config_lib.flatten(recipe("ae"))
    for config in (vae, ae):
        assert config["train.batch_size"] == 64
        # Three epochs of 162,770 pictures.
        assert config["train.num_steps"] == int(np.ceil(3 * 162_770 / 64))
    assert (vae["optimizer.name"], vae["optimizer.learning_rate"]) == ("adamw", 2e-4)
    assert vae["optimizer.weight_decay"] == 1e-4 and vae["ema.decay"] == 0.999
    assert (ae["optimizer.name"], ae["optimizer.learning_rate"]) == ("adam", 1e-3)
