"""Priors over discrete codes are timed at several sizes of a map."""

import pytest

from benchmarks import discrete


@pytest.mark.slow
def test_each_map_and_the_gradient_have_a_line():
    lines = discrete.measure(1, num_samples=4, sides=(2, 4))
    names = [line["name"].removeprefix("discrete codes, ") for line in lines]
    assert names == ["samples of 2x2", "samples of 4x4", "gradient of the prior"]
    # Of the larger map there are fewer samples of more codes.
    assert [line["num_samples"] for line in lines[:2]] == [4, 1]
    assert all(line["rivals"]["vae_jax"]["median"] > 0 for line in lines)
    assert lines[2]["parameters"] > 800_000 and lines[2]["batch"] == 64 * 4
