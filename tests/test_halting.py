"""The maths of halting, to the digit: where an image halts, what it hands on and what that costs, with gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codinet_jax.routing import halting
from codinet_jax.routing.halting import EPSILON, Halting

# By hand: the scores of four of five units; N; R; the weight of every unit's output.
CASES = {
    'in the fourth': ([0.1, 0.3, 0.5, 0.4], 4, 0.1, [0.1, 0.3, 0.5, 0.1, 0]),
    'in the third, by epsilon': ([0.1, 0.3, 0.595, 0.2], 3, 0.6, [0.1, 0.3, 0.6, 0, 0]),
    'in the last': ([0.2] * 4, 5, 0.2, [0.2] * 5),
    'in the first': ([0.995, 0.1, 0.1, 0.1], 1, 1, [1, 0, 0, 0, 0]),
}
EVERY_CASE = pytest.mark.parametrize(('scores', 'units', 'remainder', 'weights'), CASES.values(), ids=CASES)


def halted(outputs_UxBxC: Any, scores_VxB: Any, run_V: Any = None) -> tuple[jax.Array, Halting]:
    """A stage's mixture; after an image halts, of itself or as `run_V` has it, its output stands still."""
    x_BxC = jnp.asarray(outputs_UxBxC[0])
    state = halting.begun(*x_BxC.shape)
    for i, (score_B, after_BxC) in enumerate(zip(scores_VxB, outputs_UxBxC[1:], strict=True)):
        state = halting.scored(state, x_BxC, jnp.asarray(score_B))
        run_B = halting.margin_B(state) >= 0 if run_V is None else jnp.full(len(x_BxC), run_V[i])
        x_BxC = jnp.where(run_B[:, None], after_BxC, x_BxC)
    return halting.mixture(state, x_BxC), state


def of_one(scores: Any, outputs_UxC: Any) -> tuple[jax.Array, Halting]:
    return halted(jnp.asarray(outputs_UxC)[:, None], jnp.asarray(scores)[:, None])


@EVERY_CASE
def test_where_it_halts_and_what_it_hands_on(
    scores: list[float], units: int, remainder: float, weights: list[float]
) -> None:
    mixed_1x5, state = of_one(scores, np.eye(5, dtype=np.float32))
    assert int(state.units_B[0]) == units
    np.testing.assert_allclose(state.remainder_B, [remainder], rtol=1e-6)
    np.testing.assert_allclose(halting.ponder_B(state), [units + remainder], rtol=1e-6)
    np.testing.assert_allclose(mixed_1x5[0], weights, atol=1e-6)
    mixed_1x1, _ = of_one(scores, np.arange(1.0, 6.0)[:, None])
    np.testing.assert_allclose(mixed_1x1, [[np.dot(weights, np.arange(1, 6))]], rtol=1e-6)


def test_mixtures_of_one_to_five() -> None:
    mixtures = [float(of_one(scores, np.arange(1.0, 6.0)[:, None])[0][0, 0]) for scores, *_ in CASES.values()]
    np.testing.assert_allclose(mixtures, [2.6, 2.5, 3.0, 1.0], rtol=1e-6)


@EVERY_CASE
def test_ponder_pushes_up_the_scores_before_the_last_and_no_other(
    scores: list[float], units: int, remainder: float, weights: list[float]
) -> None:
    slopes_4 = jax.grad(lambda h: halting.ponder_B(of_one(h, np.eye(5, dtype=np.float32))[1])[0])(jnp.array(scores))
    np.testing.assert_array_equal(slopes_4, [-1.0 if i < units - 1 else 0.0 for i in range(4)])


@EVERY_CASE
def test_gradients_are_finite_differences(
    scores: list[float], units: int, remainder: float, weights: list[float]
) -> None:
    outputs_5x2 = np.random.default_rng(0).normal(size=(5, 2))

    def reference(h: np.ndarray) -> Any:
        """In double precision and by the formula, N kept."""
        return h[: units - 1] @ outputs_5x2[: units - 1] + (1 - h[: units - 1].sum()) * outputs_5x2[units - 1]

    h_4 = np.array(scores)
    differences_2x4 = np.stack(
        [(reference(h_4 + 1e-4 * e) - reference(h_4 - 1e-4 * e)) / 2e-4 for e in np.eye(4)], axis=-1
    )
    mixed_2, slopes_2x4 = (
        of_one(scores, outputs_5x2)[0][0],
        jax.jacobian(lambda h: of_one(h, outputs_5x2)[0][0])(jnp.array(scores)),
    )
    np.testing.assert_allclose(mixed_2, reference(h_4), rtol=1e-5)
    np.testing.assert_allclose(slopes_2x4, differences_2x4, atol=1e-6)


def test_the_start_of_a_stage_of_eighteen_units_that_does_not_halt() -> None:
    """Untrained scores are σ(-3): 17 of them come to .806, and .194 is left for the last."""
    score = 1 / (1 + np.exp(3.0))
    mixed_1x18, state = of_one(np.full(17, score, np.float32), np.eye(18, dtype=np.float32))
    np.testing.assert_allclose(mixed_1x18[0, :17], score, rtol=1e-5)
    assert score == pytest.approx(0.0474, abs=5e-5)
    assert float(mixed_1x18[0, 17]) == pytest.approx(1 - 17 * score, rel=1e-5) == pytest.approx(0.194, abs=5e-4)
    assert int(state.units_B[0]) == 18


def test_images_halt_each_for_itself_and_what_comes_after_changes_nothing() -> None:
    scores_4xB = np.array([scores for scores, *_ in CASES.values()]).T.astype(np.float32)
    outputs_5xBx2 = np.random.default_rng(1).normal(size=(5, 4, 2)).astype(np.float32)
    together_Bx2, state = halted(outputs_5xBx2, scores_4xB)
    np.testing.assert_array_equal(state.units_B, [4, 3, 5, 1])
    altered, other_scores = outputs_5xBx2.copy(), scores_4xB.copy()
    for row, units in enumerate([4, 3, 5, 1]):
        altered[units:, row] = np.nan
        other_scores[units:, row] = 0.001
    again_Bx2, again = halted(altered, other_scores)
    np.testing.assert_allclose(again_Bx2, together_Bx2, rtol=1e-5)
    np.testing.assert_array_equal(halting.ponder_B(again), halting.ponder_B(state))


@pytest.mark.parametrize('units', [1, 2, 3, 4, 5])
def test_made_to_halt_elsewhere_the_mixture_is_that_of_elsewhere(units: int) -> None:
    """As under another threshold: weights are the scores' before N, and what they leave at N; never more than 1."""
    scores = [0.1, 0.3, 0.5, 0.4]
    run_V = [i < units for i in range(1, 5)]
    mixed_1x5, _ = halted(np.eye(5, dtype=np.float32)[:, None], np.array(scores)[:, None], run_V)
    weights = [0.1, 0.3, 0.5, 0.1][: units - 1]
    np.testing.assert_allclose(mixed_1x5[0], [*weights, 1 - sum(weights), *[0.0] * (5 - units)], atol=1e-6)


def test_the_margin_is_the_log_odds_of_what_is_left_against_epsilons() -> None:
    state = halting.begun(4, 1)._replace(sum_B=jnp.array([0.5, 1 - EPSILON - 1e-4, 1 - EPSILON + 1e-4, 1.0]))
    margins = np.asarray(halting.margin_B(state))
    np.testing.assert_allclose(margins[0], -np.log(EPSILON / (1 - EPSILON)), rtol=1e-5)
    assert margins[0] > margins[1] > 0 > margins[2] > margins[3] and np.isfinite(margins).all()
    assert float(jax.grad(lambda s: halting.margin_B(state._replace(sum_B=s[None]))[0])(0.5)) == 0
