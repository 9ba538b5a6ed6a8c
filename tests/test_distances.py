"""Distances between sets of features against closed forms and brute force."""

import numpy as np
import pytest
from scipy import linalg, stats

from vae_jax.evaluation import distances
from vae_jax.evaluation.distances import frechet_distance, precision_recall


def normal(n, size, seed=0):
    return np.random.default_rng(seed).normal(size=(n, size))


def with_moments(mean, root, n=50, seed=0):
    """Vectors with exactly this mean and covariance root root'."""
    x = normal(n, len(mean), seed)
    x = x - x.mean(axis=0)
    root_of_sample = np.linalg.cholesky(x.T @ x / (n - 1))
    white = x @ np.linalg.inv(root_of_sample).T
    return white @ np.asarray(root).T + mean


def rotation(size, seed=0):
    return stats.ortho_group.rvs(size, random_state=seed)


# The Fréchet distance.


def test_frechet_of_diagonal_covariances():
    a = with_moments([1.0, 2.0, 3.0], np.diag([1.0, 2.0, 0.5]))
    b = with_moments([1.0, 0.0, 0.0], np.diag([3.0, 2.0, 0.1]), n=70, seed=1)
    # |m|^2 + sum (s_a - s_b)^2.
    assert frechet_distance(a, b) == pytest.approx(4 + 9 + 4 + 0 + 0.16)


def test_frechet_of_means_alone():
    a = normal(30, 4)
    assert frechet_distance(a, a + [3.0, 0.0, -4.0, 0.0]) == pytest.approx(25)


def test_frechet_is_that_of_the_matrix_root():
    a = normal(200, 6) @ normal(6, 6, seed=1)
    b = normal(300, 6, seed=2) @ normal(6, 6, seed=3) + normal(1, 6, seed=4)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected += np.trace(cov_a + cov_b - 2 * np.real(root))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_is_symmetric_and_a_square():
    a, b = normal(40, 5), 2 * normal(30, 5, seed=1) + 1
    distance = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(distance)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance)


def test_frechet_does_not_mind_a_rotation():
    a, b = normal(40, 5), normal(30, 5, seed=1) * np.arange(1, 6)
    turn = rotation(5)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(a, b @ turn) != pytest.approx(frechet_distance(a, b))


@pytest.mark.parametrize("n", [2, 10, 500])
def test_frechet_of_equal_sets_is_zero(n):
    a = 100 * normal(n, 64)
    distance = frechet_distance(a, a[::-1])
    assert 0 <= distance < 1e-8


def test_frechet_is_never_negative():
    for seed in range(20):
        a = normal(20, 8, seed)
        assert frechet_distance(a, a[::-1]) >= 0


def test_frechet_of_lines_at_an_angle():
    # Rank 1 in 10 dimensions: tr (S_a S_b)^(1/2) = s_a s_b |cos|.
    turn, angle = rotation(10), 0.7
    along_a = turn[0]
    along_b = np.cos(angle) * turn[0] + np.sin(angle) * turn[1]
    a = with_moments([0.0], [[2.0]]) * along_a
    b = with_moments([0.0], [[3.0]], n=5, seed=1) * along_b
    expected = 4 + 9 - 2 * 2 * 3 * np.cos(angle)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_fewer_vectors_than_features():
    # Variances 1 to 3 of the first 3 of 40 features, and of the third and two others.
    a, b = np.zeros((6, 40)), np.zeros((5, 40))
    a[:, :3] = with_moments(np.zeros(3), np.diag(np.sqrt([1.0, 2.0, 3.0])), n=6)
    b[:, 2:5] = with_moments(np.zeros(3), np.diag(np.sqrt([12.0, 1.0, 1.0])), n=5)
    expected = (1 + 2) + (np.sqrt(12) - np.sqrt(3)) ** 2 + (1 + 1)
    turn = rotation(40)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(expected, rel=1e-12)


def test_frechet_is_computed_in_double_precision():
    a = normal(100, 8).astype(np.float32) + np.float32(1000)
    b = normal(100, 8, seed=1).astype(np.float32) + np.float32(1000)
    expected = frechet_distance(a.astype(np.float64), b.astype(np.float64))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_takes_two_vectors():
    with pytest.raises(ValueError, match="at least 2 feature vectors, got 1"):
        frechet_distance(np.ones((1, 3)), np.ones((5, 3)))


# Precision and recall.

LINE_REAL = np.array([[0.0], [1.0], [3.0], [7.0]])
LINE_GENERATED = np.array([[-2.0], [-1.0], [4.0], [5.0]])


@pytest.mark.parametrize("chunk", [1000, 3, 1])
def test_precision_recall_on_a_line(monkeypatch, chunk):
    monkeypatch.setattr(distances, "CHUNK", chunk)
    # Real balls [-1,1], [0,2], [1,5], [3,11]: all generated but -2.
    # Generated balls [-3,-1], [-2,0], [3,5], [4,6]: of the real 0 and 3.
    assert precision_recall(LINE_REAL, LINE_GENERATED, k=1) == (0.75, 0.5)
    # With the second neighbour [-3,3] reaches -2, and [-1,9] has 1 and 7.
    assert precision_recall(LINE_REAL, LINE_GENERATED, k=2) == (1.0, 1.0)


def test_precision_and_recall_change_places():
    real, generated = normal(60, 2), 0.7 * normal(40, 2, seed=1)
    precision, recall = precision_recall(real, generated)
    assert precision != recall
    assert precision_recall(generated, real) == (recall, precision)


@pytest.mark.parametrize("num_features", [3, 40])
def test_precision_recall_by_brute_force(num_features):
    real = normal(50, num_features)
    generated = 0.8 * normal(70, num_features, seed=1) + 0.3

    def share(x, centres, k):
        radii = [sorted(np.linalg.norm(c - centres, axis=1))[k] for c in centres]
        return np.mean(
            [
                any(
                    np.linalg.norm(y - c) <= r
                    for c, r in zip(centres, radii, strict=True)
                )
                for y in x
            ]
        )

    for k in (1, 3, 5):
        expected = share(generated, real, k), share(real, generated, k)
        assert precision_recall(real, generated, k) == pytest.approx(expected)
        assert 0 < min(expected) < 1


def test_equal_sets_are_precise_and_complete():
    a = normal(1500, 20).astype(np.float32)
    assert precision_recall(a, a[::-1].copy()) == (1.0, 1.0)


def test_far_sets_have_nothing_in_common():
    assert precision_recall(normal(50, 4), normal(40, 4, seed=1) + 100) == (0.0, 0.0)


def test_one_of_two_modes():
    real = normal(200, 3)
    real[100:] += 1000
    assert precision_recall(real, real[:100]) == (1.0, 0.5)
    assert precision_recall(real[:100], real) == (0.5, 1.0)


@pytest.mark.parametrize("k", [0, 4])
def test_k_neighbours_need_more_vectors(k):
    with pytest.raises(ValueError, match=f"k = {k} of 4 feature vectors: 1 to 3"):
        precision_recall(LINE_REAL, LINE_GENERATED, k)
