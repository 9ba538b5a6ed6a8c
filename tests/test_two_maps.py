"""A VQ-VAE of two maps, and a prior over both, through every command."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_tiny_config

from vae_jax import run as run_lib
from vae_jax.commands import (
    attributes,
    code_maps,
    completions,
    edits,
    evaluation,
    interpolations,
    reconstructions,
    samples,
    traversals,
)
from vae_jax.models.contract import DiscreteCodes

pytestmark = pytest.mark.slow

PLACES = {"coarse": 16, "fine": 64}


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A prior over 4x4 and 8x8 codes, stopped once and resumed."""
    config = new_tiny_config(data_dir)
    config.dataset.size, config.model.hidden_dim = 32, 512
    config.model.network, config.model.width, config.model.code_size = "conv", 4, 4
    config.model.name, config.objective.name = "vq", "quantised"
    config.model.prior, config.model.quantizer = "uniform", "ema"
    config.model.codebook_size, config.model.two_maps = 8, True
    config.train.num_steps = 4
    first_stage = run_lib.train(config, tmp_path_factory.mktemp("vq"))
    config = first_stage.config.copy_and_resolve_references()
    config.init_from = str(first_stage.workdir)
    parts = "encoder,decoder,quantizers,guess"
    config.parts.frozen = config.parts.initialised = parts
    config.model.prior = "transformer"
    config.model.prior_width, config.model.prior_depth = 8, 1
    config.model.prior_heads = 2
    workdir = tmp_path_factory.mktemp("prior")
    run_lib.train(config, workdir)
    config.train.num_steps = 8
    return run_lib.train(config, workdir)


def test_a_resumed_prior_is_loaded_as_it_was_left(run):
    loaded = run_lib.load(run.workdir)
    assert isinstance(loaded.model(), DiscreteCodes) and loaded.step == 8
    indices = jnp.zeros((1, 80), jnp.int32)
    expected = run.model().prior.log_prob_by_place(indices)
    found = loaded.model().prior.log_prob_by_place(indices)
    np.testing.assert_array_equal(found, expected)


def test_an_evaluation_has_the_figures_of_each_map(run):
    path = evaluation.write_evaluation(run, evaluation.evaluate_run(run))
    found = json.loads(path.read_text())["validation"]["ema"]
    coarse, fine = found["codes"]
    assert (coarse["size"], fine["size"]) == ([4, 4], [8, 8])
    for each in (coarse, fine):
        assert 0 < each["usage"] <= 1 <= each["perplexity"] <= 8
    assert coarse["rate"] + fine["rate"] == pytest.approx(found["rate"], rel=1e-5)
    # Of a prior that is hardly trained the rates are near those of the uniform one.
    assert coarse["rate"] == pytest.approx(16 * 3, rel=0.2)
    assert fine["rate"] == pytest.approx(64 * 3, rel=0.2)


def test_the_codebook_of_each_map_is_drawn(run):
    found = code_maps.look_into_codes(run, num_faces=3)
    # The faces; and of each map its codes, alone and over the reconstruction.
    assert found.rows.shape == (5, 3, 32, 32, 3)
    assert [each["size"] for each in found.record["maps"]] == [[4, 4], [8, 8]]
    # A cell and its neighbours: 8 and 4 pixels on a side.
    assert [each.shape[1:3] for each in found.codebooks] == [(24, 24), (12, 12)]
    names = [path.name for path in code_maps.draw_code_maps(run, found)]
    assert names == [
        "code_maps.png",
        "codebook.png",
        "codebook_fine.png",
        "code_maps.json",
    ]


def test_codes_of_two_maps_are_edited_traversed_and_mixed(run):
    weights = edits.parse_weights(run, "Smiling")
    found = edits.edit(run, weights, [0.0, 1.0], num_images=2)
    assert found.images.shape == (2, 3, 32, 32, 1)
    way = interpolations.interpolate(run, indices=[0, 1], num_steps=3)
    reconstructed = reconstructions.reconstruct(run, 2)
    assert np.isfinite(reconstructed.means).all()
    assert np.isfinite(way.rows).all()
    between = traversals.traverse(run, num_dimensions=2, num_values=3)
    assert between.images.shape == (2, 3, 32, 32, 1)
    # The codes' own scale: a prior over indices has none.
    numbers = 2 * sum(PLACES.values()) * 2
    assert len(between.record["variance_by_dimension"]) == numbers
    values, drawn = np.array(between.record["values"]), between.record["drawn"]
    std = np.sqrt(np.array(between.record["variance_by_dimension"])[drawn])
    np.testing.assert_allclose(values[:, 2] - values[:, 0], 6 * std, rtol=1e-4)


def test_both_maps_are_drawn_and_completed(run):
    drawn = samples.sample(run, "prior", 3, seed=0, top_k=4)
    assert drawn.shape == (3, 32, 32, 1) and np.ptp(drawn, axis=0).max() > 1e-4
    pictures = run.dataset.splits["test"].images[:2]
    hidden = completions.hidden_by(32, None, [8, 8, 24, 16])
    found = completions.complete(run, pictures, hidden, num_completions=2)
    assert found.rows.shape == (2, 4, 32, 32, 1)
    # Two cells of 8 pixels, and four by two of 4.
    assert found.record["new_codes"] == 2 + 8 and found.record["codes"] == 80


def test_a_judge_looks_at_edits_of_two_maps(run, data_dir, tmp_path, monkeypatch):
    config = new_tiny_config(data_dir)
    config.dataset.size, config.model.attributes = 32, "Smiling,Eyeglasses"
    config.model.name, config.objective.name = "classifier", "cross_entropy"
    judge = run_lib.train(config, tmp_path)
    has = run.attributes("test")[:, run.attribute_index("Smiling", "--attribute")]
    effects = attributes.attributes.edit_effects

    def agreeing(model, judge, codes, directions, alpha, labels):
        features, logits = effects(model, judge, codes, directions, alpha, labels)
        if len(codes) == len(has):
            # A judge of few steps would find but one kind among what is held out.
            logits[:, 0] = np.where(has, 1.0, -1.0)
        return features, logits

    monkeypatch.setattr(attributes.attributes, "edit_effects", agreeing)
    report = attributes.judge_edits(run, judge, "Smiling", 0)
    assert attributes.write_judgement(run, report).exists()
    *_, last = report["estimators"]
    assert last == "deconfounded, up to 4x4"
    of_all, of_coarse = (
        report["estimators"][name]["curve"][-1]["feature_distance"]
        for name in ("deconfounded", last)
    )
    assert 0 < of_coarse != of_all
