"""Sharpness of images against loops, closed forms and another library's transform."""

import math

import numpy as np
import pytest
from scipy import ndimage, signal

from vae_jax.evaluation import sharpness as sharpness_lib
from vae_jax.evaluation.sharpness import (
    BANDS,
    band_ratios,
    border_ratio,
    compare,
    measure,
    power_of,
    sharpness,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blur(images, sigma):
    return ndimage.gaussian_filter(images, (0, sigma, sigma, 0), mode="wrap")


def power_spectrum(images):
    """The mean power of the frequencies nearest to 0, 1, 2, ... cycles per image."""
    power, size = power_of(images), images.shape[1]
    along = size * np.fft.fftfreq(size)
    rings = np.rint(np.hypot(along[:, None], along)).astype(int)
    return np.array([power[rings == k].mean() for k in range(size // 2 + 1)])


def ratios(images, real):
    return band_ratios(power_of(images), power_of(real))


def test_sharpness_is_the_mean_absolute_laplacian():
    images = noise(3, 6, 6, 2)
    found = []
    for image in np.float64(images):
        for y in range(1, 5):
            for x in range(1, 5):
                around = image[y - 1, x] + image[y + 1, x]
                around = around + image[y, x - 1] + image[y, x + 1]
                found.extend(np.abs(around - 4 * image[y, x]))
    assert sharpness(images) == pytest.approx(np.mean(found), rel=1e-6)
    # A plane has no Laplacian, and shares of it are shares of the contrast.
    y, x = np.mgrid[:6, :6]
    plane = (2.0 * y - 3.0 * x)[None, ..., None]
    assert sharpness(plane) == pytest.approx(0, abs=1e-12)
    assert sharpness(plane + 0.5 * images) == pytest.approx(0.5 * np.mean(found))


def test_the_spectrum_is_that_of_a_loop_over_rings():
    size, images = 12, noise(4, 12, 12, 3)
    hann = signal.windows.hann(size, sym=False)
    rings = {k: [] for k in range(size // 2 + 1)}
    power = np.zeros((size, size))
    for image in np.float64(images):
        for channel in np.moveaxis(image, -1, 0):
            windowed = (channel - channel.mean()) * hann[:, None] * hann[None, :]
            power += np.abs(np.fft.fft2(windowed)) ** 2 / 12
    power /= np.sum((hann[:, None] * hann) ** 2)
    for v in range(size):
        for u in range(size):
            fy, fx = (f if f <= size // 2 else f - size for f in (v, u))
            ring = math.floor(math.hypot(fy, fx) + 0.5)
            if ring in rings:
                rings[ring].append(power[v, u])
    expected = [np.mean(rings[k]) for k in rings]
    np.testing.assert_allclose(power_spectrum(images), expected, rtol=1e-6)


def test_a_sinusoid_lands_in_its_ring():
    size, cycles = 32, 9
    phases = 2 * np.pi * cycles * np.arange(size) / size
    for wave in (np.cos(phases)[:, None], np.sin(phases)[None, :]):
        images = np.broadcast_to(3 + 0.25 * wave, (1, size, size))[..., None]
        spectrum = power_spectrum(images)
        assert np.argmax(spectrum) == cycles
        # The window spreads a frequency over its direct neighbours alone.
        assert spectrum[[*range(1, 7), *range(12, 17)]].max() < 1e-20
        # By Parseval, the power of all entries is that of the windowed image, and of a
        # wave of amplitude A on average A^2 / 2; the window halves itself at the sides.
        powers = power_of(images)
        assert powers.sum() / size**2 == pytest.approx(0.25**2 / 2, rel=1e-6)
        doubled = power_spectrum(2 * images)
        np.testing.assert_allclose(doubled, 4 * spectrum, rtol=1e-6, atol=1e-20)


def test_white_noise_is_flat_at_its_variance():
    spectrum = power_spectrum(0.5 + 0.2 * noise(500, 16, 16, 2))
    # But the lowest, from which the mean is taken.
    np.testing.assert_allclose(spectrum[2:], 0.04, rtol=0.05)
    assert spectrum[0] < 0.03


def test_borders_that_do_not_meet_are_not_taken_for_detail():
    ramp = np.broadcast_to(np.arange(32) / 32, (1, 32, 32))[..., None]
    bare = np.abs(np.fft.fft2(ramp[0, ..., 0] - ramp.mean())) ** 2 / 32**2
    assert power_spectrum(ramp)[12] < 1e-3 * bare[0, 12]


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.6])
def test_a_blur_of_known_width_lowers_the_bands_as_its_transfer_function(sigma):
    size, images = 32, noise(300, 32, 32, 1)
    # Of white noise the amplitude in a band is the root of the mean of the squared
    # transfer function there.
    blurred = blur(np.float64(images), sigma)
    found = ratios(blurred, np.float64(images))
    assert list(found) == list(BANDS)
    f = np.fft.fftfreq(size)
    radius = np.hypot(f[:, None], f)
    transfer = np.exp(-2 * np.pi**2 * sigma**2 * radius**2)
    edges = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
    for name, low, high in zip(BANDS, edges[:-1], edges[1:], strict=True):
        band = (radius > low) & (radius <= high)
        expected = np.sqrt(np.mean(transfer[band] ** 2))
        # A kernel of pixels is no Gaussian, and the window's neighbours leak.
        assert found[name] == pytest.approx(expected, rel=0.1, abs=0.01), name


@pytest.mark.parametrize("cycles", [1, 3, 7, 12])
def test_a_blurred_wave_keeps_the_share_of_its_frequency(cycles):
    wave = np.cos(2 * np.pi * cycles * np.arange(32) / 32)[:, None]
    images = np.broadcast_to(wave, (1, 32, 32))[..., None]
    blurred, expected = blur(images, 1.5), np.exp(-2 * (np.pi * 1.5 * cycles / 32) ** 2)
    found = np.sqrt(power_spectrum(blurred)[cycles] / power_spectrum(images)[cycles])
    assert found == pytest.approx(expected, rel=1e-2, abs=1e-3)
    (name,) = (n for n, (low, high) in BANDS.items() if low < cycles / 16 <= high)
    assert ratios(blurred, images)[name] == pytest.approx(found, rel=1e-6)


def test_bands_are_amplitudes_and_small_images_have_fewer():
    images = noise(20, 16, 16, 1)
    assert ratios(3 * images, images) == pytest.approx(dict.fromkeys(BANDS, 3))
    assert list(ratios(noise(5, 8, 8, 1), noise(5, 8, 8, 1))) == [*BANDS][1:]


def test_a_grid_raises_the_border_ratio():
    images = noise(200, 16, 16, 2)
    assert border_ratio(images) == pytest.approx(1.0, abs=0.02)
    found = {True: [], False: []}
    grid = images + 2.0 * (np.arange(16) // 4 % 2)[None, :, None, None]
    for image in np.float64(grid):
        for at in range(1, 16):
            found[at % 4 == 0].append(np.abs(image[at] - image[at - 1]))
            found[at % 4 == 0].append(np.abs(image[:, at] - image[:, at - 1]))
    expected = np.mean(found[True]) / np.mean(found[False])
    assert expected > 1.2
    assert border_ratio(grid) == pytest.approx(expected)
    turned = np.swapaxes(grid, 1, 2)
    assert border_ratio(turned) == pytest.approx(expected)
    # A grid of other patches is in the wrong places.
    assert border_ratio(grid, period=3) == pytest.approx(1, abs=0.1)
    for period in (0, 1, 16):
        with pytest.raises(ValueError, match=f"period = {period}; allowed is 2 to 15"):
            border_ratio(images, period)


def test_many_images_count_as_few_do(monkeypatch):
    images, real = noise(7, 16, 16, 1), noise(5, 16, 16, 1, seed=1)
    whole = compare(measure(images), measure(real))
    monkeypatch.setattr(sharpness_lib, "CHUNK", 3)
    parts = compare(measure(images), measure(real))
    for name in ("sharpness", "border_ratio", "bands"):
        assert parts[name] == pytest.approx(whole[name])
    assert whole["sharpness"] == pytest.approx(sharpness(images) / sharpness(real))
    expected = border_ratio(images) / border_ratio(real)
    assert whole["border_ratio"] == pytest.approx(expected)
    assert abs(expected - 1) > 1e-3


def test_images_without_detail_have_no_ratio():
    flat = np.full((2, 16, 16, 1), 0.5, np.float32)
    found = compare(measure(flat), measure(flat))
    assert found == {
        "sharpness": None,
        "bands": dict.fromkeys(BANDS),
        "border_ratio": None,
    }
    found = compare(measure(flat), measure(noise(2, 16, 16, 1)))
    assert found["sharpness"] == 0 and found["border_ratio"] is None
