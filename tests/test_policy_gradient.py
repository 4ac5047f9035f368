"""Policy gradients: SkipNet's returns and BlockDrop's advantage at numbers worked out by hand, their slopes by
differences, and their expectation by counting every route."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codinet_jax.routing import policy_gradient, relaxation

SKIPNET_G = jnp.array([[1.0, 0, 0, 1, 0]])
SKIPNET_P = np.array([0.9, 0.4, 0.3, 0.8, 0.5])
BLOCKDROP_S = np.array([0.95, 0.1, 0.6])
DRAWN, LIKELY = jnp.array([[1.0, 1, 0]]), jnp.array([[1.0, 0, 1]])


def margins(p):
    return np.log(p / (1 - p))


def pairs(margins_n):
    """Logits [1, n, 2] of these margins; what both numbers share is to tell nothing."""
    return jnp.stack([jnp.full(len(margins_n), 0.7), 0.7 + jnp.asarray(margins_n)], axis=-1)[None]


def slopes(function, at_n):
    """By differences."""
    step = 1e-2
    return np.array([(function(at_n + move) - function(at_n - move)) / (2 * step) for move in step * np.eye(len(at_n))])


def test_skipnets_returns_are_of_own_and_later_blocks():
    rewards_n = jnp.full(5, 0.1 / 5)
    returns = policy_gradient.later_returns_Bxn(SKIPNET_G, jnp.array([0.7]), rewards_n)
    np.testing.assert_allclose(returns, [[-0.64, -0.64, -0.66, -0.68, -0.68]], rtol=1e-6)
    objective = 0.7 - 0.1 / 5 * 3
    assert -returns[0, 0] == pytest.approx(objective) == pytest.approx(0.64), 'the first one is of the whole route'
    on_imagenet = policy_gradient.later_returns_Bxn(SKIPNET_G, 0.1 / 5 * jnp.array([0.7]), rewards_n)
    np.testing.assert_allclose(on_imagenet, [[0.046, 0.046, 0.026, 0.006, 0.006]], rtol=1e-5)


def test_skipnets_loss_and_its_slopes():
    returns = policy_gradient.later_returns_Bxn(SKIPNET_G, jnp.array([0.7]), jnp.full(5, 0.1 / 5))

    def loss(margins_n):
        log_p = policy_gradient.log_probabilities(pairs(margins_n))
        return 0.01 * policy_gradient.reinforce(policy_gradient.of_drawn_Bxn(SKIPNET_G, log_p), returns)

    at_5 = margins(SKIPNET_P)
    assert loss(at_5) == pytest.approx(-0.0125284, rel=1e-5)
    gradient_5 = jax.grad(loss)(jnp.asarray(at_5))
    np.testing.assert_allclose(gradient_5, [0.00064, -0.00256, -0.00198, 0.00136, -0.0034], rtol=1e-5)
    np.testing.assert_allclose(gradient_5, slopes(loss, at_5), rtol=1e-3)


def test_blockdrop_rewards_skipping_where_the_class_is_right():
    run_54 = (np.arange(54) < np.array([17, 54, 0, 17])[:, None]).astype(np.float32)
    right = jnp.array([True, True, True, False])
    rewards = policy_gradient.rewards_B(jnp.asarray(run_54), right, 10.0)
    np.testing.assert_allclose(rewards, [0.900892, 0, 1, -10], atol=1e-6)


def test_blockdrops_draws_keep_from_being_certain():
    log_p = policy_gradient.log_probabilities(pairs(margins(BLOCKDROP_S)), certainty=0.8)
    np.testing.assert_allclose(jnp.exp(log_p[0, :, 1]), [0.77, 0.26, 0.56], rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal((log_p[..., 1] >= log_p[..., 0]), LIKELY, 'the likelier ones are what they were')
    assert policy_gradient.of_drawn_Bxn(DRAWN, log_p).sum() == pytest.approx(-2.429419, rel=1e-6)
    assert policy_gradient.entropy(log_p) == pytest.approx(1.798263, rel=1e-6)
    half = -jnp.sum(jnp.exp(log_p) * log_p, axis=1)[0, 1]
    assert half == pytest.approx(0.876188, rel=1e-6), 'their code has the half of it that is of running'
    certain = policy_gradient.log_probabilities(jnp.array([[[0.0, 200.0]]]), certainty=0.8)
    np.testing.assert_allclose(jnp.exp(certain), [[[0.2, 0.8]]], rtol=1e-6)


@pytest.mark.parametrize(
    ('drawn_right', 'likely_right', 'drawn', 'advantage', 'loss'),
    [
        (True, False, DRAWN, 5.555556, 13.496772),
        (False, True, DRAWN, -5.555556, -13.496772),
        (True, True, DRAWN, 0.0, 0.0),
        (True, True, jnp.array([[0.0, 1, 0]]), (2 / 3) ** 2 - (1 / 3) ** 2, None),
        (False, False, DRAWN, 0.0, 0.0),
    ],
)
def test_blockdrops_draw_is_worth_what_it_earns_beyond_the_likelier_one(
    drawn_right, likely_right, drawn, advantage, loss
):
    earned = [
        policy_gradient.rewards_B(decisions, jnp.array([is_right]), 5.0)
        for decisions, is_right in ((drawn, drawn_right), (LIKELY, likely_right))
    ]
    found = policy_gradient.self_critical_B(*earned)
    assert found[0] == pytest.approx(advantage, abs=1e-6)
    if loss is not None:
        log_p = policy_gradient.log_probabilities(pairs(margins(BLOCKDROP_S)), certainty=0.8)
        term = policy_gradient.reinforce(policy_gradient.of_drawn_Bxn(drawn, log_p), found[:, None])
        assert term == pytest.approx(loss, rel=1e-5, abs=1e-6)


def test_blockdrops_slopes_go_through_the_bound():
    def loss(margins_n):
        log_p = policy_gradient.log_probabilities(pairs(margins_n), certainty=0.8)
        return policy_gradient.reinforce(policy_gradient.of_drawn_Bxn(DRAWN, log_p), jnp.full((1, 3), 5.555556))

    at_3 = margins(BLOCKDROP_S)
    gradient_3 = jax.grad(loss)(jnp.asarray(at_3))
    np.testing.assert_allclose(gradient_3, [-0.205628, -1.153846, 1.818182], rtol=1e-5)
    np.testing.assert_allclose(gradient_3, slopes(loss, at_3), rtol=2e-3)


def test_what_a_draw_is_credited_with_is_a_constant():
    """Else blocks would learn to be paid and not to be right (the authors' ImageNet script lets that through)."""

    def credited(losses_B, decisions_Bxn):
        returns = policy_gradient.later_returns_Bxn(decisions_Bxn, losses_B, jnp.full(5, 0.1))
        rewards = policy_gradient.self_critical_B(losses_B, policy_gradient.rewards_B(decisions_Bxn, True, 5.0))
        own = jnp.broadcast_to(losses_B[:, None], decisions_Bxn.shape)
        return policy_gradient.reinforce(jnp.full((1, 5), -0.3), own) + jnp.sum(returns) + jnp.sum(rewards)

    for slope in jax.grad(credited, argnums=(0, 1))(jnp.array([0.7]), SKIPNET_G):
        assert not np.any(slope)


def test_the_gradient_is_that_of_what_is_expected_of_a_draw():
    """Over every route of three gates: Σ P(route) ∇log P(route) credit(route) = ∇ Σ P(route) (-J(route))."""
    rewards_3, at_3 = jnp.array([0.3, 0.1, 0.2]), jnp.asarray(margins(BLOCKDROP_S))
    routes = [jnp.array([route], jnp.float32) for route in itertools.product((0, 1), repeat=3)]
    loss_of = {tuple(map(int, route[0])): jnp.array([1.0 + i]) for i, route in enumerate(routes)}

    def chances(route, margins_n):
        log_p = policy_gradient.log_probabilities(pairs(margins_n))
        return policy_gradient.of_drawn_Bxn(route, log_p)

    def expected(margins_n):
        losses = [loss_of[tuple(map(int, route[0]))][0] - jnp.sum((1 - route[0]) * rewards_3) for route in routes]
        weights = [jnp.exp(jnp.sum(chances(route, margins_n))) for route in routes]
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))

    def estimated(margins_n):
        def of(route):
            returns = policy_gradient.later_returns_Bxn(route, loss_of[tuple(map(int, route[0]))], rewards_3)
            weight = jax.lax.stop_gradient(jnp.exp(jnp.sum(chances(route, margins_n))))
            return weight * policy_gradient.reinforce(chances(route, margins_n), returns)

        return sum(map(of, routes))

    np.testing.assert_allclose(jax.grad(estimated)(at_3), jax.grad(expected)(at_3), rtol=1e-4)


def test_a_gate_that_is_as_good_as_certain_has_a_finite_loss_though_it_was_drawn_otherwise():
    log_p = policy_gradient.log_probabilities(jnp.array([[[0.0, 90.0], [0.0, 30.0]]]))
    drawn = policy_gradient.of_drawn_Bxn(jnp.array([[0.0, 1.0]]), log_p)
    np.testing.assert_allclose(drawn, [[-90, 0]], atol=1e-6)
    at, decisions = jnp.array([90.0, 30.0]), jnp.array([[0.0, 1.0]])
    slope = jax.grad(
        lambda m: policy_gradient.of_drawn_Bxn(decisions, policy_gradient.log_probabilities(pairs(m))).sum()
    )(at)
    np.testing.assert_allclose(slope, [-1, 0], atol=1e-6)


def test_draws_come_as_often_as_they_are_priced():
    logits = jnp.broadcast_to(pairs(margins(BLOCKDROP_S)), (20_000, 3, 2))
    noise = jax.random.gumbel(jax.random.key(0), logits.shape)
    for settings in ({'certainty': 0.8}, {'temperature': 2.0}):
        log_p = policy_gradient.log_probabilities(logits, **settings)
        v = relaxation.drawn(log_p, noise, 1.0)
        np.testing.assert_allclose(v.mean(0), jnp.exp(log_p[0, :, 1]), atol=0.015)
