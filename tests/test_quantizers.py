"""Quantisers: what the decoder is given, who learns from what, and how codes live."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vae_jax.models import codebooks, quantizers
from vae_jax.models.codebooks import AveragedCodebook, Codebook
from vae_jax.models.finite_scalars import FiniteScalars


def noise(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def codebook(kind=Codebook, num_codes=7, dims=3, gradient="straight", **others):
    return kind(dims, num_codes, gradient, 0.25, **others, rngs=nnx.Rngs(0))


KINDS = {
    "gradient": codebook,
    "ema": functools.partial(codebook, AveragedCodebook, decay=0.9),
    "fsq": lambda: FiniteScalars((8, 5, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_nearest_to_itself(kind):
    quantizer = KINDS[kind]()
    indices = jnp.arange(quantizer.num_codes)
    np.testing.assert_array_equal(
        quantizer.nearest(quantizer.look_up(indices)), indices
    )
    given = quantizer.quantize(quantizer.look_up(indices))
    assert len(np.unique(np.round(given, 4), axis=0)) == quantizer.num_codes


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_for_a_vector_is_what_stands_for_its_code(kind):
    quantizer, vectors = KINDS[kind](), noise((2, 4, 4, 3))
    codes = quantizer.look_up(quantizer.nearest(vectors))
    np.testing.assert_allclose(
        quantizer.quantize(codes), quantizer.quantize(vectors), atol=1e-6
    )


def test_the_nearest_code_is_that_of_least_distance():
    quantizer, vectors = codebook(), noise((2, 5, 3))
    distances = np.linalg.norm(
        np.float64(vectors)[..., None, :] - np.float64(quantizer.codes), axis=-1
    )
    np.testing.assert_array_equal(quantizer.nearest(vectors), distances.argmin(-1))


def test_many_codes_are_looked_through_in_turns(monkeypatch):
    vectors = noise((2, 40, 3))
    whole = codebook(num_codes=11)
    # Of codes that are alike the first one is the nearest, whatever the turn.
    whole.entries[...] = whole.codes.at[9].set(whole.codes[1])
    expected = np.asarray(whole.nearest(vectors))
    assert {1, 8, 10} <= set(expected.ravel()) and 9 not in expected
    for at_a_time in (1, 3, 4, 10):
        monkeypatch.setattr(codebooks, "CODES_AT_A_TIME", at_a_time)
        np.testing.assert_array_equal(whole.nearest(vectors), expected)


def test_memory_does_not_grow_as_places_times_codes():
    num_places, num_codes = 4096, quantizers.MOST_CODES
    quantizer = codebook(AveragedCodebook, num_codes=num_codes, decay=0.9)
    graphdef, state = nnx.split(quantizer)

    def update(state, vectors):
        moved = nnx.merge(graphdef, state)
        moved.update(vectors)
        return nnx.state(moved)

    program = jax.jit(update).lower(state, noise((num_places, 3))).compile()
    taken = program.memory_analysis().temp_size_in_bytes
    assert taken < 4 * num_places * num_codes / 8


def test_distances_are_float32_whatever_the_precision():
    # Half precision cannot tell these codes apart.
    quantizer = codebook(num_codes=2)
    quantizer.entries[...] = jnp.array([[100.0, 0, 0], [100.1, 0, 0]])
    with jax.default_matmul_precision("bfloat16"):
        traced = jax.make_jaxpr(quantizer.nearest)(jnp.bfloat16(noise((4, 3))))
    (product,) = [e for e in traced.eqns if e.primitive.name == "dot_general"]
    # Of a GPU's, too, whose products are shorter unless asked for.
    assert {str(each) for each in product.params["precision"]} == {"HIGHEST"}
    assert {each.aval.dtype for each in product.invars} == {jnp.dtype("float32")}
    near = jnp.array([[100.09, 0, 0], [100.01, 0, 0]])
    np.testing.assert_array_equal(quantizer.nearest(near), [1, 0])


def test_the_straight_gradient_is_the_codes():
    quantizer, vectors, weights = codebook(), noise((4, 3)), noise((4, 3), 1)
    gradient = jax.grad(lambda v: jnp.sum(weights * quantizer.quantize(v)))(vectors)
    np.testing.assert_array_equal(gradient, weights)


def test_the_turned_gradient_is_that_of_a_rotation_and_a_stretch():
    quantizer, vector = codebook(gradient="rotation", dims=4), noise(4, 3)
    chosen = quantizer.look_up(quantizer.nearest(vector))
    np.testing.assert_allclose(quantizer.quantize(vector), chosen, rtol=1e-6)
    jacobian = np.float64(jax.jacobian(quantizer.quantize)(vector))
    stretch = np.linalg.norm(chosen) / np.linalg.norm(vector)
    rotation = jacobian / stretch
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-5)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(jacobian @ vector, chosen, rtol=1e-5)
    # What is at right angles to both stays where it is.
    plane = np.stack([vector, chosen])
    for axis in np.linalg.svd(plane)[2][2:]:
        np.testing.assert_allclose(rotation @ axis, axis, atol=1e-5)


def test_the_commitment_weighs_the_pull_of_codes_on_vectors_alone():
    quantizer, vectors = codebook(), noise((5, 3))
    chosen = quantizer.look_up(quantizer.nearest(vectors))

    def pull(codes, vectors):
        learning = codebook()
        learning.entries[...] = codes
        return jnp.sum(learning.pull(vectors))

    codes = quantizer.codes
    by_codes, by_vectors = jax.grad(pull, (0, 1))(codes, vectors)
    np.testing.assert_allclose(by_vectors, 2 * 0.25 * (vectors - chosen), rtol=1e-5)
    expected = np.zeros_like(codes)
    which = quantizer.nearest(vectors)
    np.add.at(expected, np.asarray(which), np.asarray(2 * (chosen - vectors)))
    np.testing.assert_allclose(by_codes, expected, rtol=1e-5)


def test_averages_are_those_of_the_vectors_that_chose_a_code():
    quantizer, vectors = KINDS["ema"](), noise((2, 50, 3))
    before, chosen = np.float64(quantizer.codes), np.asarray(quantizer.nearest(vectors))
    quantizer.update(vectors)
    for k in range(quantizer.num_codes):
        own = np.float64(vectors)[chosen == k]
        share = 0.9 / 7 + 0.1 * len(own) / 100
        expected = (0.9 / 7 * before[k] + 0.1 * own.sum(0) / 100) / share
        np.testing.assert_allclose(quantizer.codes[k], expected, rtol=1e-5)
    assert quantizer.shares[...].sum() == pytest.approx(1)


def test_averages_settle_at_the_means_of_clusters():
    centres = jnp.array([[3.0, 0, 0], [-3, 0, 0], [0, 3, 0]])
    quantizer = codebook(AveragedCodebook, num_codes=3, decay=0.8)
    for seed in range(60):
        vectors = jnp.tile(centres, (20, 1)) + 0.1 * noise((60, 3), seed)
        quantizer.update(vectors)
    found = np.asarray(quantizer.codes)
    distances = np.linalg.norm(found[:, None] - centres, axis=-1)
    assert sorted(distances.argmin(1)) == [0, 1, 2]
    assert distances.min(1).max() < 0.1


def test_a_dead_code_begins_anew_at_a_vector_and_stays_there():
    quantizer = KINDS["ema"]()
    shares = quantizer.shares[...].at[2].set(1e-6)
    quantizer.entries[...] = quantizer.codes.at[2].set(1e3) * shares[:, None]
    quantizer.shares[...] = shares
    vectors = noise((21, 3))
    quantizer.update(vectors)
    born = np.asarray(quantizer.codes[2])
    assert np.abs(vectors - born).sum(-1).min() < 1e-5
    assert quantizer.shares[2] == pytest.approx(1 / 7)
    # A stale sum would carry it away from where it is.
    quantizer.update(vectors)
    assert np.linalg.norm(quantizer.codes[2] - born) < 1


def test_levels_are_evenly_spaced_and_a_vector_of_zeros_is_in_the_middle():
    quantizer = FiniteScalars((8, 5))
    given = np.asarray(quantizer.quantize(quantizer.look_up(jnp.arange(40))))
    np.testing.assert_allclose(np.unique(given[:, 0]), np.arange(-4, 4) / 4, atol=1e-6)
    np.testing.assert_allclose(np.unique(given[:, 1]), np.arange(-2, 3) / 2, atol=1e-6)
    np.testing.assert_allclose(quantizer.quantize(jnp.zeros(2)), 0, atol=1e-6)
    # The outermost levels are reached, and none beyond them.
    far = quantizer.quantize(jnp.array([[9.0, 9], [-9, -9]]))
    np.testing.assert_allclose(far, [[0.75, 1], [-1, -1]], atol=1e-6)


@pytest.mark.parametrize("levels", [(3, 8), (501, 8), (1024, 5), (8191, 8)])
def test_the_outermost_of_many_levels_are_reached_and_none_beyond(levels):
    quantizer = FiniteScalars(levels)
    ends = quantizer.nearest(jnp.array([[-30.0, -30], [30, 30]]))
    np.testing.assert_array_equal(ends, [0, quantizer.num_codes - 1])
    every = jnp.arange(quantizer.num_codes)
    np.testing.assert_array_equal(quantizer.nearest(quantizer.look_up(every)), every)


def test_the_gradient_of_levels_is_that_of_their_bound():
    quantizer, vector = FiniteScalars((8, 5, 4)), jnp.array([0.3, -0.8, 0.3])
    jacobian = np.asarray(jax.jacobian(quantizer.quantize)(vector))
    half = np.array([7, 4, 3]) * 1.001 / 2
    # Of eight levels a shift by the tangent, for its inverse, would hardly differ.
    shift = np.arctanh(np.array([0.5, 0, 0.5]) / half)
    slope = half * (1 - np.tanh(vector + shift) ** 2) / np.array([4, 2, 2])
    np.testing.assert_allclose(jacobian, np.diag(slope), rtol=1e-5)


@pytest.mark.parametrize("text", ["8", "8,8,8", "16,16,16,16"])
def test_levels_are_read(text):
    assert ",".join(map(str, quantizers.parse_levels(text))) == text


def test_each_level_is_there_for_vectors_as_encoders_give_them():
    quantizer = FiniteScalars((3, 4, 8))
    given = np.asarray(quantizer.quantize(noise((500, 3))))
    assert [len(np.unique(each)) for each in given.T] == [3, 4, 8]


@pytest.mark.parametrize("text", ["", "1", "8,2", "8,,8", "8,x", "256,256,3"])
def test_levels_that_are_none_are_refused(text):
    with pytest.raises(ValueError):
        quantizers.parse_levels(text)
