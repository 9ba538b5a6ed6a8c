"""Directions of attributes in the code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct

from vae_jax.config import default_config
from vae_jax.exploration import attributes as directions_lib
from vae_jax.models import build
from vae_jax.models.flow_density import FlowDensity


def confounded(number=4000, noise=0.3):
    """Codes that are linear in two attributes, the second a companion of the first."""
    rng = np.random.default_rng(0)
    first = rng.random(number) < 0.5
    second = np.where(rng.random(number) < 0.8, first, ~first)
    attributes = np.stack([first, second, np.ones(number, bool)], axis=1)
    truth = np.array([[1.0, 0, 2, 0], [0, -1, 1, 0]])
    codes = attributes[:, :2] @ truth + noise * rng.normal(size=(number, 4))
    return codes.astype(np.float32), attributes, truth


def test_the_difference_of_means_has_the_companion_in_it():
    codes, attributes, truth = confounded()
    found = directions_lib.difference_directions(codes, attributes)
    # P(second | first) - P(second | not first) = 0.8 - 0.2.
    np.testing.assert_allclose(found[0], truth[0] + 0.6 * truth[1], atol=0.08)
    means = [codes[attributes[:, 0] == has].mean(axis=0) for has in (True, False)]
    np.testing.assert_allclose(found[0], means[0] - means[1], atol=1e-5)
    assert np.isnan(found[2]).all()


def test_the_deconfounded_direction_has_not():
    codes, attributes, truth = confounded()
    found = directions_lib.deconfounded_directions(codes, attributes)
    np.testing.assert_allclose(found[:2], truth, atol=0.06)
    assert np.isnan(found[2]).all()


def test_the_notebooks_is_a_difference_of_ten_and_ten():
    codes, attributes, _ = confounded(noise=0.0)
    # Codes that say which pictures were taken.
    rows = np.eye(300)
    found = directions_lib.notebook_directions(rows, attributes[:300], seed=3)
    np.testing.assert_allclose(np.unique(found[0]), [-0.1, 0.0, 0.1])
    assert np.sum(found[0] > 0) == np.sum(found[0] < 0) == 10
    assert attributes[:300, 0][found[0][:300] > 0].all()
    assert not attributes[:300, 0][found[0][:300] < 0].any()
    assert np.isnan(found[2]).all()
    other = directions_lib.notebook_directions(rows, attributes[:300], seed=4)
    assert not np.array_equal(found[0], other[0])
    # Fewer where there are fewer.
    few = directions_lib.notebook_directions(rows[:12], attributes[:12], seed=0)
    assert np.sum(few[0] > 0) == min(10, attributes[:12, 0].sum())


@struct.dataclass
class OfGaussians:
    """A model whose prior is N(mean, std) times the label, as a flow."""

    mean: jax.Array
    std: jax.Array
    num_labels: int = struct.field(pytree_node=False, default=2)

    def prior_of(self, labels=None):
        def velocity(x, time, labels):
            t, centre = time[:, None], labels[:, :1] * self.mean
            variance = (1 - t) ** 2 + jnp.square(t * self.std)
            slope = (t * self.std**2 - (1 - t)) / variance
            return centre + slope * (x - t * centre)

        labels = jnp.zeros(2) if labels is None else labels
        nothing = jnp.zeros_like(self.mean)
        return FlowDensity(velocity, nothing, nothing + 1, labels, num_steps=1)


def test_a_flows_direction_is_how_far_apart_it_carries_codes(monkeypatch):
    mean, std = np.array([0.5, 0.0, -1.0]), np.array([0.3, 1.5, 0.8])
    model = OfGaussians(jnp.float32(mean), jnp.float32(std))
    monkeypatch.setattr(directions_lib, "REDRAWN_STEPS", 200)
    codes = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    found = directions_lib.flow_direction(model, 0)(codes)
    # x at t is carried to mu + std (x - t mu) / std_t, and guidance of 2 doubles mu.
    t = 0.5
    std_t = np.sqrt((1 - t) ** 2 + (t * std) ** 2)
    expected = 2 * 2 * mean * (1 - t * std / std_t)
    np.testing.assert_allclose(found, np.tile(expected, (7, 1)), atol=2e-3)
    # Of an attribute that changes nothing.
    other = directions_lib.flow_direction(model, 1)(codes)
    np.testing.assert_allclose(other, np.zeros((7, 3)), atol=1e-5)


def small(name, **settings):
    config = default_config().model
    config.update({"name": name, "latent_dim": 6, "hidden_dim": 32, **settings})
    return build.build_model(
        config, precision="fp32", image_shape=(4, 4, 1), rngs=nnx.Rngs(1)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ae", "vae"])
def test_effects_are_the_judges_view_of_the_decoded_edit(name):
    model, judge = small(name), small("classifier", attributes="A,B,C")
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(9, 6)).astype(np.float32)
    directions = rng.normal(size=(9, 6))
    features, logits = directions_lib.edit_effects(
        model, judge, codes, directions, -1.5
    )
    images = model.decode(jnp.float32(codes - 1.5 * directions)).mean
    np.testing.assert_allclose(features, judge.features(images), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        logits, judge.logits(judge.features(images)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_the_held_direction_flips_one_and_holds_the_others():
    model, guide = small("ae"), small("classifier", attributes="A,B,C,D")
    codes = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)

    def log_odds(moves):
        return directions_lib.edit_effects(model, guide, codes, moves, 1.0)[1]

    before = log_odds(np.zeros_like(codes))
    # A classifier that is sure of both answers.
    before -= before.mean(axis=0)
    sureness = 4 / before.std(axis=0)
    guide.head.kernel[...] = guide.head.kernel[...] * sureness
    guide.head.bias[...] = -log_odds(np.zeros_like(codes)).mean(axis=0)
    before *= sureness
    attributes = before > 0
    signs = np.where(before[:, [2]] < 0, 1, -1)
    start = directions_lib.difference_directions(codes, attributes)[2]
    held = directions_lib.held_direction(model, guide, codes, 2, start, seed=0)
    again = directions_lib.held_direction(model, guide, codes, 2, start, seed=0)
    np.testing.assert_array_equal(again(codes), held(codes))

    def leak_at_90(direction):
        for alpha in np.arange(0.1, 8, 0.1):
            after = log_odds(signs * alpha * np.asarray(direction(codes)))
            flips = np.mean(np.sign(after[:, 2]) != np.sign(before[:, 2]))
            if flips >= 0.9:
                change = np.abs(after - before) / before.std(axis=0)
                return change[:, [0, 1, 3]].mean()
        raise AssertionError("it does not flip 90%")

    constant = leak_at_90(directions_lib.constant(start))
    assert leak_at_90(held) < 0.6 * constant
