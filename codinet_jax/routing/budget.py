"""The closed loop that moves gamma, the weight of the cost loss, toward a wanted cost (Eq. 12; section 4.1).

A proportional-integral controller in velocity form: each step adds to gamma a little of the present error (integral)
and, against overshoot, of the change in the error (proportional). The only memory is gamma itself, so a gamma held at
a bound does not wind up: it leaves the bound on the first step that asks for it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Budget(NamedTuple):
    """State of the loop: float32 scalars, a pytree that lives in the train state and is checkpointed with it."""

    gamma: jax.Array  # weight of the cost loss, >= 0
    mean_cost: jax.Array  # running mean of the measured cost, a fraction of the static network's MACs
    updates: jax.Array  # how many costs have been measured; mean_cost means nothing before the first


def init(gamma: float | jax.Array = 0.0) -> Budget:
    """The loop at rest, at a first guess of gamma (>= 0)."""
    return Budget(jnp.float32(gamma), jnp.float32(0.0), jnp.float32(0.0))


def update(
    budget: Budget,
    measured_cost: float | jax.Array,
    target_cost: float | jax.Array,
    *,
    gain: float | jax.Array = 0.1,
    lead: float | jax.Array = 100.0,
    window: float | jax.Array = 20.0,
    gamma_max: float | jax.Array = 10.0,
) -> Budget:
    """One step of the loop; both costs are fractions of the static network's MACs.

    `gain` is what gamma gains per step and unit of error; `lead`, in steps, looks as far ahead as the network lags
    behind gamma; `window`, in steps, is the memory of the running mean. The defaults settle in 300 to 900 steps where
    that lag is 20 to 200; a slower network wants a smaller gain. `gamma_max` bounds gamma where no gamma reaches the
    target: too large a one skips every block, and nothing is left to learn from. To fix gamma, do not call this.
    """
    weight = 1.0 / jnp.minimum(budget.updates + 1.0, window)
    mean_cost = budget.mean_cost + weight * (measured_cost - budget.mean_cost)
    change = jnp.where(budget.updates == 0, 0.0, mean_cost - budget.mean_cost)
    gamma = budget.gamma + gain * (mean_cost - target_cost + lead * change)
    return Budget(jnp.clip(gamma, 0.0, gamma_max), mean_cost, budget.updates + 1.0)
