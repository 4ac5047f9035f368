"""The gates of other authors: each its own equation, start and price; the four executions agree on what they decide."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.inference.folding import fold
from codinet_jax.models import execution
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.cost import cost_table
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.models.recurrent import RECURRENT_FEATURES
from codinet_jax.models.routers import ROUTERS, shifted
from codinet_jax.routing import relaxation
from reference_network import Tree, in_order, np_conv, np_dense, np_lstm, np_norm, np_relu

GATES = ('gate_unit', 'independent', 'one_layer', 'lstm', 'feedforward1', 'feedforward2')
FIRST_RUNS = ('lstm', 'feedforward1', 'feedforward2')
ARCH = helpers.tiny_architecture()
NUM_IMAGES = 24
ALL = (*GATES, 'policy')
SEEDS = dict.fromkeys(ALL, 3) | {'lstm': 2}  # under which images part ways, and no gate is a tie


@functools.cache
def variables_of(router: str) -> Tree:
    return helpers.random_variables(RoutedResNet(ARCH, router), SEEDS[router])


@functools.cache
def images() -> jax.Array:
    return helpers.random_images(ARCH, NUM_IMAGES)


class Inputs:
    """What an execution saw of every block: its input, in order; decisions are the router's own."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def watching(self, hard: execution.Execution) -> execution.Execution:
        def combine(run: Any, skip: Any, operands: Any, v_B: jax.Array) -> jax.Array:
            jax.debug.callback(lambda a: self.seen.append(np.asarray(a)), operands[0], ordered=True)
            return hard.combine(run, skip, operands, v_B)

        return hard._replace(combine=combine)


@functools.cache
def applied(router: str) -> tuple[Any, list[np.ndarray]]:
    """The masked network's output, and every block's input."""
    inputs = Inputs()
    net, hard = RoutedResNet(ARCH, router), inputs.watching(execution.masked())
    output = helpers.quick_jit(lambda v, x: net.apply(v, x, hard, train=False))(variables_of(router), images())
    jax.block_until_ready(output)
    jax.effects_barrier()
    return jax.device_get(output), inputs.seen


def np_pool(x: np.ndarray) -> np.ndarray:
    half = len(x) // 2
    return x[: 2 * half, : 2 * half].reshape(half, 2, half, 2, -1).max((1, 3))


def np_gate(router: str, params: Tree, stats: Tree, shared: Tree, x: np.ndarray, memory: Any) -> tuple[Any, Any]:
    """A gate's two numbers by its equation, in double precision."""
    z = x.mean((0, 1))
    if router == 'gate_unit':
        z = np_norm(z @ params['conv1']['kernel'][0, 0], params['norm1'], stats['norm1'])
        return np_dense(np_relu(z), params['decide']), memory
    if router == 'independent':
        return params['logits'], memory
    if router == 'one_layer':
        return np_dense(z, params['decide']), memory
    if router == 'lstm':
        memory = np_lstm(shared['cell'], memory, np_dense(z, params['project']))
        return np.array([0, np_dense(memory[1], shared['decide'])[0]]), memory
    if router == 'feedforward1':
        x = np_relu(np_norm(np_conv(np_pool(x), params['conv1']['kernel']), params['norm1'], stats['norm1']))
    last = 'conv2' if router == 'feedforward1' else 'conv1'
    norm = last.replace('conv', 'norm')
    x = np_relu(np_norm(np_conv(x, params[last]['kernel'], 2), params[norm], stats[norm]))
    return np_dense(x.mean((0, 1)), params['decide']), memory


@pytest.mark.parametrize('router', GATES)
def test_a_gate_is_its_equation_at_every_block_but_a_first_one_that_always_runs(router: str) -> None:
    output, inputs = applied(router)
    assert len(inputs) == ARCH.num_blocks
    variables = jax.tree.map(np.asarray, dict(variables_of(router)))
    blocks = [each['router'] for each in in_order(ARCH, variables['params'])]
    stats = [each.get('router') for each in in_order(ARCH, variables['batch_stats'])]
    for row in range(3):
        memory = np.zeros(RECURRENT_FEATURES), np.zeros(RECURRENT_FEATURES)
        for k, (params, of_block, a) in enumerate(zip(blocks, stats, inputs, strict=True)):
            if k == 0 and router in FIRST_RUNS:
                expected = np.array([0.0, 30.0])  # and the memory stays empty
            else:
                shared = variables['params'].get('router_start')
                expected, memory = np_gate(router, params, of_block, shared, a[row].astype(np.float64), memory)
            np.testing.assert_allclose(output.router_logits_Bxnx2[row, k], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('router', ALL)
def test_all_executions_and_the_folded_network_agree(router: str) -> None:
    net, expected = RoutedResNet(ARCH, router), applied(router)[0]
    u_Bxn = relaxation.hard_decision(expected.run_probability_Bxn)
    assert np.abs(expected.run_probability_Bxn - 0.5).min() > 1e-4, 'no gate may be a tie'
    if router != 'independent':
        assert len(np.unique(u_Bxn, axis=0)) > 1, 'images are to part ways'
    if router in FIRST_RUNS:
        assert u_Bxn[:, 0].all()
    rounds = execution.relaxed(relaxation.rounded, 1.0)
    folded, folded_variables = net.clone(folded=True), fold(variables_of(router))
    for name, network, variables, how in (
        ('relaxed, rounded', net, variables_of(router), rounds),
        ('conditional', net, variables_of(router), execution.conditional()),
        ('compacted', net, variables_of(router), execution.compacted(0.5, 2)),
        ('folded', folded, folded_variables, execution.compacted()),
    ):
        noise_Bxnx2 = jnp.ones((NUM_IMAGES, ARCH.num_blocks, 2))
        output = helpers.quick_jit(lambda v, x, z, n=network, h=how: n.apply(v, x, h, z, train=False))(
            variables, images(), noise_Bxnx2
        )
        np.testing.assert_array_equal(output.run_probability_Bxn >= 0.5, u_Bxn, err_msg=name)
        scale = np.abs(expected.logits_BxY).max()
        np.testing.assert_allclose(output.logits_BxY / scale, expected.logits_BxY / scale, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(output.router_logits_Bxnx2, expected.router_logits_Bxnx2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('router', ALL)
def test_a_shift_moves_every_margin_but_that_of_a_forced_block(router: str) -> None:
    net, variables = RoutedResNet(ARCH, router), variables_of(router)
    moved = {**variables, 'params': shifted(variables['params'], router, 1.5)}
    apply = helpers.quick_jit(lambda v: net.apply(v, images()[:4], hard_open(), jnp.zeros((4, 4, 2)), train=False))
    margins = [np.diff(apply(each).router_logits_Bxnx2, axis=-1)[..., 0] for each in (variables, moved)]
    forced = [k == 0 and router in FIRST_RUNS for k in range(ARCH.num_blocks)]
    np.testing.assert_allclose((margins[1] - margins[0])[:, ~np.array(forced)], 1.5, atol=2e-3)
    assert (margins[1] - margins[0])[:, np.array(forced)].sum() == 0


def hard_open() -> execution.Execution:
    """Every block runs, so that both networks see the same inputs."""
    hard = execution.masked()
    return hard._replace(decide=lambda logits_Bx2, noise: jnp.ones(logits_Bx2.shape[0]))


@pytest.mark.parametrize(
    ('router', 'run_rate'), [('gate_unit', 0.8699), ('independent', 0.9802), ('one_layer', 0.9933), ('lstm', 0.5)]
)
def test_untrained_gates_are_open_as_their_authors_have_them(router: str, run_rate: float) -> None:
    net = RoutedResNet(ARCH, router)
    apply = helpers.quick_jit(lambda x: net.apply(fresh_variables(net, 0), x, execution.masked(), train=False))
    v_Bxn = apply(images()).run_probability_Bxn
    first = 1 if router in FIRST_RUNS else 0
    assert np.median(v_Bxn[:, first:]) == pytest.approx(run_rate, abs=0.15 if router == 'lstm' else 0.01)
    kind = ROUTERS[router]
    assert 1 / (1 + np.exp(-kind.initial_margin)) == pytest.approx(run_rate, abs=5e-5)


def test_norms_of_frozen_routers_do_not_follow_the_batch() -> None:
    net = RoutedResNet(ARCH, 'gate_unit', routers_frozen=True)
    given = variables_of('gate_unit')
    train = functools.partial(net.apply, train=True, mutable=['batch_stats'])
    _, changed = helpers.quick_jit(lambda v, x: train(v, x, execution.masked()))(given, images())
    old, new = helpers.by_path(given['batch_stats']), helpers.by_path(changed['batch_stats'])
    still = {path for path in old if np.array_equal(old[path], new[path])}
    assert still == {path for path in old if 'router' in path.split('/')} != set()


@pytest.mark.parametrize(('router', 'macs'), [('gate_unit', 33_216), ('one_layer', 3_936), ('lstm', 62_450)])
def test_gates_cost_on_resnet_110_what_was_counted_by_hand(router: str, macs: int) -> None:
    costs = RoutedResNet(cifar_resnet(110), router).costs
    assert sum(costs.routers_n) == macs
    assert sum(map(bool, costs.routers_n)) == (53 if router == 'lstm' else 54)


def test_the_recurrent_gate_costs_more_where_there_are_more_channels() -> None:
    costs = RoutedResNet(cifar_resnet(110), 'lstm').costs
    assert sorted({*costs.routers_n}) == [0, 970, 1_130, 1_450]
    assert sum(costs.routers_n) / costs.static_macs == pytest.approx(0.00025, abs=5e-6)


@pytest.mark.parametrize(('router', 'share'), [('feedforward1', (9 / 4 + 9 / 16) / 18), ('feedforward2', 1 / 8)])
def test_the_feed_forward_gates_cost_a_share_of_a_block(router: str, share: float) -> None:
    costs = RoutedResNet(cifar_resnet(110), router).costs
    assert costs.routers_n[0] == 0
    for k in (5, 25, 45):
        assert costs.routers_n[k] / costs.blocks_n[k] == pytest.approx(share, rel=1e-3)


def test_gate_units_have_as_many_weights_as_theirs_less_the_biases_before_a_norm() -> None:
    sizes = [
        sum(leaf.size for leaf in jax.tree.leaves(helpers.shapes(RoutedResNet(cifar_resnet(110), router))['params']))
        for router in ('gate_unit', None)
    ]
    assert sizes[0] - sizes[1] == 35_916 - 54 * 16


def test_counting_blocks_as_equal_is_their_unit_of_cost() -> None:
    """53 gates at a run rate of a half: 50.926 % of blocks, the first among them."""
    rates_54 = np.array([1.0] + [0.5] * 53)
    assert 100 * rates_54.mean() == pytest.approx(50.926, abs=5e-4)
    costs = cost_table(cifar_resnet(110), None)
    assert costs.mean_macs(rates_54) / costs.static_macs == pytest.approx(0.50926, abs=0.005)
