"""From a router's two numbers to a decision: relaxed while training, hard when it counts (Eq. 5, 6, 13; Table 9).

The last axis of a router's output is [skip, run]: unnormalised log-probabilities, so that the log of Eq. 6 is already
taken. Any leading axes stand for B. Arithmetic is float32 whatever comes in, for in bfloat16 a sigmoid near one is one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Relaxation = Callable[[jax.Array, jax.Array, float | jax.Array], jax.Array]


def gumbel_softmax(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Eq. 6: v_B = softmax((logits + noise) / temperature)[1], in [0, 1]; standard Gumbel noise, temperature > 0."""
    return jax.nn.sigmoid((_margin_B(router_logits_Bx2) + _margin_B(noise_Bx2)) / temperature)


def softmax(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Table 9, "Softmax": v_B = softmax(logits / temperature)[1], in [0, 1]; the noise is ignored."""
    del noise_Bx2
    return jax.nn.sigmoid(_margin_B(router_logits_Bx2) / temperature)


def sampling(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Table 9, "Sampling distribution": v_B drawn from Bernoulli(`softmax`), exactly 0. or 1.

    The draw is Gumbel-max, so standard Gumbel noise makes it fair. The gradient is straight-through: that of `softmax`,
    which is the gradient of the draw's expectation.
    """
    mean_B = softmax(router_logits_Bx2, noise_Bx2, temperature)
    drawn_B = _margin_B(router_logits_Bx2) / temperature + _margin_B(noise_Bx2) >= 0
    # The parentheses keep the value exact: x - x is 0., whereas x + (1 - x) need not be 1.
    return drawn_B.astype(jnp.float32) + (mean_B - jax.lax.stop_gradient(mean_B))


def gumbel_straight_through(
    router_logits_Bx2: jax.Array, noise_Bx2: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    """ConvNet-AIG's (arXiv 1711.11503): v_B is exactly 0. or 1., the argmax of logits + Gumbel noise.

    The gradient is straight-through: that of `gumbel_softmax` with the same noise.
    """
    soft_B = gumbel_softmax(router_logits_Bx2, noise_Bx2, temperature)
    hard_B = _margin_B(router_logits_Bx2) + _margin_B(noise_Bx2) >= 0
    return hard_B.astype(jnp.float32) + (soft_B - jax.lax.stop_gradient(soft_B))


def rounded(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """SkipNet's (arXiv 1711.09485): v_B is the decision of Eq. 5, exactly 0. or 1.; noise is ignored.

    The gradient is straight-through: that of `softmax`.
    """
    soft_B = softmax(router_logits_Bx2, noise_Bx2, temperature)
    hard_B = _margin_B(router_logits_Bx2) >= 0
    return hard_B.astype(jnp.float32) + (soft_B - jax.lax.stop_gradient(soft_B))


def drawn(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """v_B drawn from Bernoulli(`softmax`), exactly 0. or 1., without a gradient: for policy gradients."""
    return jax.lax.stop_gradient(sampling(router_logits_Bx2, noise_Bx2, temperature))


RELAXATIONS: dict[str, Relaxation] = {
    'gumbel_softmax': gumbel_softmax,
    'softmax': softmax,
    'sampling': sampling,
    'gumbel_straight_through': gumbel_straight_through,
    'rounded': rounded,
    'drawn': drawn,
}


def run_probability(router_logits_Bx2: jax.Array) -> jax.Array:
    """The v_B of inference, in [0, 1]: Eq. 6 without noise, at temperature 1."""
    return jax.nn.sigmoid(_margin_B(router_logits_Bx2))


def hard_decision(v_B: jax.Array, threshold: float | jax.Array = 0.5) -> jax.Array:
    """Eq. 13: u_B, boolean, true where the block is run; a tie runs. At threshold 0.5 it is the argmax of Eq. 5."""
    return v_B >= threshold


def _margin_B(pair_Bx2: jax.Array) -> jax.Array:
    """The logit margin, run's less skip's: all that a softmax over two numbers depends on."""
    pair_Bx2 = pair_Bx2.astype(jnp.float32)
    return pair_Bx2[..., 1] - pair_Bx2[..., 0]
