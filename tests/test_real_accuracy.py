"""The pieces of experiments/real_accuracy: gates, allocations, thresholds, the test by shuffled routes, a step."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.models import execution
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.cost import CostTable
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.models.routers import ROUTERS
from codinet_jax.runtime.errors import InputError
from experiments.real_accuracy import (
    allocation,
    audit_report,
    beginning,
    cascade,
    evaluation,
    gates,
    images,
    kept,
    methods,
    networks,
    ordering,
    probing,
    questions,
    rungs,
    training,
)

RATES_3 = np.array([0.5, 1.0, 0.3], np.float32)


@pytest.fixture(scope='module')
def registered() -> Iterator[None]:
    """Routers of the experiment, which other tests must not find."""
    known = dict(ROUTERS)
    gates.register()
    yield
    ROUTERS.clear()
    ROUTERS.update(known)


@pytest.fixture(scope='module')
def start(registered: None) -> networks.Start:
    architecture = cifar_resnet(8)
    variables = helpers.quick_jit(lambda: fresh_variables(RoutedResNet(architecture, None), 0))()
    return networks.Start('resnet8', architecture, variables)


@pytest.fixture(scope='module')
def pictures() -> images.Images:
    rng = np.random.default_rng(0)
    return images.Images(rng.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8), np.arange(40, dtype=np.int32) % 10)


def gate(rate: float, **knobs: float) -> Any:
    """A block's decisions on margins, as a function of them."""
    decide = gates.execution(gates.Knobs(jnp.array([rate]), **knobs)).decide

    def decisions(margins_B: jax.Array) -> jax.Array:
        noise_Bxnx2 = gates.noise(jax.random.key(0), len(margins_B), jnp.array([rate]))
        return decide(jnp.stack([jnp.zeros_like(margins_B), margins_B], -1), noise_Bxnx2[:, 0])

    return decisions


def test_a_rank_gate_runs_the_top_of_its_batch() -> None:
    margins_B = jnp.array([3.0, 1.0, 2.0, 0.0])
    assert gates.threshold(margins_B, jnp.float32(0.5)) == 1.5
    for rate, wanted in ((0.5, [1, 0, 1, 0]), (0.25, [1, 0, 0, 0]), (1.0, [1, 1, 1, 1]), (0.0, [0, 0, 0, 0])):
        np.testing.assert_array_equal(gate(rate, rank=1.0, through=1.0)(margins_B), wanted)
        np.testing.assert_array_equal(gate(rate, rank=1.0, through=1.0)(margins_B - 9), wanted)


def test_a_rank_gate_has_the_gradient_of_a_sigmoid_about_its_threshold() -> None:
    margins_B, weights_B = jnp.array([3.0, 1.0, 2.0, 0.0]), jnp.array([1.0, -2.0, 0.5, 3.0])
    p_B = jax.nn.sigmoid(margins_B - 1.5)
    found = jax.grad(lambda x: jnp.sum(weights_B * gate(0.5, rank=1.0, through=1.0)(x)))(margins_B)
    slope_B = weights_B * p_B * (1 - p_B)
    np.testing.assert_allclose(found, slope_B - jnp.mean(slope_B), rtol=1e-5)  # no rank changes with an offset
    for frozen in (gate(0.5, rank=1.0), gate(1.0, rank=1.0, through=1.0), gate(0.0, through=1.0)):
        np.testing.assert_array_equal(jax.grad(lambda x, frozen=frozen: jnp.sum(frozen(x)))(margins_B), jnp.zeros(4))


def test_drawn_gates_keep_their_rate() -> None:
    margins_B = jnp.full(4000, jax.scipy.special.logit(0.7))
    assert abs(jnp.mean(gate(0.5, noise=1.0)(margins_B)) - 0.7) < 0.03
    assert abs(jnp.mean(gate(0.2, noise=1.0, heed=0.0)(margins_B)) - 0.2) < 0.03
    assert jnp.mean(gate(0.5)(margins_B)) == 1


def test_run_and_skip_meet_with_the_gradient_of_their_mixture() -> None:
    combine = gates.execution(gates.Knobs(jnp.array([0.5]))).combine
    x_Bx1x1x3 = jax.random.normal(jax.random.key(0), (2, 1, 1, 3))
    v_B = jnp.array([1.0, 0.0])

    def mixture(v_B: jax.Array, x: jax.Array) -> jax.Array:
        v = v_B[:, None, None, None]
        return jnp.sum(jnp.sin(v * x**2 + (1 - v) * 3 * x))

    def gated(v_B: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(combine(lambda x: x**2, lambda x: 3 * x, (x,), v_B)))

    for found, wanted in zip(
        jax.grad(gated, (0, 1))(v_B, x_Bx1x1x3), jax.grad(mixture, (0, 1))(v_B, x_Bx1x1x3), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize('spread', [0.0, 1.2, 2.0, 50.0])
def test_an_allocation_meets_its_cost_in_order(spread: float) -> None:
    start = networks.Start('', cifar_resnet(56), {})
    costs, is_free_n = networks.costs(start, has_routers=True), allocation.free_n(start.architecture)
    assert np.sum(is_free_n) == 25
    place_n = np.full(27, np.nan)
    place_n[is_free_n] = np.random.default_rng(0).permutation(np.linspace(0, 1, 25))
    rates_n = allocation.allocate(place_n, costs, 68.9e6, np.full(27, spread))
    assert costs.mean_macs(rates_n) == pytest.approx(68.9e6, rel=1e-6)
    assert (rates_n[~is_free_n] == 1).all()
    assert (np.diff(rates_n[np.argsort(place_n)][:25]) <= 0).all()
    pruned_n = allocation.pruned(place_n, costs, 68.9e6)
    assert set(pruned_n) == {0.0, 1.0}
    assert abs(costs.mean_macs(pruned_n) - 68.9e6) < costs.blocks_n[0] / 2
    assert place_n[is_free_n][pruned_n[is_free_n] == 0].min() > place_n[is_free_n][pruned_n[is_free_n] == 1].max()
    late_n, copies_n = allocation.late(place_n, costs, 68.9e6, 19, 0.5)
    assert costs.mean_macs(late_n) == pytest.approx(68.9e6, rel=1e-6)
    assert np.sum(copies_n) == 7


@pytest.mark.parametrize('variant', ['rate', 'rank', 'independent', 'pruned', 'late', 'rungs'])
def test_a_cost_out_of_reach_is_refused_before_blocks_are_ordered(variant: str) -> None:
    start = networks.Start('', cifar_resnet(56), {})
    costs = networks.costs(start, has_routers=True)
    for macs in (7e6, 130e6):
        wanted = beginning.Wanted(variant, macs, None, None, 0.5, (1.2, 1.2, 1.2))
        with pytest.raises(InputError, match=r'cannot be met: .* 7\.567e\+06 MACs, .* 1\.255e\+08'):
            beginning.run_rates(wanted, start, costs, pytest.fail)


def test_a_cost_that_one_late_decision_cannot_meet_is_refused() -> None:
    start = networks.Start('', cifar_resnet(56), {})
    costs, is_free_n = networks.costs(start, has_routers=True), allocation.free_n(start.architecture)
    place_n = np.where(is_free_n, np.linspace(0, 1, 27), np.nan)
    with pytest.raises(InputError, match=r'block 26, where 1\.08 of the'):
        allocation.late(place_n, costs, 125.9e6, 26, 0.5)


@pytest.mark.long
def test_thresholds_found_on_a_batch_give_its_rates_and_fold_into_a_linear_router(
    start: networks.Start, pictures: images.Images
) -> None:
    model, variables = networks.gated(start, 'standardised', 0)
    variables = gates.edited(variables, ('centre',), [np.full(16, 0.3), np.full(16, 0.2), np.full(32, 0.1)])
    variables = gates.edited(variables, ('scale',), [np.full(16, 3.0), np.full(16, 4.0), np.full(32, 5.0)])
    costs = networks.costs(start, has_routers=True)
    judge = evaluation.Judge(evaluation.make_forward(model), costs, RATES_3, 40, is_random=False)
    fixed = judge.fix_thresholds(variables, pictures.images_NxHxWxC)
    answers = judge.answers(fixed, pictures.images_NxHxWxC)
    np.testing.assert_allclose(answers.decisions.mean(0), RATES_3, atol=1e-6)

    linear = RoutedResNet(start.architecture, 'linear')
    output: Any = linear.apply(
        gates.as_linear(fixed, RATES_3),
        images.normalise(jnp.asarray(pictures.images_NxHxWxC)),
        execution.masked(),
        train=False,
    )
    np.testing.assert_array_equal(output.run_probability_Bxn >= 0.5, answers.decisions)
    np.testing.assert_allclose(output.logits_BxY, answers.logits, atol=1e-4)

    target = costs.mean_macs(np.array([0.8, 1.0, 0.6]))
    shift = judge.match_cost(fixed, pictures.images_NxHxWxC, target, turns=12)
    moved = judge.answers(fixed, pictures.images_NxHxWxC, knobs=judge.knobs(shift=shift))
    assert judge.macs(moved) == pytest.approx(target, rel=0.02)
    told = judge.dictated(fixed, pictures.images_NxHxWxC, answers.decisions[::-1])
    np.testing.assert_array_equal(told.decisions, answers.decisions[::-1])


@pytest.mark.parametrize('size', [1e-3, 1.0, 3e4])
def test_a_cost_is_met_whatever_the_size_of_leads(start: networks.Start, pictures: images.Images, size: float) -> None:
    model, variables = networks.gated(start, 'standardised', 0)
    costs = networks.costs(start, has_routers=True)
    judge = evaluation.Judge(evaluation.make_forward(model), costs, RATES_3, 40, is_random=False)
    target = costs.mean_macs(np.array([0.8, 1.0, 0.6]))
    grown = gates.scaled(variables, np.full(3, size))
    shift = judge.match_cost(grown, pictures.images_NxHxWxC, target)
    met = judge.answers(grown, pictures.images_NxHxWxC, knobs=judge.knobs(shift=shift))
    assert judge.macs(met) == pytest.approx(target, rel=0.02)

    fixed = judge.fix_thresholds(grown, pictures.images_NxHxWxC)
    answers = judge.answers(fixed, pictures.images_NxHxWxC)
    np.testing.assert_allclose(answers.decisions.mean(0), RATES_3, atol=1e-6)
    np.testing.assert_allclose(np.std(answers.margins, axis=0)[[0, 2]], 1, rtol=1e-3)
    shift = judge.match_cost(fixed, pictures.images_NxHxWxC, target)
    assert abs(shift) < 2
    met = judge.answers(fixed, pictures.images_NxHxWxC, knobs=judge.knobs(shift=shift))
    assert judge.macs(met) == pytest.approx(target, rel=0.02)


def test_kept_weights_hold_what_float16_cannot(start: networks.Start) -> None:
    variables = gates.lowered(networks.gated(start, 'standardised', 0)[1], np.full(3, 1e5))
    kept = networks.compact(variables)
    assert all(np.isfinite(leaf).all() for leaf in kept.values())
    assert kept['params/stage1_blocks/router/decide/bias'][0, 1] == -1e5
    assert kept['params/stage1_blocks/residual/conv1/kernel'].dtype == np.float16


def test_shuffled_routes_show_a_planted_effect() -> None:
    labels_N = np.arange(2000) % 10
    rng = np.random.default_rng(0)
    needed_Nxn = rng.random((2000, 3)) < 0.5
    data = images.Images(np.arange(2000), labels_N)

    class Planted:
        """Right where an image has its own route; of class 0, whatever the route."""

        def dictated(self, variables: Any, images_N: np.ndarray, decisions_Nxn: np.ndarray) -> evaluation.Answers:
            is_right_N = np.all(decisions_Nxn == needed_Nxn[images_N], -1) | (labels_N == 0)
            logits_NxY = np.eye(10)[np.where(is_right_N, labels_N, (labels_N + 1) % 10)]
            return evaluation.Answers(logits_NxY, decisions_Nxn, decisions_Nxn)

    planted: Any = Planted()
    own = planted.dictated(None, data.images_NxHxWxC, needed_Nxn)
    found = evaluation.shuffled(planted, None, data, own, times=3)
    for kind in ('all', 'within_class'):
        assert found[kind]['points'] == pytest.approx(90 * 7 / 8, abs=3)
        assert 0.3 < found[kind]['standard_error'] < 1.5
    all_run = planted.dictated(None, data.images_NxHxWxC, np.ones_like(needed_Nxn))
    same = evaluation.shuffled(planted, None, data, all_run, times=1)
    assert same['all']['points'] == same['within_class']['points'] == 0, 'one route for all'


def test_blocks_are_left_out_least_harm_first() -> None:
    """Harms that add up, but that of 3 doubles once 1 is gone."""
    harms_n = np.array([9.0, 1.0, 5.0, 1.5, 0.0])

    def log_probabilities(route_n: np.ndarray) -> Any:
        harm = np.sum(harms_n * (1 - route_n)) + (6.0 if route_n[1] == route_n[3] == 0 else 0.0)
        p = 0.9 - 0.01 * harm
        return jnp.log(jnp.array([[p, 1 - p]]))

    is_free_n = np.array([True, True, True, True, False])
    found = ordering.greedy(log_probabilities, is_free_n)
    assert found['order'] == [1, 2, 3, 0]
    assert found['divergence'] == sorted(found['divergence'])
    assert found['divergence_alone'].keys() == {0, 1, 2, 3}
    assert found['divergence_alone'][1] == pytest.approx(0.9 * np.log(0.9 / 0.89) + 0.1 * np.log(0.1 / 0.11), rel=1e-3)
    assert ordering.greedy(log_probabilities, is_free_n, lambda route_n: route_n.sum() <= 3)['order'] == [1, 2]


def test_the_area_under_the_curve_and_its_error_are_those_of_a_known_case() -> None:
    rng = np.random.default_rng(0)
    is_positive_N = np.arange(4000) < 400
    areas = [questions.auc(rng.standard_normal(4000) + is_positive_N, is_positive_N) for _ in range(40)]
    # Two normals a deviation apart: the area is Phi(1 / sqrt 2).
    found = np.array([each['auc'] for each in areas])
    assert np.mean(found) == pytest.approx(0.7602, abs=0.006)
    assert np.std(found) == pytest.approx(np.mean([each['standard_error'] for each in areas]), rel=0.35)


def test_a_router_that_could_know_is_told_from_one_that_could_not() -> None:
    rng = np.random.default_rng(0)
    is_hard_N = rng.random(3000) < 0.1
    features_NxC = 5 + rng.standard_normal((3000, 4)) * np.array([1, 1, 1, 0])
    features_NxC[:, 2] += 2 * is_hard_N
    half = slice(0, 1500), slice(1500, None)
    for channels, low, high in (([0, 1, 3], 0.4, 0.6), ([0, 1, 2, 3], 0.85, 1.0)):
        train, test = (features_NxC[rows][:, channels] for rows in half)
        area = questions._fitted(train, is_hard_N[half[0]], test, is_hard_N[half[1]])['auc']
        assert low < area < high
        assert low < questions.crossed(features_NxC[:, channels], is_hard_N)['auc'] < high
    assert questions._conditioning(features_NxC[:, [0, 3]])['median'] == pytest.approx(25, rel=0.1)


def test_a_probe_takes_the_routes_it_is_told(start: networks.Start, pictures: images.Images) -> None:
    probe = probing.Probe(start, 16)
    whole = probe.answers(pictures.images_NxHxWxC)
    static: Any = RoutedResNet(start.architecture, None).apply(
        start.variables, images.normalise(jnp.asarray(pictures.images_NxHxWxC)), execution.masked(), train=False
    )
    np.testing.assert_allclose(whole.logits_NxY, static.logits_BxY, atol=1e-4)
    routes_Nxn = np.random.default_rng(0).random((40, 3)) < 0.5
    mixed = probe.answers(pictures.images_NxHxWxC, routes_Nxn)
    for route_n in np.unique(routes_Nxn, axis=0):
        rows = np.all(routes_Nxn == route_n, axis=1)
        of_route = probe.answers(pictures.images_NxHxWxC[rows], route_n)
        np.testing.assert_allclose(mixed.logits_NxY[rows], of_route.logits_NxY, atol=1e-4)
    # What a skipped first block leaves is what the second one reads.
    skipped = probe.answers(pictures.images_NxHxWxC, [0, 1, 1]).features_Nxnx64
    np.testing.assert_allclose(skipped[:, 1], skipped[:, 0], atol=1e-5)
    assert not np.allclose(whole.features_Nxnx64[:, 1], whole.features_Nxnx64[:, 0], atol=1e-2)

    views = pictures.images_NxHxWxC
    norm = probe.re_estimated(views, np.ones(3))['batch_stats']['stem_norm']
    stem: Any = jax.lax.conv_general_dilated(
        images.normalise(jnp.asarray(views)),
        jnp.asarray(start.variables['params']['stem_conv']['kernel']),
        (1, 1),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    np.testing.assert_allclose(norm['mean'], np.mean(stem, axis=(0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(norm['var'], np.var(stem, axis=(0, 1, 2)), rtol=1e-3)


def test_an_audit_tells_the_parts_that_were_asked_for() -> None:
    found = {
        'full': 'resnet32',
        'cheap': 'resnet20',
        'seed': 0,
        'settings': {'test_images': 4000},
        'device': 'a CPU',
        'num_devices': 1,
        'commit': 'abc1234',
        'versions': {'jax': '0.10'},
        'drawn_gates': [
            {'rate': 0.9, 'transitions_gated': True, 'accuracy': 72.2, 'share_whole': 21.4, 'num_images': 4000}
        ],
    }
    text = audit_report.markdown(found)
    assert '| 0.9 | all | 21.4 | 72.20 |' in text and 'abc1234' in text and '4,000 test images' in text
    assert text.count('\n## ') == 1
    assert audit_report.picture(found).startswith(b'\x89PNG')


def test_views_move_images_as_far_as_their_kind_says(pictures: images.Images) -> None:
    few = pictures.part(slice(6))
    np.testing.assert_array_equal(probing.views(few, 'plain', 2), np.repeat(few.images_NxHxWxC, 2, axis=0))
    for kind, (padding, cut) in probing.KINDS.items():
        drawn = probing.views(few, kind, 2)
        assert drawn.shape == (12, 32, 32, 3)
        black = np.all(drawn == 0, axis=(2, 3)).sum(axis=1)  # rows that lie off the image
        assert black.max() <= padding and (padding == 0 or black.max() > 0)
        grey = np.all(drawn == np.array([124, 116, 104]), axis=-1).sum(axis=(1, 2))
        assert (grey > 0).all() == bool(cut) and grey.max() <= cut**2 + 1


def test_a_cascade_sends_the_unsure_on() -> None:
    labels_N = np.arange(1000) % 10
    is_hard_N = np.random.default_rng(0).random(1000) < 0.2
    small_NxY = np.eye(10)[np.where(is_hard_N, (labels_N + 1) % 10, labels_N)] * np.where(is_hard_N, 1, 9)[:, None]
    nets = [
        cascade.Answerer(name, macs, logits, labels_N, logits, labels_N)
        for name, macs, logits in (('small', 40e6, small_NxY), ('large', 100e6, np.eye(10)[labels_N]))
    ]
    found = cascade.pair(*nets, 64e6)
    assert found is not None
    assert found['mean_macs'] == pytest.approx(60e6, abs=3e6)  # all that are hard, and ties stay
    assert found['accuracy'] == pytest.approx(100, abs=2)
    assert cascade.pair(*nets, 30e6) is None


def test_only_networks_that_answered_the_same_images_are_paired(tmp_path: pathlib.Path) -> None:
    for name, macs, num_images, seed in (
        ('resnet20_static_holdout_s0', 40e6, 50, 0),
        ('resnet32_static_s0', 69e6, 100, 1),
        ('resnet20_pruned_30.0M_s0', 30e6, 100, 1),
        ('resnet56_static_of_others_s0', 120e6, 100, 2),
        ('resnet56_rank_68.9M_s0', 68e6, 100, 1),
    ):
        labels_N = np.random.default_rng(seed).integers(0, 10, num_images)
        logits_NxY = np.random.default_rng(0).standard_normal((num_images, 10))
        np.savez(
            tmp_path / f'{name}_routes.npz',
            macs=macs,
            logits=logits_NxY,
            labels=labels_N,
            calibration_logits=logits_NxY,
            calibration_labels=labels_N,
        )
    found = cascade.table([cascade.read(path) for path in cascade.answers(tmp_path, tmp_path)])
    assert {(row['small'], row['large']) for row in found} == {('resnet20_pruned_30.0M_s0', 'resnet32_static_s0')}
    assert {row['num_images'] for row in found} == {100}


@pytest.mark.parametrize('variant', methods.VARIANTS)
def test_a_schedule_ends_at_its_targets(variant: str) -> None:
    knobs = methods.schedule(variant, methods.Recipe(0.01, 0.1), 100, RATES_3)
    np.testing.assert_allclose(knobs.rates_n[-1], RATES_3)
    assert knobs.through[-1] == 0 and knobs.rank[-1] == 0 and knobs.router_rate[-1] == 0
    assert knobs.noise[-1] == (variant in ('random', 'rungs'))
    assert (knobs.rung == (variant == 'rungs')).all()
    assert all(len(knob) == 100 for knob in knobs)


def test_routing_losses_weigh_what_they_are_told_to_until_routers_are_frozen() -> None:
    recipe = methods.Recipe(0.01, 0.1, last=0.2, codinet_weight=0.1)
    knobs = methods.schedule('rate_codinet', recipe, 10, RATES_3)
    np.testing.assert_allclose(knobs.alpha, [0.02] * 8 + [0] * 2)
    np.testing.assert_allclose(knobs.beta, [0.1] * 8 + [0] * 2)
    assert not methods.schedule('rate', recipe, 10, RATES_3).alpha.any()


@pytest.mark.long
def test_a_step_trains_the_backbone_and_the_routers_but_not_their_constants(
    start: networks.Start, pictures: images.Images
) -> None:
    model, variables = networks.gated(start, 'standardised', 0)
    data = training.Data(*pictures, images.draws(4, 40), np.zeros((4, 40, 10), np.float16))
    drawn = training.batches(40, 8, 2, 4, range(3, 4), seed=0)
    assert (drawn.variants_SxLxM % 2 == np.array([0, 1])).all()
    knobs = methods.schedule('rank_codinet', methods.Recipe(0.01, 0.1), 10, RATES_3)
    knobs = gates.Knobs(*(knob[3:4] for knob in knobs))
    call = training.make_call(training.routed(model, num_views=2), num_views=2, cut=12, num_steps=1)
    state, metrics = call(training.begin(variables), data, drawn, knobs, jax.random.key(0))
    assert all(np.isfinite(value) for value in metrics.values())
    both = methods.schedule('rungs', methods.Recipe(0.01, 0.1), 10, RATES_3)
    both = gates.Knobs(*(knob[3:4] for knob in both))
    rungs_state, of_rungs = call(training.begin(variables), data, drawn, both, jax.random.key(0))
    assert of_rungs['run_rate'] == pytest.approx((1 + 1 / 3) / 2)  # all three blocks, and the one of rate 1
    trained = rungs_state.variables['params']['stage1_blocks']
    for leaf in ('kernel', 'bias'):
        np.testing.assert_array_equal(
            trained['router']['decide'][leaf], variables['params']['stage1_blocks']['router']['decide'][leaf]
        )

    before, after = variables['params']['stage1_blocks'], state.variables['params']['stage1_blocks']
    assert np.any(after['residual']['conv1']['kernel'] != before['residual']['conv1']['kernel'])
    assert np.any(after['router']['decide']['kernel'] != before['router']['decide']['kernel'])
    for constant in ('centre', 'scale', 'copy', 'reach'):
        np.testing.assert_array_equal(after['router'][constant], before['router'][constant])


def test_two_rungs_are_told_to_the_views_of_an_image() -> None:
    rates_n = jnp.array([1.0, 0.0, 0.4, 0.4])
    wanted = {2: [0, 1, 0, 1], 1: [0, 1, 0, 1], 4: [0, 1, 1, 1]}
    for num_views, is_cheap_B in wanted.items():
        noise_Bxnx2 = gates.rungs(rates_n, 4, num_views)
        decide = gates.execution(gates.Knobs(rates_n, noise=1.0)).decide
        decided_Bxn = jnp.stack([decide(jnp.zeros((4, 2)), noise_Bxnx2[:, k]) for k in range(4)], axis=1)
        np.testing.assert_array_equal(
            decided_Bxn, [[1, 0, 0, 0] if is_cheap else [1, 0, 1, 1] for is_cheap in is_cheap_B]
        )


def test_one_decision_is_learnt_where_the_cheap_rung_is_wrong(
    start: networks.Start, pictures: images.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pictures are told apart by their brightness, and the cheap rung is said to be wrong on the bright ones."""
    monkeypatch.setattr(probing, 'KINDS', probing.KINDS | {'strong': (0, 0)})
    brightness_N = np.random.default_rng(1).permutation(np.linspace(0.2, 1.0, 40))
    dimmed = pictures._replace(
        images_NxHxWxC=(pictures.images_NxHxWxC * brightness_N[:, None, None, None]).astype(np.uint8)
    )
    model, variables = networks.gated(start, 'standardised', 0)
    rates_n = np.array([0.4, 1.0, 1.0])
    cheap = probing.Probe(start, 40).answers(dimmed.images_NxHxWxC, rates_n >= 1).predictions_N
    is_bright_N = brightness_N > 0.6
    told = dimmed._replace(labels_N=np.where(is_bright_N, (cheap + 1) % 10, cheap).astype(np.int32))
    decided, seen = rungs.decided(start, variables, told, rates_n, 40)
    assert seen['cheap_wrong'] == pytest.approx(100 * np.mean(is_bright_N))
    judge = evaluation.Judge(
        evaluation.make_forward(model), networks.costs(start, has_routers=True), rates_n, 40, is_random=False
    )
    answers = judge.answers(decided, dimmed.images_NxHxWxC)
    assert np.mean((answers.margins[:, 0] > 0) == is_bright_N) > 0.9
    np.testing.assert_array_equal(answers.decisions[:, 1:], np.ones((40, 2), bool))
    target = judge.costs.mean_macs(np.array([0.3, 1, 1]))
    shift = judge.match_cost(decided, dimmed.images_NxHxWxC, target)
    met = judge.answers(decided, dimmed.images_NxHxWxC, knobs=judge.knobs(shift=shift))
    assert judge.macs(met) == pytest.approx(target, rel=0.02)
    assert brightness_N[met.decisions[:, 0]].mean() > brightness_N[~met.decisions[:, 0]].mean() + 0.2


def test_a_saved_state_is_read_again_bit_by_bit(start: networks.Start, tmp_path: pathlib.Path) -> None:
    variables = networks.gated(start, 'standardised', 0)[1]
    state = training.begin(variables, 7)._replace(momentum=jax.tree.map(lambda x: x + 0.1, variables['params']))
    path = tmp_path / 'run_state.npz'
    assert training.resume(path, state) is state
    training.save(path, state, {'epochs': 20.0})
    found = training.resume(path, training.begin(variables))
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert [file.name for file in tmp_path.iterdir()] == ['run_state.npz']


@pytest.mark.long
@pytest.mark.parametrize(
    ('command', 'name', 'other'),
    [
        (['run', '--variant=static', '--epochs=3'], 'resnet20_static_s0', {'epochs': 5.0, 'teachers': ['r44.npz']}),
        (['two_depths', '--epochs=3', '--depth=8'], 'resnet20_with_8_3epochs_s0', {'rate': 0.5}),
    ],
)
def test_what_other_settings_left_is_not_taken_for_a_runs_own(
    tmp_path: pathlib.Path, command: list[str], name: str, other: dict[str, Any]
) -> None:
    arguments = [*command, '--start=a/resnet20.npz', '--teachers=a/resnet56.npz', f'--output={tmp_path}']

    def ended() -> subprocess.CompletedProcess[str]:
        module = f'experiments.real_accuracy.{arguments[0]}'
        flags = [*arguments[1:], f'--cache={tmp_path / "none"}']
        return subprocess.run(
            [sys.executable, '-m', module, *flags],
            cwd=helpers.REPOSITORY,
            env=helpers.environment(),
            text=True,
            capture_output=True,
            check=False,
        )

    results, state = tmp_path / f'{name}.json', tmp_path / f'{name}_state.npz'
    settings = {'epochs': 3.0, 'rate': 0.03, 'teachers': ['b/resnet56.npz']}
    results.write_text(json.dumps({'settings': settings, 'accuracy': 1.0}))
    finished = ended()
    assert finished.returncode == 0 and f'{results} is there' in finished.stdout, finished.stderr
    results.write_text(json.dumps({'settings': settings | other, 'accuracy': 1.0}))
    before = helpers.all_bytes(tmp_path)
    refused = ended()
    assert refused.returncode == 2 and f'{results} is of a run with other settings' in refused.stderr
    assert all(f'{key} (' in refused.stderr for key in other) and len(refused.stderr.splitlines()) == 1
    assert helpers.all_bytes(tmp_path) == before
    training.save(state, training.begin({'params': {}}), settings)
    results.unlink()
    assert not kept.is_finished(results, state, settings)
    with pytest.raises(InputError, match=r'_state\.npz is of a run with other settings'):
        kept.is_finished(results, state, settings | other)


@pytest.mark.parametrize(
    ('lines', 'sentence'),
    [
        (
            ['--start=r20 --variant=rank --target_macs=3e7', '--start=r20 --target_macs=30e6 --reach=0.1'],
            'Two runs of the plan would both write r20_rank_30.0M_s0.json, the second one with --start=r20 '
            '--target_macs=30e6 --reach=0.1: give it a --tag of its own.',
        ),
        (['--start=r20 --variant=none'], 'value should be one of'),
        ([], 'There is no run in the plan'),
    ],
)
def test_a_plan_that_cannot_be_worked_off_starts_nothing(
    tmp_path: pathlib.Path, lines: list[str], sentence: str
) -> None:
    plan, output = tmp_path / 'plan.txt', tmp_path / 'output'
    plan.write_text('\n'.join(lines))
    refused = subprocess.run(
        [
            sys.executable,
            '-m',
            'experiments.real_accuracy.plan',
            f'--weights={tmp_path}',
            f'--plan={plan}',
            f'--output={output}',
        ],
        cwd=helpers.REPOSITORY,
        env=helpers.environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert refused.returncode == 2 and sentence in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not output.exists()


def test_a_cache_is_of_the_weights_that_it_was_begun_with(tmp_path: pathlib.Path) -> None:
    cache, paths = tmp_path / 'cache', [tmp_path / 'r20.npz', tmp_path / 'r56.npz']
    cache.mkdir()
    for path in paths:
        path.write_bytes(path.name.encode())
    kept.check_weights(cache, map(str, paths))
    (tmp_path / 'elsewhere').mkdir()
    copied = tmp_path / 'elsewhere' / 'r20.npz'
    copied.write_bytes(b'r20.npz')
    kept.check_weights(cache, [str(copied)])  # the same weights, wherever they lie
    before = helpers.all_bytes(cache)
    copied.write_bytes(b'others')
    with pytest.raises(InputError, match=r'holds answers of another r20\.npz: give another --cache'):
        kept.check_weights(cache, [str(copied)])
    with pytest.raises(InputError, match=r'r44\.npz cannot be read'):
        kept.check_weights(cache, [str(tmp_path / 'r44.npz')])
    assert helpers.all_bytes(cache) == before


def test_views_are_crops_mirrored_and_cut(pictures: images.Images) -> None:
    plain = jnp.array([[[4, 4, 0, 0, 0], [4, 4, 1, 16, 16]]], jnp.uint8)
    found = images.views(jnp.asarray(pictures.images_NxHxWxC[:1]), plain, jnp.array([[False, True]]), 12)
    np.testing.assert_array_equal(found[0, 0], pictures.images_NxHxWxC[0])
    mirrored = pictures.images_NxHxWxC[0][:, ::-1]
    is_grey = np.all(np.asarray(found[0, 1]) == np.array([124, 116, 104]), -1)
    assert np.sum(is_grey) == 144 and is_grey[10:22, 10:22].all()
    np.testing.assert_array_equal(np.asarray(found[0, 1])[~is_grey], mirrored[~is_grey])


def test_an_image_that_goes_on_pays_from_where_the_rungs_part() -> None:
    costs = CostTable(stem=1, blocks_n=(10, 20, 30, 40), shortcuts_n=(0, 0, 3, 0), routers_n=(1, 1, 1, 1), head=2)
    rates_n, copies_n = allocation.cheap_and_full(np.array([1.0, np.nan, 0.0, 0.5]), costs, 85, 60)
    np.testing.assert_allclose(rates_n, [0.5, 1, 1, 0.5])  # 60 without the first and the last block, 110 with them
    np.testing.assert_array_equal(copies_n, [False, False, False, True])
    assert rungs.rung_macs(costs, rates_n >= 1, rates_n > 0) == (1 + 3 + 2 + 50, 100 + 3 + 2)
    assert rungs.rung_macs(costs, np.array([1, 1, 0, 1]), np.ones(4)) == (1 + 3 + 2 + 70, 70 + 3 + 2)
    with pytest.raises(InputError, match=r'120 is not well between the 60 .* the 110'):
        allocation.cheap_and_full(np.array([1.0, np.nan, 0.0, 0.5]), costs, 120, 60)


def test_a_second_look_is_a_cascade_of_the_two_rungs(start: networks.Start, pictures: images.Images) -> None:
    model, variables = networks.gated(start, 'standardised', 0)
    costs, rates_n = networks.costs(start, has_routers=True), np.array([0.4, 1.0, 1.0])
    judge = evaluation.Judge(evaluation.make_forward(model), costs, rates_n, 40, is_random=False)
    cheap_macs, again = rungs.rung_macs(costs, rates_n >= 1, rates_n > 0)
    target = cheap_macs + again / 2
    found = rungs.second_look(judge, variables, rates_n, pictures, pictures, [cheap_macs - 1, target])
    (point,) = found['points']
    probe = probing.Probe(start, 40)
    cheap, full = (probe.answers(pictures.images_NxHxWxC, route_n) for route_n in ([0, 1, 1], [1, 1, 1]))
    goes_on_N = np.zeros(40, bool)
    goes_on_N[np.argsort(cascade.confidence(cheap.logits_NxY))[:20]] = True
    odds_2xNxY = np.exp(np.stack([cheap.logits_NxY, full.logits_NxY], dtype=np.float64))
    together_N = np.argmax(np.mean(odds_2xNxY / odds_2xNxY.sum(axis=-1, keepdims=True), axis=0), axis=-1)
    right_N = np.where(goes_on_N, together_N, cheap.predictions_N) == pictures.labels_N
    assert point['accuracy_threshold_of_train'] == pytest.approx(100 * np.mean(right_N))
    assert point['mean_macs_threshold_of_train'] == pytest.approx(target)
    both = 100 * np.mean(together_N == pictures.labels_N)
    share = (point['mean_macs'] - cheap_macs) / again
    assert point['shuffled'] == pytest.approx(share * both + (1 - share) * found['cheap'])
    assert found['cheap'] == pytest.approx(100 * np.mean(cheap.predictions_N == pictures.labels_N))
    assert found['full'] == pytest.approx(100 * np.mean(full.predictions_N == pictures.labels_N))
