"""The look-up table against published MACs, and against what the network's own program really multiplies."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.models.architecture import Architecture, Block, Conv, Stage, cifar_resnet, imagenet_resnet
from codinet_jax.models.cost import CostTable, cost_table
from codinet_jax.models.execution import masked
from codinet_jax.models.network import RoutedResNet
from codinet_jax.models.routers import ROUTERS

BY_HAND = CostTable(stem=10, blocks_n=(30, 20, 50), shortcuts_n=(0, 4, 0), routers_n=(1, 2, 3), head=6)


def macs_of(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-accumulates in the program of a function, arguments given as arrays or as their shapes."""
    return _macs(jax.make_jaxpr(function)(*arguments).jaxpr)


def _macs(jaxpr: Any) -> int:
    return sum(_equation_macs(equation) for equation in jaxpr.eqns)


def _equation_macs(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == 'conv_general_dilated':
        kernel, out_features = equation.invars[1].aval, params['dimension_numbers'].rhs_spec[0]
        return int(equation.outvars[0].aval.size * kernel.size // kernel.shape[out_features])
    if name == 'dot_general':
        (contracted, _), _ = params['dimension_numbers']
        return int(equation.outvars[0].aval.size * math.prod(equation.invars[0].aval.shape[i] for i in contracted))
    assert name not in ('while', 'cond'), 'how often it runs is not to be read from the program'
    inside = sum(
        _macs(inner) for inner in jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(inner)
    )
    return int(inside * (params['length'] if name == 'scan' else 1))


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, 'eqns')


def network_macs(arch: Architecture, router: str | None) -> int:
    """What classifying one image multiplies."""
    net = RoutedResNet(arch, router)
    image = jax.ShapeDtypeStruct((1, arch.image_size, arch.image_size, arch.image_channels), jnp.float32)

    def apply(variables: Any, images_BxHxWxC: jax.Array) -> Any:
        return net.apply(variables, images_BxHxWxC, masked(), train=False)

    return macs_of(apply, helpers.shapes(net), image)


@pytest.mark.parametrize(
    ('arch', 'mega_macs'),
    [
        (cifar_resnet(20), 40.55),
        (cifar_resnet(20, shortcut='projection'), 40.8),
        (cifar_resnet(32, shortcut='projection'), 69.1),
        (cifar_resnet(74), 168.0),
        (cifar_resnet(110), 252.9),
    ],
    ids=['20A', '20B', '32B', '74A', '110A'],
)
def test_cifar_resnets_cost_what_is_published(arch: Architecture, mega_macs: float) -> None:
    assert cost_table(arch, None).static_macs / 1e6 == pytest.approx(mega_macs, abs=0.05)


@pytest.mark.parametrize(('depth', 'giga_macs'), [(18, 1.81), (34, 3.66)])
def test_basic_imagenet_resnets_cost_what_is_published(depth: int, giga_macs: float) -> None:
    assert cost_table(imagenet_resnet(depth), None).static_macs / 1e9 == pytest.approx(giga_macs, abs=0.01)


@pytest.mark.parametrize(('stride_on', 'giga_macs'), [('1x1', 3.86), ('3x3', 4.09)])
def test_resnet_50_costs_what_is_published(stride_on: Any, giga_macs: float) -> None:
    static_macs = cost_table(imagenet_resnet(50, stride_on=stride_on), None).static_macs
    assert static_macs / 1e9 == pytest.approx(giga_macs, rel=0.01)


def test_cifar_blocks_all_cost_the_same_but_those_that_halve_the_image() -> None:
    blocks_n = cost_table(cifar_resnet(14), None).blocks_n
    assert [round(macs / 1e6, 2) for macs in blocks_n] == [4.72, 4.72, 3.54, 4.72, 3.54, 4.72]


@pytest.mark.parametrize(
    'arch',
    [
        cifar_resnet(20),
        cifar_resnet(20, shortcut='projection'),
        cifar_resnet(14, image_size=9, image_channels=1, num_classes=7),
        imagenet_resnet(18, image_size=64),
        imagenet_resnet(34, image_size=75),
        imagenet_resnet(50, image_size=64, stride_on='1x1'),
        imagenet_resnet(50, image_size=64, stride_on='3x3'),
        imagenet_resnet(50, image_size=75, stride_on='3x3'),
    ],
    ids=['20A', '20B', '14A-odd', '18', '34-odd', '50-1x1', '50-3x3', '50-odd'],
)
def test_the_static_network_multiplies_what_the_table_says(arch: Architecture) -> None:
    assert network_macs(arch, None) == cost_table(arch, None).static_macs


def joins_of(arch: Architecture, router: str) -> int:
    """By the definition: of each later stage a product of the end and one of what came before."""
    later = [stage.block for stage in arch.stages[arch.first_pass :]] if ROUTERS[router].resumes else []
    before = [0, *(block.channels for block in later)]
    return sum((b.channels + c) * b.channels * b.out_size**2 for b, c in zip(later, before, strict=False))


@pytest.mark.parametrize('router', ROUTERS)
@pytest.mark.parametrize(
    'arch', [cifar_resnet(14), *(imagenet_resnet(d, image_size=64) for d in (18, 50))], ids=['14', '18', '50']
)
def test_a_routed_network_adds_its_routers_and_computes_every_shortcut_once(arch: Architecture, router: str) -> None:
    arch = helpers.suited(arch, router)
    kind, table = ROUTERS[router], RoutedResNet(arch, router).costs
    always_n = kind.always_run_n(arch)
    # A stack has a router at every block, a transition of such a kind none.
    not_heeded = kind.macs(arch.blocks[0]) if always_n[0] and (kind.first_runs or not arch.stages[0].transition) else 0
    assert network_macs(arch, router) == table.static_macs + table.router_macs + joins_of(arch, router) + not_heeded
    assert (table.routers_n[0] == 0) == (always_n[0] or kind.macs(arch.blocks[0]) == 0)


@pytest.mark.parametrize('router', ROUTERS)
@pytest.mark.parametrize(('size', 'channels'), [(32, 16), (8, 64), (9, 5)])
def test_a_router_multiplies_what_the_table_says(router: str, size: int, channels: int) -> None:
    block, kind = Block(size, channels, (Conv(3, channels),), 'identity'), ROUTERS[router]
    a_BxHxWxC = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    conv, norm = partial(nn.Conv, use_bias=False), partial(nn.BatchNorm, use_running_average=True)
    carry, shared = ((), ())
    if kind.start:
        arch = cifar_resnet(14, image_size=size, image_channels=channels)
        told = {'architecture': arch, 'conv': conv, 'norm': norm} if kind.start_macs else {}
        start = kind.start(**told)
        carry, shared = jax.eval_shape(lambda a: start.init_with_output(jax.random.key(0), a, a)[0], a_BxHxWxC)
    if kind.stages:
        carry = jax.eval_shape(partial(kind.stages.begin, Stage(None, block, 1)), a_BxHxWxC, carry)
    module, arguments = kind.router(block=block, conv=conv, norm=norm), (a_BxHxWxC, carry, shared, jnp.int32(0))
    variables = jax.eval_shape(lambda *args: module.init(jax.random.key(0), *args), *arguments)
    assert macs_of(module.apply, variables, *arguments) == kind.macs(block)


def test_the_convolutional_router_costs_an_eighth_of_a_basic_block() -> None:
    arch = cifar_resnet(20)
    assert ROUTERS['conv'].macs(arch.blocks[0]) / cost_table(arch, None).blocks_n[0] == pytest.approx(1 / 8, rel=1e-3)


@pytest.mark.parametrize('arch', [cifar_resnet(8), cifar_resnet(110), imagenet_resnet(101)], ids=['8', '110', '101'])
def test_the_costs_of_eq_11_are_shares_of_all_blocks(arch: Architecture) -> None:
    table = cost_table(arch, ROUTERS['linear'].macs)
    assert table.costs_n.dtype == np.float32
    assert table.costs_n.shape == (table.num_blocks,) == (arch.num_blocks,)
    assert table.costs_n.sum(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(table.costs_n * sum(table.blocks_n), table.blocks_n, rtol=1e-6)


def test_a_first_block_that_always_runs_is_alone_without_a_router() -> None:
    routed, forced = (cost_table(cifar_resnet(20), ROUTERS['linear'].macs, first_runs=first) for first in (False, True))
    assert forced.routers_n == (0, *routed.routers_n[1:]) != routed.routers_n


def test_totals_by_hand() -> None:
    assert BY_HAND.static_macs == 10 + 100 + 4 + 6
    assert BY_HAND.fixed_macs == 10 + 4 + 6 + 6
    np.testing.assert_allclose(BY_HAND.costs_n, [0.3, 0.2, 0.5], rtol=1e-6)
    assert BY_HAND.mean_macs(np.array([0.5, 0.0, 0.1])) == pytest.approx(26 + 15 + 0 + 5)
    assert float(BY_HAND.share_of_static(jnp.array([0.5, 0.0, 0.1]))) == pytest.approx(46 / 120, rel=1e-6)


def test_running_all_or_nothing_costs_the_static_macs_with_routers_or_the_fixed_ones() -> None:
    for router in ROUTERS:
        arch = helpers.suited(cifar_resnet(32), router)
        table = RoutedResNet(arch, router).costs
        every, none = np.ones(table.num_blocks, np.float32), np.zeros(table.num_blocks, np.float32)
        with_routers = table.static_macs + table.router_macs + joins_of(arch, router)
        assert table.static_macs == cost_table(cifar_resnet(32), None).static_macs
        assert table.mean_macs(every) == with_routers
        assert table.mean_macs(none) == table.fixed_macs == with_routers - sum(table.blocks_n)
        assert float(table.share_of_static(every)) == pytest.approx(with_routers / table.static_macs, rel=1e-6)
        assert float(table.share_of_static(none)) == pytest.approx(table.fixed_macs / table.static_macs, rel=1e-6)
    static = cost_table(cifar_resnet(32), None)
    assert float(static.share_of_static(np.ones(static.num_blocks, np.float32))) == pytest.approx(1, rel=1e-6)
