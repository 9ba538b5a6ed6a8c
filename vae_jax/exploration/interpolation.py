"""Ways through the space of codes: between two, through several, along an axis."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

# Sine of the angle between two directions below which no great circle joins them that
# rounding does not choose.
PARALLEL = 1e-6


def interpolate(
    a: Float[np.ndarray, " D"],
    b: Float[np.ndarray, " D"],
    num_steps: int,
    spherical: bool,
) -> Float[np.ndarray, "num_steps D"]:
    """Returns codes from `a` to `b`, both included.

    The norm of a code of N(0, I) is about sqrt(D), and half-way along the straight line
    between two of them it is about sqrt(D/2), where that prior has hardly any mass
    (White 2016, section 2). The spherical way turns the direction along a great circle
    (Shoemake 1985) and changes the norm linearly, so that both go at a constant rate
    between codes of different norms, too, which White's formula does not see to.
    Codes that are zero, parallel or opposite have no one great circle between them:
    the way is straight.

    Args:
      a: the first code.
      b: the last code.
      num_steps: number of codes, at least 2.
      spherical: whether the way is spherical, or straight.
    """
    t = np.linspace(0.0, 1.0, num_steps)[:, None]
    from_a, from_b = 1 - t, t
    norms = np.linalg.norm(np.stack([a, b]).astype(np.float64), axis=1)
    if spherical and norms.all():
        u, v = a / norms[0], b / norms[1]
        # The arc cosine of u.v would lose half of the digits of a small angle.
        angle = 2 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))
        if np.sin(angle) > PARALLEL:
            norm = (1 - t) * norms[0] + t * norms[1]
            from_a = np.sin((1 - t) * angle) / np.sin(angle) * norm / norms[0]
            from_b = np.sin(t * angle) / np.sin(angle) * norm / norms[1]
    return (from_a * a + from_b * b).astype(a.dtype)


def path(
    codes: Float[np.ndarray, "K D"], num_steps: int, spherical: bool
) -> Float[np.ndarray, "N D"]:
    """Returns codes from the first of `codes` through all to the last.

    Args:
      codes: the K codes to go through, at least 2.
      num_steps: number of codes from each to the next, both included. A code that one
        leg ends and the next begins with is there once: N = (K-1)(num_steps-1) + 1, and
        leg k starts at k(num_steps-1).
      spherical: see `interpolate`.
    """
    legs = [
        interpolate(a, b, num_steps, spherical)[:-1]
        for a, b in zip(codes[:-1], codes[1:], strict=True)
    ]
    return np.concatenate([*legs, codes[-1:]])


def traversal(
    code: Float[np.ndarray, " D"],
    dimensions: Sequence[int],
    values: Float[np.ndarray, "*each V"],
) -> Float[np.ndarray, "R V D"]:
    """Returns `code` with one dimension at a time set to each value.

    Args:
      code: a code, whose other dimensions stay.
      dimensions: R of them.
      values: the same for all dimensions, or [R,V], each with its own.
    """
    codes = np.tile(code, (len(dimensions), values.shape[-1], 1))
    codes[np.arange(len(dimensions)), :, list(dimensions)] = values
    return codes


def towards(
    codes: Float[np.ndarray, "N D"], goal: Float[np.ndarray, "1 D"], share: float
) -> Float[np.ndarray, "N D"]:
    """Returns codes a share of the straight way, 0 to 1, from each to `goal`."""
    return ((1 - share) * codes + share * goal).astype(codes.dtype)


def shifted(
    codes: Float[np.ndarray, "N D"],
    steps: Mapping[int, float],
    std: Float[np.ndarray, " D"],
) -> Float[np.ndarray, "N D"]:
    """Returns codes some of whose dimensions are changed.

    Args:
      codes: the codes that are changed.
      steps: step of each dimension that is changed, in its standard deviations.
      std: standard deviation of each dimension.
    """
    changed = codes.copy()
    for dimension, step in steps.items():
        changed[:, dimension] += step * std[dimension]
    return changed
