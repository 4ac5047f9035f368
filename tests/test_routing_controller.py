"""The loop on gamma, closed around a lagging network that is nothing but a monotone curve and a time constant."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codinet_jax.routing import controller
from codinet_jax.routing.controller import CostController


def static_cost(gamma, steepness):
    """A falling sigmoid from 0.95 to 0.1, half way down at gamma = 1.5."""
    return 0.1 + 0.85 * jax.nn.sigmoid(steepness * (1.5 - gamma))


@functools.partial(jax.jit, static_argnames='steps')
def simulate(gamma, target, lag, steepness, noise, steps=3000):
    """Costs and gammas of a run that starts settled at `gamma`; the loop sees the cost of a noisy batch."""

    def step(carry, key):
        state, cost = carry
        cost += (static_cost(state.gamma, steepness) - cost) / lag
        state = CostController(target).update(state, cost + noise * jax.random.normal(key))
        return (state, cost), (cost, state.gamma)

    start = (controller.at_rest(gamma), static_cost(gamma, steepness))
    return jax.lax.scan(step, start, jax.random.split(jax.random.key(0), steps))[1]


@pytest.mark.parametrize('noise', [0.0, 0.01])
@pytest.mark.parametrize('steepness', [0.7, 2.0])
@pytest.mark.parametrize('lag', [50.0, 100.0, 200.0])
@pytest.mark.parametrize(('gamma', 'target'), [(0.0, 0.6), (0.0, 0.3), (5.0, 0.6), (5.0, 0.3)])
def test_settles_within_one_percent_and_stays(gamma, target, lag, steepness, noise):
    costs, gammas = simulate(gamma, target, lag, steepness, noise)
    assert jnp.abs(costs[1500:] - target).max() < 0.01
    assert gammas.min() >= 0


@pytest.mark.parametrize(('gamma', 'target'), [(0.0, 0.5), (3.0, 0.7)])
def test_a_short_run_ends_on_target(gamma, target):
    costs, _ = simulate(gamma, target, 50.0, 1.5, 0.01, steps=500)
    assert jnp.abs(costs[-50:] - target).max() < 0.02


@pytest.mark.parametrize(('gamma', 'target'), [(0.0, 0.5), (4.0, 0.5)])
def test_does_not_ring(gamma, target):
    costs, _ = simulate(gamma, target, 100.0, 1.5, 0.0)
    beyond = (target - costs) if gamma == 0 else (costs - target)
    assert beyond.max() < 0.05
    sides = np.sign(costs - target)[jnp.abs(costs - target) > 0.001]
    assert np.count_nonzero(np.diff(sides)) <= 1


def test_a_network_much_slower_than_the_defaults_expect_still_settles():
    costs, _ = simulate(0.0, 0.5, 1000.0, 1.0, 0.01, steps=6000)
    assert jnp.abs(costs[-1000:] - 0.5).max() < 0.01


def test_a_target_above_the_free_cost_leaves_gamma_at_zero():
    costs, gammas = simulate(1.0, 1.0, 50.0, 1.5, 0.01)
    assert gammas[-1000:].max() < 0.1
    assert costs[-1] == pytest.approx(float(static_cost(0.0, 1.5)), abs=0.02)


def test_gamma_leaves_its_bound_without_winding_down_first():
    state = controller.at_rest(0.0)
    for _ in range(2000):
        state = CostController(0.1).update(state, 0.9)
    assert state.gamma == 10
    state = CostController(0.9).update(state, 0.8)
    assert state.gamma < 10
    for _ in range(2000):
        state = CostController(0.9).update(state, 0.1)
    assert state.gamma == 0
    assert CostController(0.1).update(state, 0.2).gamma > 0


def test_one_update_by_hand():
    moving = CostController(0.5, gain=0.1, damping_steps=10.0, window=4.0)
    first = moving.update(controller.at_rest(1.0), 0.7)
    assert first.gamma == pytest.approx(1.0 + 0.1 * 0.2)
    assert first.mean_cost == pytest.approx(0.7)
    second = moving.update(first, 0.5)
    assert second.mean_cost == pytest.approx(0.6)
    assert second.gamma == pytest.approx(1.02 + 0.1 * (0.1 + 10 * -0.1))
    assert second.updates == 2


def test_the_running_mean_forgets_after_its_window():
    state = controller.at_rest()
    for measured in (1.0, 0.0, 0.5):
        state = CostController(0.5, window=2.0).update(state, measured)
    assert state.mean_cost == pytest.approx((0.5 + 0.5) / 2)


def test_on_target_nothing_moves():
    state = controller.at_rest(1.5)
    for _ in range(10):
        state = CostController(0.5).update(state, 0.5)
    assert state.gamma == 1.5


def test_state_is_a_pytree_of_float32_scalars_with_a_fixed_structure():
    before = controller.at_rest(2)
    after = jax.jit(CostController(0.5).update)(before, 0.3)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for leaf in (*before, *after):
        assert leaf.shape == ()
        assert leaf.dtype == jnp.float32
