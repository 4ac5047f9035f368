"""The train state: everything a step changes."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from codinet_jax.models.codinet import CoDiNet, fresh_variables
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
    variables = fresh_variables(model, seed)
    return TrainState(
        step=jnp.int32(0),
        params=variables['params'],
        batch_stats=variables['batch_stats'],
        opt_state=optimizer.init(variables['params']),
        budget=budget.init(gamma),
    )


def num_params(params: Mapping[str, Any]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
