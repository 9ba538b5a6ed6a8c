"""batch = f(seed, step): which pictures an update sees, and two ways to feed them.

The order is a permutation of the split for each epoch, drawn from (seed, epoch), one
after the other without dropping the remainder. A feed needs no state of its own: it is
asked for the batches of steps [first, first + count) and both kinds answer alike.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vae_jax.data.cache import Split
from vae_jax.keys import Stream
from vae_jax.options import choice, resumable

Batch = dict[str, Any]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, num_pictures: int) -> np.ndarray:
    generator = np.random.default_rng([seed, Stream.ORDER, epoch])
    return generator.permutation(num_pictures).astype(np.int32)


def batch_indices(
    seed: int,
    first_step: int,
    num_steps: int,
    batch_size: int,
    num_pictures: int,
    shift: int = 0,
) -> np.ndarray:
    """Returns which pictures the updates [first_step, first_step + num_steps) see.

    Args:
      seed: seed of the order.
      first_step: the first of these updates.
      num_steps: number of these updates.
      batch_size: pictures in each.
      num_pictures: pictures in the split.
      shift: number of pictures that were seen before, beyond those of `first_step`
        updates of this size.

    Returns:
      [num_steps,batch_size] int32 indices into the split.
    """
    start = first_step * batch_size + shift
    positions = np.arange(start, start + num_steps * batch_size)
    epochs, offsets = np.divmod(positions, num_pictures)
    indices = np.empty(len(positions), np.int32)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(seed, int(epoch), num_pictures)[offsets[here]]
    return indices.reshape(num_steps, batch_size)


@dataclass(frozen=True)
class Feed:
    """Where the batches of a training run come from.

    Attributes:
      indices: (first step, number of steps) -> [K,B] indices into the split.
      data: arrays that every dispatch is given: the whole split, or nothing.
      gather: (data, x) -> batch; runs inside the compiled program.
      stream: takes the (first step, number of steps) of each dispatch to come, yields
        its `xs`: [K,B] indices, or batches with leading axes [K,B], of those places in
        a batch that this process has.
    """

    indices: Callable[[int, int], np.ndarray]
    data: Batch
    gather: Callable[[Batch, Any], Batch]
    stream: Callable[[Sequence[tuple[int, int]]], Iterator[Any]]


def _order(
    split: Split, seed: int, batch_size: int, shift: int
) -> Callable[[int, int], np.ndarray]:
    return lambda first_step, num_steps: batch_indices(
        seed, first_step, num_steps, batch_size, len(split.images), shift
    )


SETTINGS = {
    "feed": resumable(
        choice(
            "auto",
            "Place that batches come from: the device's memory, or a stream from the "
            "host; auto is device if the data set fits there.",
            ("auto", "device", "stream"),
        )
    )
}


def device_feed(
    split: Split, places: Any, indices: Callable[[int, int], np.ndarray]
) -> Feed:
    """Feeds from a copy of the split in the device's memory: only indices travel."""
    return Feed(
        indices=indices,
        data={"image": split.images, "attributes": split.attributes},
        gather=lambda data, indices: jax.tree.map(lambda a: a[indices], data),
        stream=lambda dispatches: (indices(*each)[:, places] for each in dispatches),
    )


def stream_feed(
    split: Split, places: Any, indices: Callable[[int, int], np.ndarray]
) -> Feed:
    """Feeds batches read ahead by Grain from the memory map."""

    def read(dispatch: tuple[int, int]) -> Batch:
        chosen = indices(*dispatch)[:, places]
        return {"image": split.images[chosen], "attributes": split.attributes[chosen]}

    def stream(dispatches: Sequence[tuple[int, int]]) -> Iterator[Batch]:
        # Here, because it takes long to import, and other feeds do without.
        import grain

        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        return iter(
            grain.MapDataset.source(dispatches).map(read).to_iter_dataset(options)
        )

    return Feed(indices, data={}, gather=lambda data, batch: batch, stream=stream)


def _device_memory() -> int:
    """Returns the bytes that one device may hold: the host's memory on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", host)


def resolve_feed(kind: str, split: Split) -> str:
    """Returns the feed that "auto" stands for; others unchanged.

    The device's memory, where the split takes at most half of it.
    """
    if kind != "auto":
        return kind
    return "device" if 2 * split.images.nbytes <= _device_memory() else "stream"


def build_feed(
    kind: str,
    split: Split,
    *,
    seed: int,
    batch_size: int,
    places: np.ndarray | slice = slice(None),
    shift: int = 0,
) -> Feed:
    """Returns a feed.

    Args:
      kind: "device" or "stream".
      split: the pictures.
      seed: seed of the pictures' order.
      batch_size: pictures in a batch, over all processes.
      places: places in a batch whose pictures this process has.
      shift: see `batch_indices`.
    """
    feed = {"device": device_feed, "stream": stream_feed}[kind]
    return feed(split, places, _order(split, seed, batch_size, shift))
