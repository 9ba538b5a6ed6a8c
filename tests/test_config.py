import json
import re
from pathlib import Path

import pytest

from vae_jax import config as config_lib
from vae_jax import record
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.build import OBJECTIVES
from vae_jax.models.likelihoods import FixedGaussian
from vae_jax.models.networks.conv import DECODERS
from vae_jax.models.quantizers import QUANTIZERS
from vae_jax.models.vae import LIKELIHOODS, PRIORS
from vae_jax.options import Option
from vae_jax.settings import ONLY_WITH, SETTINGS, table


def changed(**settings):
    config = config_lib.default_config()
    config.update_from_flattened_dict(
        {k.replace("__", "."): v for k, v in settings.items()}
    )
    return config


def test_defaults_are_allowed_and_locked():
    config = config_lib.default_config()
    config_lib.validate(config)
    assert list(config_lib.flatten(config)) == list(SETTINGS)
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
        ({"model__width": 15}, ["config.model.width", "15", "an even number"]),
        ({"model__width": 0}, ["config.model.width", "at least 2"]),
        ({"model__depth": -1}, ["config.model.depth", "at least 0"]),
        ({"model__network": "unet"}, ["config.model.network", "mlp, conv"]),
        ({"model__likelihood": "poisson"}, ["'poisson'", "gaussian", "logistic"]),
        (
            {"model__prior": "planar"},
            ["config.model.prior", "'planar'", "normal", "vamp"],
        ),
        ({"model__attribute_dropout": 1.0}, ["attribute_dropout", "below 1"]),
        ({"objective__num_samples": 0}, ["config.objective.num_samples", "at least 1"]),
        ({"objective__mmd_weight": -1.0}, ["config.objective.mmd_weight", "-1.0"]),
        (
            {"model__name": "ae"},
            ["config.objective.name is 'elbo'", "ae allowed is flow or mse or rae"],
        ),
        ({"objective__name": "mse"}, ["vae allowed is elbo or capacity or iwae or"]),
        (
            {"objective__name": "rae"},
            ["config.objective.name is 'rae'", "or mmd or tc"],
        ),
        (
            {"model__name": "ae", "objective__name": "mse", "objective__beta": 2.0},
            ["config.objective.beta", "elbo or mmd or tc", "that is mse"],
        ),
        (
            {"objective__name": "iwae", "objective__mmd_weight": 10.0},
            ["config.objective.mmd_weight is 10.0", "objective.name mmd", "is iwae"],
        ),
        (
            {"model__attributes": "Smiling,,Male"},
            ["config.model.attributes is 'Smiling,,Male'", "single commas"],
        ),
        ({"model__attributes": "Smiling,"}, ["model.attributes", "single commas"]),
        ({"model__attributes": "Male,Male"}, ["model.attributes", "each once"]),
        (
            {"model__attributes": "Smiling", "model__prior": "vamp"},
            ["config.model.attributes", "vamp's pseudo-inputs have no labels"],
        ),
        (
            {"model__prior": "conditional"},
            ["config.model.prior", "needs model.attributes"],
        ),
        (
            {"model__attribute_dropout": 0.5},
            ["config.model.attribute_dropout is 0.5", "goes with model.attributes"],
        ),
        (
            {
                "model__prior": "conditional",
                "model__attributes": "Male",
                "objective__name": "tc",
            },
            ["config.model.prior", "tc compares", "one for each label"],
        ),
        (
            {
                "model__prior": "conditional",
                "model__attributes": "Male",
                "objective__name": "mmd",
            },
            ["config.model.prior", "mmd compares", "one for each label"],
        ),
        (
            {"objective__free_bits": 0.5, "model__prior": "mixture"},
            ["config.objective.free_bits is 0.5", "mixture is sampled"],
        ),
        (
            {"objective__free_bits": 0.5, "model__prior": "vamp"},
            ["config.objective.free_bits is 0.5", "vamp is sampled"],
        ),
        (
            {"objective__name": "iwae"},
            ["config.objective.num_samples is 1", "is elbo", "5"],
        ),
        (
            {
                "objective__name": "iwae",
                "objective__num_samples": 5,
                "model__likelihood": "optimal_gaussian",
            },
            ["config.model.likelihood is 'optimal_gaussian'", "shared_gaussian"],
        ),
        (
            {"objective__name": "mmd", "train__batch_size": 1},
            ["config.train.batch_size is 1", "at least 2"],
        ),
        (
            {"model__network": "conv", "dataset__size": 72},
            ["config.dataset.size is 72", "model.network conv", "power of two"],
        ),
        (
            {"model__network": "conv", "dataset__size": 30},
            ["config.dataset.size is 30", "model.network conv", "2 to 7 times 4"],
        ),
        (
            {"model__network": "strided"},
            ["config.model.network is 'strided'", "no decoder", "classifier"],
        ),
        (
            {"model__network": "conv", "model__code_size": 5},
            ["config.model.code_size is 5", "resolutions 16, 8, 4 of images of 64"],
        ),
        (
            {"parts__initialised": "encoder"},
            ["config.parts.initialised is 'encoder'", "init_from, which is None"],
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


# Another value than the default, of each setting that is refused under other choices.
ELSEWHERE = {
    "model.hidden_dim": 17,
    "model.width": 32,
    "model.width_from": "finest",
    "model.code_size": 8,
    "model.depth": 2,
    "model.norm": "group",
    "model.upsampling": "resize",
    "model.remat": True,
    "model.drop_layers": "8:0.2",
    "model.skips": True,
    "model.decoder": "style",
    "model.styles": "by_resolution",
    "model.likelihood": "bernoulli",
    "model.std": 0.2,
    "model.num_components": 5,
    "model.bits": 5,
    "model.layers": "4:1,8:1",
    "model.widths": "4:8,8:8",
    "model.prior": "mixture",
    "model.prior_components": 3,
    "model.attributes": "Smiling",
    "model.attribute_dropout": 0.5,
    "objective.beta": 4.0,
    "objective.kl_warmup_steps": 10,
    "objective.free_bits": 0.5,
    "objective.num_samples": 5,
    "objective.capacity": 3.0,
    "objective.capacity_steps": 10,
    "objective.gamma": 2.0,
    "objective.mmd_weight": 10.0,
    "objective.code_weight": 0.1,
    "objective.decoder_penalty": "gradient",
    "objective.decoder_weight": 0.1,
    "objective.perceptual_weight": 0.3,
    "objective.guide": "runs/guide",
    "objective.guide_width": 16,
    "objective.adversarial_weight": 0.2,
    "objective.critic_width": 16,
    "objective.critic_penalty": 0.1,
    "objective.critic_steps": 100,
    "model.realism": True,
    "model.decoder_patch": 2,
    "model.quantizer": "ema",
    "model.two_maps": True,
    "model.codebook_size": 256,
    "model.codebook_gradient": "rotation",
    "model.commitment": 0.5,
    "model.codebook_decay": 0.9,
    "model.levels": "5,5",
    "model.prior_width": 64,
    "model.prior_depth": 2,
    "model.prior_heads": 2,
    "model.prior_passes": 6,
    "model.prior_steps": 8,
    "objective.pull_weight": 10.0,
}
# Models differ in their priors.
ELSEWHERE_OF = {("model.prior", "vq"): "masked", ("model.prior", "ae"): "flow"}
OPTIONS = {
    "model.name": build.MODELS,
    "model.network": build.NETWORKS,
    "model.likelihood": LIKELIHOODS,
    "model.prior": PRIORS,
    "objective.name": OBJECTIVES,
    "model.quantizer": QUANTIZERS,
    "model.decoder": DECODERS,
}
VQ = {
    "model.name": "vq",
    "model.network": "conv",
    "model.code_size": 8,
    "model.prior": "transformer",
    "init_from": "runs/vq_vae",
    "objective.name": "quantised",
}
LADDER = {
    "model.name": "hierarchical",
    "model.network": "ladder",
    "model.layers": "4:1,8:1",
    "model.widths": "4:8,8:8",
}
FLOW = {
    "model.prior": "flow",
    "objective.name": "flow",
    "parts.frozen": "encoder,decoder",
    "eval.importance_samples": 1,
}
# What else a choice or a setting needs.
NEEDS = {
    "flow": FLOW,
    **dict.fromkeys(("vq", "quantised", "uniform", "transformer", "masked"), VQ),
    "model.quantizer": VQ,
    "model.decoder": {"model.network": "conv"},
    **dict.fromkeys(("hierarchical", "ladder"), LADDER),
    "fsq": {"model.latent_dim": 2},
    "iwae": {"objective.num_samples": 5},
    "ae": FLOW,
    "rae": {"model.name": "ae"},
    "classifier": {"objective.name": "cross_entropy"},
    "strided": {
        "model.name": "classifier",
        "model.attributes": "Smiling",
        "objective.name": "cross_entropy",
    },
    "model.attribute_dropout": {"model.attributes": "Smiling"},
    "model.realism": {"objective.adversarial_weight": 0.2},
    "objective.guide": {"objective.perceptual_weight": 0.3},
    "objective.guide_width": {"objective.perceptual_weight": 0.3},
    "objective.critic_width": {"objective.adversarial_weight": 0.2},
    "objective.critic_penalty": {"objective.adversarial_weight": 0.2},
    "objective.critic_steps": {"objective.adversarial_weight": 0.2},
}
CASES = [
    (name, chooser, option, option in choices)
    for name, (chooser, choices) in ONLY_WITH.items()
    for option in OPTIONS[chooser]
]


def test_the_table_of_choices_names_settings_and_their_options():
    assert set(ELSEWHERE) == set(ONLY_WITH)
    for chooser, choices in ONLY_WITH.values():
        assert set(choices) < set(OPTIONS[chooser])


@pytest.mark.parametrize(("name", "chooser", "option", "goes"), CASES)
def test_a_setting_that_would_do_nothing_is_refused(name, chooser, option, goes):
    config = config_lib.default_config()
    needs = NEEDS.get(option, {}) | NEEDS.get(name, {}) if goes else {}
    value = ELSEWHERE_OF.get((name, option), ELSEWHERE[name])
    changes = {**NEEDS.get(chooser, {}), **needs, chooser: option, name: value}
    config.update_from_flattened_dict(changes)
    if goes:
        config_lib.validate(config)
        return
    value = re.escape(repr(value))
    with pytest.raises(
        UserError,
        match=rf"^config\.{name} is {value}; it goes with {chooser} .*{option}$",
    ):
        config_lib.validate(config)


def test_an_unknown_name_is_answered_with_its_neighbours():
    config_lib.check_name("model.latent_dim")
    with pytest.raises(UserError, match=r"model\.latent_dims.*model\.latent_dim,"):
        config_lib.check_name("model.latent_dims")
    with pytest.raises(UserError, match=r"did you mean config\.model\.likelihood\?"):
        config_lib.check_name("model.likelihod")
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
    for name, setting in SETTINGS.items():
        assert setting.meaning and setting.allowed, name
        assert setting.accepts(setting.default), name


def test_configs_share_nothing():
    changed(train__num_steps=5, init_from="runs/vae")
    fresh = config_lib.default_config()
    assert fresh.train.num_steps is None and fresh.init_from is None


def test_the_page_of_settings_lists_every_setting_as_it_is():
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    assert page == table(), "python -m vae_jax.settings > docs/settings.md"
    head, rows = page.split("|---|\n")[0], page.split("|---|\n")[1].splitlines()
    assert "config." in head
    assert [row.split("`")[1] for row in rows] == list(SETTINGS)
    assert len(set(re.split(r"(?<!\\)\|", row).__len__() for row in rows)) == 1


def test_meanings_are_sentences():
    for name, setting in SETTINGS.items():
        assert re.fullmatch(r"[A-Z].*[^ ]\.", setting.meaning), name


def test_settings_of_single_parts_are_read_as_the_optimisers_are():
    found = config_lib.parse_optimizers(
        "prior.learning_rate=1e-3,prior.clip_norm=None,encoder.name=adam"
    )
    assert found == {
        "prior": {"learning_rate": 1e-3, "clip_norm": None},
        "encoder": {"name": "adam"},
    }
    # The critic's own are those that it is checked with.
    critic = {"objective__adversarial_weight": 0.2}
    config_lib.validate(changed(parts__optimizer="critic.name=adam", **critic))
    with pytest.raises(UserError, match="of critic, optimizer.weight_decay: adam has"):
        config_lib.validate(
            changed(parts__optimizer="critic.weight_decay=0.1", **critic)
        )
    text = "encoder.name=adam,encoder.weight_decay=0"
    config_lib.validate(changed(parts__optimizer=text))
    with pytest.raises(UserError, match="encoder is frozen"):
        config_lib.validate(changed(parts__optimizer=text, parts__frozen="encoder"))
    for text, said in (
        ("prior", "has 'prior'; allowed is PART.SETTING=VALUE"),
        ("encoder.name=adam", "of encoder, optimizer.weight_decay: adam has none"),
        ("prior.name=adam,prior.name=adamw", "prior.name twice"),
        ("prior.rate=1", "a SETTING of .*learning_rate"),
        ("prior.learning_rate=-1", "allowed is a number above 0"),
        ("prior.learning_rate=x", "allowed is a number above 0"),
        ("prior.warmup_steps=1.5", "allowed is a whole number"),
        ("prior.name=sgd", "allowed is one of adam, adamw"),
    ):
        with pytest.raises(UserError, match=f"^config.parts.optimizer {said}|{said}"):
            config_lib.validate(changed(parts__optimizer=text))


def test_a_run_with_an_option_of_ones_own_opens_where_that_is(tmp_path, monkeypatch):
    def opened(**model):
        (tmp_path / "run.json").write_text(json.dumps({"config": {"model": model}}))
        return record.read_config(tmp_path)

    for name, value in (("softness", 2.0), ("softness", None), ("likelihood", "own")):
        with pytest.raises(UserError, match=rf"model\.{name} is .*option of your own"):
            opened(**{name: value})
    with pytest.raises(UserError, match="likelihood is 'own'; allowed is one of gaus"):
        config_lib.validate(changed(model__likelihood="own"))
    own = Option(lambda channels: FixedGaussian(0.1), {})
    monkeypatch.setitem(LIKELIHOODS, "own", own)
    config_lib.validate(changed(model__likelihood="own"))
    assert opened(likelihood="own").model.likelihood == "own"
    # Damage is told as such.
    for damaged in ({"likelihood": ["own"]}, 5):
        (tmp_path / "run.json").write_text(json.dumps({"config": {"model": damaged}}))
        with pytest.raises(UserError, match="run.json cannot be read") as error:
            record.read_config(tmp_path)
        assert "your own" not in str(error.value)
