"""The cost controller: moves gamma, the weight of the cost loss, toward a wanted cost (Eq. 12; section 4.1).

A proportional-integral controller in velocity form: each step adds to gamma a little of the present error (integral)
and, against overshoot, of the change in the error (proportional). The only memory is gamma itself, so a gamma held at
a bound does not wind up: it leaves the bound on the first step that asks for it.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp


class ControllerState(NamedTuple):
    """float32 scalars, a pytree that lives in the train state and is checkpointed with it."""

    gamma: jax.Array  # weight of the cost loss, >= 0
    mean_cost: jax.Array  # running mean of the measured macs_share
    updates: jax.Array  # how many costs have been measured; mean_cost means nothing before the first


def at_rest(gamma: float | jax.Array = 0.0) -> ControllerState:
    """The state before the first measurement, at a first guess of gamma (>= 0)."""
    return ControllerState(jnp.float32(gamma), jnp.float32(0.0), jnp.float32(0.0))


@dataclasses.dataclass(frozen=True)
class CostController:
    """How gamma follows the measured cost; costs are shares of the static network's MACs.

    The defaults settle in 300 to 900 steps where the network lags 20 to 200 steps behind gamma; a slower network wants
    a smaller gain. To fix gamma, do not update.

    Attributes:
      target: wanted macs_share.
      gain: what gamma gains per step and unit of error.
      damping_steps: looks as many steps ahead as the network lags behind gamma; more damps more.
      window: steps, the memory of the running mean.
      gamma_max: bounds gamma where no gamma reaches the target: too large a one skips every block, and nothing is left
        to learn from.
    """

    target: float | jax.Array
    gain: float | jax.Array = 0.1
    damping_steps: float | jax.Array = 100.0
    window: float | jax.Array = 20.0
    gamma_max: float | jax.Array = 10.0

    def update(self, state: ControllerState, macs_share: float | jax.Array) -> ControllerState:
        """One step of the loop, from the cost that a batch was measured at."""
        weight = 1.0 / jnp.minimum(state.updates + 1.0, self.window)
        mean_cost = state.mean_cost + weight * (macs_share - state.mean_cost)
        change = jnp.where(state.updates == 0, 0.0, mean_cost - state.mean_cost)
        gamma = state.gamma + self.gain * (mean_cost - self.target + self.damping_steps * change)
        return ControllerState(jnp.clip(gamma, 0.0, self.gamma_max), mean_cost, state.updates + 1.0)
