"""Which device holds what: state everywhere, batches cut along their images."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def data_mesh() -> Mesh:
    """Returns all devices along one axis, for data parallelism."""
    return jax.make_mesh(
        (jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def cut_batches(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of [K,B,...]: every device has its part of each batch."""
    return NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))
