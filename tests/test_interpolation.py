"""Ways through the space of codes."""

import numpy as np
import pytest
from scipy.spatial import geometric_slerp

from vae_jax.exploration.interpolation import interpolate, path, traversal


def codes(number, dimensions=5, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, dimensions)).astype(dtype)


def angles(ways):
    """Returns the angle between each code and the next, in radians."""
    unit = ways / np.linalg.norm(ways, axis=1, keepdims=True)
    return np.arccos(np.sum(unit[1:] * unit[:-1], axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spherical", [False, True])
def test_the_ends_are_the_codes_to_the_bit(spherical, dtype):
    for seed in range(20):
        a, b = codes(2, dtype=dtype, seed=seed)
        way = interpolate(a, 3 * b, 7, spherical)
        assert way.shape == (7, 5) and way.dtype == dtype
        np.testing.assert_array_equal(way[[0, -1]], [a, 3 * b])


def test_a_straight_way_is_evenly_divided():
    a, b = codes(2)
    way = interpolate(a, b, 9, spherical=False)
    np.testing.assert_allclose(way, np.linspace(a, b, 9), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", [1e-4, 0.1, 1.0, 3.14])
def test_between_directions_the_way_is_the_great_circle(distance):
    a, other = codes(2, dtype=np.float64)
    a /= np.linalg.norm(a)
    other -= a * (a @ other)
    b = np.cos(distance) * a + np.sin(distance) * other / np.linalg.norm(other)
    expected = geometric_slerp(a, b / np.linalg.norm(b), np.linspace(0, 1, 11))
    found = interpolate(a, b, 11, spherical=True)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_direction_and_norm_change_at_a_constant_rate():
    a, b = codes(2, dtype=np.float64)
    way = interpolate(a, 4 * b, 13, spherical=True)
    between_ends = angles(np.stack([a, b])).item()
    np.testing.assert_allclose(angles(way), between_ends / 12, rtol=1e-6)
    ends = np.linalg.norm([a, 4 * b], axis=1)
    norms = np.linalg.norm(way, axis=1)
    np.testing.assert_allclose(norms, np.linspace(*ends, 13), rtol=1e-12)


def test_half_way_between_codes_of_the_prior_only_a_spherical_way_keeps_their_norm():
    norms = {
        spherical: np.mean(
            [
                np.linalg.norm(interpolate(*codes(2, 200, seed=s), 3, spherical)[1])
                for s in range(50)
            ]
        )
        for spherical in (False, True)
    }
    assert norms[True] == pytest.approx(np.sqrt(200), rel=0.01)
    assert norms[False] == pytest.approx(np.sqrt(200 / 2), rel=0.01)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0, -1.0, -0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_no_great_circle_is_the_one_the_way_is_straight(factor, dtype):
    for seed in range(20):
        a = codes(1, dtype=dtype, seed=seed)[0]
        b = np.asarray(factor * a, dtype)
        for first, last in ((a, b), (b, a)):
            found = interpolate(first, last, 6, spherical=True)
            expected = np.linspace(first, last, 6)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    nothing = np.zeros(5, dtype)
    assert not interpolate(nothing, nothing, 4, spherical=True).any()


def test_nearly_opposite_codes_are_joined_without_a_jump():
    a = codes(1, dtype=np.float64)[0]
    for away in (1e-3, 1e-5, 1e-7, 1e-9, 1e-15):
        b = -a + away * codes(1, dtype=np.float64, seed=1)[0]
        way = interpolate(a, b, 101, spherical=True)
        steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
        assert steps.max() < 0.04 * np.linalg.norm(a)


@pytest.mark.parametrize("spherical", [False, True])
def test_a_path_passes_each_way_point_once(spherical):
    points = codes(4)
    way = path(points, 6, spherical)
    assert way.shape == (3 * 5 + 1, 5) and way.dtype == np.float32
    np.testing.assert_array_equal(way[::5], points)
    for k in range(3):
        leg = interpolate(points[k], points[k + 1], 6, spherical)
        np.testing.assert_array_equal(way[5 * k : 5 * k + 6], leg)
    assert len(np.unique(way, axis=0)) == len(way)
    np.testing.assert_array_equal(path(points, 2, spherical), points)


def test_a_traversal_changes_one_dimension_at_a_time():
    code, values = codes(1)[0], np.float32([-3, 0, 1, 3])
    found = traversal(code, [4, 1], values)
    assert found.shape == (2, 4, 5) and found.dtype == np.float32
    np.testing.assert_array_equal(found[0, :, 4], values)
    np.testing.assert_array_equal(found[1, :, 1], values)
    for row, dimension in enumerate((4, 1)):
        others = np.arange(5) != dimension
        expected = np.tile(code[others], (4, 1))
        np.testing.assert_array_equal(found[row][:, others], expected)


def test_dimensions_may_have_values_of_their_own():
    code = codes(1)[0]
    found = traversal(code, [0, 3], np.float32([[1, 2, 3], [10, 20, 30]]))
    np.testing.assert_array_equal(found[0, :, 0], [1, 2, 3])
    np.testing.assert_array_equal(found[1, :, 3], [10, 20, 30])
    np.testing.assert_array_equal(found[0, :, 3], 3 * [code[3]])
