"""Consistency, diversity and cost against the paper's sums, written out as loops (Eq. 8, 9, 11)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codinet_jax.routing import losses

M_C, M_D = 0.2, 1.0
PAIR_LOSSES = pytest.mark.parametrize(
    ('loss', 'margin'), [(losses.consistency_loss, M_C), (losses.diversity_loss, M_D)], ids=['consistency', 'diversity']
)


def random_paths(L=5, M=3, n=7, seed=0):
    return np.random.default_rng(seed).uniform(size=(L, M, n)).astype(np.float32)


@functools.cache
def value_and_gradient(loss):
    return jax.jit(jax.value_and_grad(loss))


def eq_8(paths, margin):
    L, M, _ = paths.shape
    total = 0.0
    for i in range(L):
        centre = sum(paths[i, j].astype(float) for j in range(M)) / M
        for j in range(M):
            total += max(0.0, np.linalg.norm(paths[i, j] - centre) - margin) ** 2
    return total / L / M


def eq_9(paths, margin):
    L, M, _ = paths.shape
    centres = [sum(paths[i, j].astype(float) for j in range(M)) / M for i in range(L)]
    total = 0.0
    for i in range(L):
        for j in range(L):
            if j != i:
                total += max(0.0, margin - np.linalg.norm(centres[i] - centres[j])) ** 2
    return total / L / (L - 1)


@pytest.mark.parametrize('margin', [0.0, 0.2, 0.9])
@pytest.mark.parametrize('M', [2, 3, 4])
def test_consistency_is_eq_8(M, margin):
    paths_LxMxn = random_paths(M=M)
    assert losses.consistency_loss(paths_LxMxn, margin) == pytest.approx(eq_8(paths_LxMxn, margin), rel=1e-5)


@pytest.mark.parametrize('margin', [0.25, 0.5, 1.5])
@pytest.mark.parametrize('L', [2, 5, 9])
def test_diversity_is_eq_9(L, margin):
    paths_LxMxn = random_paths(L=L)
    assert losses.diversity_loss(paths_LxMxn, margin) == pytest.approx(eq_9(paths_LxMxn, margin), rel=1e-5)


def test_by_hand():
    # Image 0: views at 0 and 1 on one axis, each 0.5 from their centre. Image 1: both at (0.5, 0.3), on its centre.
    paths_LxMxn = jnp.array([[[0.0, 0.0], [1.0, 0.0]], [[0.5, 0.3], [0.5, 0.3]]])
    assert losses.consistency_loss(paths_LxMxn, 0.2) == pytest.approx(2 * 0.3**2 / 4)
    assert losses.diversity_loss(paths_LxMxn, 0.5) == pytest.approx(0.2**2)
    assert losses.diversity_loss(paths_LxMxn, 0.25) == 0
    # Row costs 0.5 * 0.2 + 1 * 0.8 = 0.9 and 0.5 * 0.2 = 0.1.
    assert losses.cost_loss(jnp.array([[0.5, 1.0], [0.5, 0.0]]), jnp.array([0.2, 0.8])) == pytest.approx(0.5)


def test_cost_is_eq_11_between_zero_and_one():
    rng = np.random.default_rng(1)
    v_Bxn, costs_n = rng.uniform(size=(6, 4)), np.array([0.1, 0.2, 0.3, 0.4])
    expected = sum(sum(costs_n[k] * v_Bxn[b, k] for k in range(4)) for b in range(6)) / 6
    assert losses.cost_loss(jnp.asarray(v_Bxn), jnp.asarray(costs_n)) == pytest.approx(expected, rel=1e-6)
    assert losses.cost_loss(jnp.ones((6, 4)), jnp.asarray(costs_n)) == pytest.approx(1.0)
    assert losses.cost_loss(jnp.zeros((6, 4)), jnp.asarray(costs_n)) == 0


@PAIR_LOSSES
@pytest.mark.parametrize('axis', [0, 1, 2], ids=['images', 'views', 'blocks'])
def test_order_does_not_matter(loss, margin, axis):
    paths_LxMxn = random_paths()
    shuffled_LxMxn = np.random.default_rng(2).permutation(paths_LxMxn, axis=axis)
    np.testing.assert_allclose(loss(shuffled_LxMxn, margin), loss(paths_LxMxn, margin), rtol=1e-5)


@PAIR_LOSSES
def test_swapping_run_and_skip_does_not_matter(loss, margin):
    paths_LxMxn = random_paths()
    np.testing.assert_allclose(loss(1 - paths_LxMxn, margin), loss(paths_LxMxn, margin), rtol=1e-5)


@PAIR_LOSSES
@pytest.mark.parametrize(('L', 'M'), [(4, 3), (4, 1), (1, 3), (1, 1)])
@pytest.mark.parametrize('kind', ['zeros', 'halves', 'coincident', 'apart'])
def test_value_and_gradient_stay_finite(loss, margin, L, M, kind):
    paths_LxMxn = {
        'zeros': np.zeros((L, M, 6), np.float32),
        'halves': np.full((L, M, 6), 0.5, np.float32),
        'coincident': np.broadcast_to(random_paths(1, 1, 6), (L, M, 6)),
        'apart': random_paths(L, M, 6),
    }[kind]
    value, gradient = value_and_gradient(loss)(paths_LxMxn, margin)
    assert value.dtype == jnp.float32
    assert value.shape == ()
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize('margin', [0.0, M_C])
def test_one_view_is_consistent(margin):
    value, gradient = value_and_gradient(losses.consistency_loss)(random_paths(M=1), margin)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_one_image_owes_no_diversity():
    value, gradient = value_and_gradient(losses.diversity_loss)(random_paths(L=1), M_D)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_coincident_centres_owe_the_whole_margin_and_have_no_direction_to_part():
    paths_LxMxn = jnp.broadcast_to(random_paths(1, 1, 6), (4, 3, 6))
    value, gradient = value_and_gradient(losses.diversity_loss)(paths_LxMxn, 0.5)
    assert value == pytest.approx(0.25)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('distance', [1e-3, 1e-5])
def test_diversity_is_exact_where_centres_nearly_meet(distance):
    paths_LxMxn = np.zeros((2, 1, 54), np.float32)
    paths_LxMxn[1, 0, 0] = distance
    _, gradient = value_and_gradient(losses.diversity_loss)(paths_LxMxn + 0.5, 0.5)
    # d/dx (0.5 - x)² of two equal pairs over two: -2 (0.5 - x) on the one that moves away.
    assert gradient[1, 0, 0] == pytest.approx(-2 * (0.5 - distance), rel=1e-5)
    assert gradient[0, 0, 0] == pytest.approx(2 * (0.5 - distance), rel=1e-5)


@PAIR_LOSSES
def test_gradient_against_finite_differences(loss, margin):
    paths_LxMxn = jnp.asarray(random_paths(seed=3))
    direction_LxMxn = jax.random.normal(jax.random.key(0), paths_LxMxn.shape)

    @jax.jit
    def along(step):
        return loss(paths_LxMxn + step * direction_LxMxn, margin)

    numeric = (along(0.01) - along(-0.01)) / 0.02
    analytic = jnp.vdot(value_and_gradient(loss)(paths_LxMxn, margin)[1], direction_LxMxn)
    assert abs(analytic) > 1e-3
    np.testing.assert_allclose(analytic, numeric, rtol=1e-2)


def test_descent_draws_views_together_and_pushes_images_apart():
    paths_LxMxn = jnp.asarray(random_paths(seed=4))
    closer_LxMxn = paths_LxMxn - 0.5 * jax.grad(losses.consistency_loss)(paths_LxMxn, M_C)
    wider_LxMxn = paths_LxMxn - 0.5 * jax.grad(losses.diversity_loss)(paths_LxMxn, M_D)
    centres_Lxn = paths_LxMxn.mean(axis=1)
    assert jnp.var(closer_LxMxn, axis=1).sum() < jnp.var(paths_LxMxn, axis=1).sum()
    assert jnp.var(wider_LxMxn.mean(axis=1), axis=0).sum() > jnp.var(centres_Lxn, axis=0).sum()
    # Consistency leaves the centres where they are.
    np.testing.assert_allclose(closer_LxMxn.mean(axis=1), centres_Lxn, atol=1e-6)


def test_bfloat16_paths_are_measured_in_float32():
    paths_LxMxn = jnp.asarray(random_paths()).astype(jnp.bfloat16)
    rounded_LxMxn = np.asarray(paths_LxMxn.astype(jnp.float32))
    assert losses.consistency_loss(paths_LxMxn, M_C) == pytest.approx(eq_8(rounded_LxMxn, M_C), rel=1e-5)
    assert losses.diversity_loss(paths_LxMxn, M_D) == pytest.approx(eq_9(rounded_LxMxn, M_D), rel=1e-5)
    assert losses.cost_loss(paths_LxMxn[0], jnp.full(7, 1 / 7)).dtype == jnp.float32
