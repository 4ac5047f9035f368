"""Losses of run rates against sums by hand, and their gradients against finite differences."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codinet_jax.routing import rates

RATES_3 = jnp.array([0.9, 0.5, 0.7])
LAUD_RATES_3 = jnp.array([0.9, 0.2, 0.5])


def by_differences(loss: Callable[[Any], Any], rates_n: jax.Array) -> np.ndarray:
    """The gradient by central differences; exact of what is quadratic, but for rounding."""
    steps = 1e-2 * np.eye(len(rates_n), dtype=np.float32)
    return np.array([(float(loss(rates_n + step)) - float(loss(rates_n - step))) / 2e-2 for step in steps])


def test_rates_are_means_over_rows_and_pass_their_gradient_on() -> None:
    v_Bxn = jnp.array([[1, 0, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]], jnp.bfloat16)
    np.testing.assert_array_equal(rates.run_rates_n(v_Bxn), np.float32([1, 0.25, 0.25]))
    slopes_Bxn = jax.grad(lambda v: rates.run_rates_n(v)[1])(v_Bxn.astype(jnp.float32))
    np.testing.assert_array_equal(slopes_Bxn, np.tile([0, 0.25, 0], (4, 1)))


def test_every_block_pays_for_the_square_of_what_it_is_off() -> None:
    def loss(rates_n: jax.Array) -> jax.Array:
        return 2 * rates.block_rate_loss(rates_n, (0.6,) * 3)

    assert rates.block_rate_loss(RATES_3, (0.6,) * 3) == pytest.approx(0.0366667, rel=1e-5)
    assert loss(RATES_3) == pytest.approx(0.0733333, rel=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(RATES_3), [0.4, -0.133333, 0.133333], rtol=1e-5)
    np.testing.assert_allclose(by_differences(loss, RATES_3), jax.grad(loss)(RATES_3), atol=1e-4)


def test_a_block_whose_target_is_one_is_left_out_but_counted() -> None:
    rates_4, targets_4 = jnp.array([0.6, 0.9, 0.8, 0.4]), (1.0, 0.8, 1.0, 0.5)
    assert rates.block_rate_loss(rates_4, targets_4) == pytest.approx(0.005, rel=1e-5)
    slopes_4 = jax.grad(lambda rates_n: rates.block_rate_loss(rates_n, targets_4))(rates_4)
    np.testing.assert_allclose(slopes_4, [0, 0.05, 0, -0.05], rtol=1e-5)


def test_the_batch_pays_for_its_mean_alone() -> None:
    def loss(rates_n: jax.Array) -> jax.Array:
        return 2 * rates.batch_rate_loss(rates_n, 0.6)

    assert loss(RATES_3) == pytest.approx(0.02, rel=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(RATES_3), [0.133333] * 3, rtol=1e-5)
    np.testing.assert_allclose(by_differences(loss, RATES_3), jax.grad(loss)(RATES_3), atol=1e-4)
    assert rates.batch_rate_loss(jnp.array([1.0, 0.2, 0.6]), 0.6) == pytest.approx(0, abs=1e-12)


def test_one_sided_it_pays_only_above_the_target() -> None:
    assert rates.batch_rate_loss(RATES_3, 0.8, one_sided=True) == 0
    assert rates.batch_rate_loss(RATES_3, 0.8) == pytest.approx(0.01, rel=1e-4)
    assert rates.batch_rate_loss(RATES_3, 0.6, one_sided=True) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    ('epoch', 'low', 'high', 'with_share'),
    [(0, 0.5, 0.5, 0.0977333), (11, 0.375, 0.625, 0.0498167), (33, 0.0, 1.0, 0.0144), (70, 0.0, 1.0, 0.0144)],
)
def test_bounds_open_from_the_target_to_everything(epoch: int, low: float, high: float, with_share: float) -> None:
    """Of 100 epochs, at a target of 0.5 and a share of compute of 0.62."""
    bounds = rates.closing_bounds(0.5, epoch / 100, free_after=0.33)
    np.testing.assert_allclose(bounds, (low, high), atol=1e-6)
    loss = rates.bounds_loss(LAUD_RATES_3, bounds) + (0.62 - 0.5) ** 2
    assert loss == pytest.approx(with_share, rel=1e-4)


def test_only_rates_out_of_bounds_are_moved() -> None:
    bounds = rates.closing_bounds(0.5, 0.11, free_after=0.33)
    slopes_3 = jax.grad(rates.bounds_loss)(LAUD_RATES_3, bounds)
    np.testing.assert_allclose(slopes_3, [2 * 0.275 / 3, -2 * 0.175 / 3, 0], rtol=1e-4)
    np.testing.assert_allclose(
        by_differences(lambda r: rates.bounds_loss(r, bounds), LAUD_RATES_3), slopes_3, atol=1e-4
    )


def test_bounds_are_no_wider_than_the_unit_interval_and_hold_the_target() -> None:
    for target in (0.2, 0.7, 1.0):
        for progress in np.linspace(0, 1, 9):
            low, high = rates.closing_bounds(target, float(progress), 0.33)
            assert 0 <= low <= target + 1e-6 and target - 1e-6 <= high <= 1


def test_a_temperature_falls_by_equal_factors() -> None:
    assert rates.falling(5.0, 0.1, 0.0) == 5
    assert rates.falling(5.0, 0.1, 0.5) == pytest.approx(0.707107, rel=1e-5)
    assert rates.falling(5.0, 0.1, jnp.float32(1.0)) == pytest.approx(0.1, rel=1e-5)
    steps = [float(rates.falling(5.0, 0.1, i / 4)) for i in range(5)]
    np.testing.assert_allclose(np.diff(np.log(steps)), math.log(0.02) / 4, rtol=1e-4)
