"""Learning from drawn decisions by how well they did: REINFORCE (Williams, 1992), as SkipNet and BlockDrop have it.

Decisions are 0. or 1., drawn by `relaxation.drawn` from the probabilities whose logarithms, [skip, run] along the last
axis, are given here. Only these logarithms have a gradient: whatever a decision is credited with is a constant. All
arithmetic is float32.
"""

import jax
import jax.numpy as jnp


def log_probabilities(
    router_logits_Bxnx2: jax.Array, *, temperature: float | jax.Array = 1.0, certainty: float = 1.0
) -> jax.Array:
    """The logarithms of what decisions are drawn from: p = softmax(logits / temperature), kept from being certain.

    BlockDrop draws from a p + (1 - a)(1 - p), where a is `certainty`, in (0.5, 1]: at 0.8 from within [0.2, 0.8].
    """
    log_p_Bxnx2 = jax.nn.log_softmax(router_logits_Bxnx2.astype(jnp.float32) / temperature)
    if certainty == 1:
        return log_p_Bxnx2
    p_Bxnx2 = jnp.exp(log_p_Bxnx2)
    return jnp.log(certainty * p_Bxnx2 + (1 - certainty) * (1 - p_Bxnx2))


def of_drawn_Bxn(decisions_Bxn: jax.Array, log_p_Bxnx2: jax.Array) -> jax.Array:
    """log π: the logarithm of the probability of every decision that was drawn, at most 0."""
    return jnp.where(decisions_Bxn >= 0.5, log_p_Bxnx2[..., 1], log_p_Bxnx2[..., 0])


def reinforce(log_probability_Bxn: jax.Array, credit_Bxn: jax.Array) -> jax.Array:
    """What is minimised: minus the credit times log π, summed over blocks, the mean over rows."""
    return -jnp.mean(jnp.sum(jax.lax.stop_gradient(credit_Bxn) * log_probability_Bxn, axis=-1))


def entropy(log_p_Bxnx2: jax.Array) -> jax.Array:
    """Of the decisions, in nats, summed over blocks, the mean over rows: at most n log 2."""
    return -jnp.mean(jnp.sum(jnp.exp(log_p_Bxnx2) * log_p_Bxnx2, axis=(-2, -1)))


def later_returns_Bxn(decisions_Bxn: jax.Array, losses_B: jax.Array, rewards_n: jax.Array) -> jax.Array:
    """SkipNet's r: what a block and those after it earn by being skipped, less the row's loss.

    Args:
      decisions_Bxn: what was drawn.
      losses_B: of the rows, as a cross-entropy.
      rewards_n: for skipping a block: α C_k / N.
    """
    earned_Bxn = (1 - decisions_Bxn) * rewards_n[None]
    own_and_later_Bxn = jnp.cumsum(earned_Bxn[:, ::-1], axis=-1)[:, ::-1]
    return jax.lax.stop_gradient(own_and_later_Bxn - losses_B[:, None])


def rewards_B(decisions_Bxn: jax.Array, is_right_B: jax.Array, penalty: float) -> jax.Array:
    """BlockDrop's R: 1 less the squared share of blocks that run where the class is right, elsewhere -penalty."""
    return jnp.where(is_right_B, 1 - jnp.square(jnp.mean(decisions_Bxn, axis=-1)), -penalty)


def self_critical_B(drawn_rewards_B: jax.Array, likely_rewards_B: jax.Array) -> jax.Array:
    """BlockDrop's A: what the drawn decisions earned, less what the likelier ones do."""
    return jax.lax.stop_gradient(drawn_rewards_B - likely_rewards_B)
