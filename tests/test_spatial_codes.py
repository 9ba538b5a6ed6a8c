"""Every command works with codes [h,w,d] as it does with vectors."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_tiny_config

from vae_jax import run as run_lib
from vae_jax.commands import (
    directions,
    edits,
    evaluation,
    interpolations,
    kept_codes,
    reconstructions,
    samples,
    traversals,
)
from vae_jax.errors import UserError
from vae_jax.exploration import sampling

pytestmark = pytest.mark.slow

SHAPE, NUMBERS = (4, 4, 2), 32


@pytest.fixture(scope="module", params=["vae", "labels", "ae", "vq", "fsq"])
def run(request, data_dir, tmp_path_factory):
    config = new_tiny_config(data_dir)
    config.model.hidden_dim = 512
    config.model.network, config.model.width = "conv", 4
    config.model.code_size, config.model.latent_dim = 4, 2
    if request.param == "labels":
        config.model.attributes = "Smiling,Eyeglasses"
        config.model.prior = "conditional"
    if request.param == "ae":
        config.model.name, config.objective.name = "ae", "mse"
    if request.param in ("vq", "fsq"):
        config.model.name, config.objective.name = "vq", "quantised"
        config.model.prior = "uniform"
        config.model.codebook_size = 8
    if request.param == "fsq":
        config.model.codebook_size = 512
        config.model.quantizer, config.model.levels = "fsq", "5,3"
    return run_lib.train(config, tmp_path_factory.mktemp("spatial"))


def test_a_code_has_its_places_and_the_decoder_sees_them(run):
    model = run.model()
    images = jnp.float32(run.dataset.splits["test"].images) / 255
    code = model.encode(images)
    if run.config.model.name == "vq":
        assert model.code_shape == (SHAPE,) and len(code) == 1
    else:
        assert model.code_shape == SHAPE
    assert jax.tree.leaves(code)[0].shape == (6, *SHAPE)
    # A corner of the code changes that corner of the image most.
    model = run.model("raw")
    moved = jax.tree.map(lambda vectors: vectors.at[:, 0, 0].add(3.0), code)
    change = np.abs(model.decode(moved).mean - model.decode(code).mean).mean((0, 3))
    assert change[:4, :4].mean() > 2 * change[8:, 8:].mean()


def test_samples_directions_and_ways_are_of_the_numbers_in_a_code(run):
    has_prior = run.model().prior is not None
    for sampler in ("prior", "gaussian") if has_prior else ("gaussian",):
        drawn = samples.sample(run, sampler, 5, 0)
        assert drawn.shape == (5, 16, 16, 1) and np.isfinite(drawn).all()
    directions.write_directions(run, 0)
    with np.load(run.workdir / "directions.npz") as saved:
        assert saved["difference"].shape == (len(run.attribute_names), NUMBERS)
    assert edits.edit(run, {"Smiling": 1.0}, [-1.0, 0.0]).images.shape[1:3] == (3, 16)
    way = interpolations.interpolate(run, indices=[0, 1], num_steps=3)
    labels = run.labels("test")
    ends = sampling.encode_images(
        run.model(),
        run.dataset.splits["test"].images[:2],
        None if labels is None else labels[:2],
    )
    assert ends.shape == (2, NUMBERS)
    rows = way.record["rows"]
    assert rows[0]["norm_first"] == pytest.approx(np.linalg.norm(ends[0]), rel=1e-5)
    found = traversals.traverse(run, 3)
    assert sorted(found.record["order"]) == list(range(NUMBERS))
    assert found.images.shape[0] == 3


def test_figures_are_over_all_numbers_of_a_code(run):
    report = evaluation.evaluate_run(run)
    assert evaluation.write_evaluation(run, report).exists()
    figures = json.loads((run.workdir / "eval.json").read_text())["test"]["ema"]
    if run.config.model.name == "vq":
        num_codes = run.model().quantizers[0].num_codes
        assert figures["kl"] == pytest.approx(16 * np.log(num_codes), rel=1e-5)
        assert figures["elbo"] == pytest.approx(figures["log_px"] - figures["kl"])
        assert "iw_bound" not in figures and len(figures["codes"]) == 1
    elif run.model().prior is None:
        assert "kl_by_dimension" not in figures
    else:
        assert len(figures["kl_by_dimension"]) == NUMBERS
        assert sum(figures["kl_by_dimension"]) == pytest.approx(figures["kl"], rel=1e-4)
    assert kept_codes.dimensions(run)["mean"].shape == (NUMBERS,)
    found = reconstructions.reconstruct(run, 4)
    assert jax.tree.leaves(found.record)
    assert all(p.exists() for p in reconstructions.draw_reconstructions(run, found))


def test_a_density_of_too_many_numbers_is_not_fitted(run, monkeypatch):
    monkeypatch.setitem(kept_codes.LARGEST_FITTED, "gaussian", NUMBERS - 1)
    assert not kept_codes.can_be_fitted(run, "gaussian")
    changed = dataclasses.replace(run, step=run.step + 1)
    with pytest.raises(UserError, match="has a covariance of all numbers.*have 32$"):
        samples.sample(changed, "gaussian", 2, 0)
    monkeypatch.setitem(kept_codes.LARGEST_FITTED, "gaussian", NUMBERS)
    assert kept_codes.can_be_fitted(run, "gaussian")
