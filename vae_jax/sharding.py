"""Which device holds what, over all devices of all processes.

Batches are cut along their images. The state is whole on every device (data
parallelism), or cut as well and gathered where a layer needs it (fully sharded data
parallelism; Rajbhandari et al. 2020, ZeRO stage 3).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vae_jax.options import choice

DATA_AXIS = "data"
# Elements; to gather less costs more than to hold it everywhere.
SMALLEST_CUT = 1024


def data_mesh() -> Mesh:
    """Returns all devices of all processes along one axis."""
    return jax.make_mesh(
        (jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def cut_images(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of [B,...]: every device has its part of the images."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def cut_batches(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of [K,B,...]: every device has its part of each batch."""
    return NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))


def _fully_sharded(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Cuts the longest axis that all devices can share; what has none stays whole."""
    axes = [i for i, length in enumerate(shape) if length % mesh.size == 0]
    if not axes or math.prod(shape) < SMALLEST_CUT:
        return replicated(mesh)
    longest = max(axes, key=lambda i: shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, DATA_AXIS))


# How a leaf of the state lies on the devices, by its shape.
STATE_SHARDINGS: dict[str, Callable[[Mesh, tuple[int, ...]], NamedSharding]] = {
    "data_parallel": lambda mesh, shape: replicated(mesh),
    "fsdp": _fully_sharded,
}


SETTING = choice(
    "data_parallel",
    "Layout of the state over several devices: whole on each, or a part on each.",
    STATE_SHARDINGS,
)


def places_here(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Returns which places of a batch this process's devices have, in order.

    Args:
      mesh: a mesh made by `data_mesh`.
      batch_size: a multiple of the number of devices.
    """
    parts = cut_images(mesh).addressable_devices_indices_map((batch_size,))
    places = np.arange(batch_size)
    return np.unique(np.concatenate([places[index] for index in parts.values()]))


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Lays arrays out over the devices.

    Args:
      tree: the arrays that this process has: whole where `sharding` replicates them, or
        its `places_here`.
      sharding: sharding of all leaves.
    """
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(sharding, a), tree
    )


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays as they lie on all devices; what does not, whole on each."""
    first = jax.tree.leaves(tree)[0]
    devices = first.sharding.device_set if isinstance(first, jax.Array) else ()
    if set(devices) == set(mesh.devices.flat):
        return tree
    return put(tree, replicated(mesh))


def on_one_device(tree: Any) -> Any:
    """Returns arrays of a mesh, whole, on one device of this process."""
    mesh = jax.tree.leaves(tree)[0].sharding.mesh
    whole = jax.device_put(tree, replicated(mesh))
    return jax.tree.map(lambda a: a.addressable_data(0), whole)
