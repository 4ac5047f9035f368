"""Where arrays live: weights and states on every device, a batch spread over all of them."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(num_devices: int | None = None) -> Mesh:
    """The first so many devices, all if not said, in a row along the axis 'data'."""
    devices = jax.devices()[:num_devices]
    return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec('data'))


def put(mesh: Mesh, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
    """Spreads arrays of one global batch, the same on every host, over the mesh by their leading axis."""
    sharding = by_rows(mesh)
    return tuple(jax.make_array_from_callback(array.shape, sharding, array.__getitem__) for array in arrays)
