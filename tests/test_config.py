from pathlib import Path

import pytest

from vae_jax import config as config_lib
from vae_jax.errors import UserError


def changed(**settings):
    config = config_lib.default_config()
    config.update_from_flattened_dict(
        {k.replace("__", "."): v for k, v in settings.items()}
    )
    return config


def test_defaults_are_allowed_and_locked():
    config = config_lib.default_config()
    config_lib.validate(config)
    assert list(config_lib.flatten(config)) == list(config_lib.SETTINGS)
    with pytest.raises(AttributeError):
        config.model.latent_dims = 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": -1}, ["config.seed", "-1", "at least 0"]),
        ({"precision": "fp8"}, ["config.precision", "'fp8'", "bf16"]),
        ({"dataset__name": "mnist"}, ["config.dataset.name", "synthetic_faces"]),
        ({"dataset__size": 4}, ["config.dataset.size", "4", "8 to 512"]),
        ({"dataset__channels": 2}, ["config.dataset.channels", "2", "1 or 3"]),
        ({"dataset__crop": "middle"}, ["config.dataset.crop", "cc148", "centre"]),
        ({"dataset__resampler": "area"}, ["config.dataset.resampler", "bilinear"]),
        ({"dataset__feed": "disk"}, ["config.dataset.feed", "stream"]),
        ({"model__name": "gan"}, ["config.model.name", "ae, vae"]),
        ({"model__latent_dim": 0}, ["config.model.latent_dim", "at least 1"]),
        ({"objective__beta": -0.5}, ["config.objective.beta", "-0.5"]),
        (
            {"optimizer__learning_rate": 0.0},
            ["config.optimizer.learning_rate", "above 0"],
        ),
        ({"optimizer__learning_rate": float("nan")}, ["learning_rate", "nan"]),
        ({"optimizer__learning_rate": float("inf")}, ["learning_rate", "inf"]),
        ({"optimizer__clip_norm": 0.0}, ["config.optimizer.clip_norm", "or None"]),
        ({"ema__decay": 1.0}, ["config.ema.decay", "below 1"]),
        ({"train__num_steps": 0}, ["config.train.num_steps", "or None"]),
        ({"train__num_epochs": 0.0}, ["config.train.num_epochs", "above 0"]),
        ({"train__batch_size": 0}, ["config.train.batch_size"]),
        ({"log__every_steps": 15}, ["config.log.every_steps", "multiple", "10"]),
        ({"eval__every_steps": 70}, ["config.eval.every_steps", "multiple", "50"]),
        ({"checkpoint__every_steps": 10}, ["config.checkpoint.every_steps", "50"]),
        ({"model__name": "ae"}, ["config.objective.name", "ae goes with mse"]),
        ({"objective__name": "mse"}, ["config.objective.name", "vae with elbo"]),
        (
            {"model__name": "ae", "objective__name": "mse", "objective__beta": 2.0},
            ["config.objective.beta", "no KL"],
        ),
        ({"optimizer__name": "adam"}, ["config.optimizer.weight_decay", "adamw"]),
    ],
)
def test_what_is_refused_names_the_setting_its_value_and_what_is_allowed(
    settings, said
):
    with pytest.raises(UserError) as error:
        config_lib.validate(changed(**settings))
    for part in said:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_answered_with_its_neighbours():
    config_lib.check_name("model.latent_dim")
    with pytest.raises(UserError, match=r"model\.latent_dims.*model\.latent_dim,"):
        config_lib.check_name("model.latent_dims")
    with pytest.raises(
        UserError, match=r"config\.modle\.latent_dim is no setting.*seed"
    ):
        config_lib.check_name("modle.latent_dim")


def test_only_cadences_and_places_may_differ_on_resuming():
    recorded = changed(dataset__name="celeb_a", precision="fp32", train__num_steps=100)
    free = changed(
        dataset__data_dir="elsewhere",
        dataset__feed="stream",
        log__every_steps=100,
        eval__every_steps=200,
        checkpoint__every_steps=300,
        train__num_steps=900,
    )
    # "auto" agrees with whatever it was resolved to.
    assert config_lib.resumed_differences(recorded, free) == []
    lines = config_lib.resumed_differences(
        recorded, changed(dataset__name="synthetic_faces", ema__decay=0.9, seed=1)
    )
    assert lines == [
        "seed: 0 in the run, 1 given",
        "dataset.name: 'celeb_a' in the run, 'synthetic_faces' given",
        "ema.decay: 0.999 in the run, 0.9 given",
    ]


def test_every_setting_says_what_it_means():
    for name, setting in config_lib.SETTINGS.items():
        assert setting.meaning and setting.allowed, name
        assert setting.accepts(setting.default), name


def test_configs_share_nothing():
    changed(train__num_steps=5, init_from="runs/vae")
    fresh = config_lib.default_config()
    assert fresh.train.num_steps is None and fresh.init_from is None


def test_readme_lists_every_setting_as_it_is():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rows = [
        f"| `{name}` | `{s.default!r}` | {s.meaning} | {s.allowed} |"
        for name, s in config_lib.SETTINGS.items()
    ]
    assert "\n".join(rows) in readme
