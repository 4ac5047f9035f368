"""The train state: everything a step changes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from codinet_jax.models.routers import is_router
from codinet_jax.routing import controller
from codinet_jax.routing.controller import ControllerState


@flax.struct.dataclass
class TrainState:
    """Everything a step changes. `step` counts through both stages.

    `averages` are the variables averaged over steps; None if none are kept. `teacher` are those of the network that is
    distilled, which no step changes: a run goes on though the file that they came from is gone.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    controller: ControllerState
    averages: dict[str, Any] | None = None
    teacher: dict[str, Any] | None = None

    def with_averaged_routers(self) -> 'TrainState':
        """The state whose routers are the averaged ones, where there are any, as evaluation has them.

        To be frozen so: blocks then learn under the decisions that count.
        """
        if self.averages is None:
            return self

        def averaged(path: tuple[Any, ...], own: Any, average: Any) -> Any:
            # A copy, for the state is given up to the next step, and no buffer can be given up twice.
            return jnp.copy(average) if is_router([key.key for key in path]) else own

        own = {'params': self.params, 'batch_stats': self.batch_stats}
        chosen = jax.tree_util.tree_map_with_path(averaged, own, self.averages)
        return dataclasses.replace(self, **chosen)

    @property
    def variables(self) -> dict[str, Any]:
        """What is evaluated and kept: the averages if there are any."""
        return self.averages or {'params': self.params, 'batch_stats': self.batch_stats}


def create(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    gamma: float,
    *,
    is_averaged: bool,
    teacher: Mapping[str, Any] | None = None,
) -> TrainState:
    """The state before the first step; a pure function, to be jitted with the sharding the state should have."""
    return TrainState(
        step=jnp.int32(0),
        params=variables['params'],
        batch_stats=variables['batch_stats'],
        opt_state=optimizer.init(variables['params']),
        controller=controller.at_rest(gamma),
        averages=dict(variables) if is_averaged else None,
        teacher=None if teacher is None else dict(teacher),
    )


def num_params(params: Mapping[str, Any]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
