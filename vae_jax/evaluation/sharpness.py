"""How sharp images are beside real ones, and whether a decoder's grid shows in them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vae_jax.models.networks.stages import PATCH

Images = Float[np.ndarray, "N size size C"]
Power = Float[np.ndarray, "size size"]

# Images that are in memory at once in double precision.
CHUNK = 200
# Bands of spatial frequency, as shares of Nyquist's, which is half a cycle per pixel.
BANDS = {
    "0-1/8": (0.0, 1 / 8),
    "1/8-1/4": (1 / 8, 1 / 4),
    "1/4-1/2": (1 / 4, 1 / 2),
    "1/2-1": (1 / 2, 1.0),
}


def _mean_over_images(
    function: Callable[[np.ndarray], np.ndarray], images: Images
) -> Any:
    """Returns the mean of what a function returns of each image, [n,...]."""
    total: Any = 0.0
    for first in range(0, len(images), CHUNK):
        some = images[first : first + CHUNK].astype(np.float64)
        total = total + np.sum(function(some), axis=0)
    return total / len(images)


def _ratio(generated: Any, real: Any) -> float | None:
    """Returns None where the real images have nothing of it."""
    return float(generated / real) if real > 0 else None


def sharpness(images: Images) -> float:
    """Returns the mean absolute Laplacian of images, in their own unit.

    The Laplacian is that of five points, over all pixels but the outermost and over
    channels. It depends on what the images show: compare it with that of real images.
    Noise counts as well as detail does.
    """

    def laplacians(some: np.ndarray) -> np.ndarray:
        beside = some[:, 1:-1, :-2] + some[:, 1:-1, 2:]
        above = some[:, :-2, 1:-1] + some[:, 2:, 1:-1]
        laplacian = beside + above - 4 * some[:, 1:-1, 1:-1]
        return np.mean(np.abs(laplacian), axis=(1, 2, 3))

    return float(_mean_over_images(laplacians, images))


def power_of(images: Images) -> Power:
    """Returns the power at each frequency, the mean over images and channels.

    It is that of the discrete Fourier transform, in the square of the images' unit,
    after each channel's mean is subtracted and a Hann window applied; it is divided by
    the window's own power, so that white noise has its variance everywhere.
    """
    size = images.shape[1]
    # Opposite borders of an image do not meet. The step between them would spread over
    # all frequencies; under the window it is zero.
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    window = np.outer(hann, hann)[..., None]

    def power(some: np.ndarray) -> np.ndarray:
        centred = some - np.mean(some, axis=(1, 2), keepdims=True)
        transformed = np.fft.fft2(window * centred, axes=(1, 2))
        return np.mean(np.square(np.abs(transformed)), axis=-1)

    return _mean_over_images(power, images) / np.sum(np.square(window))


def band_ratios(ours: Power, theirs: Power) -> dict[str, float | None]:
    """Returns the amplitude of images over that of real ones, by band.

    An amplitude is the root of the power, see `power_of`, summed over the frequencies
    of a band of `BANDS`. A band that images of this size have no frequency in is left
    out; None is where the real images have no power. Blur by a Gaussian of sigma
    pixels multiplies the amplitude at f cycles per pixel by exp(-2 pi^2 sigma^2 f^2).
    """
    along = 2 * np.fft.fftfreq(len(theirs))
    shares = np.hypot(along[:, None], along)
    found = {}
    for name, (low, high) in BANDS.items():
        band = (low < shares) & (shares <= high)
        if band.any():
            found[name] = _ratio(*(np.sqrt(np.sum(p[band])) for p in (ours, theirs)))
    return found


def border_ratio(images: Images, period: int = PATCH) -> float | None:
    """Returns how much larger steps between pixels are at borders of patches.

    That is the mean absolute difference of neighbouring pixels, in both directions,
    across borders of patches of `period` pixels over the one at all other places. It
    is 1.0 for images without a grid whose content is alike everywhere, and None for
    images that change nowhere else. Aligned faces have their features in the same
    places and may come to 1.2: compare it with that of real images.

    Args:
      images: the first patch begins at their corner.
      period: the side of a patch in pixels; by default that of the patches which the
        last layer of the convolutional decoder makes.

    Raises:
      ValueError: images have no border of such patches, or nothing else.
    """
    size = images.shape[1]
    if not 2 <= period < size:
        raise ValueError(f"period = {period}; allowed is 2 to {size - 1}")

    def steps(some: np.ndarray) -> np.ndarray:
        down = np.mean(np.abs(np.diff(some, axis=1)), axis=(2, 3))
        right = np.mean(np.abs(np.diff(some, axis=2)), axis=(1, 3))
        return down + right

    by_place = _mean_over_images(steps, images)
    at_borders = np.arange(1, size) % period == 0
    return _ratio(np.mean(by_place[at_borders]), np.mean(by_place[~at_borders]))


class Measures(NamedTuple):
    """What is seen of a set of images by itself, see the functions of these names."""

    sharpness: float
    power: Power
    border_ratio: float | None


def measure(images: Images, period: int = PATCH) -> Measures:
    """Returns what is to be compared; for `period` see `border_ratio`."""
    borders = border_ratio(images, period)
    return Measures(sharpness(images), power_of(images), borders)


def compare(ours: Measures, theirs: Measures) -> dict[str, Any]:
    """Returns what images come to beside real ones, as ratios; None is one to nothing.

    They are `sharpness`, `bands`, see `band_ratios`, and `border_ratio`.
    """
    borders = ours.border_ratio, theirs.border_ratio
    return {
        "sharpness": _ratio(ours.sharpness, theirs.sharpness),
        "bands": band_ratios(ours.power, theirs.power),
        "border_ratio": None if None in borders else _ratio(*borders),
    }
