"""SGD as in section 4.1: momentum, decay of every weight, a learning rate that falls; Adam beside it; and freezing."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from codinet_jax.models.routers import is_router


def smooth_schedule(decay: str, learning_rate: float, num_steps: int, warmup_steps: int) -> optax.Schedule:
    """The learning rate by step: linear from zero over the warm-up, then falling to zero at `num_steps`.

    `decay` is 'cosine', half a period of it, or 'linear'.
    """
    span = max(1, num_steps - warmup_steps)
    if decay == 'cosine':
        falling = optax.cosine_decay_schedule(learning_rate, span)
    else:
        falling = optax.linear_schedule(learning_rate, 0.0, span)
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), falling], [warmup_steps])


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
    learning_rate: optax.Schedule, *, momentum: float, nesterov: bool = False, **settings: Any
) -> optax.GradientTransformation:
    """PyTorch's SGD: decay is added to the gradient before the momentum. Other settings are `grouped`'s."""
    return grouped(optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov), **settings)


def adam(
    learning_rate: optax.Schedule, *, momentum: float, nesterov: bool = False, **settings: Any
) -> optax.GradientTransformation:
    """PyTorch's Adam, β1 of which is the momentum: decay is added to the gradient. Other settings are `grouped`'s."""
    return grouped(optax.adam(learning_rate, b1=momentum, nesterov=nesterov), **settings)


OPTIMIZERS = {'sgd': sgd, 'adam': adam}


def grouped(
    rule: optax.GradientTransformation,
    *,
    weight_decay: float,
    freeze_routers: bool,
    freeze_backbone: bool = False,
    router_factor: float = 1.0,
    block_factor: float = 1.0,
) -> optax.GradientTransformation:
    """A rule by groups of parameters.

    With `freeze_routers`, a router's parameters get no gradient, no decay and no momentum; with `freeze_backbone` all
    others do not. The factors multiply the learning rate of routers, and of all else but the head.
    """
    is_scaled = (router_factor, block_factor) != (1.0, 1.0)
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay), rule, *([_scaled(router_factor, block_factor)] if is_scaled else [])
    )
    if not (freeze_routers or freeze_backbone):
        return optimizer
    nothing = optax.set_to_zero()
    groups = {'backbone': nothing if freeze_backbone else optimizer, 'router': nothing if freeze_routers else optimizer}
    return optax.partition(groups, label_routers)


def label_routers(params: Any) -> Any:
    """'router' for every parameter of a router or of what routers share, 'backbone' for the rest."""

    def label(path: tuple[Any, ...], _: jax.Array) -> str:
        return 'router' if is_router([key.key for key in path]) else 'backbone'

    return jax.tree_util.tree_map_with_path(label, params)


def _scaled(router_factor: float, block_factor: float) -> optax.GradientTransformation:
    def scale(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        return update * (router_factor if is_router(names) else 1.0 if 'head' in names else block_factor)

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))
