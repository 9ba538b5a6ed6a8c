"""The pictures of a data set at a smaller size, in memory."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vae_jax.data.cache import Dataset

# Pictures that are averaged at a time, in float32.
_CHUNK = 1024


def averaged(
    images: UInt8[np.ndarray, "N H W C"], size: int
) -> UInt8[np.ndarray, "N h w C"]:
    """Returns images whose pixels are means of squares of pixels, as 8-bit levels.

    Halves go to the even level, so that the mean of all images stays.

    Args:
      images: images whose size is a multiple of the new one.
      size: height and width in pixels.
    """
    number, height, _, channels = images.shape
    factor = height // size
    if factor == 1:
        return images
    small = np.empty((number, size, size, channels), np.uint8)
    for start in range(0, number, _CHUNK):
        some = images[start : start + _CHUNK]
        squares = some.reshape(-1, size, factor, size, factor, channels)
        np.rint(
            squares.mean(axis=(2, 4), dtype=np.float32),
            out=small[start : start + _CHUNK],
            casting="unsafe",
        )
    return small


def reduced_recipe(recipe: dict[str, Any], size: int) -> dict[str, Any]:
    """Returns a recipe of pictures at another size, `averaged_from` their own."""
    if recipe["size"] == size:
        return recipe
    return {**recipe, "size": size, "averaged_from": recipe["size"]}


def reduced(dataset: Dataset, size: int) -> Dataset:
    """Returns a data set with its pictures at another size, or as it is at its own."""
    if dataset.recipe["size"] == size:
        return dataset
    recipe = reduced_recipe(dataset.recipe, size)
    splits = {
        name: replace(split, images=averaged(split.images, size))
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits, recipe=recipe)
