"""Codes of several resolutions: which numbers belong to which, and faces of two."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from vae_jax.models.contract import (
    Autoencoder,
    CodeShape,
    DiscreteCodes,
    code_size,
)

Codes = Float[np.ndarray, "N D"]


def layer_of_numbers(shape: CodeShape) -> Int[np.ndarray, " D"]:
    """Returns the number of the layer, from 0, that each number in a code is of.

    Args:
      shape: shape of the code, a tuple of shapes (h, w, d).
    """
    sizes = [code_size(part) for part in shape]
    return np.repeat(np.arange(len(sizes)), sizes)


def in_layers(model: Autoencoder) -> bool:
    """Says whether a code is layers of noise, each drawn given those above."""
    several = isinstance(model.code_shape[0], tuple)
    return several and not isinstance(model, DiscreteCodes)


def density_sizes(model: Autoencoder) -> list[int]:
    """Returns how many numbers a density of codes may be of, the first ones of each.

    Those of the first layers of a stack, whose others have a prior given those; and of
    every code all numbers, which comes last.
    """
    shape = model.code_shape
    if not in_layers(model):
        return [code_size(shape)]
    return np.cumsum([code_size(part) for part in shape]).tolist()


def resolution_of_numbers(model: Autoencoder) -> Int[np.ndarray, " D"]:
    """Returns the height and width of what each number in a code is of.

    That is a layer of a stack, or the styles at a resolution; nothing, [0], where all
    numbers of a code are of the whole image.
    """
    told = getattr(model, "code_resolutions", ())
    if told:
        return np.array(told)
    shape = model.code_shape
    if not isinstance(shape[0], tuple):
        return np.zeros(0, int)
    return np.array([part[0] for part in shape])[layer_of_numbers(shape)]


def resolutions(model: Autoencoder) -> list[int]:
    """Returns the heights and widths of what a code is of, the coarsest first."""
    return list(dict.fromkeys(resolution_of_numbers(model).tolist()))


def numbers_by_resolution(
    model: Autoencoder, values: Mapping[int, float], otherwise: float
) -> Float[np.ndarray, " D"]:
    """Returns a value for each number in a code, by its resolution.

    Args:
      model: the model whose code it is.
      values: the values by resolution.
      otherwise: the value at resolutions that have none.
    """
    each = resolution_of_numbers(model).tolist()
    return np.array([values.get(at, otherwise) for at in each], np.float32)


def mixed(
    codes: Codes, is_coarse: Bool[np.ndarray, " D"]
) -> Float[np.ndarray, "N N D"]:
    """Returns each code with the fine numbers of each.

    Args:
      codes: codes of the rows, which give the coarse numbers, and of the columns.
      is_coarse: mask of the numbers that are coarse.
    """
    return np.where(is_coarse, codes[:, None], codes[None])
