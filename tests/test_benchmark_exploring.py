"""Evaluation and sampling are timed against the same mathematics in PyTorch."""

import jax
import numpy as np
import pytest
from test_benchmarks import small, torch_weights

from benchmarks import exploring, training
from vae_jax.evaluation import evaluate
from vae_jax.experiment import assemble
from vae_jax.exploration.sampling import decode_codes
from vae_jax.keys import Stream, key
from vae_jax.models import build


@pytest.fixture(params=exploring.MODELS)
def pair(request):
    """A recipe, its parameters away from zero, and PyTorch's model of the same."""
    torch = pytest.importorskip("torch")
    config = small(request.param)
    config.dataset.size = 32
    experiment, rng = assemble(config, 5), np.random.default_rng(0)
    variables = jax.tree.map(
        lambda a: np.float32(0.1 * rng.normal(size=a.shape)), experiment.shapes
    )
    model = training.new_peer(request.param, config).cpu()
    given = torch_weights(request.param, variables.params)
    model.load_state_dict({k: torch.tensor(np.array(v)) for k, v in given.items()})
    return experiment, variables, model.requires_grad_(False)


def in_torch(split):
    import torch

    return torch.from_numpy(split.images).permute(0, 3, 1, 2).float() / 255


def test_figures_agree_with_pytorch(pair):
    import torch

    experiment, variables, model = pair
    config = experiment.config
    split, dims = training.pictures(config, 5), config.model.latent_dim
    evaluator = evaluate.build_evaluator(
        experiment.graphdef,
        evaluate.objective_figures(experiment.objective),
        seed=3,
        batch_size=2,
    )
    keys = [key(3, Stream.EVALUATION, i) for i in range(5)]
    noise = np.stack([jax.random.normal(k, (dims,)) for k in keys])
    found = evaluator(variables, split)
    expected = exploring.peer_figures(model, in_torch(split), torch.tensor(noise))
    assert set(found) == set(expected)
    for name, figure in found.items():
        np.testing.assert_allclose(figure, expected[name], rtol=2e-4, atol=1e-5)


def test_the_bound_agrees_with_pytorch(pair):
    import torch

    experiment, variables, model = pair
    config = experiment.config
    split, dims = training.pictures(config, 5), config.model.latent_dim
    evaluator = evaluate.build_evaluator(
        experiment.graphdef, evaluate.bound_figures(6, 3), seed=3, batch_size=5
    )
    found = evaluator(variables, split)["iw_bound"]
    log_sums = []
    for chunk in range(2):
        noise = []
        for i in range(5):
            chunk_key = jax.random.fold_in(key(3, Stream.EVALUATION, i), chunk)
            noise.append(jax.random.normal(chunk_key, (3, dims)))
        noise = torch.tensor(np.stack(noise, axis=1))
        log_sums.append(exploring.peer_bound(model, in_torch(split), noise))
    expected = torch.stack(log_sums).logsumexp(0) - np.log(6)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_samples_agree_with_pytorch(pair):
    import torch

    experiment, variables, model = pair
    latent_dim = experiment.config.model.latent_dim
    z = np.random.default_rng(1).normal(size=(5, latent_dim))
    z = z.astype(np.float32)
    ours = build.merge(experiment.graphdef, variables)
    found = decode_codes(ours, z).transpose(0, 3, 1, 2)
    expected = exploring.peer_decode(model, torch.tensor(z)).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# torch.compile brings warnings about torch's own code.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_each_kind_has_a_line_with_the_same_rivals(monkeypatch):
    config = small("VAE")
    config.eval.batch_size, config.eval.importance_samples = 4, 3
    monkeypatch.setitem(training.RECIPES, "VAE", lambda: config)
    lines = exploring.measure(1, num_images=10)
    assert len({line["name"] for line in lines}) == 3
    for line in lines:
        assert next(iter(line["rivals"])) == "vae_jax"
        assert line["rivals"].keys() == lines[0]["rivals"].keys()
        assert all(found["median"] > 0 for found in line["rivals"].values())
