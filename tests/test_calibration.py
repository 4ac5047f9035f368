"""Calibration finds the threshold that costs what it should, in few measurements, or says what can be had."""

import concurrent.futures
import json
import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers
from codinet_jax.config import default
from codinet_jax.data import datasets
from codinet_jax.data.datasets import DataSpec
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.evaluation.cost_search import MISSED, TOLERANCE
from codinet_jax.inference import calibration, load
from codinet_jax.inference.calibration import RUN_ALL, RUN_FORCED, RUN_NONE, Point
from codinet_jax.inference.predictor import NetworkSpec, Predictor
from codinet_jax.models import routers
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

# --- The curve and the search, on costs known in closed form. ---

SPEC = DataSpec(10, 0.3, 0.4)
Cost = Callable[[float], float]


class Measured:
    """A network whose cost is a function of the threshold; it keeps count."""

    def __init__(self, cost: Cost):
        self.cost = cost
        self.thresholds: list[float] = []

    def __call__(self, threshold: float) -> Point:
        self.thresholds.append(threshold)
        return Point(threshold, self.cost(threshold), 0.0, 0.0)


def logit(threshold: float) -> float:
    if threshold <= 0:
        return -math.inf
    return math.log(threshold / (1 - threshold)) if threshold < 1 else math.inf


def gates_around(centre: float, spread: float) -> Cost:
    """The cost of a network whose gates' logits are spread as a logistic distribution, between 0.1 and 1."""
    return lambda threshold: 0.1 + 0.9 / (1 + math.exp(min((logit(threshold) - centre) / spread, 700)))


CONTINUOUS: dict[str, Cost] = {
    'straight': lambda threshold: 1 - 0.9 * min(threshold, 1),
    'even': gates_around(0, 1),
    'crowded at zero': gates_around(-11, 0.3),
    'crowded at one': gates_around(11, 0.3),
    'spread wide': gates_around(3, 4),
    # Skipped blocks open later gates here and there: two humps.
    'up and down': lambda threshold: 1 - 0.9 * min(threshold, 1) + 0.08 * math.sin(min(threshold, 1) * 4 * math.pi),
}


@pytest.mark.parametrize('name', CONTINUOUS)
@pytest.mark.parametrize('num_points', [3, 4, 10])
def test_a_curve_goes_from_all_to_none_and_measures_each_point_once(name: str, num_points: int) -> None:
    measured = Measured(CONTINUOUS[name])
    curve = calibration.trace_curve(measured, num_points)
    thresholds = [point.threshold for point in curve]
    assert (thresholds[0], thresholds[-1]) == (RUN_ALL, RUN_NONE) == (0, pytest.approx(1))
    assert thresholds == sorted(set(thresholds)) and len(thresholds) == num_points
    assert sorted(measured.thresholds) == thresholds
    assert [point.macs_share for point in curve] == list(map(measured.cost, thresholds))


@pytest.mark.parametrize('name', CONTINUOUS)
def test_a_curve_leaves_no_wide_gap(name: str) -> None:
    curve = calibration.trace_curve(Measured(CONTINUOUS[name]), 20)
    assert np.abs(np.diff([point.macs_share for point in curve])).max() < 0.2


@pytest.mark.parametrize(
    ('costs', 'threshold'),
    [((1.0, 0.9, 0.1), 1 - 1e-7**0.5), ((1.0, 0.2, 0.1), 1e-12**0.5), ((0.5, 0.3, 0.9), 1 - 1e-7**0.5)],
    ids=['gap on the right', 'gap on the left', 'gap that rises'],
)
def test_the_next_point_is_put_into_the_widest_gap(costs: tuple[float, ...], threshold: float) -> None:
    measured = Measured(lambda t: costs[0] if t == RUN_ALL else costs[1] if t <= 0.5 else costs[2])
    calibration.trace_curve(measured, 4)
    assert measured.thresholds[:3] == [RUN_ALL, 0.5, RUN_NONE]
    # Odds are 1e-12 and 1 at the left, 1 and 1e7 at the right; halfway is their geometric mean.
    odds = [t / (1 - t) for t in (measured.thresholds[3], threshold)]
    assert odds[0] == pytest.approx(odds[1], rel=1e-3)


@pytest.mark.parametrize('name', CONTINUOUS)
@pytest.mark.parametrize('num_points', [3, 10])
@pytest.mark.parametrize('target', [0.15, 0.3, 0.5, 0.62, 0.95])
def test_a_cost_that_can_be_had_is_found_closely_in_few_measurements(name: str, num_points: int, target: float) -> None:
    measured = Measured(CONTINUOUS[name])
    curve = calibration.trace_curve(measured, num_points)
    measured.thresholds.clear()
    found = calibration.find_threshold(measured, curve, target)
    assert found.macs_share == measured.cost(found.threshold) == pytest.approx(target, abs=TOLERANCE)
    assert RUN_ALL < found.threshold < RUN_NONE
    assert len(measured.thresholds) <= 14


@pytest.mark.parametrize('target', [0.1, 0.1 - 0.9 * MISSED, 1.0, 1.0 + 0.9 * MISSED])
def test_the_ends_are_found_without_measuring(target: float) -> None:
    measured = Measured(CONTINUOUS['even'])
    curve = calibration.trace_curve(measured, 5)
    measured.thresholds.clear()
    found = calibration.find_threshold(measured, curve, target)
    assert found == curve[0 if target > 0.5 else -1]
    assert measured.thresholds == []


@pytest.mark.parametrize('target', [0.1 - 1.1 * MISSED, 1.0 + 1.1 * MISSED, 0.02, 1.9])
def test_what_lies_outside_the_range_is_refused_with_the_range(target: float) -> None:
    measured = Measured(CONTINUOUS['even'])
    nearest = '1.000' if target > 0.5 else '0.100'
    with pytest.raises(InputError) as refusal:
        calibration.find_threshold(measured, calibration.trace_curve(measured, 5), target)
    assert f'costs {target:.3f}' in str(refusal.value)
    assert f'from 0.100 to 1.000, and nearest at {nearest}' in str(refusal.value)


def step(threshold: float) -> float:
    """Every image takes one route, and changes it at one threshold."""
    return 0.9 if threshold <= 0.37 else 0.25


@pytest.mark.parametrize(('target', 'nearest'), [(0.6, '0.900'), (0.5, '0.250'), (0.25 + 1.1 * MISSED, '0.250')])
def test_a_step_that_jumps_over_the_target_is_told_of(target: float, nearest: str) -> None:
    measured = Measured(step)
    curve = calibration.trace_curve(measured, 6)
    measured.thresholds.clear()
    with pytest.raises(InputError) as refusal:
        calibration.find_threshold(measured, curve, target)
    assert f'from 0.250 to 0.900, and nearest at {nearest}' in str(refusal.value)
    # The search closed in on the step before it gave up, and then it did.
    assert min(measured.thresholds, key=lambda t: abs(t - 0.37)) == pytest.approx(0.37, abs=1e-5)
    assert len(measured.thresholds) == calibration.NUM_HALVINGS < 30


@pytest.mark.parametrize('target', [0.9 - 0.9 * MISSED, 0.9, 0.9 + 0.9 * MISSED, 0.25 + 0.9 * MISSED])
def test_a_step_near_the_target_will_do(target: float) -> None:
    measured = Measured(step)
    found = calibration.find_threshold(measured, calibration.trace_curve(measured, 6), target)
    assert found.macs_share == (0.9 if target > 0.5 else 0.25)


@pytest.mark.parametrize(('target', 'found'), [(0.5, 0.5), (0.507, 0.5), (0.518, 0.525), (0.5125, None)])
def test_of_few_images_the_nearest_cost_is_found(target: float, found: float | None) -> None:
    """Forty gates: costs lie 1/40 apart."""
    gates_N = 1 / (1 + np.exp(-np.random.default_rng(0).normal(0, 4, 40)))
    measured = Measured(lambda threshold: float(np.mean(gates_N >= threshold)))
    curve = calibration.trace_curve(measured, 5)
    if found is None:
        with pytest.raises(InputError, match=r'nearest at 0\.5'):
            calibration.find_threshold(measured, curve, target)
    else:
        assert calibration.find_threshold(measured, curve, target).macs_share == found


@given(st.lists(st.integers(-25, 15), min_size=1, max_size=30), st.floats(0, 1), st.integers(3, 12))
def test_no_cost_that_can_be_had_is_nearer_than_what_is_found(
    gates_N: list[int], target: float, num_points: int
) -> None:
    """Of gates at these logits, one block an image."""
    measured = Measured(lambda t: sum(gate >= logit(t) for gate in gates_N) / len(gates_N))
    costs = {count / len(gates_N) for count in (0, *(sum(gate >= at for gate in gates_N) for at in gates_N))}
    nearest = min(abs(cost - target) for cost in costs)
    curve = calibration.trace_curve(measured, num_points)
    try:
        found = calibration.find_threshold(measured, curve, target)
    except InputError:
        assert nearest > MISSED
    else:
        assert found.macs_share == measured.cost(found.threshold)
        assert abs(found.macs_share - target) <= max(nearest, TOLERANCE)


def test_a_cost_is_found_where_the_curve_crosses_it_a_second_time() -> None:
    measured = Measured(lambda t: 1.0 if t < 0.2 else 0.1 if t < 0.4 else max(0.05, 1.3 - t))
    curve = [measured(threshold) for threshold in (RUN_ALL, 0.3, 0.5, 0.8, RUN_NONE)]
    assert calibration.find_threshold(measured, curve, 0.6).macs_share == pytest.approx(0.6, abs=TOLERANCE)


@given(st.lists(st.floats(1e-9, 1 - 1e-6), min_size=2, max_size=2, unique=True), st.booleans(), st.booleans())
def test_between_stays_inside(pair: Sequence[float], at_left_end: bool, at_right_end: bool) -> None:
    low, high = RUN_ALL if at_left_end else min(pair), RUN_NONE if at_right_end else max(pair)
    between = calibration._between(low, high)
    if high - low > 1e-9 * low:
        assert low < between < high
    else:
        assert between == pytest.approx(low)


def test_between_is_halfway_in_logits() -> None:
    assert calibration._between(0.2, 0.8) == pytest.approx(0.5)
    assert calibration._between(0.5, 0.9) == pytest.approx(0.75)  # odds of 1, 9 and 3
    assert calibration._between(0.01, 0.5) == pytest.approx(1 / (1 + 99**0.5))


def test_a_point_is_what_numpy_counts() -> None:
    spec = NetworkSpec(('a', 'b'), 1, 1, 1.0, (2,), (100, 20), 80, 250)
    gates_Nx2 = np.array([[0.9, 0.9], [0.9, 0.4], [0.3, 0.6], [0.3, 0.1], [0.6, 0.4]], np.float32)

    def forward(images_BxHxWxC: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        numbers_B = images_BxHxWxC[:, 0, 0, 0]
        # Below a threshold of 0.5 every image is a b, above it image 4 alone.
        is_b_B = (numbers_B == 4) | (threshold < 0.5)
        return np.eye(2)[is_b_B.astype(int)], gates_Nx2[numbers_B]

    predictor = Predictor(spec, forward, 0.9)
    images = ImageSet(np.arange(5, dtype=np.uint8)[:, None, None, None], np.array([0, 0, 1, 0, 1], np.int32))
    for batch_size in (2, 5):
        assert calibration.measured(predictor, images, batch_size, 0.5) == Point(
            threshold=0.5,
            macs_share=pytest.approx(((200 + 180 + 100 + 80 + 180) / 5) / 250),
            top1=pytest.approx(4 / 5),
            mean_path_length=pytest.approx((2 + 1 + 1 + 0 + 1) / 5),
        )
        assert calibration.measured(predictor, images, batch_size, 0.35) == Point(
            threshold=0.35,
            macs_share=pytest.approx(((200 + 200 + 100 + 80 + 200) / 5) / 250),
            top1=pytest.approx(2 / 5),
            mean_path_length=pytest.approx((2 + 2 + 1 + 0 + 2) / 5),
        )


def test_the_table_runs_from_expensive_to_cheap_and_points_at_what_was_found() -> None:
    curve = [Point(0.0, 1.0, 0.9, 6.0), Point(0.5, 0.7, 0.95, 4.0), Point(0.9, 0.2, 0.5, 1.0)]
    found = Point(0.75, 0.5, 0.925, 2.5)
    head, *rows = calibration.readable(curve, [found]).splitlines()
    assert head.split() == ['cost', 'top-1', 'to', 'all', 'to', '0.5', 'K', 'threshold']
    assert [row.split() for row in rows] == [
        ['100.00%', '90.00%', '+0.00', '-5.00', '6.00', '0.000000'],
        ['70.00%', '95.00%', '+5.00', '+0.00', '4.00', '0.500000'],
        ['->', '50.00%', '92.50%', '+2.50', '-2.50', '2.50', '0.750000'],
        ['20.00%', '50.00%', '-40.00', '-45.00', '1.00', '0.900000'],
    ]
    assert len({len(line) for line in (head, *rows)}) == 1
    marked = calibration.readable(curve, [curve[0], curve[2]]).splitlines()[1:]
    assert [row[:2] for row in marked] == ['->', '  ', '->']
    assert not any(row.startswith('->') for row in calibration.readable(curve).splitlines())


def test_a_table_without_the_ends_holds_nothing_against_them() -> None:
    (row,) = calibration.readable([Point(0.75, 0.5, 0.925, 2.5)]).splitlines()[1:]
    assert row.split() == ['50.00%', '92.50%', '2.50', '0.750000']


CLIFF = [Point(0.0, 1.0, 0.9, 6.0), Point(0.5, 0.7, 0.95, 4.0), Point(0.8, 0.4, 0.91, 2.0), Point(0.9, 0.2, 0.5, 1.0)]


def test_who_falls_off_the_cliff_is_told_where_it_is() -> None:
    found = {'0.5': Point(0.75, 0.5, 0.9, 2.5), '0.3': Point(0.85, 0.3, 0.7, 1.5)}
    sentence = calibration.warning(CLIFF, found)
    assert sentence is not None and '\n' not in sentence
    assert 'operating point 0.3 loses 25.0 points' in sentence and 'point 0.5' not in sentence
    assert '95.00% at a cost of 0.700' in sentence and 'while 0.400 loses 4.0' in sentence


@pytest.mark.parametrize('top1', [0.95, 0.901])
def test_who_stays_on_top_is_not_warned(top1: float) -> None:
    assert calibration.warning(CLIFF, {'0.5': Point(0.75, 0.5, top1, 2.5)}) is None
    assert calibration.warning(CLIFF, {}) is None


def test_no_point_of_a_curve_is_spent_on_a_step() -> None:
    """Once its two sides are as near as thresholds tell apart, the gaps beside it are looked into."""
    measured = Measured(lambda t: 1 - 0.2 * min(t, 1) - (0.6 if t > 0.37 else 0))
    curve = calibration.trace_curve(measured, 30)
    near = [point for point in curve if abs(logit(point.threshold) - logit(0.37)) < 0.02]
    assert 2 <= len(near) <= 5
    costs = np.array([point.macs_share for point in curve])
    assert np.sort(-np.diff(costs))[-2] < 0.03, 'the rest is known closely'


LOWEST, HIGHEST = 1e-12, 1 - 1e-7


@pytest.mark.parametrize(
    'cost',
    [
        # Of early exits and the like: who has left has gates that are 0, and comes back only where every block runs.
        lambda t: 1.0 if t < LOWEST else 0.3 + 0.35 / (1 + math.exp(min(logit(t) + 1, 700))),
        # Of blocks that stay open: only the last threshold shuts them.
        lambda t: 0.1 if t > 1 else 0.65 + 0.35 / (1 + math.exp(min(logit(t), 700))),
    ],
    ids=['shut for good', 'open for good'],
)
def test_few_points_are_spent_where_gates_never_move(cost: Cost) -> None:
    curve = calibration.trace_curve(Measured(cost), 20)
    inner = [point for point in curve[1:-1] if 1e-6 < point.threshold < 1 - 1e-5]
    assert len(inner) >= 14
    shares = sorted(point.macs_share for point in curve)
    assert np.sort(np.diff(shares))[-2] < 0.06, 'but for the step all is known closely'
    assert min(abs(point.threshold - edge) for point in curve for edge in (LOWEST, HIGHEST)) < 1e-8


def test_a_cost_that_never_changes_is_measured_at_as_many_thresholds_as_any() -> None:
    measured = Measured(lambda threshold: 0.7)
    calibration.trace_curve(measured, 12)
    assert len(set(measured.thresholds)) == 12


def test_below_what_always_runs_no_cost_is_offered() -> None:
    """Above 1 the threshold shuts even gates that are 1, which the network is not made for."""
    measured = Measured(lambda t: 0.05 if t > 1 else 0.3 + 0.7 / (1 + math.exp(min(logit(t), 700))))
    curve = calibration.trace_curve(measured, 8, RUN_FORCED)
    assert curve[-1] == Point(1.0, 0.3, 0.0, 0.0) and max(measured.thresholds) == 1.0
    with pytest.raises(
        InputError, match=r'from 0\.300 to 1\.000, for every image runs some of its blocks, and nearest'
    ):
        calibration.find_threshold(measured, curve, 0.2, has_floor=True)
    with pytest.raises(InputError, match=r'from 0\.300 to 1\.000, and nearest at 1\.000'):
        calibration.find_threshold(measured, curve, 1.2, has_floor=True)


@pytest.mark.parametrize('router', ['linear', 'exits', 'halting', 'feedforward1'])
def test_the_curve_of_a_network_ends_with_the_fewest_blocks_that_it_can_run(router: str) -> None:
    network, images = helpers.tiny_network(router), helpers.noise_images(40)
    predictor = load.from_network(network, SPEC, helpers.random_variables(network), strategy='masked')
    forced_n = np.array(routers.router_kind(router).always_run_n(network.architecture))
    assert calibration.num_forced(network) == forced_n.sum() and forced_n.any() == (router != 'linear')
    answers = predictor.in_batches(images.images_NxHxWxC, 40, calibration.fewest_run(network))
    np.testing.assert_array_equal(answers.decisions_Bxn, np.broadcast_to(forced_n, answers.decisions_Bxn.shape))


# --- The command. ---

TRAIN, HELD_OUT = 1442, 360  # images of digits; those that val_split=0.25 holds out
TARGET, COST = 0.5, 0.62

# Every command's flags, and what its sentence must say.
REFUSED: dict[str, tuple[list[str], list[str]]] = {
    'no workdir': (['--target_cost=0.5'], ['--workdir=DIRECTORY']),
    'one name for two': (['--workdir={routed}', '--target_cost=0.4,0.5', '--name=a'], ['--name=a', 'one cost']),
    'a name for none': (['--workdir={routed}', '--name=a'], ['--name=a', '--target_cost=0.4']),
    'two targets, one of nothing': (['--workdir={routed}', '--target_cost=0.5,0'], ['--target_cost=0.4']),
    'target of nothing': (['--workdir={routed}', '--target_cost=0'], ['--target_cost=0.4']),
    'target too high': (['--workdir={routed}', '--target_cost=2.5'], ['--target_cost=0.4']),
    'name of a directory': (['--workdir={routed}', '--target_cost=0.5', '--name=../a'], ["'../a'", '--name']),
    'target is no number': (['--workdir={routed}', '--target_cost=half'], ['target_cost', 'half']),
    'target out of reach': (
        ['--workdir={routed}', '--target_cost=0.8,1.5', '--num_images=20', '--num_points=3'],
        ['No threshold costs 1.500', 'nearest at 1.0'],
    ),
    'static network': (['--workdir={static}', '--target_cost=0.5'], ['{static}', 'static network']),
    'no run': (['--workdir={empty}', '--target_cost=0.5'], ['{empty} holds no run']),
    'unfinished run': (['--workdir={unfinished}', '--target_cost=0.5'], ['{unfinished}', 'unfinished']),
}

Done = dict[str, subprocess.CompletedProcess[str]]


class Commands:
    """Every command of this file, two at a time; what they said, and the workdirs they leave."""

    def __init__(self, tmp: Path):
        self.data_dir = tmp / 'tfds'
        self.all = helpers.write_workdir(tmp / 'all', helpers.tiny_config())
        self.held_out = helpers.write_workdir(tmp / 'held_out', helpers.tiny_config(val_split=0.25))
        self.several = helpers.write_workdir(tmp / 'several', helpers.tiny_config())
        self.refused = tmp / 'refused'
        self.paths = {name: str(self.refused / name) for name in ('routed', 'static', 'empty', 'unfinished')}
        helpers.write_workdir(self.refused / 'routed', helpers.tiny_config())
        helpers.write_workdir(self.refused / 'static', default.with_variant(helpers.tiny_config(), 'static'))
        (self.refused / 'empty').mkdir()
        with Workdir(self.refused / 'unfinished').claimed(helpers.tiny_setup().record):
            pass
        self.before = helpers.all_bytes(self.refused)
        self.variables = {
            'TFDS_DATA_DIR': str(self.data_dir),
        }
        target = f'--target_cost={TARGET}'
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(
                self._one_after_another,
                {
                    'all': ('calibrate', f'--workdir={self.all}', target),
                    'evaluate': ('evaluate', f'--workdir={self.all}', '--split=train', f'--operating_point={TARGET}'),
                    'at cost': ('evaluate', f'--workdir={self.all}', '--split=train', f'--cost={COST}'),
                    'few': (
                        'calibrate',
                        f'--workdir={self.all}',
                        '--target_cost=0.7',
                        '--num_images=150',
                        '--num_points=3',
                        '--name=few',
                    ),
                },
            )
            second = pool.submit(
                self._one_after_another,
                {
                    'curve alone': ('calibrate', f'--workdir={self.several}', '--num_images=200', '--num_points=6'),
                    'several': ('calibrate', f'--workdir={self.several}', '--target_cost=0.5,0.7', '--num_points=12'),
                    'held out': ('calibrate', f'--workdir={self.held_out}', target, '--name=half', '--batch_size=100'),
                }
                | {
                    name: ('calibrate', *(flag.format(**self.paths) for flag in flags))
                    for name, (flags, _) in REFUSED.items()
                },
            )
            self.said: Done = first.result() | second.result()

    def _one_after_another(self, commands: dict[str, tuple[str, ...]]) -> Done:
        return {name: helpers.run_command(*command, **self.variables) for name, command in commands.items()}

    def told(self, name: str) -> str:
        said = self.said[name]
        assert (said.returncode, said.stderr) == (0, ''), said.stderr
        return said.stdout


@pytest.fixture(scope='module')
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp('calibrate'))


def operating_points(workdir: Workdir) -> dict[str, Any]:
    return json.loads((workdir.path / 'operating_points.json').read_text())


@pytest.mark.long
def test_an_operating_point_is_kept_under_its_target_and_reported(commands: Commands) -> None:
    lines = commands.told('all').splitlines()
    point = operating_points(commands.all)[f'{TARGET}']
    assert point['macs_share'] == pytest.approx(TARGET, abs=MISSED)
    assert (point['target_cost'], point['split'], point['num_images']) == (TARGET, 'train', TRAIN)
    assert list(point) == [*Point._fields, 'target_cost', 'split', 'num_images', 'curve']
    thresholds = [each['threshold'] for each in point['curve']]
    assert len(thresholds) == 25 and thresholds == sorted(thresholds)
    assert point['curve'][0]['macs_share'] > point['macs_share'] > point['curve'][-1]['macs_share']
    (arrow,) = [line for line in lines if line.startswith('->')]
    assert arrow.split()[1:3] == [f'{point["macs_share"]:.2%}', f'{point["top1"]:.2%}']
    assert arrow.split()[-1] == f'{point["threshold"]:.6f}'
    assert 'held none out' in lines[1]
    assert f'--operating_point={TARGET} ' in lines[-1]


@pytest.mark.long
def test_evaluation_at_the_operating_point_costs_what_calibration_found(commands: Commands) -> None:
    commands.told('evaluate')
    point = operating_points(commands.all)[f'{TARGET}']
    summary = json.loads((commands.all.path / f'evaluation_train_{TARGET}.json').read_text())
    assert summary['threshold'] == point['threshold'] != 0.5
    assert summary['num_test_images'] == TRAIN
    assert summary['macs_share'] == pytest.approx(point['macs_share'], abs=1e-6)
    assert summary['mean_path_length'] == pytest.approx(point['mean_path_length'], abs=1e-6)
    assert summary['top1'] == pytest.approx(point['top1'], abs=1e-6)
    with np.load(commands.all.path / 'routes' / f'train_{TARGET}.npz') as routes:
        assert routes['decisions_Nxn'].mean(axis=0).tolist() == pytest.approx(summary['run_rate_per_block'])


@pytest.mark.long
def test_a_cost_between_what_was_measured_is_had_within_two_points(commands: Commands) -> None:
    commands.told('at cost')
    measured = [
        point['macs_share'] for point in json.loads((commands.all.path / 'cost_curve.json').read_text())['curve']
    ]
    assert min(abs(share - COST) for share in measured) > 1e-4, 'it would be no interpolation'
    summary = json.loads((commands.all.path / f'evaluation_train_cost={COST}.json').read_text())
    assert summary['macs_share'] == pytest.approx(COST, abs=0.02)
    assert (commands.all.path / 'routes' / f'train_cost={COST}.npz').exists()


@pytest.mark.long
def test_a_curve_is_measured_without_a_target_and_several_points_are_found_on_one(commands: Commands) -> None:
    alone = commands.told('curve alone').splitlines()
    assert '200 images' in alone[0] and 'give --cost=0.5' in alone[-1] and len([x for x in alone if 'at 0.' in x]) == 5
    lines = commands.told('several').splitlines()
    found = operating_points(commands.several)
    assert list(found) == ['0.5', '0.7']
    assert [line[:2] for line in lines].count('->') == 2
    for name, point in found.items():
        assert point['macs_share'] == pytest.approx(point['target_cost'], abs=MISSED)
        assert point['target_cost'] == float(name) and len(point['curve']) == 12
    curve = json.loads((commands.several.path / 'cost_curve.json').read_text())
    assert (curve['split'], curve['num_images']) == ('train', TRAIN), 'the newest'
    thresholds = [point['threshold'] for point in curve['curve']]
    assert thresholds == sorted(thresholds) and {each['threshold'] for each in found.values()} <= {*thresholds}
    assert len([line for line in lines if line.startswith('  at ')]) == len(thresholds), 'nothing is measured twice'


@pytest.mark.long
def test_a_second_operating_point_stands_beside_the_first(commands: Commands) -> None:
    assert '150 images' in commands.told('few')
    kept = operating_points(commands.all)
    assert list(kept) == [f'{TARGET}', 'few']
    assert kept['few']['num_images'] == 150 and len(kept['few']['curve']) == 3
    assert kept['few']['macs_share'] == pytest.approx(0.7, abs=MISSED)
    known = load.operating_points(commands.all)
    assert known.threshold('few') == kept['few']['threshold'] < kept[f'{TARGET}']['threshold']


@pytest.mark.long
def test_a_run_that_held_images_out_is_calibrated_on_them(commands: Commands) -> None:
    assert 'held none out' not in commands.told('held out')
    (point,) = operating_points(commands.held_out).values()
    assert (point['split'], point['num_images']) == ('validation', HELD_OUT)
    assert point['macs_share'] == pytest.approx(TARGET, abs=MISSED)
    predictor = load.from_workdir(commands.held_out.path, operating_point='half', strategy='masked')
    points = {
        split: calibration.measured(
            predictor,
            datasets.source('digits', commands.data_dir, val_split=0.25).open(split),
            TRAIN,
            predictor.threshold,
        )
        for split in ('validation', 'train')
    }
    for key, value in points['validation']._asdict().items():
        assert point[key] == pytest.approx(value, abs=1e-9), key
    assert abs(points['train'].macs_share - point['macs_share']) > 1e-4, 'the split would not show'


@pytest.mark.long
@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_calibrated_is_said_in_a_sentence(commands: Commands, case: str) -> None:
    said, words = commands.said[case], [word.format(**commands.paths) for word in REFUSED[case][1]]
    assert said.returncode == 2
    assert said.stderr.startswith('error: ') and said.stderr.count('\n') == 1, said.stderr
    assert [word for word in words if word not in said.stderr] == [], said.stderr
    assert ('No threshold' in said.stderr) or said.stdout == ''
    after = helpers.all_bytes(commands.refused)
    assert len(json.loads(after.pop('routed/cost_curve.json'))['curve']) >= 3, (
        'what was measured for one of them is kept'
    )
    assert after == commands.before
