"""The train state, and where it and the batches live: the state on every device, a batch spread over all of them."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from codinet_jax.models import execution
from codinet_jax.models.codinet import CoDiNet
from codinet_jax.routing import budget


@flax.struct.dataclass
class TrainState:
    """Everything a step changes. `step` counts through both stages."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    budget: budget.Budget

    @property
    def variables(self) -> dict[str, Any]:
        return {'params': self.params, 'batch_stats': self.batch_stats}


def create(model: CoDiNet, optimizer: optax.GradientTransformation, gamma: float, seed: int) -> TrainState:
    """A fresh state; a pure function of its arguments, to be jitted with the sharding it should have."""
    arch = model.architecture
    images_1xHxWxC = jnp.zeros((1, arch.image_size, arch.image_size, arch.image_channels))
    rolled = model.clone(unroll=1)  # the same parameters, in a fraction of the compile time
    variables = rolled.init(jax.random.key(seed), images_1xHxWxC, execution.masked(), train=False)
    return TrainState(
        step=jnp.int32(0),
        params=variables['params'],
        batch_stats=variables['batch_stats'],
        opt_state=optimizer.init(variables['params']),
        budget=budget.init(gamma),
    )


def data_mesh() -> Mesh:
    """All devices in a row along the axis 'data'."""
    return jax.make_mesh((jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec('data'))


def put(mesh: Mesh, *arrays: np.ndarray) -> tuple[jax.Array, ...]:
    """Spreads arrays of one global batch, the same on every host, over the mesh by their leading axis."""
    sharding = by_rows(mesh)
    return tuple(jax.make_array_from_callback(array.shape, sharding, array.__getitem__) for array in arrays)


def num_params(params: Mapping[str, Any]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
