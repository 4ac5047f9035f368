"""Halting inside a real network: its mixture and ponder cost by the formula, in every execution, at any threshold."""

import copy
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
import staged
from codinet_jax.analysis.run import read_run
from codinet_jax.config import default, setup
from codinet_jax.evaluation.cost_search import nearest_shift
from codinet_jax.inference.folding import fold
from codinet_jax.methods import ACT, Seen
from codinet_jax.models import execution
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.network import RoutedOutput, RoutedResNet, fresh_variables
from codinet_jax.models.routers import ROUTERS, shifted
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir
from reference_network import Tree, in_order, np_dense, np_relu, np_residual, np_shortcut, np_sigmoid, np_stem
from staged import assert_alike, assert_no_tie, in_double

# Five units, of which the first reads the stem; four, of which the first changes the shape; and one alone.
ARCH = staged.architecture(5, 4)
UNITS = (5, 4, 1)
FIRSTS = np.isin(np.arange(10), (0, 5, 9))
NET = RoutedResNet(ARCH, 'halting')
NUM_IMAGES = 24
EPSILON = 0.01


@functools.cache
def variables() -> Tree:
    """Under which images halt at all places, and none hangs on rounding."""
    found = helpers.random_variables(NET, 10)
    for name, spread, bias in (('stage1_blocks', 6, -1.5), ('stage2_blocks', 3, -4)):
        halt = found['params'][name]['router']['halt']
        halt['kernel'], halt['bias'] = spread * halt['kernel'], halt['bias'] + bias
    return found


@functools.cache
def images() -> jax.Array:
    return helpers.random_images(ARCH, NUM_IMAGES)


def answers(strategy: str = 'masked', threshold: float = 0.5, of: Tree = None) -> RoutedOutput:
    return staged.answers(NET, of or variables(), images(), strategy, threshold)


class Halted(NamedTuple):
    logits: np.ndarray
    ponder: float
    decisions: np.ndarray


def followed(tree: Tree, image: np.ndarray, epsilon: float = EPSILON, units: Any = None) -> Halted:
    """One image in double precision: a stage's units up to N one by one, and then the formula; N may be given."""
    params, stats = tree['params'], tree['batch_stats']
    blocks = zip(ARCH.blocks, in_order(ARCH, params), in_order(ARCH, stats), strict=True)
    x, ponder, decisions = np_stem(ARCH, params, stats, image), 0.0, []
    for i, num_units in enumerate(UNITS):
        outputs, scores = [], []
        for u in range(num_units):
            block, own, own_stats = next(blocks)
            if u:
                scores.append(float(np_sigmoid(np_dense(x.mean((0, 1)), own['router']['halt']))[0]))
            runs = u == 0 or (sum(scores) < 1 - epsilon if units is None else u < units[i])
            if runs and (not decisions or u == 0 or decisions[-1]):
                shortcut = np_shortcut(block, own, own_stats, x)
                x = np_relu(shortcut + np_residual(block, own['residual'], own_stats['residual'], x))
                outputs.append(x)
            decisions.append(len(outputs) == u + 1)
        N = len(outputs)
        remainder = 1 - sum(scores[: N - 1])
        x = sum((h * each for h, each in zip(scores, outputs[:-1], strict=False)), remainder * outputs[-1])
        ponder += N + remainder
    return Halted(np_dense(x.mean((0, 1)), params['head']), ponder, np.array(decisions))


@functools.cache
def references(epsilon: float = EPSILON) -> list[Halted]:
    tree = in_double(variables())
    return [followed(tree, image, epsilon) for image in np.asarray(images(), np.float64)]


def decisions_of(output: RoutedOutput, threshold: float = 0.5) -> np.ndarray:
    v_Bxn = np.asarray(output.run_probability_Bxn)
    assert_no_tie(v_Bxn, threshold)
    return v_Bxn >= threshold


def test_the_network_hands_on_the_mixture_and_tells_what_it_pondered() -> None:
    output, expected = answers(), references()
    np.testing.assert_array_equal(decisions_of(output), [each.decisions for each in expected])
    assert_alike(output.logits_BxY, [each.logits for each in expected])
    assert len(output.of_stages) == 3
    np.testing.assert_allclose(sum(output.of_stages), [each.ponder for each in expected], rtol=1e-5)
    np.testing.assert_array_equal(output.of_stages[2], 2.0)
    units_Bx2 = np.stack([part.sum(1) for part in np.split(decisions_of(output), [5, 9], axis=1)[:2]], axis=1)
    assert [set(units_B) for units_B in units_Bx2.T] == [{1, 2, 4, 5}, {2, 3, 4}], 'images are to halt everywhere'


@pytest.mark.parametrize('strategy', ['conditional', 'compacted', 'compacted-2'])
@pytest.mark.parametrize('threshold', [0.5, 0.9, 0.97])
def test_executions_agree_wherever_the_threshold_has_images_halt(strategy: str, threshold: float) -> None:
    expected, output = answers(threshold=threshold), answers(strategy, threshold)
    np.testing.assert_array_equal(decisions_of(output, threshold), decisions_of(expected, threshold))
    assert_alike(output.logits_BxY, expected.logits_BxY)
    np.testing.assert_allclose(output.of_stages, expected.of_stages, rtol=1e-4)


def test_the_folded_network_agrees() -> None:
    output = staged.answers(NET.clone(folded=True), fold(variables()), images(), 'compacted')
    expected = answers()
    np.testing.assert_array_equal(decisions_of(output), decisions_of(expected))
    assert_alike(output.logits_BxY, expected.logits_BxY)


def test_a_threshold_is_another_epsilon() -> None:
    odds = 0.97 / 0.03 * EPSILON / (1 - EPSILON)
    expected, output = references(odds / (1 + odds)), answers(threshold=0.97)
    np.testing.assert_array_equal(decisions_of(output, 0.97), [each.decisions for each in expected])
    assert_alike(output.logits_BxY, [each.logits for each in expected])


def test_routes_are_prefixes_of_stages_that_shorten_as_the_threshold_rises() -> None:
    before_Bxn = np.ones((NUM_IMAGES, 10), bool)
    for threshold in (0.0, 0.5, 0.9, 0.97, 0.9999):
        u_Bxn = np.asarray(answers(threshold=threshold).run_probability_Bxn) >= threshold
        assert u_Bxn[:, FIRSTS].all() and (u_Bxn <= before_Bxn).all()
        assert (u_Bxn[:, 1:] <= u_Bxn[:, :-1] | FIRSTS[None, 1:]).all(), 'who has halted stays halted'
        before_Bxn = u_Bxn
    assert before_Bxn.sum() < decisions_of(answers()).sum() < 10 * NUM_IMAGES


def test_units_after_an_image_has_halted_change_nothing() -> None:
    altered = copy.deepcopy(jax.device_get(variables()))
    last = altered['params']['stage1_blocks']
    last['residual']['conv1']['kernel'][4] = np.nan
    last['router']['halt']['bias'][4] += 2
    before, after = answers('compacted-2'), answers('compacted-2', of=altered)
    has_halted_B = ~decisions_of(before)[:, 3]
    assert 0 < has_halted_B.sum() < NUM_IMAGES
    np.testing.assert_array_equal(
        before.run_probability_Bxn[has_halted_B, :4], after.run_probability_Bxn[has_halted_B, :4]
    )
    np.testing.assert_allclose(before.logits_BxY[has_halted_B], after.logits_BxY[has_halted_B], rtol=1e-4, atol=1e-5)
    ran_B = decisions_of(before)[:, 4]
    assert not np.isclose(before.logits_BxY[ran_B], after.logits_BxY[ran_B], atol=1e-3).all(axis=1).any()


# --- Training. ---

LABELS_B = np.arange(NUM_IMAGES) % 5
TAU, GAMMA = 0.05, 0.3


def minimised(output: RoutedOutput) -> Any:
    labels_B = LABELS_B[: len(output.logits_BxY)]
    cross_entropy = -jnp.mean(jax.nn.log_softmax(output.logits_BxY)[jnp.arange(len(labels_B)), labels_B])
    seen = Seen(output, jnp.asarray(labels_B), 1, NET.costs, jnp.float32(GAMMA), cross_entropy)
    return ACT(ponder_weight=TAU).objective(seen)


def test_the_objective_is_cross_entropy_and_the_ponder_cost() -> None:
    terms = minimised(answers())
    assert terms.keys() == {'cross_entropy', 'ponder'}
    assert float(terms['ponder'].value) == pytest.approx(np.mean([each.ponder for each in references()]), rel=1e-5)
    assert float(terms['ponder'].weight) == pytest.approx(TAU + GAMMA / 10)


def np_loss(tree: Tree, all_units: list[list[int]]) -> float:
    logits, ponder = [], []
    for image, units in zip(np.asarray(images(), np.float64), all_units, strict=False):
        found = followed(tree, image, units=units)
        logits.append(found.logits)
        ponder.append(found.ponder)
    log_p = np.array(logits) - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(-log_p[np.arange(len(log_p)), LABELS_B[: len(log_p)]].mean() + (TAU + GAMMA / 10) * np.mean(ponder))


def test_gradients_are_finite_differences_in_double_precision() -> None:
    """Of scores, of a unit and of the head: through the mixture and the remainder, and not through where it halts."""

    def loss(params: Tree) -> Any:
        output = NET.apply({**variables(), 'params': params}, images()[:8], execution.masked(), train=False)
        return sum(term.weight * term.value for term in minimised(output).values())

    gradient = jax.device_get(helpers.quick_jit(jax.grad(loss))(variables()['params']))
    all_units = [[part.sum() for part in np.split(each.decisions, [5, 9])] for each in references()[:8]]
    for path, index in {
        ('stage1_blocks', 'router', 'halt', 'bias'): (1, 0),
        ('stage1_blocks', 'router', 'halt', 'kernel'): (3, 2, 0),
        ('stage2_blocks', 'router', 'halt', 'bias'): (0, 0),
        ('stage1_blocks', 'residual', 'norm2', 'bias'): (2, 1),
        ('stage2_transition', 'residual', 'conv1', 'kernel'): (1, 1, 0, 0),
        ('head', 'kernel'): (3, 2),
    }.items():
        sides = []
        for step in (1e-6, -1e-6):
            tree = in_double(variables())
            leaf = functools.reduce(lambda at, name: at[name], path, tree['params'])
            leaf[index] += step
            sides.append(np_loss(tree, all_units))
        found = functools.reduce(lambda at, name: at[name], path, gradient)[index]
        assert found == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=2e-3, abs=2e-6), path
    # No image is asked at the first unit of a stage.
    np.testing.assert_array_equal(gradient['stage1_blocks']['router']['halt']['kernel'][0], 0)


def test_an_untrained_network_goes_on_as_its_bias_has_it() -> None:
    """σ(3) goes on at each unit: of five, none halts, and 1 - 4 σ(-3) is left."""
    rate = setup.read(variant()).model.initial_run_rate
    fresh = helpers.quick_jit(lambda: fresh_variables(NET.clone(initial_run_rate=rate), 0))()
    output = staged.answers(NET, fresh, 0 * images())
    assert decisions_of(output).all()
    np.testing.assert_allclose(output.of_stages[0], 6 - 4 / (1 + np.exp(3)), rtol=1e-5)


# --- What it costs, and what is refused. ---


def test_scores_cost_on_resnet_110_what_was_counted_by_hand() -> None:
    costs = RoutedResNet(cifar_resnet(110), 'halting').costs
    assert sum(costs.routers_n) == 1_904 == 17 * (16 + 32 + 64)
    always_n = ROUTERS['halting'].always_run_n(cifar_resnet(110))
    assert np.flatnonzero(always_n).tolist() == [0, 18, 36], 'at least three of 54 blocks'
    assert np.mean(always_n) == pytest.approx(0.056, abs=5e-4)


def test_a_shift_up_is_a_bias_down_and_more_blocks() -> None:
    def run_at(shift: float) -> float:
        moved = {**variables(), 'params': shifted(variables()['params'], 'halting', shift)}
        return float(NET.costs.mean_macs((answers(of=moved).run_probability_Bxn >= 0.5).mean(axis=0)))

    moved = shifted(variables()['params'], 'halting', 1.5)['stage1_blocks']['router']['halt']['bias']
    np.testing.assert_allclose(moved, variables()['params']['stage1_blocks']['router']['halt']['bias'] - 1.5)
    assert run_at(-2.0) < run_at(0.0) < run_at(2.0)
    static = NET.costs.static_macs
    _, found = nearest_shift(lambda shift: run_at(shift) / static, 0.75, num_halvings=6)
    assert found == pytest.approx(0.75, abs=0.03)


def variant(**changes: Any) -> Any:
    return default.with_variant(helpers.tiny_config(**{'model.depth': 14} | changes), 'act')


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'loss.target_cost': 0.4}, r'skips all that it can costs 0\.458'),
        ({'method': 'codinet'}, r'^model\.router=halting is of method=act, and that is codinet'),
        ({'model.router': 'linear'}, r'^method=act is of model\.router=halting'),
        ({'loss.ponder_weight': -1.0}, r'^loss\.ponder_weight is -1\.0'),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    config = variant()
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=sentence):
        setup.read(config)


# --- Through everything. ---


@pytest.mark.long
def test_a_run_ponders_less_for_the_price_of_compute_and_meets_its_cost(tmp_path: Path) -> None:
    """Nine steps teach it little, and the shift of its scores does the rest."""
    workdir = Workdir(tmp_path / 'run')
    results = helpers.train(variant(**{'loss.target_cost': 0.8, 'loss.gamma': 1.0}), workdir)
    assert results is not None and results['macs_share'] == pytest.approx(0.8, abs=0.02)
    run, costs = read_run(workdir, label='ACT'), setup.read(workdir.read_config()).costs
    rates_n = run.record.decisions_Nxn.mean(axis=0)
    assert results['macs_share'] == pytest.approx(costs.mean_macs(rates_n) / costs.static_macs, rel=1e-5)
    np.testing.assert_array_equal(rates_n[[0, 2, 4]], 1)
    rows = [row for row in run.metrics if row['kind'] == 'train' and row['stage'] == 1]
    assert all(6 <= row['ponder'] <= 9 for row in rows)
