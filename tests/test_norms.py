"""Batch norm over groups: its own backward pass against automatic differentiation, its statistics against flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codinet_jax.models import norms
from codinet_jax.models.norms import GroupedBatchNorm

EPSILON = 1e-5


def numbers(seed: int, shape: tuple[int, ...]) -> jax.Array:
    return 0.7 + 1.5 * jax.random.normal(jax.random.key(seed), shape)


def by_the_book(x_GxbxHxWxC: jax.Array, scale_C: jax.Array, bias_C: jax.Array) -> jax.Array:
    mean, var = (f(x_GxbxHxWxC, axis=(1, 2, 3), keepdims=True) for f in (jnp.mean, jnp.var))
    scale, bias = (each.reshape(1, 1, 1, 1, -1) for each in (scale_C, bias_C))
    return (x_GxbxHxWxC - mean) / jnp.sqrt(var + EPSILON) * scale + bias


@pytest.mark.parametrize('groups', [1, 3])
def test_values_and_gradients_are_those_of_automatic_differentiation(groups: int) -> None:
    x, scale, bias, weights = (
        numbers(i, shape) for i, shape in enumerate([(groups, 4, 3, 3, 5), (5,), (5,), (groups, 4, 3, 3, 5)])
    )

    def own(*arguments: jax.Array) -> jax.Array:
        return jnp.sum(weights * norms.normalise(*arguments, EPSILON)[0])

    def expected(*arguments: jax.Array) -> jax.Array:
        return jnp.sum(weights * by_the_book(*arguments))

    np.testing.assert_allclose(norms.normalise(x, scale, bias, EPSILON)[0], by_the_book(x, scale, bias), atol=2e-5)
    for found, right in zip(
        jax.grad(own, (0, 1, 2))(x, scale, bias), jax.grad(expected, (0, 1, 2))(x, scale, bias), strict=True
    ):
        np.testing.assert_allclose(found, right, atol=1e-4)


def test_one_group_is_flax_batch_norm() -> None:
    x = numbers(0, (8, 3, 3, 4))
    ours = GroupedBatchNorm(1, momentum=0.9, epsilon=EPSILON, dtype=jnp.float32)
    theirs = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=EPSILON)
    variables = theirs.init(jax.random.key(0), x)
    found, expected = (norm.apply(variables, x, mutable=['batch_stats']) for norm in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_under_bfloat16_nothing_is_kept_in_float32_but_numbers_per_channel() -> None:
    x = numbers(0, (1, 8, 4, 4, 16)).astype(jnp.bfloat16)
    _, backward = jax.vjp(lambda *given: norms.normalise(*given, EPSILON)[0], x, jnp.ones(16), jnp.zeros(16))
    kept = jax.tree.leaves(backward)
    assert [leaf.size for leaf in kept if leaf.dtype == jnp.bfloat16] == [x.size]
    assert all(leaf.size <= 16 for leaf in kept if leaf.dtype == jnp.float32)


def test_a_constant_channel_has_finite_gradients() -> None:
    gradient = jax.grad(lambda x: jnp.sum(norms.normalise(x, jnp.ones(2), jnp.ones(2), EPSILON)[0] ** 3))(
        jnp.full((1, 4, 2, 2, 2), 3.0)
    )
    assert np.isfinite(gradient).all()
