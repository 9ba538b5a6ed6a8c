"""Many images through a model, a batch at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

BATCH_SIZE = 250


def map_batches(
    function: Callable[..., Any], arrays: Sequence[Any], description: str
) -> Any:
    """Returns function(*arrays) of arrays [N,...], computed `BATCH_SIZE` at a time.

    Args:
      function: compiled; takes arrays and returns a pytree of them, all with the
        images along the first axis.
      arrays: arrays that the function is applied to; None stays None.
      description: description of the progress bar.
    """
    total = len(arrays[0])
    parts = []
    with tqdm(
        total=total, desc=description, unit=" images", disable=None, leave=False
    ) as bar:
        for first in range(0, total, BATCH_SIZE):
            here = slice(first, first + BATCH_SIZE)
            batch = [None if array is None else array[here] for array in arrays]
            parts.append(jax.device_get(function(*batch)))
            bar.update(min(BATCH_SIZE, total - first))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
