"""settings.add: options that a program adds to tables while it runs."""

import json
import runpy
from pathlib import Path

import pytest

from vae_jax import config as config_lib
from vae_jax import record, settings
from vae_jax.errors import UserError
from vae_jax.models.build import OBJECTIVES, build_objective
from vae_jax.models.likelihoods import FixedGaussian
from vae_jax.models.vae import LIKELIHOODS
from vae_jax.options import Option, positive, whole

EXTENDING = Path(__file__).parents[1] / "examples" / "extending"


@pytest.fixture(autouse=True)
def tables_as_they_were():
    dicts = (LIKELIHOODS, OBJECTIVES, settings.SETTINGS, settings.ONLY_WITH)
    before = [dict(each) for each in dicts]
    yield
    for each, content in zip(dicts, before, strict=True):
        each.clear()
        each.update(content)


def own_option(**own):
    return Option(lambda channels, **given: FixedGaussian(0.1), own)


def changed(**given):
    config = config_lib.default_config()
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in given.items()}
    )
    return config


def test_an_added_option_is_chosen_as_others_are_and_its_settings_go_with_it():
    with pytest.raises(UserError, match="likelihood is 'own'; allowed is one of gaus"):
        config_lib.validate(changed(model__likelihood="own"))
    before = [*settings.SETTINGS]
    settings.add(LIKELIHOODS, "own", own_option(softness=positive(0.5, "Softness.")))
    assert {*settings.SETTINGS} - {*before} == {"model.softness"}
    assert [name for name in settings.SETTINGS if name in before] == before
    assert changed().model.softness == 0.5
    for model in ("vae", "hierarchical"):
        config = changed(model__name=model, model__likelihood="own", model__softness=2)
        config.model.network = {"vae": "mlp", "hierarchical": "ladder"}[model]
        config_lib.validate(config)
    with pytest.raises(UserError, match=r"softness is -1\.0; allowed is a number abov"):
        config_lib.validate(changed(model__likelihood="own", model__softness=-1.0))
    with pytest.raises(UserError, match="softness is 2.0; it goes with model.likelih"):
        config_lib.validate(changed(model__softness=2.0))


def test_the_objective_of_the_docs_can_be_added():
    cyclical = runpy.run_path(str(EXTENDING / "cyclical.py"))["CYCLICAL"]
    settings.add(OBJECTIVES, "cyclical", cyclical)
    config = changed(objective__name="cyclical", objective__period=4)
    config_lib.validate(config)
    loss = build_objective(config.objective, num_images=10).loss
    at = [float(loss({"kl": 8.0, "log_px": -1.0}, step)) for step in (0, 1, 2, 4)]
    assert at == [1, 5, 9, 1]


def test_adding_again_replaces():
    settings.add(LIKELIHOODS, "own", own_option(softness=positive(0.5, "Softness.")))
    settings.add(LIKELIHOODS, "own", own_option(rounds=whole(3, "Rounds.")))
    config = changed(model__likelihood="own")
    assert config.model.rounds == 3 and "softness" not in config.model
    config_lib.validate(config)


@pytest.mark.parametrize(
    ("name", "own", "said"),
    [
        ("gaussian", {}, r"'gaussian' comes with vae_jax.*none of gaussian, shared_"),
        # Of another likelihood, of a network, and of every model.
        ("own", {"std": positive(0.2, "Width.")}, r"model\.std .* 0\.1 .* 0\.2"),
        ("own", {"width": positive(0.2, "Width.")}, r"model\.width .* 0\.2 .* 64"),
        ("own", {"latent_dim": whole(7, "Size.")}, r"model\.latent_dim .* 7 .* 100"),
    ],
)
def test_what_would_mean_two_things_is_refused_and_changes_nothing(name, own, said):
    before = dict(LIKELIHOODS), dict(settings.SETTINGS)
    with pytest.raises(UserError, match=said):
        settings.add(LIKELIHOODS, name, own_option(**own))
    assert before == (LIKELIHOODS, settings.SETTINGS)
    config_lib.validate(config_lib.default_config())


def test_a_run_with_an_option_of_ones_own_opens_where_that_has_been_added(tmp_path):
    for name, value in (("softness", 2.0), ("likelihood", "own")):
        content = {"config": {"model": {name: value}}}
        (tmp_path / "run.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"model\.{name} is .*option of your own"):
            record.read_config(tmp_path)
    settings.add(LIKELIHOODS, "own", own_option())
    assert record.read_config(tmp_path).model.likelihood == "own"


def test_a_table_that_nothing_chooses_from_is_refused():
    with pytest.raises(ValueError, match="no setting chooses from the table of a, b"):
        settings.add({"a": own_option(), "b": own_option()}, "own", own_option())
