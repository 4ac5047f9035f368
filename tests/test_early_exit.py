"""Early exits inside a real network: who leaves where, with which answer, in every execution and by one dial."""

import copy
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import helpers
import staged
from codinet_jax.analysis.run import read_run
from codinet_jax.config import default, setup
from codinet_jax.inference.folding import fold
from codinet_jax.methods import EarlyExit, Seen, terms
from codinet_jax.models import execution, exits, pretrained
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.network import RoutedOutput, RoutedResNet, fresh_variables
from codinet_jax.models.routers import ROUTERS, shifted
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import cost_matching, stages
from codinet_jax.workdir import Workdir
from reference_network import Tree, in_order, np_dense, np_relu, np_residual, np_shortcut, np_stem
from staged import assert_alike, assert_no_tie, in_double

# Three stages of two, three and one blocks: two exits and a head; both shortcuts that change the shape.
ARCH = staged.architecture(2, 3)
STAGE_OF_6 = np.array([0, 0, 1, 1, 1, 2])
NET = RoutedResNet(ARCH, 'exits')
NUM_IMAGES, BIAS = 24, 1.0


@functools.cache
def variables() -> Tree:
    found = helpers.random_variables(NET, 5)
    found['params']['router_start']['bias'] = jnp.float32(BIAS)
    return found


@functools.cache
def images() -> jax.Array:
    return helpers.random_images(ARCH, NUM_IMAGES)


def answers(strategy: str = 'masked', threshold: float = 0.5, of: Tree = None) -> RoutedOutput:
    output = staged.answers(NET, of or variables(), images(), strategy, threshold)
    assert_no_tie(output.run_probability_Bxn, threshold)
    return output


@functools.cache
def heads() -> np.ndarray:
    """What every head says of every image that goes all the way, in double precision: [3, B, Y]."""
    tree = in_double(variables())
    params, stats = tree['params'], tree['batch_stats']
    logits = []
    for image in np.asarray(images(), np.float64):
        x, said = np_stem(ARCH, params, stats, image), []
        blocks = zip(ARCH.blocks, in_order(ARCH, params), in_order(ARCH, stats), STAGE_OF_6, strict=True)
        for k, (block, own, own_stats, stage) in enumerate(blocks):
            shortcut = np_shortcut(block, own, own_stats, x)
            x = np_relu(shortcut + np_residual(block, own['residual'], own_stats['residual'], x))
            if k == 5 or STAGE_OF_6[k + 1] > stage:
                head = params['head'] if k == 5 else params[f'stage{stage + 1}_end']['head']
                said.append(np_dense(x.mean((0, 1)), head))
        logits.append(said)
    return np.swapaxes(np.array(logits), 0, 1)


def confidence(threshold: float) -> float:
    """The largest probability above which an image leaves: log(u / (1 - u)) + bias, u = 1 - p, is held to logit t."""
    odds = threshold / (1 - threshold) * np.exp(-BIAS)
    return 1 - odds / (1 + odds)


def expected(threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The stage of each image's answer, from 0, and the logits, by the definition."""
    logits_3xBxY = heads()
    p_3xB = np.exp(logits_3xBxY).max(axis=-1) / np.exp(logits_3xBxY).sum(axis=-1)
    sure_2xB = p_3xB[:2] > confidence(threshold)
    last_B = np.where(sure_2xB[0], 0, np.where(sure_2xB[1], 1, 2))
    return last_B, logits_3xBxY[last_B, np.arange(NUM_IMAGES)]


@pytest.mark.parametrize('strategy', ['masked', 'conditional', 'compacted', 'compacted-2'])
@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.7])
def test_an_image_leaves_at_the_first_exit_that_is_sure_with_its_answer(strategy: str, threshold: float) -> None:
    output, (last_B, logits_BxY) = answers(strategy, threshold), expected(threshold)
    np.testing.assert_array_equal(output.run_probability_Bxn >= threshold, STAGE_OF_6[None] <= last_B[:, None])
    assert_alike(output.logits_BxY, logits_BxY)
    if threshold == 0.5:
        assert set(last_B) == {0, 1, 2}, 'images are to leave everywhere'


def test_the_dial_goes_from_all_stages_to_the_first() -> None:
    lasts = [expected(threshold)[0].sum() for threshold in (0.3, 0.5, 0.7)]
    assert lasts[0] > lasts[1] > lasts[2]
    everything = staged.answers(NET, variables(), images(), threshold=0)
    assert_alike(everything.logits_BxY, heads()[2])
    nothing = staged.answers(NET, variables(), images(), threshold=0.9999999)
    np.testing.assert_array_equal(nothing.run_probability_Bxn >= 0.9999999, np.tile(STAGE_OF_6 == 0, (NUM_IMAGES, 1)))
    assert_alike(nothing.logits_BxY, heads()[0])


def test_routes_are_whole_stages_though_a_later_exit_is_less_sure_of_who_has_left() -> None:
    v_Bxn = answers().run_probability_Bxn
    v_3xB = v_Bxn.T[[0, 2, 5]]
    np.testing.assert_array_equal(v_Bxn, v_3xB[STAGE_OF_6].T)
    assert (v_3xB[0] == 1).all() and (v_3xB[1] >= v_3xB[2]).all()


def test_blocks_after_the_exit_change_nothing() -> None:
    altered = copy.deepcopy(jax.device_get(variables()))
    altered['params']['stage3_transition']['residual']['conv1']['kernel'][:] = np.nan
    before, after = answers('compacted-2'), answers('compacted-2', of=altered)
    has_left_B = expected(0.5)[0] < 2
    np.testing.assert_array_equal(before.logits_BxY[has_left_B], after.logits_BxY[has_left_B])
    assert 0 < has_left_B.sum() < NUM_IMAGES and np.isnan(after.logits_BxY[~has_left_B]).all()


def test_of_images_that_have_left_no_block_is_computed() -> None:
    computed: list[int] = []
    hard = execution.compacted(0.5, tile=1)

    def combine(run: Any, skip: Any, operands: tuple[jax.Array, ...], v_B: jax.Array) -> jax.Array:
        def counted(*rows: jax.Array) -> jax.Array:
            jax.debug.callback(lambda: computed.append(1))
            return run(*rows)

        is_block = operands[0].ndim == 4  # and not the choice of an answer
        return hard.combine(counted if is_block else run, skip, operands, v_B)

    forward = helpers.quick_jit(
        lambda v, x: NET.apply(v, x, hard._replace(combine=combine), train=False).run_probability_Bxn
    )
    v_Bxn = jax.block_until_ready(forward(variables(), images()))
    jax.effects_barrier()
    assert len(computed) == (v_Bxn >= 0.5).sum() < v_Bxn.size


def test_the_folded_network_agrees() -> None:
    output = staged.answers(NET.clone(folded=True), fold(variables()), images(), 'compacted')
    assert_alike(output.logits_BxY, expected(0.5)[1])


def test_a_shift_of_the_bias_is_a_lower_threshold() -> None:
    moved = {**variables(), 'params': shifted(variables()['params'], 'exits', 0.8)}
    t = 1 / (1 + np.exp(0.8))
    np.testing.assert_array_equal(
        answers(of=moved).run_probability_Bxn >= 0.5, answers(threshold=t).run_probability_Bxn >= t
    )


# --- Training. ---

LABELS_B = np.arange(NUM_IMAGES) % 5


def test_every_head_is_trained_on_every_image() -> None:
    """With w = 1 the plain sum; smoothed as the last head's is; gradients by finite differences in double precision."""
    tree, smoothing = variables(), 0.1

    def loss(params: Tree) -> Any:
        how = EarlyExit().stages()[0].execution
        output = NET.apply({**tree, 'params': params}, images(), how, train=False)
        targets_BxY = optax.smooth_labels(jax.nn.one_hot(LABELS_B, 5), smoothing)
        last = optax.losses.softmax_cross_entropy(output.logits_BxY, targets_BxY).mean()
        seen = Seen(output, jnp.asarray(LABELS_B), 1, NET.costs, jnp.float32(0), last, label_smoothing=smoothing)
        minimised = EarlyExit(exit_weight=0.5).objective(seen)
        return sum(term.weight * term.value for term in minimised.values()), output

    (total, output), gradient = helpers.quick_jit(jax.value_and_grad(loss, has_aux=True))(tree['params'])
    assert (output.run_probability_Bxn == 1).all()
    assert_alike(list(output.of_stages), heads())
    np.testing.assert_array_equal(output.logits_BxY, output.of_stages[-1])
    targets_BxY = np.eye(5)[LABELS_B] * (1 - smoothing) + smoothing / 5
    log_p = heads() - np.log(np.exp(heads()).sum(axis=-1, keepdims=True))
    losses_3 = -(targets_BxY * log_p).sum(axis=-1).mean(axis=-1)
    assert float(total) == pytest.approx(losses_3[2] + 0.5 * (losses_3[0] + losses_3[1]), rel=1e-4)
    p_BxY = np.exp(log_p[0])
    np.testing.assert_allclose(
        gradient['stage1_end']['head']['bias'], 0.5 * (p_BxY - targets_BxY).mean(axis=0), rtol=1e-3, atol=1e-5
    )
    assert float(gradient['router_start']['bias']) == 0
    assert all(np.any(leaf) for name, leaf in helpers.by_path(gradient).items() if name != 'router_start/bias')


def variant(**changes: Any) -> Any:
    return default.with_variant(helpers.tiny_config(**changes), 'early_exit')


def test_exits_learn_in_both_stages_and_the_threshold_stays_as_it_was_set() -> None:
    found = setup.read(variant(**{'optimizer.weight_decay': 0.1}))
    first, second = stages.plan(found, 160)
    assert first.step.controller is None
    variables = {
        **(tree := helpers.random_variables(found.model)),
        'params': {**tree['params'], 'router_start': {'bias': jnp.float32(2.2)}},
    }
    for stage in (first, second):
        sgd, params = stage.step.optimizer, variables['params']
        updates, _ = sgd.update(jax.tree.map(jnp.ones_like, params), sgd.init(params), params)
        assert float(updates['router_start']['bias']) == 0
        assert np.all(updates['stage1_end']['head']['kernel'] != 0)


def test_untrained_exits_leave_above_the_confidence_that_is_set() -> None:
    net = NET.clone(initial_run_rate=0.9)
    fresh = helpers.quick_jit(lambda: fresh_variables(net, 0))()
    assert float(fresh['params']['router_start']['bias']) == pytest.approx(np.log(9), rel=1e-5)
    logits_2xY = jnp.log(jnp.array([[0.902, 0.05, 0.048], [0.898, 0.06, 0.042]]))
    margins = exits.margin_B(logits_2xY) + np.log(9)
    assert margins[0] < 0 < margins[1]
    sure_2x3 = jnp.array([[0.0, 30.0, 0.0], [0.0, 40.0, -jnp.inf]])
    np.testing.assert_allclose(exits.margin_B(sure_2x3), [np.log(2) - 30, -40], rtol=1e-6)


def test_it_starts_from_a_static_network_with_fresh_exits() -> None:
    static = jax.device_get(helpers.random_variables(RoutedResNet(ARCH, None), 5))
    own = jax.device_get(variables())
    taken = pretrained.into(own, static, 'static.npz')
    theirs, found = helpers.by_path(static), helpers.by_path(taken)
    for name, leaf in helpers.by_path(own).items():
        np.testing.assert_array_equal(found[name], theirs.get(name, leaf))
    assert set(found) - set(theirs) == {
        'params/router_start/bias',
        *(f'params/stage{i}_end/head/{leaf}' for i in (1, 2) for leaf in ('bias', 'kernel')),
    }
    back = helpers.by_path(pretrained.into(static, taken, 'exits.npz'))
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(back[name], leaf)


# --- What it costs, and what is refused. ---


def test_exits_cost_on_resnet_110_what_was_counted_by_hand() -> None:
    costs = RoutedResNet(cifar_resnet(110), 'exits').costs
    assert {k: macs for k, macs in enumerate(costs.routers_n) if macs} == {18: 16 * 10, 36: 32 * 10}
    assert np.flatnonzero(ROUTERS['exits'].always_run_n(cifar_resnet(110))).tolist() == list(range(18))


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'loss.target_cost': 0.3}, r'skips all that it can costs 0\.4'),
        ({'method': 'skipnet', 'routing.relaxation': 'rounded'}, r'^model\.router=exits is of method=early_exit'),
        ({'model.router': 'linear'}, r'^method=early_exit is of model\.router=exits'),
        ({'loss.exit_weight': float('nan')}, r'^loss\.exit_weight is nan'),
        ({'loss.extra_terms': ('even',), 'loss.extra_weights': (1.0,)}, r'those of EarlyExit do not: leave them out'),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(
    changes: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(terms.TERMS, 'even', lambda seen: jnp.var(seen.output.run_probability_Bxn))
    config = variant()
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=sentence):
        setup.read(config)


# --- Through everything. ---


@pytest.mark.long
def test_a_run_trains_all_heads_and_meets_its_cost_by_who_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_matching, 'NUM_IMAGES', 2048)
    workdir = Workdir(tmp_path / 'run')
    results = helpers.train(variant(**{'loss.target_cost': 0.7}), workdir)
    assert results is not None and results['macs_share'] == pytest.approx(0.7, abs=0.01)
    run, costs = read_run(workdir, label='early exits'), setup.read(workdir.read_config()).costs
    rates_n = run.record.decisions_Nxn.mean(axis=0)
    assert results['macs_share'] == pytest.approx(costs.mean_macs(rates_n) / costs.static_macs, rel=1e-5)
    assert rates_n[0] == 1 >= rates_n[1] >= rates_n[2] and results['num_paths'] <= 3
    for stage in (1, 2):
        rows = [row for row in run.metrics if row['kind'] == 'train' and row['stage'] == stage]
        assert all(row['loss'] == pytest.approx(row['cross_entropy'] + row['exits'], rel=1e-5) for row in rows)
