"""The three routing losses of Eq. 12: consistency (Eq. 8), diversity (Eq. 9) and cost (Eq. 11).

Each is a float32 scalar with a finite gradient, also where routes coincide, with a single view, with a single image.
Distances and margins are Euclidean lengths in the routing space [0, 1]^n, whose diagonal is sqrt(n).
Over a sharded batch, under `jit`, the means and the pairs are those of the whole batch.
"""

import jax
import jax.numpy as jnp


def consistency_loss(paths_LxMxn: jax.Array, margin: float | jax.Array) -> jax.Array:
    """Eq. 8: the views of one image may stray from their centre by `margin` (m_c) free of charge, squared beyond it.

    Zero when there is but one view.
    """

    def straying(paths_Mxn: jax.Array) -> jax.Array:
        distance_M = _norm(paths_Mxn - jnp.mean(paths_Mxn, axis=0, keepdims=True))
        return jnp.mean(_squared_hinge(distance_M - margin))

    return jnp.mean(jax.vmap(straying)(paths_LxMxn.astype(jnp.float32)))


def diversity_loss(paths_LxMxn: jax.Array, margin: float | jax.Array) -> jax.Array:
    """Eq. 9: the centres of two images must lie `margin` (m_d) apart, or pay the square of what is missing.

    Zero when there is but one image. Holds all L x L x n differences at once: |a|² + |b|² - 2ab would be smaller, but
    loses every digit where centres nearly meet, which is where this loss acts.
    """
    L = paths_LxMxn.shape[0]
    centres_Lxn = jnp.mean(paths_LxMxn.astype(jnp.float32), axis=1)
    distance_LxL = jax.vmap(lambda centre_n: _norm(centres_Lxn - centre_n[None, :]))(centres_Lxn)
    other_LxL = ~jnp.eye(L, dtype=bool)
    return jnp.sum(_squared_hinge(margin - distance_LxL), where=other_LxL) / max(L * (L - 1), 1)


def cost_loss(run_probability_Bxn: jax.Array, costs_n: jax.Array) -> jax.Array:
    """Eq. 11, mean over rows: the expected cost of a route, in the unit of `costs_n`.

    Costs that sum to one make it a fraction of the cost of running every block, in [0, 1].
    """
    # Not a matmul: accelerators round the inputs of theirs to ten bits or fewer.
    return jnp.sum(jnp.mean(run_probability_Bxn.astype(jnp.float32), axis=0) * costs_n.astype(jnp.float32))


def _squared_hinge(excess: jax.Array) -> jax.Array:
    return jnp.square(jax.nn.relu(excess))


def _norm(vectors_Bxn: jax.Array) -> jax.Array:
    """Euclidean length, with gradient zero, not NaN, at length zero: equal routes happen all the time."""
    square_B = jnp.sum(jnp.square(vectors_Bxn), axis=-1)
    # A single `where` outside would not do: the gradient of sqrt(0) is infinite, and 0 * inf is NaN.
    is_zero_B = square_B == 0
    return jnp.where(is_zero_B, 0.0, jnp.sqrt(jnp.where(is_zero_B, 1.0, square_B)))
