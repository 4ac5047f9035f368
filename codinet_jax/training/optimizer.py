"""SGD as in section 4.1: momentum, decay of every weight, a learning rate that falls in steps; and freezing."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from codinet_jax.models.routers import is_router


def schedule(
    learning_rate: float,
    decay_steps: Sequence[int],
    decay_factor: float,
    warmup_steps: int,
) -> optax.Schedule:
    """The learning rate by step: linear from zero over the warm-up, then multiplied by the factor at each decay."""
    # On a short run two decays may round to one step, and both count.
    factors = {step: decay_factor ** list(decay_steps).count(step) for step in decay_steps}
    constant = optax.piecewise_constant_schedule(learning_rate, factors)
    if not warmup_steps:
        return constant
    warmup = optax.linear_schedule(0.0, 1.0, warmup_steps)
    return lambda step: warmup(step) * constant(step)


def sgd(
    learning_rate: optax.Schedule, *, momentum: float, weight_decay: float, freeze_routers: bool
) -> optax.GradientTransformation:
    """PyTorch's SGD: decay is added to the gradient before the momentum.

    With `freeze_routers`, a router's parameters get no gradient, no decay and no momentum.
    """
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(learning_rate, momentum=momentum),
    )
    if not freeze_routers:
        return optimizer
    return optax.partition({'backbone': optimizer, 'router': optax.set_to_zero()}, label_routers)


def label_routers(params: Any) -> Any:
    """'router' for every parameter of a router or of what routers share, 'backbone' for the rest."""

    def label(path: tuple[Any, ...], _: jax.Array) -> str:
        return 'router' if is_router([key.key for key in path]) else 'backbone'

    return jax.tree_util.tree_map_with_path(label, params)
