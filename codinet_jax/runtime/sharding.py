"""Where arrays live, weights and states on every device, a batch spread over all of them; and programs beside them."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(num_devices: int | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """The first so many devices, all if not said, in a row along the axis 'data'; those of a host lie side by side.

    `devices` are JAX's own, or others that it can compile for.
    """
    ordered = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))[:num_devices]
    return Mesh(np.array(ordered), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec('data'))


@functools.cache
def to_every_host(mesh: Mesh) -> Callable[..., tuple[jax.Array, ...]]:
    """A program that puts all of each array it is given on every device."""
    return jax.jit(lambda *arrays: arrays, out_shardings=replicated(mesh))


def put(mesh: Mesh, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
    """Spreads a batch over the mesh by its leading axis; every host brings its own rows of each array."""
    sharding = by_rows(mesh)
    return tuple(jax.make_array_from_process_local_data(sharding, array) for array in arrays)


def spread(forward: Callable[..., Any], mesh: Mesh) -> Any:
    """Jits a program of weights, images, a scalar and anything else by rows, each device going by its own rows alone.

    The mesh must divide the batch.
    """
    rows = PartitionSpec('data')

    def everywhere(weights: Any, images: jax.Array, scalar: jax.Array, *by_rows: Any) -> Any:
        in_specs = (PartitionSpec(), rows, PartitionSpec(), *(rows for _ in by_rows))
        # Unchecked, because the check of what differs between devices does not know what loops carry.
        mapped = jax.shard_map(forward, mesh=mesh, in_specs=in_specs, out_specs=rows, check_vma=False)
        return mapped(weights, images, scalar, *by_rows)

    return jax.jit(everywhere)


def on_devices(
    single: Callable[..., Any], several: Callable[..., Any], weights: Any
) -> Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]:
    """A function of images and a scalar: `single` on one device for one image, for more `several` over all devices.

    The batch is filled up to a multiple of the devices, and what is added is cut off again. Any number of threads may
    call it at once.
    """
    first_call = threading.Lock()  # or threads that come together would each place the weights

    @functools.cache
    def compiled(is_single: bool) -> tuple[Mesh, Any, Any]:
        mesh = data_mesh(1 if is_single else None)
        return mesh, jax.device_put(weights, replicated(mesh)), spread(single if is_single else several, mesh)

    def forward(images_BxHxWxC: np.ndarray, scalar: float) -> tuple[np.ndarray, np.ndarray]:
        B = len(images_BxHxWxC)
        with first_call:
            mesh, placed, program = compiled(B == 1)
        filled = images_BxHxWxC[np.minimum(np.arange(-(-B // mesh.size) * mesh.size), B - 1)]
        logits, v = jax.device_get(program(placed, *put(mesh, filled), np.float32(scalar)))
        return logits[:B], v[:B]

    return forward


def peak_bytes(executable: Any) -> int:
    """The most memory that a compiled program holds at once on a device, what it is given included."""
    memory = executable.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
