"""Measures of disentanglement on codes whose score is known by hand."""

import itertools

import numpy as np
import pytest

from vae_jax.evaluation.disentanglement import (
    dci,
    factor_vae_score,
    mutual_information_gap,
)

LOG2, LOG3 = np.log(2), np.log(3)


def every_combination(*sizes, times=1):
    """Factors of so many values each, every combination equally often."""
    rows = list(itertools.product(*map(range, sizes)))
    return np.array(rows * times)


def columns(*values):
    return np.stack(values, axis=1).astype(np.float32)


def few_votes(codes, factors, seed=0, **settings):
    return factor_vae_score(
        codes, factors, seed, **{"num_train": 1000, "num_test": 1000} | settings
    )


# Each factor is a dimension.


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_codes_that_are_the_factors_are_perfect(dtype):
    factors = every_combination(2, 3, 5, times=20).astype(dtype)
    codes = 10 * factors[:, [2, 0, 1]].astype(np.float32) - 7
    assert mutual_information_gap(codes, factors) == pytest.approx(1)
    assert dci(codes, factors, 0) == pytest.approx(
        {"disentanglement": 1, "completeness": 1, "informativeness": 1}
    )
    assert few_votes(codes, factors) == 1


def test_booleans_are_factors():
    factors = every_combination(2, 2, 2, times=50).astype(bool)
    codes = factors.astype(np.float32)
    assert mutual_information_gap(codes, factors) == pytest.approx(1)
    assert dci(codes, factors, 0)["disentanglement"] == pytest.approx(1)
    assert few_votes(codes, factors) == 1


# Codes that tell nothing.


def test_independent_codes_have_no_gap():
    both = every_combination(3, 4, 2, 5)
    codes, factors = both[:, :2].astype(np.float32), both[:, 2:]
    assert mutual_information_gap(codes, factors) == pytest.approx(0, abs=1e-12)


def test_random_codes_score_about_chance():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(4000, 8))
    factors = rng.integers(4, size=(4000, 4))
    # Counting is biased by about 20 * 4 / (2 * 4000) nats.
    assert mutual_information_gap(codes, factors) < 0.01
    scores = dci(codes, factors, 0)
    assert scores["disentanglement"] < 0.1
    assert scores["completeness"] < 0.1
    assert scores["informativeness"] == pytest.approx(1 / 4, abs=0.03)
    assert few_votes(codes, factors) == pytest.approx(1 / 4, abs=0.06)


# Codes that mix or repeat.


def test_two_factors_rotated_by_45_degrees():
    factors = every_combination(2, 2, times=250)
    codes = columns(factors[:, 0] + factors[:, 1], factors[:, 0] - factors[:, 1])
    # Each dimension tells each factor at its ends, half of the time: log(2) / 2.
    assert mutual_information_gap(codes, factors) == pytest.approx(0, abs=1e-12)
    scores = dci(codes, factors, 0)
    assert scores["disentanglement"] == pytest.approx(0, abs=0.05)
    assert scores["completeness"] == pytest.approx(0, abs=0.05)
    assert scores["informativeness"] == 1
    # A fixed factor halves the variance of both.
    assert few_votes(codes, factors) == pytest.approx(1 / 2, abs=0.06)


def test_gap_of_a_factor_beside_a_sum():
    factors = every_combination(2, 2)
    codes = columns(factors[:, 0], factors[:, 0] + factors[:, 1])
    # Of the first factor log 2 and log(2) / 2, of the second 0 and log(2) / 2.
    assert mutual_information_gap(codes, factors) == pytest.approx(1 / 2)


def test_a_repeated_dimension():
    factors = every_combination(8, 8, times=20)
    codes = columns(factors[:, 0], factors[:, 0], factors[:, 1])
    assert mutual_information_gap(codes, factors) == pytest.approx(1 / 2)
    scores = dci(codes, factors, 0)
    assert scores["disentanglement"] == pytest.approx(1)
    # Two of three dimensions share the first factor, one has the second.
    completeness = (1 - LOG2 / LOG3 + 1) / 2
    assert scores["completeness"] == pytest.approx(completeness, abs=0.02)
    assert few_votes(codes, factors) == 1


def test_a_dimension_that_holds_two_factors():
    factors = every_combination(2, 2, 2, times=50)
    codes = columns(2 * factors[:, 0] + factors[:, 1], factors[:, 2])
    # The gap does not mind.
    assert mutual_information_gap(codes, factors) == pytest.approx(1)
    scores = dci(codes, factors, 0)
    # It has two of three columns' importance, and shares of 1/2, 1/2 and 0.
    assert scores["disentanglement"] == pytest.approx(1 - 2 / 3 * LOG2 / LOG3)
    assert scores["completeness"] == pytest.approx(1)
    assert scores["informativeness"] == 1


def test_one_dimension_for_two_factors_that_are_one():
    factors = every_combination(3, 3, times=100)[:, [0, 1, 1]]
    codes = factors[:, :2].astype(np.float32)
    assert mutual_information_gap(codes, factors) == pytest.approx(1)
    # The classifier has to guess one of the two.
    assert few_votes(codes, factors, num_test=4000) == pytest.approx(2 / 3, abs=0.03)


def test_a_single_dimension():
    factors = every_combination(4, 2, times=50)
    codes = factors[:, :1].astype(np.float32)
    # log 4 of log 4, and nothing of log 2.
    assert mutual_information_gap(codes, factors) == pytest.approx(1 / 2)
    assert dci(codes, factors, 0)["completeness"] == 1
    assert few_votes(codes, factors, num_test=4000) == pytest.approx(1 / 2, abs=0.03)


# The mutual information gap.


def test_gap_is_by_the_factors_entropy():
    counts = np.array([[60, 20], [2, 18]])
    factor, code = np.repeat(np.argwhere(counts >= 0), counts.ravel(), axis=0).T
    joint = counts / 100
    by_factor, by_code = joint.sum(1), joint.sum(0)
    information = sum(
        joint[i, j] * np.log(joint[i, j] / (by_factor[i] * by_code[j]))
        for i in range(2)
        for j in range(2)
    )
    expected = information / -np.sum(by_factor * np.log(by_factor))
    gap = mutual_information_gap(columns(code), factor[:, None])
    assert gap == pytest.approx(expected)


def test_codes_nearer_than_a_twentieth_of_their_range_are_one():
    factor = np.repeat([0, 1, 2], 30)
    codes = columns(np.array([0, 0.02, 1])[factor])
    expected = (LOG3 - 2 / 3 * LOG2) / LOG3
    assert mutual_information_gap(codes, factor[:, None]) == pytest.approx(expected)


def test_twenty_levels_stay_apart():
    factor = np.repeat(np.arange(20), 5)
    assert mutual_information_gap(columns(factor), factor[:, None]) == pytest.approx(1)


def test_a_continuous_factor_goes_into_bins_of_equal_mass():
    rng = np.random.default_rng(0)
    rank = rng.permutation(1000)
    factor = np.exp(np.sort(3 * rng.normal(size=1000)))[rank]
    gap = mutual_information_gap(columns(rank // 50), factor[:, None])
    assert gap == pytest.approx(1)


def test_a_clipped_factor_has_fewer_bins():
    rng = np.random.default_rng(0)
    factor = np.maximum(rng.normal(size=(1000, 1)), 0)
    # Of 20 bins the lower half are one, all at 0.
    codes = columns(*factor.T, factor[:, 0] > 0)
    assert 0 < mutual_information_gap(codes, factor) < 1
    assert dci(codes, factor, 0)["informativeness"] > 0.9


# What is left out.


@pytest.mark.parametrize("position", [0, 2])
def test_a_factor_with_one_value_is_left_out(position):
    factors = every_combination(3, 4, times=50)
    codes = columns(factors[:, 0], factors[:, 0] + factors[:, 1])
    more = np.insert(factors, position, 7, axis=1)
    assert mutual_information_gap(codes, more) == mutual_information_gap(codes, factors)
    assert dci(codes, more, 0) == dci(codes, factors, 0)
    assert few_votes(codes, more) == few_votes(codes, factors)


def test_a_factor_with_one_bin_is_left_out():
    factors = every_combination(2, 2, times=500).astype(np.float64)
    codes = columns(factors[:, 0], factors[:, 0] + factors[:, 1])
    # 30 values, but 0 is also the 19th of 20 quantiles.
    more = np.insert(factors, 1, np.maximum(np.arange(2000) - 1970, 0), axis=1)
    assert mutual_information_gap(codes, more) == mutual_information_gap(codes, factors)
    assert few_votes(codes, more) == few_votes(codes, factors)


@pytest.mark.parametrize(
    "measure",
    [mutual_information_gap, lambda c, f: dci(c, f, 0), few_votes],
)
def test_factors_that_do_not_vary_are_an_error(measure):
    with pytest.raises(ValueError, match="2 factors have a single value"):
        measure(np.ones((10, 3)), np.ones((10, 2)))


def test_constant_codes():
    factors = every_combination(2, 2, times=20)
    codes = np.full((80, 3), 0.1)
    assert mutual_information_gap(codes, factors) == 0
    scores = dci(codes, factors, 0)
    assert scores["disentanglement"] == 0
    assert scores["completeness"] == pytest.approx(0)
    assert few_votes(codes, factors) == 1 / 2
    assert few_votes(codes, factors, min_std=0.0) == 1 / 2
    beside = np.concatenate([codes, factors], axis=1)
    assert few_votes(beside, factors, min_std=0.0) == 1


# Importances.


def test_a_noisy_factor_is_not_lost_among_useless_dimensions():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(2000, 50))
    factor = codes[:, :1] + rng.normal(size=(2000, 1)) > 0
    # Trees without a smallest leaf give 0.2.
    assert 0.4 < dci(codes, factor, 0)["completeness"] < 1


# The votes.


def test_dimensions_that_hardly_vary_have_no_vote():
    factors = every_combination(2, 2, times=50)
    rng = np.random.default_rng(0)
    codes = columns(0.01 * factors[:, 0], *rng.normal(size=(2, 200)), factors[:, 1])
    assert few_votes(codes, factors, min_std=0.0) > 0.95
    assert few_votes(codes, factors) < 0.9
    assert few_votes(0.01 * codes, factors) == 1 / 2


def test_variances_are_relative_to_those_of_all_pictures():
    factors = every_combination(2, 2, times=100)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(400, 2))
    codes = (factors + noise) * [100.0, 1.0]
    assert few_votes(codes, factors) == 1


def test_values_are_fixed_as_often_as_they_occur():
    rng = np.random.default_rng(0)
    rare = np.arange(4000) % 10 == 0
    other = np.arange(4000) // 10 % 2
    # Without variance in nine of ten, with ten times as much in the tenth: a vote for
    # the first dimension in nine of ten, for that of the other factor in the tenth.
    codes = columns(rare * rng.normal(size=4000), other)
    score = few_votes(codes, np.stack([rare, other], axis=1), num_test=4000)
    assert score == pytest.approx(0.95, abs=0.02)


def test_votes_that_test_are_not_those_that_train():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(4000, 200))
    factors = rng.integers(4, size=(4000, 4))
    score = few_votes(codes, factors, num_train=300, num_test=300)
    assert score == pytest.approx(1 / 4, abs=0.08)


def test_larger_batches_see_smaller_differences():
    rng = np.random.default_rng(0)
    factors = every_combination(2, 2, times=500)
    codes = factors + rng.normal(size=(2000, 2))
    assert few_votes(codes, factors, batch_size=1000) == 1
    assert few_votes(codes, factors, batch_size=8) < 0.7


def test_a_value_of_a_single_picture_is_not_fixed():
    rng = np.random.default_rng(0)
    factors = every_combination(2, 2, times=50)
    codes = columns(factors[:, 1], factors[:, 0])
    alone = rng.permutation(200)[:100]
    factors[alone, 0] = 2 + np.arange(100)
    assert few_votes(codes, factors) == 1


def test_pictures_that_share_no_value_are_an_error():
    factors = np.arange(10)[:, None]
    with pytest.raises(ValueError, match="no two pictures share"):
        few_votes(factors.astype(np.float32), factors)


# The seed.


@pytest.mark.parametrize("measure", [dci, few_votes])
def test_the_seed_decides(measure):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, 4))
    factors = rng.integers(3, size=(500, 3))
    assert measure(codes, factors, 1) == measure(codes, factors, 1)
    assert measure(codes, factors, 1) != measure(codes, factors, 2)
