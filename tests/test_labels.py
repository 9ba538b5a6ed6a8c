"""Labels: their values, how they are dropped, and that models hear them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import stats

from vae_jax.config import default_config
from vae_jax.evaluation.evaluate import build_evaluator
from vae_jax.models import build
from vae_jax.models.contract import Terms, Variables
from vae_jax.models.labels import drop_labels, to_labels
from vae_jax.models.objectives import Objective


def test_labels_are_plus_and_minus_one_in_the_order_that_was_asked_for():
    attributes = jnp.asarray([[True, False, False], [False, False, True]])
    labels = to_labels(attributes, (2, 0))
    np.testing.assert_array_equal(labels, [[-1, 1], [1, -1]])
    assert labels.dtype == jnp.float32
    np.testing.assert_array_equal(to_labels(attributes[0], (1,)), [-1])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_labels_are_dropped_all_together_and_one_by_one(rate):
    images, num_labels = 40_000, 3
    signs = jax.random.rademacher(jax.random.key(1), (images, num_labels), jnp.float32)
    dropped = np.asarray(drop_labels(jax.random.key(0), signs, rate))
    gone = dropped == 0
    np.testing.assert_array_equal(dropped[~gone], np.asarray(signs)[~gone])
    # 0 to 3 labels gone: together at `rate`, else each at the image's own rate.
    reach = min(rate, 1 - rate)
    own_rates = np.linspace(rate - reach, rate + reach, 2001)[:, None]
    one_by_one = stats.binom.pmf(np.arange(4), num_labels, own_rates).mean(axis=0)
    expected = (1 - rate) * one_by_one + rate * np.array([0, 0, 0, 1])
    shares = np.bincount(gone.sum(1), minlength=4) / images
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / np.sqrt(images))
    # The same for each label.
    share = 1 - (1 - rate) ** 2
    np.testing.assert_allclose(gone.mean(0), share, atol=4 * 0.5 / np.sqrt(images))


def conditional_vae(network="mlp", prior="normal", seed=0):
    config = default_config().model
    config.update(
        {
            "latent_dim": 2,
            "hidden_dim": 16,
            "network": network,
            "width": 4,
            "prior": prior,
            "attributes": "A,B",
            "likelihood": "bernoulli",
        }
    )
    return build.build_model(
        config, precision="fp32", image_shape=(8, 8, 1), rngs=nnx.Rngs(seed)
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_unknown_labels_are_zeros_and_none_everywhere(network):
    model = conditional_vae(network, prior="conditional")
    model.prior.linear.kernel[...] = jnp.ones((2, 4))
    images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1))
    known, zeros = jnp.asarray([1.0, -1.0]), jnp.zeros((3, 2))

    @jax.jit
    def run(model, labels):
        terms = model(images, jax.random.key(1), labels)
        return terms, model.decode(model.encode(images, labels), labels).mean

    plain, by_row = run(model, None), run(model, jnp.tile(known, (3, 1)))
    for one, other in (
        (plain, run(model, zeros)),
        (plain, run(model, zeros[0])),
        (model.prior_of(), model.prior_of(zeros[0])),
        # One row for all images, or one for each.
        (by_row, run(model, known)),
    ):
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    posteriors = [terms.layers[0].posterior.mean for terms, _ in (plain, by_row)]
    assert not np.allclose(*posteriors, atol=1e-3)
    assert not np.allclose(model.decode(zeros, known).mean, model.decode(zeros).mean)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_a_few_steps_teach_the_decoder_what_a_label_looks_like(network):
    # The second attribute is whether the picture is white; the first is noise.
    rng = np.random.default_rng(0)
    attributes = rng.random((64, 3)) < 0.5
    images = np.where(attributes[:, 2], 230, 20).astype(np.uint8)
    batch = {
        "image": jnp.asarray(np.tile(images[:, None, None, None], (1, 8, 8, 1))),
        "attributes": jnp.asarray(attributes),
    }
    graphdef, variables = build.split(conditional_vae(network))
    settings = default_config().objective
    loss_fn = build.build_loss_fn(
        graphdef,
        build.build_objective(settings, 64),
        label_columns=(0, 2),
        label_dropout=0.1,
    )
    optimizer = optax.adam(1e-2)

    def update(state, key):
        params, opt_state = state
        slopes = jax.grad(lambda p: loss_fn(p, {}, batch, key, jnp.int32(0))[0])(params)
        updates, opt_state = optimizer.update(slopes, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    keys = jax.random.split(jax.random.key(0), 60)
    state = (variables.params, optimizer.init(variables.params))
    (params, _), _ = jax.jit(lambda s: jax.lax.scan(update, s, keys))(state)
    model = build.merge(graphdef, Variables(params, {}))
    z = jax.random.normal(jax.random.key(1), (100, 2))
    white, black = (
        float(model.decode(z, jnp.asarray([0.0, sign])).mean.mean()) for sign in (1, -1)
    )
    assert white - black > 0.3


class _Listener(nnx.Module):
    """Stands in for a model; says what share of the labels it was told."""

    def __init__(self):
        self.weight = nnx.Param(jnp.ones(()))

    def __call__(self, images, key, labels, num_samples):
        labels = jnp.broadcast_to(labels, (len(images), labels.shape[-1]))
        share = self.weight[...] * jnp.mean(jnp.abs(labels), axis=-1)
        return Terms(mean=images[None], code=labels[None], log_px=share[None])


SHARE = Objective(
    figures=lambda terms, images: {"share": terms.log_px[0]},
    loss=lambda means, step: means["share"],
)


def test_labels_are_dropped_in_training_alone():
    graphdef, variables = build.split(_Listener())
    images = np.zeros((500, 2, 2, 1), np.uint8)
    attributes = np.random.default_rng(0).random((500, 4)) < 0.5
    batch = {"image": jnp.asarray(images), "attributes": jnp.asarray(attributes)}
    shares = {}
    for rate in (0.0, 0.3):
        loss_fn = build.build_loss_fn(
            graphdef, SHARE, label_columns=(1, 3), label_dropout=rate
        )
        shares[rate] = [
            float(
                loss_fn(variables.params, {}, batch, jax.random.key(k), jnp.int32(0))[0]
            )
            for k in (0, 1)
        ]
    assert shares[0.0] == [1, 1]
    np.testing.assert_allclose(shares[0.3], 0.49, atol=0.08)
    # Each step drops others.
    assert shares[0.3][0] != shares[0.3][1]

    class Split:
        pass

    split = Split()
    split.images, split.attributes = images, attributes

    def figures(model, image, labels, key):
        terms = model(image[None], key, labels, 1)
        return {"share": terms.log_px[0, 0], "labels": terms.code[0, 0]}

    evaluate = build_evaluator(
        graphdef, figures, seed=0, batch_size=100, label_columns=(1, 3)
    )
    seen = evaluate(variables, split)
    np.testing.assert_array_equal(seen["share"], 1)
    np.testing.assert_array_equal(seen["labels"], 2 * attributes[:, [1, 3]] - 1)
