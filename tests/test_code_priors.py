"""Priors over discrete codes: probabilities, samples, and what each place sees."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vae_jax.models import code_priors
from vae_jax.models.code_priors import TransformerPrior, draw
from vae_jax.models.masked_prior import MaskedPrior
from vae_jax.models.networks import transformer
from vae_jax.models.networks.transformer import Maps

SIZES = {"one map": ((2, 2),), "two maps": ((1, 1), (1, 3))}
LABELS = jnp.float32([1, -1])


def new_prior(
    kind, sizes=((2, 2),), num_codes=3, num_labels=0, num_passes=4, dtype="float32"
):
    """Returns a prior that no training starts from: its probabilities differ."""
    maps = Maps(sizes, num_codes, num_labels, jnp.dtype(dtype), nnx.Rngs(0))
    passes = (num_passes,) if kind is MaskedPrior else ()
    prior = kind(maps, 8, 2, 2, *passes)
    rng = np.random.default_rng(0)
    graphdef, params = nnx.split(prior, nnx.Param)
    drawn = jax.tree.map(
        lambda a: jnp.float32(rng.normal(size=a.shape)) / max(a.shape[0], 2) ** 0.5,
        params,
    )
    return nnx.merge(graphdef, drawn)


def every_sequence(num_codes, length):
    return jnp.array([*itertools.product(range(num_codes), repeat=length)])


def log_prob(prior, indices, labels=None, key=None):
    return np.float64(jnp.sum(prior.log_prob_by_place(indices, labels, key), axis=-1))


KINDS = pytest.mark.parametrize("kind", [TransformerPrior, MaskedPrior])


@KINDS
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("labels", [None, LABELS], ids=["plain", "labelled"])
def test_the_probabilities_of_all_codes_add_up_to_one(kind, sizes, labels):
    prior = new_prior(kind, sizes, num_labels=0 if labels is None else 2)
    found = log_prob(prior, every_sequence(3, 4), labels)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-5)
    assert found.std() > 0.1


@KINDS
def test_a_new_prior_is_the_uniform_one(kind):
    maps = Maps(((2, 2),), 7, 0, jnp.dtype("float32"), nnx.Rngs(0))
    prior = kind(maps, 8, 2, 2, *((4,) if kind is MaskedPrior else ()))
    found = prior.log_prob_by_place(every_sequence(7, 4)[:50])
    np.testing.assert_allclose(found, -np.log(7), rtol=1e-6)


@KINDS
def test_labels_change_the_codes_and_unknown_ones_are_zeros(kind):
    prior, codes = new_prior(kind, num_labels=2), every_sequence(3, 4)
    with_labels, without = log_prob(prior, codes, LABELS), log_prob(prior, codes)
    assert np.abs(with_labels - without).max() > 0.01
    zeros = log_prob(prior, codes, jnp.zeros(2))
    np.testing.assert_allclose(zeros, without, rtol=1e-5)
    of_each = log_prob(prior, codes[:2], jnp.stack([LABELS, jnp.zeros(2)]))
    np.testing.assert_allclose(of_each, [with_labels[0], without[1]], rtol=1e-5)


def test_a_transformer_sees_what_is_before_a_place_and_nothing_else():
    prior = new_prior(TransformerPrior, SIZES["two maps"])
    codes = every_sequence(3, 4)
    by_place = np.asarray(prior.log_prob_by_place(codes))
    for place in range(4):
        for before in every_sequence(3, place + 1):
            same = (codes[:, : place + 1] == before).all(axis=1)
            np.testing.assert_allclose(np.ptp(by_place[same, place]), 0, atol=1e-5)
    # The last place sees the first.
    last = by_place[:, 3].reshape(3, 3, 3, 3)
    assert np.abs(last[0] - last[1]).max() > 0.01


@pytest.mark.parametrize("stretch", [4, 64])
def test_place_by_place_is_as_all_at_once(stretch, monkeypatch):
    monkeypatch.setattr(transformer, "STRETCH", stretch)
    block = transformer.AttentionBlock(
        8, 2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)
    )
    rng = np.random.default_rng(0)
    for linear in (block.attended, block.narrow):
        linear.kernel[...] = jnp.float32(rng.normal(size=linear.kernel[...].shape))
    x = jnp.float32(rng.normal(size=(3, 9, 8)))
    expected, memory = block(x, is_causal=True), block.new_memory(3).grown(9)
    for place in range(9):
        found, memory = block.step(x[:, place, None], memory, jnp.int32(place))
        np.testing.assert_allclose(found[:, 0], expected[:, place], atol=1e-5)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_samples_of_a_transformer_are_as_frequent_as_they_are_probable(sizes):
    prior, number = new_prior(TransformerPrior, sizes), 20_000
    samples = prior.sample(jax.random.key(0), number)
    probable = np.exp(log_prob(prior, every_sequence(3, 4)))
    which = np.ravel_multi_index(np.asarray(samples).T, (3,) * 4)
    shares = np.bincount(which, minlength=81) / number
    error = np.sqrt(probable * (1 - probable) / number)
    assert (np.abs(shares - probable) <= 5 * error).all()


def test_how_often_a_memory_grows_does_not_matter(monkeypatch):
    prior = new_prior(TransformerPrior, ((2, 2), (2, 3)))
    # At every place, as where frequencies are tested above, and after several.
    found = []
    for growths in (6, 3, 1):
        monkeypatch.setattr(code_priors, "GROWTHS", growths)
        found.append(np.asarray(prior.sample(jax.random.key(0), 60)))
    assert np.ptp(found[0], axis=0).max() > 0
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_what_is_drawn_from_is_what_all_places_together_give(monkeypatch):
    """Each place with the memory of those before, over two maps, as it grows."""
    prior = new_prior(TransformerPrior, ((2, 2), (2, 3)))
    seen = []

    def draw_none(logits, keys, temperature, top_k):
        jax.debug.callback(seen.append, logits, ordered=True)
        return jnp.zeros(len(logits), jnp.int32)

    monkeypatch.setattr(code_priors, "draw", draw_none)
    known = jax.random.randint(jax.random.key(0), (2, 10), 0, 3)
    prior.sample(jax.random.key(1), 1, known=known)
    jax.effects_barrier()
    together = prior.logits(known, jnp.zeros((2, 0)))
    assert np.ptp(together) > 0.1
    np.testing.assert_allclose(np.stack(seen, axis=1), together, atol=1e-5)


def test_without_temperature_a_transformer_draws_the_likeliest_code():
    prior = new_prior(TransformerPrior)
    (sample,) = np.asarray(prior.sample(jax.random.key(0), 1, temperature=0.0))
    logits = prior.logits(jnp.asarray(sample)[None], jnp.zeros((1, 0)))
    np.testing.assert_array_equal(sample, logits[0].argmax(axis=-1))
    alike = prior.sample(jax.random.key(1), 5, top_k=1)
    assert (np.asarray(alike) == sample).all()


def test_many_samples_are_drawn_a_few_at_a_time(monkeypatch):
    prior = new_prior(TransformerPrior, num_labels=2)
    labels = jnp.stack([LABELS, -LABELS])
    whole = prior.sample(jax.random.key(0), 7, labels)
    monkeypatch.setattr(code_priors, "ROWS", 4)
    assert whole.shape == (7, 2, 4)
    np.testing.assert_array_equal(prior.sample(jax.random.key(0), 7, labels), whole)


@KINDS
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_samples_in_half_precision_are_as_frequent_as_those_in_float32(kind, dtype):
    number, found = 2000, {}
    for each in ("float32", dtype):
        prior = new_prior(kind, SIZES["two maps"], num_labels=2, dtype=each)
        assert prior.sequence.first(jnp.zeros((1, 2))).dtype == each
        samples = np.asarray(prior.sample(jax.random.key(0), number, LABELS))
        assert samples.shape == (number, 4) and samples.dtype == np.int32
        assert samples.min() == 0 and samples.max() == 2
        which = np.ravel_multi_index(samples.T, (3,) * 4)
        found[each] = np.bincount(which, minlength=81) / number
        few = every_sequence(3, 4)[::9]
        log_probs = prior.log_prob_by_place(few, LABELS, jax.random.key(1))
        assert np.isfinite(log_probs).all()
    # They are drawn by the same keys.
    assert np.abs(found["float32"] - found[dtype]).sum() / 2 < 0.03


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_probabilities_of_many_codes_are_found_in_turns(kind, dtype, monkeypatch):
    prior = new_prior(kind, SIZES["two maps"], num_codes=5, dtype=dtype)
    codes = jnp.int32(np.random.default_rng(0).integers(0, 5, (6, 4)))
    graphdef, params = nnx.split(prior)

    def log_px(params, weights):
        by_place = nnx.merge(graphdef, params).log_prob_by_place(
            codes, None, jax.random.key(3)
        )
        return jnp.sum(weights * by_place), by_place

    weights = jnp.float32(np.random.default_rng(1).normal(size=(6, 4)))
    of = jax.grad(log_px, has_aux=True)
    slopes, expected = of(params, weights)
    monkeypatch.setattr(transformer, "CODES_AT_A_TIME", 2)
    in_turns, found = of(params, weights)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    for a, b in zip(*map(jax.tree.leaves, (in_turns, slopes)), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@KINDS
def test_memory_does_not_grow_as_samples_times_places_times_codes(kind):
    # 1 GB of log-odds at 64 samples of 64 places, and as much again for their gradient.
    maps = Maps(((8, 8),), 65_536, 0, jnp.dtype("float32"), nnx.Rngs(0))
    prior = kind(maps, 8, 1, 2, *((4,) if kind is MaskedPrior else ()))
    graphdef, params = nnx.split(prior)

    def loss(params, codes, key):
        by_place = nnx.merge(graphdef, params).log_prob_by_place(codes, None, key)
        return jnp.sum(by_place)

    def sample(params, key):
        return nnx.merge(graphdef, params).sample(key, 256)

    key, codes = jax.random.key(0), jnp.zeros((64, 64), jnp.int32)
    for program, given in (
        (jax.grad(loss), (params, codes, key)),
        (sample, (params, key)),
    ):
        compiled = jax.jit(program).lower(*given).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 4 * 64 * 64 * 65_536 / 4


def test_an_estimate_is_the_mean_over_all_orders_of_the_places():
    prior, codes = new_prior(MaskedPrior, ((1, 3),)), every_sequence(3, 3)[::5]
    by_order = []
    for order in itertools.permutations(range(3)):
        total = np.zeros(len(codes))
        for seen in range(3):
            hidden = np.isin(range(3), order[seen:])
            logits = prior.logits(jnp.where(hidden, 3, codes), jnp.zeros((6, 0)))
            log_probs = np.asarray(jax.nn.log_softmax(logits))
            place = order[seen]
            total += log_probs[np.arange(6), place, codes[:, place]]
        by_order.append(total)
    expected, keys = (
        np.mean(by_order, axis=0),
        jax.random.split(jax.random.key(0), 4000),
    )
    draws = np.asarray(
        jax.vmap(lambda key: prior.log_prob_by_place(codes, None, key).sum(-1))(keys)
    )
    error = draws.std(axis=0) / np.sqrt(len(keys))
    assert (np.abs(draws.mean(axis=0) - expected) <= 5 * error).all()
    # What has no key is one of the orders.
    exact = log_prob(prior, codes)
    assert any(np.allclose(exact, total, atol=1e-4) for total in by_order)


def test_what_is_hidden_is_not_seen_and_is_no_code():
    prior = new_prior(MaskedPrior)
    assert prior.sequence.embeddings[0].num_embeddings == 4 and prior.hidden == 3
    hidden = jnp.array([True, False, True, False])
    rows = jnp.array([[0, 1, 0, 2], [2, 1, 1, 2]])
    logits = prior.logits(jnp.where(hidden, prior.hidden, rows), jnp.zeros((2, 0)))
    np.testing.assert_array_equal(logits[0], logits[1])


@KINDS
def test_codes_that_are_given_stay(kind):
    prior = new_prior(kind, SIZES["two maps"], num_codes=5)
    known = jnp.array([[4, -1, 2, -1], [-1, -1, -1, 0]])
    samples = np.asarray(prior.sample(jax.random.key(0), 300, known=known))
    assert samples.shape == (300, 2, 4)
    assert samples.min() == 0 and samples.max() == 4
    fixed = np.broadcast_to(known >= 0, samples.shape)
    np.testing.assert_array_equal(
        samples[fixed], np.broadcast_to(known, samples.shape)[fixed]
    )
    assert all(len(np.unique(samples[:, 0, place])) == 5 for place in (1, 3))


@pytest.mark.parametrize("num_passes", [1, 3, 4, 9])
def test_a_masked_prior_draws_all_codes_in_any_number_of_passes(num_passes):
    prior = new_prior(MaskedPrior, num_passes=num_passes)
    samples = np.asarray(prior.sample(jax.random.key(0), 500))
    assert samples.shape == (500, 4) and set(np.unique(samples)) == {0, 1, 2}


def test_what_was_drawn_before_bears_on_what_is_drawn_next():
    # Places are alike: all that a pass draws alone is independent, which two passes
    # that see each other's codes are not.
    def share_of_pairs(num_passes):
        prior = new_prior(MaskedPrior, ((1, 2),), 2, num_passes=num_passes)
        sequence = prior.sequence

        def alike(indices, labels):
            other = indices[:, ::-1, None]
            near = jnp.where(other == jnp.arange(2), 4.0, 0.0)
            return jnp.where(other == prior.hidden, 0.0, near)

        prior.logits = alike
        assert sequence.lengths == [2]
        samples = np.asarray(prior.sample(jax.random.key(0), 2000))
        return np.mean(samples[:, 0] == samples[:, 1])

    assert share_of_pairs(1) == pytest.approx(0.5, abs=0.06)
    assert share_of_pairs(2) > 0.95


def test_an_index_is_drawn_as_often_as_its_softmax_says():
    logits, number = jnp.float32([[0.3, -1.0, 2.0, 0.0]]), 20_000
    keys = jax.random.split(jax.random.key(0), number)

    def shares(temperature, top_k):
        rows = jnp.broadcast_to(logits, (number, 4))
        return np.bincount(draw(rows, keys, temperature, top_k), minlength=4) / number

    for temperature, top_k, allowed in (
        (1.0, None, [0, 1, 2, 3]),
        (0.5, None, [0, 1, 2, 3]),
        (1.0, 2, [0, 2]),
        (0.0, None, [2]),
        (1.0, 9, [0, 1, 2, 3]),
    ):
        weights = np.zeros(4)
        scaled = np.float64(logits[0]) / max(temperature, 1e-6)
        weights[allowed] = np.exp(scaled - scaled.max())[allowed]
        expected = weights / weights.sum()
        error = np.sqrt(expected * (1 - expected) / number)
        assert (np.abs(shares(temperature, top_k) - expected) <= 5 * error).all()
