"""Every recipe, as it stands but for its size, builds and takes a step."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from configs import conv_vae, judge
from vae_jax import config as config_lib
from vae_jax import run as run_lib
from vae_jax.command_line import workdir_of
from vae_jax.data import celeba
from vae_jax.errors import UserError
from vae_jax.models import build
from vae_jax.models.vae import LIKELIHOODS
from vae_jax.report.writer import read_lines

RECIPES = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py"))


# What a recipe needs a run of.
FIRST = {
    "sharp_vae": "judge",
    "style_vae": "judge",
    "vq_prior": "vq_vae",
    "latent_flow": "sharp_vae",
}
# Words by which a recipe states all that it ever changes.
WORDS = {
    "style_vae": ["plain,styles"],
    "vq_prior": ["labelled,sharp"],
    "latent_flow": ["spatial,labelled"],
}


def recipe(name, *words):
    return importlib.import_module(f"configs.{name}").get_config(*words)


def shrunk(config):
    """Makes a convolutional recipe one of small pictures and few channels."""
    if config.model.network in ("conv", "strided"):
        config.dataset.size, config.model.width, config.model.latent_dim = 16, 8, 8
        config.train.batch_size = 8
        # A cosine needs more updates than its warm-up has.
        config.optimizer.warmup_steps = 0
        # A size of this kind has one stage; test_growth.py has several.
        config.train.stages = ""
    if config.model.network == "ladder":
        config.dataset.size, config.model.latent_dim = 16, 4
        config.model.layers, config.model.widths = "2:1,4:2", "2:8,4:8"
    if config.model.name == "vq":
        # Two stages, and two maps of codes where a recipe has them.
        config.dataset.size, config.model.code_size = 32, 4
        config.model.codebook_size = 16
    if config.model.prior in ("transformer", "flow"):
        config.model.prior_width = 16
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_a_step(name, data_dir, tmp_path):
    config_lib.validate(recipe(name))
    needed = [name]
    while needed[0] in FIRST:
        needed.insert(0, FIRST[needed[0]])
    for each in needed:
        config = shrunk(recipe(each))
        config.dataset.name, config.dataset.data_dir = "synthetic_faces", str(data_dir)
        config.train.num_steps = 1
        if config.objective.guide:
            config.objective.guide = str(tmp_path / FIRST[each])
            config.objective.guide_width = 8
        if config.init_from:
            config.init_from = str(tmp_path / FIRST[each])
        run = run_lib.train(config, tmp_path / each)
    lines = read_lines(tmp_path / name / "metrics.jsonl")
    assert [line["split"] for line in lines] == ["train", "validation"]
    assert np.isfinite([line["loss"] for line in lines]).all()
    assert run.step == 1


def test_the_conditional_recipe_names_attributes_of_celeba():
    names = build.label_names(recipe("cvae").model)
    assert names and set(names) <= set(celeba.ATTRIBUTES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_what_differs_from_what_it_is_built_on(name):
    text = (Path(__file__).parents[1] / "configs" / f"{name}.py").read_text()
    # What words change comes after what is stated.
    text, *_ = re.split('    for word in |    if "two_maps" in words:', text)
    built_on = re.search(r"= (\w+)\.get_config\((words)?(?:\"(.*)\")?", text)
    # The largest pictures change a setting that smaller ones leave.
    words = ["256"] if built_on and built_on[2] else []
    told = ",".join([*words, *WORDS.get(name, ())])
    changed = config_lib.flatten(recipe(name, *([told] if told else ())))
    if built_on:
        of = built_on[1] if built_on[1] in RECIPES else FIRST[name]
        base = recipe(of, *([built_on[3]] if built_on[3] else words))
    else:
        base = config_lib.default_config()
    defaults = config_lib.flatten(base)
    differing = {k for k in changed if changed[k] != defaults[k]}
    stated = {k for k in changed if f"config.{k} = " in text}
    assert stated == differing


def test_a_ladder_of_faces_drops_layers_and_is_pulled_as_sharp_vae_is():
    config, plain, sharp = recipe("hvae", "faces"), recipe("hvae"), recipe("sharp_vae")
    config_lib.validate(config)
    changed, of_plain = config_lib.flatten(config), config_lib.flatten(plain)
    differing = {k for k in changed if changed[k] != of_plain[k]}
    pulls = {k for k in differing if k.startswith("objective.")}
    assert differing - pulls == {"model.drop_layers"} and len(pulls) == 3
    of_sharp = config_lib.flatten(sharp)
    assert all(changed[k] == of_sharp[k] for k in pulls)


def test_a_prior_knows_the_decoder_of_a_sharp_vq_vae():
    first, prior = recipe("vq_vae", "sharp"), recipe("vq_prior", "sharp")
    config_lib.validate(first)
    config_lib.validate(prior)
    found, of_first = prior.model.to_dict(), first.model.to_dict()
    assert {name for name in found if found[name] != of_first[name]} == {"prior"}
    # Nothing is decoded that could be pulled at.
    assert first.objective.guide and not prior.objective.guide


@pytest.mark.parametrize(
    ("name", "words", "first"),
    [
        ("vq_prior", "sharp,masked", "vq_vae:sharp"),
        ("vq_prior", "colour,128,labelled", "vq_vae:colour,128"),
        ("vq_prior", "two_maps,fsq", "vq_vae_2:fsq"),
        ("vq_prior", "", "vq_vae"),
        ("latent_flow", "colour,labelled", "sharp_vae:colour"),
        ("latent_flow", "plain,128", "conv_vae:128"),
        ("latent_flow", "spatial", "sharp_vae"),
    ],
)
def test_a_second_run_starts_from_the_workdir_of_the_first(name, words, first):
    assert Path(recipe(name, words).init_from) == workdir_of(f"configs/{first}")


@pytest.mark.parametrize("word", ["ae", "rae"])
def test_a_flow_is_learned_over_the_codes_of_an_autoencoders_recipe(word):
    config, first = recipe("latent_flow", word), recipe(word)
    config_lib.validate(config)
    assert config.init_from == f"runs/{word}"
    found, of_first = config.model.to_dict(), first.model.to_dict()
    differing = {name for name in found if found[name] != of_first[name]}
    assert differing == {"prior", "prior_width", "prior_depth"}


@pytest.mark.parametrize("words", ["rae,bernoulli", "ae,rae", "plain,ae", "rae,256"])
def test_words_that_do_not_go_with_an_autoencoder_are_refused(words):
    with pytest.raises(UserError, match="latent_flow.py has the words"):
        recipe("latent_flow", words)


PLAIN = config_lib.flatten(conv_vae.get_config())


@pytest.mark.parametrize(
    ("words", "differing"),
    [
        ("", {}),
        ("gray,64", {}),
        ("colour", {"dataset.channels": 3}),
        ("128", {"dataset.size": 128}),
        ("256", {"dataset.size": 256, "model.remat": True}),
        *(
            (name, {"model.likelihood": name})
            for name in LIKELIHOODS
            if name != PLAIN["model.likelihood"]
        ),
        (
            "bernoulli,colour,128",
            {
                "dataset.channels": 3,
                "dataset.size": 128,
                "model.likelihood": "bernoulli",
            },
        ),
    ],
)
def test_words_change_the_convolutional_recipe(words, differing):
    config = conv_vae.get_config(words)
    config_lib.validate(config)
    assert config_lib.flatten(config) == PLAIN | differing


@pytest.mark.parametrize("words", ["purple", "colour,purple", "64,Colour", "32"])
def test_an_unknown_word_is_answered_with_those_there_are(words):
    with pytest.raises(UserError) as error:
        conv_vae.get_config(words)
    said = str(error.value)
    assert repr(words.split(",")[-1]) in said and "--config" in said
    for word in ("64", "128", "256", "gray", "colour", *LIKELIHOODS):
        assert word in said.split("allowed are")[1]
    assert "\n" not in said


@pytest.mark.parametrize("words", ["128,64", "gaussian,logistic", "gray,128,colour"])
def test_words_that_exclude_one_another_are_refused(words):
    with pytest.raises(UserError, match=f"words '{words}'; allowed is one of"):
        conv_vae.get_config(words)


@pytest.mark.parametrize(
    ("name", "words"),
    [("hvae", "gray,colour"), ("vq_vae_2", "ema,fsq"), ("vq_prior", "ema,64,fsq")],
)
def test_so_they_are_in_recipes_with_words_of_their_own(name, words):
    with pytest.raises(UserError, match=f"words '{words}'; allowed is one of"):
        recipe(name, words)


def test_a_classifier_has_no_likelihood_to_choose():
    assert judge.get_config("colour").dataset.channels == 3
    with pytest.raises(UserError, match="configs/judge.py has the words 'bernoulli'"):
        judge.get_config("bernoulli")


def test_the_notebooks_training():
    vae, ae = config_lib.flatten(recipe("vae")), config_lib.flatten(recipe("ae"))
    for config in (vae, ae):
        assert config["train.batch_size"] == 64
        # Three epochs of 162,770 pictures.
        assert config["train.num_steps"] == int(np.ceil(3 * 162_770 / 64))
    assert (vae["optimizer.name"], vae["optimizer.learning_rate"]) == ("adamw", 2e-4)
    assert vae["optimizer.weight_decay"] == 1e-4 and vae["ema.decay"] == 0.999
    assert (ae["optimizer.name"], ae["optimizer.learning_rate"]) == ("adam", 1e-3)
