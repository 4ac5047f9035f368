"""Relaxations and decisions (Eq. 5, 6, 13; Table 9)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codinet_jax.routing import relaxation

LOGITS_2 = jnp.array([0.2, -0.5])
NOISE_2 = jnp.array([-0.1, 1.3])


def eq_6(logits_2, noise_2, temperature):
    powers = [math.exp((logit + noise) / temperature) for logit, noise in zip(logits_2, noise_2, strict=True)]
    return powers[1] / sum(powers)


def gradient(relax, logits_Bx2, noise_Bx2):
    """With respect to the logits, at temperature 0.7."""
    return jax.jit(jax.grad(lambda logits: jnp.sum(relax(logits, noise_Bx2, 0.7))))(logits_Bx2)


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
def test_gumbel_softmax_is_eq_6(temperature):
    v = relaxation.gumbel_softmax(LOGITS_2, NOISE_2, temperature)
    assert v == pytest.approx(eq_6([0.2, -0.5], [-0.1, 1.3], temperature), rel=1e-6)


def test_softmax_ignores_noise():
    v = relaxation.softmax(LOGITS_2, NOISE_2, 2.0)
    assert v == pytest.approx(eq_6([0.2, -0.5], [0.0, 0.0], 2.0), rel=1e-6)
    assert v == relaxation.softmax(LOGITS_2, jnp.full(2, jnp.nan), 2.0)


@pytest.mark.parametrize('name', relaxation.RELAXATIONS)
@pytest.mark.parametrize('rows', [(), (5,), (2, 3, 4)])
def test_any_leading_axes_and_any_dtype_in_float32_out(name, rows):
    logits = jax.random.normal(jax.random.key(0), (*rows, 2)).astype(jnp.bfloat16)
    v = relaxation.RELAXATIONS[name](logits, jnp.zeros_like(logits), 1.0)
    assert v.shape == rows
    assert v.dtype == jnp.float32
    exact = relaxation.RELAXATIONS[name](logits.astype(jnp.float32), jnp.zeros((*rows, 2)), 1.0)
    np.testing.assert_array_equal(v, exact)


@pytest.mark.parametrize('name', relaxation.RELAXATIONS)
def test_extreme_logits_stay_finite(name):
    relax = relaxation.RELAXATIONS[name]
    logits_Bx2 = jnp.array([[1e4, -1e4], [-1e4, 1e4], [3e38, 3e38]])
    noise_Bx2 = jnp.zeros((3, 2))
    v_B = relax(logits_Bx2, noise_Bx2, 0.1)
    slopes = jax.grad(lambda logits: jnp.sum(relax(logits, noise_Bx2, 0.1)))(logits_Bx2)
    np.testing.assert_array_equal(v_B[:2], [0.0, 1.0])
    assert np.isfinite(v_B).all()
    assert np.isfinite(slopes).all()


def test_gumbel_softmax_gradient_against_finite_differences():
    def f(logits_2):
        return relaxation.gumbel_softmax(logits_2, NOISE_2, 0.7)

    step = 1e-2
    numeric = [(f(LOGITS_2 + step * e) - f(LOGITS_2 - step * e)) / (2 * step) for e in jnp.eye(2)]
    np.testing.assert_allclose(jax.grad(f)(LOGITS_2), numeric, rtol=1e-3)


def test_sampling_is_exactly_zero_or_one_with_the_gradient_of_softmax():
    logits_Bx2 = 3 * jax.random.normal(jax.random.key(1), (1000, 2))
    noise_Bx2 = jax.random.gumbel(jax.random.key(2), (1000, 2))

    drawn_B = jax.jit(relaxation.sampling)(logits_Bx2, noise_Bx2, 0.7)
    assert set(np.unique(drawn_B)) == {0.0, 1.0}
    np.testing.assert_array_equal(
        gradient(relaxation.sampling, logits_Bx2, noise_Bx2), gradient(relaxation.softmax, logits_Bx2, noise_Bx2)
    )


@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
def test_sampling_draws_run_as_often_as_softmax_says(temperature):
    noise_Bx2 = jax.random.gumbel(jax.random.key(3), (20_000, 2))
    logits_Bx2 = jnp.broadcast_to(LOGITS_2, noise_Bx2.shape)
    p = eq_6([0.2, -0.5], [0.0, 0.0], temperature)
    standard_error = math.sqrt(p * (1 - p) / 20_000)
    assert jnp.mean(relaxation.sampling(logits_Bx2, noise_Bx2, temperature)) == pytest.approx(p, abs=4 * standard_error)


@pytest.mark.parametrize('temperature', [0.5, 3.0])
def test_gumbel_softmax_rounds_to_run_as_often_as_the_run_probability(temperature):
    noise_Bx2 = jax.random.gumbel(jax.random.key(4), (20_000, 2))
    v_B = relaxation.gumbel_softmax(jnp.broadcast_to(LOGITS_2, noise_Bx2.shape), noise_Bx2, temperature)
    np.testing.assert_allclose(np.mean(relaxation.hard_decision(v_B)), relaxation.run_probability(LOGITS_2), atol=0.015)


def test_run_probability_is_eq_6_without_noise():
    assert relaxation.run_probability(LOGITS_2) == pytest.approx(1 / (1 + math.exp(0.7)), rel=1e-6)


def test_hard_decision_runs_on_a_tie_and_agrees_with_the_argmax():
    np.testing.assert_array_equal(
        relaxation.hard_decision(jnp.array([0.0, 0.4999, 0.5, 1.0])), [False, False, True, True]
    )
    np.testing.assert_array_equal(relaxation.hard_decision(jnp.array([0.5, 0.7, 0.9]), 0.7), [False, True, True])
    logits_Bx2 = jax.random.normal(jax.random.key(5), (500, 2))
    decisions_B = relaxation.hard_decision(relaxation.run_probability(logits_Bx2))
    assert decisions_B.dtype == jnp.bool_
    np.testing.assert_array_equal(decisions_B, np.argmax(logits_Bx2, axis=-1) == 1)


def test_gumbel_straight_through_is_the_hard_gumbel_softmax_with_its_gradient():
    logits_Bx2 = 3 * jax.random.normal(jax.random.key(6), (1000, 2))
    noise_Bx2 = jax.random.gumbel(jax.random.key(7), (1000, 2))
    v_B, soft_B = (
        relax(logits_Bx2, noise_Bx2, 0.7) for relax in (relaxation.gumbel_straight_through, relaxation.gumbel_softmax)
    )
    np.testing.assert_array_equal(v_B, relaxation.hard_decision(soft_B))
    np.testing.assert_array_equal(
        gradient(relaxation.gumbel_straight_through, logits_Bx2, noise_Bx2),
        gradient(relaxation.gumbel_softmax, logits_Bx2, noise_Bx2),
    )


@pytest.mark.parametrize(
    ('relax', 'temperature', 'soft', 'slope'),
    [
        (relaxation.gumbel_straight_through, 1.0, 0.524979, 0.249376),
        (relaxation.gumbel_straight_through, 0.5, 0.549834, 0.495033),
        (relaxation.sampling, 1.0, None, 0.113180),  # of the mean of the draw, not of this draw
    ],
)
def test_a_draw_just_open_has_the_slope_at_its_own_noise(relax, temperature, soft, slope):
    """Logits (0.1, 2) under noise (1.5, -0.3): a margin of 0.1."""
    logits_2, noise_2 = jnp.array([0.1, 2.0]), jnp.array([1.5, -0.3])

    def of_margin(margin):
        return relax(logits_2.at[1].set(margin + logits_2[0]), noise_2, temperature)

    assert of_margin(1.9) == 1
    assert jax.grad(of_margin)(1.9) == pytest.approx(slope, rel=1e-4)
    if soft:
        assert relaxation.gumbel_softmax(logits_2, noise_2, temperature) == pytest.approx(soft, rel=1e-5)
        step = 1e-2  # by differences of the soft value
        around = [relaxation.gumbel_softmax(logits_2.at[1].add(each), noise_2, temperature) for each in (step, -step)]
        assert (around[0] - around[1]) / (2 * step) == pytest.approx(slope, rel=1e-3)


def test_rounded_is_the_decision_without_noise_with_the_gradient_of_softmax():
    logits_Bx2 = jnp.concatenate([3 * jax.random.normal(jax.random.key(8), (1000, 2)), jnp.zeros((1, 2))])
    noise_Bx2 = jax.random.gumbel(jax.random.key(9), (1001, 2))
    v_B = relaxation.rounded(logits_Bx2, noise_Bx2, 0.7)
    np.testing.assert_array_equal(v_B, relaxation.hard_decision(relaxation.run_probability(logits_Bx2)))
    np.testing.assert_array_equal(
        gradient(relaxation.rounded, logits_Bx2, noise_Bx2), gradient(relaxation.softmax, logits_Bx2, noise_Bx2)
    )


def test_drawn_is_sampling_without_a_gradient():
    logits_Bx2 = 3 * jax.random.normal(jax.random.key(10), (1000, 2))
    noise_Bx2 = jax.random.gumbel(jax.random.key(11), (1000, 2))
    v_B, sampled_B = (relax(logits_Bx2, noise_Bx2, 0.7) for relax in (relaxation.drawn, relaxation.sampling))
    np.testing.assert_array_equal(v_B, sampled_B)
    assert not np.any(gradient(relaxation.drawn, logits_Bx2, noise_Bx2))


def test_relaxations_are_named_as_in_table_9_and_where_others_have_them_from():
    assert set(relaxation.RELAXATIONS) == {
        *('gumbel_softmax', 'softmax', 'sampling'),
        *('gumbel_straight_through', 'rounded', 'drawn'),
    }
