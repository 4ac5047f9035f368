"""Every router against its equations, and what it remembers."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codinet_jax.models.architecture import Block, Conv, Stage, cifar_resnet
from codinet_jax.models.routers import RECURRENT_FEATURES, ROUTERS
from reference_network import Tree, np_router

FIRST = np.int32(0)
BLOCK = Block(5, 4, (Conv(3, 4),), 'identity')
MAKERS: dict[str, Any] = {
    'conv': partial(nn.Conv, use_bias=False),
    'norm': partial(nn.BatchNorm, use_running_average=True),
}


def router_case(router: str, seed: int = 0) -> tuple[nn.Module, Tree, jax.Array]:
    rng = np.random.default_rng(seed)
    a_BxHxWxC = jnp.asarray(rng.normal(size=(3, 5, 5, 4)), jnp.float32)
    module = ROUTERS[router].router(block=BLOCK, **MAKERS)
    carry, shared = started(router)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), a_BxHxWxC, carry, shared, FIRST))
    drawn = {
        name: jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), tree)
        for name, tree in variables.items()
    }
    if 'batch_stats' in drawn:
        drawn['batch_stats'] = jax.tree.map(jnp.abs, drawn['batch_stats'])  # variances among them
    return module, drawn, a_BxHxWxC


def started(router: str) -> tuple[Any, Tree]:
    """What a router's first block is given for three images, where its start, if it has one, has random weights."""
    carry, shared = at_the_start(router)
    if stages := ROUTERS[router].stages:
        carry = stages.begin(Stage(None, BLOCK, 1), jnp.ones((3, 5, 5, 4)), carry)
    return carry, shared


def at_the_start(router: str) -> tuple[Any, Tree]:
    if (make_start := ROUTERS[router].start) is None:
        return (), ()
    told = {'architecture': cifar_resnet(14, image_size=5), **MAKERS} if ROUTERS[router].start_macs else {}
    rng, start = np.random.default_rng(1), make_start(**told)
    inputs = jnp.ones((3, 5, 5, 4)), jnp.ones((3, 5, 5, 3))
    variables = jax.eval_shape(lambda: start.init(jax.random.key(0), *inputs))
    variables = jax.tree.map(lambda x: jnp.asarray(np.abs(rng.normal(size=x.shape)), x.dtype), variables)
    carry, shared = start.apply(variables, *inputs)
    if router == 'recurrent':
        jax.tree.map(np.testing.assert_array_equal, shared, variables['params'])
    return carry, shared


@pytest.mark.parametrize('router', ['linear', 'conv'])
def test_a_local_router_is_its_equation_and_passes_the_memory_on(router: str) -> None:
    module, variables, a_BxHxWxC = router_case(router)
    router_logits_Bx2, carry = module.apply(variables, a_BxHxWxC, 'memory', None, FIRST)
    params = jax.tree.map(np.asarray, variables['params'])
    expected = [np_router(router, params, None, np.asarray(a), None)[0] for a in a_BxHxWxC]
    np.testing.assert_allclose(router_logits_Bx2, expected, rtol=1e-4, atol=1e-4)
    assert carry == 'memory'


def test_the_recurrent_router_is_an_lstm_over_blocks_from_an_empty_memory() -> None:
    module, variables, a_BxHxWxC = router_case('recurrent')
    carry, shared = started('recurrent')
    params = jax.tree.map(np.asarray, variables['params'])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(carry))
    memories = [(np.zeros(RECURRENT_FEATURES), np.zeros(RECURRENT_FEATURES))] * 3
    for k in range(3):
        x_BxHxWxC = a_BxHxWxC * (k + 1)
        router_logits_Bx2, carry = module.apply(variables, x_BxHxWxC, carry, shared, np.int32(k))
        steps = [
            np_router('recurrent', params, shared, np.asarray(x), memory)
            for x, memory in zip(x_BxHxWxC, memories, strict=True)
        ]
        memories = [memory for _, memory in steps]
        np.testing.assert_allclose(router_logits_Bx2, [scores for scores, _ in steps], rtol=1e-4, atol=1e-4)


def test_the_recurrent_router_remembers_earlier_blocks_of_the_same_image() -> None:
    module, variables, a_BxHxWxC = router_case('recurrent')
    empty, shared = started('recurrent')

    def second_decision(first_BxHxWxC: jax.Array) -> jax.Array:
        carry = module.apply(variables, first_BxHxWxC, empty, shared, FIRST)[1]
        router_logits_Bx2: jax.Array = module.apply(variables, a_BxHxWxC, carry, shared, FIRST + 1)[0]
        return router_logits_Bx2

    before, after = second_decision(a_BxHxWxC), second_decision(a_BxHxWxC.at[1].add(2.0))
    assert np.all(np.abs(before[1] - after[1]) > 1e-3)
    np.testing.assert_array_equal(np.delete(before, 1, axis=0), np.delete(after, 1, axis=0))


@pytest.mark.parametrize('router', ROUTERS)
def test_routers_decide_in_float32_whatever_they_are_given(router: str) -> None:
    module, variables, a_BxHxWxC = router_case(router)
    carry, shared = started(router)
    a_BxHxWxC = a_BxHxWxC.astype(jnp.bfloat16)
    low = module.apply(variables, a_BxHxWxC, carry, shared, FIRST)[0]
    high = module.apply(variables, a_BxHxWxC.astype(jnp.float32), carry, shared, FIRST)[0]
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, high, rtol=1e-5, atol=1e-5)
