"""A cost is a threshold, read off the curve that was measured, alike for workdirs and what is exported of them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import codinet_jax
import helpers
from codinet_jax.inference import calibration, exported, load
from codinet_jax.inference.calibration import RUN_ALL, RUN_NONE
from codinet_jax.inference.operating_points import NEAR, WIDEST_GAP, OperatingPoints, Point
from codinet_jax.inference.predictor import NetworkSpec, Predictor
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir


def curve_of(costs: dict[float, float]) -> tuple[Point, ...]:
    return tuple(Point(threshold, cost, 0.9, 2.0) for threshold, cost in sorted(costs.items()))


# Odds of 1/9, 1, 9 and 81: logits that lie apart alike.
EVEN = OperatingPoints(curve=curve_of({0.1: 0.79, 0.5: 0.71, 0.9: 0.67, 81 / 82: 0.59}))


@pytest.mark.parametrize(
    ('cost', 'odds'), [(0.79, 1 / 9), (0.75, 1 / 3), (0.73, 9**-0.25), (0.71, 1), (0.69, 3), (0.63, 27), (0.59, 81)]
)
def test_a_threshold_lies_between_its_neighbours_in_the_logits(cost: float, odds: float) -> None:
    threshold = EVEN.threshold(cost=cost)
    assert threshold / (1 - threshold) == pytest.approx(odds, rel=1e-9)


@pytest.mark.parametrize('past', [0.0, 0.9 * NEAR])
def test_the_ends_of_a_curve_are_had_and_a_little_beyond(past: float) -> None:
    ends = OperatingPoints(curve=curve_of({RUN_ALL: 1.004, 0.5: 0.9, 0.7: 0.7, RUN_NONE: 0.5}))
    assert ends.threshold(cost=1.004 + past) == RUN_ALL
    assert ends.threshold(cost=0.5 - past) == RUN_NONE


@pytest.mark.parametrize('cost', [0.79 + 1.1 * NEAR, 0.59 - 1.1 * NEAR, 0.0, -1.0, 70.0, math.inf, math.nan])
def test_a_cost_beyond_the_curve_is_refused_with_what_can_be_had(cost: float) -> None:
    with pytest.raises(InputError, match=rf'cannot cost {cost:g} .* from 0\.590 to 0\.790\.$'):
        EVEN.threshold(cost=cost)


def test_in_a_step_only_its_sides_can_be_had() -> None:
    step = OperatingPoints(curve=curve_of({0.1: 0.9, 0.5: 0.8, 0.51: 0.8 - 1.1 * WIDEST_GAP, 0.9: 0.4}), owner='runs/a')
    assert (step.threshold(cost=0.79), step.threshold(cost=0.81 - 1.1 * WIDEST_GAP)) == (0.5, 0.51)
    with pytest.raises(InputError, match=r'^runs/a was measured at a cost of 0\.800 and next at 0\.690, .*0\.745: '):
        step.threshold(cost=0.745)


def test_where_cost_comes_and_goes_the_lowest_threshold_is_taken() -> None:
    """It runs as much as the others and skips less of what is wanted most."""
    humps = OperatingPoints(curve=curve_of({0.1: 0.9, 0.3: 0.82, 0.5: 0.88, 0.7: 0.8, 0.9: 0.74}))
    assert 0.1 < humps.threshold(cost=0.85) < 0.3
    assert 0.5 < humps.threshold(cost=0.81) < 0.7


@given(
    st.lists(st.floats(0.02, 0.95 * WIDEST_GAP), min_size=2, max_size=12),
    st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_less_cost_is_never_a_lower_threshold_and_always_one_in_between(steps: list[float], at: list[float]) -> None:
    thresholds = np.linspace(0.01, 0.99, len(steps) + 1)
    costs = np.cumsum([0.1, *steps])[::-1]
    points = OperatingPoints(curve=curve_of(dict(zip(thresholds.tolist(), costs.tolist(), strict=True))))
    wanted = np.sort(costs[-1] + np.array(at) * (costs[0] - costs[-1]))[::-1]
    found = [points.threshold(cost=float(cost)) for cost in wanted]
    assert found == sorted(found) and thresholds[0] <= found[0] and found[-1] <= thresholds[-1] + 1e-12
    for cost, threshold in zip(wanted, found, strict=True):  # the very neighbours
        above, below = thresholds[costs >= cost - 1e-12], thresholds[costs <= cost + 1e-12]
        assert above.max() - 1e-9 <= threshold <= below.min() + 1e-9


def test_what_is_not_known_is_said() -> None:
    nothing = OperatingPoints(owner='runs/new')
    assert (nothing.threshold(), nothing.threshold(otherwise=0.3)) == (0.5, 0.3)
    with pytest.raises(
        InputError, match=r'^runs/new has no accuracy-cost curve .* 0\.5 on: run codinet_jax\.calibrate'
    ):
        nothing.threshold(cost=0.5)
    with pytest.raises(InputError, match=r"^runs/new has no operating point 'a' \(it has none\)"):
        nothing.threshold('a')
    with pytest.raises(InputError, match=r"^runs/new has no operating point '0\.5' \(it has none\)"):
        nothing.threshold(0.5)
    with pytest.raises(InputError, match=r"no operating point 'b' \(it has a\): ask for a cost, or make one with"):
        OperatingPoints({'a': {'threshold': 0.4}}, EVEN.curve).threshold('b')
    with pytest.raises(InputError, match='give one of them'):
        OperatingPoints({'a': {'threshold': 0.4}}, EVEN.curve).threshold('a', 0.5)


# --- Predictors. ---

SPEC = NetworkSpec(('a', 'b'), 1, 1, 1.0, (2,), (100, 20), 80, 250)


def test_a_predictor_is_held_to_one_of_threshold_cost_and_point() -> None:
    held_to: list[float] = []

    def forward(images_BxHxWxC: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        held_to.append(threshold)
        return np.zeros((len(images_BxHxWxC), 2)), np.full((len(images_BxHxWxC), 2), 0.6, np.float32)

    points = {'cheap': {'threshold': 0.8}, '0.4': {'threshold': 0.9}, '1': {'threshold': 0.2}}
    known = OperatingPoints(points, EVEN.curve)
    predictor, images = Predictor(SPEC, forward, 0.3, operating_points=known), np.zeros((3, 1, 1, 1), np.uint8)
    cases: list[tuple[dict[str, Any], float]] = [
        ({}, 0.3),
        ({'threshold': 0.55}, 0.55),
        ({'cost': 0.71}, 0.5),
        ({'operating_point': 'cheap'}, 0.8),
        ({'operating_point': 0.4}, 0.9),
        ({'operating_point': 1}, 0.2),
    ]
    for options, threshold in cases:
        for answers in (predictor(images, **options), predictor.in_batches(images, 2, **options)):
            assert answers.decisions_Bxn.tolist() == [[threshold <= 0.6] * 2] * 3
        assert held_to == [threshold] * 3
        held_to.clear()
    for options in ({'threshold': 0.5, 'cost': 0.5}, {'threshold': 0.5, 'operating_point': 'cheap'}):
        with pytest.raises(InputError, match='give one of the three'):
            predictor(images, **options)
    with pytest.raises(InputError, match=r'^The threshold is no number'):
        predictor(images, threshold=float('nan'))
    with pytest.raises(InputError, match='give one of them'):
        predictor.in_batches(images, 2, cost=0.5, operating_point='cheap')
    with pytest.raises(InputError, match=r'^This network cannot cost'):
        predictor(images, cost=0.1)
    assert held_to == []


# --- Workdirs, and what is exported of them. ---

IMAGES = helpers.noise_images(400)


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """A run that was calibrated on the images above, with one named point."""
    workdir = helpers.write_workdir(tmp_path_factory.mktemp('points') / 'run', helpers.tiny_config())
    predictor = load.from_workdir(workdir.path, strategy='masked')

    def measure(threshold: float) -> Point:
        return calibration.measured(predictor, IMAGES, 400, threshold)

    curve = calibration.trace_curve(measure, 25)
    found = calibration.find_threshold(measure, curve, 0.5)
    about = {'split': 'train', 'num_images': 400}
    workdir.write_operating_point('half', found._asdict() | about | {'curve': [each._asdict() for each in curve]})
    return workdir


@pytest.fixture(scope='module')
def directory(run: Workdir) -> Path:
    """What the run's command exports at a cost."""
    path = run.path.parent / 'net.exported'
    said = helpers.run_command('export', f'--workdir={run}', f'--output={path}', '--cost=0.6')
    assert (said.returncode, said.stderr) == (0, '')
    return path


def share(predictor: Predictor, **options: Any) -> float:
    answers = predictor.in_batches(IMAGES.images_NxHxWxC, 100, **options)
    return float(answers.macs_B.mean()) / predictor.spec.static_macs


@pytest.mark.parametrize('cost', [0.45, 0.53, 0.61, 0.7, 0.83, 0.94])
def test_a_cost_is_had_within_two_points_on_the_images_of_the_curve(run: Workdir, directory: Path, cost: float) -> None:
    at_home, elsewhere = load.from_workdir(run.path, cost=cost), codinet_jax.load_exported(directory)
    assert share(at_home) == pytest.approx(cost, abs=0.02)
    assert share(elsewhere, cost=cost) == pytest.approx(share(at_home), abs=1e-6)
    assert at_home.threshold == elsewhere.operating_points.threshold(cost=cost)


def test_a_network_is_exported_at_a_cost_with_all_that_calibration_found(run: Workdir, directory: Path) -> None:
    network, known = codinet_jax.load_exported(directory), load.operating_points(run)
    assert network.threshold == known.threshold(cost=0.6) != 0.5
    assert share(network) == pytest.approx(0.6, abs=0.02)
    assert network.operating_points.curve == known.curve and len(known.curve) >= 25
    assert network.operating_points.points == known.points
    assert known.points['half']['num_images'] == 400, 'and what it was measured on'
    assert share(network, operating_point='half') == pytest.approx(0.5, abs=0.01)
    with pytest.raises(InputError, match=rf"^{directory} has no operating point 'third' \(it has half\)"):
        network(IMAGES.images_NxHxWxC[:1], operating_point='third')


def rewritten(directory: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy with another manifest under a right hash."""
    path.mkdir()
    for name in (exported.PROGRAM, exported.WEIGHTS):
        (path / name).symlink_to(directory / name)
    manifest = json.loads((directory / exported.MANIFEST).read_text())
    change(manifest)
    manifest['sha256'] = exported._sha256(path, manifest)
    (path / exported.MANIFEST).write_text(json.dumps(manifest))
    return path


def test_what_an_older_version_exported_has_its_threshold_and_no_curve(directory: Path, tmp_path: Path) -> None:
    older = codinet_jax.load_exported(rewritten(directory, tmp_path / 'old', lambda all_: all_.pop('operating_points')))
    images = IMAGES.images_NxHxWxC[:5]
    expected = codinet_jax.load_exported(directory)(images)
    np.testing.assert_array_equal(older(images).decisions_Bxn, expected.decisions_Bxn)
    with pytest.raises(InputError, match=r'no accuracy-cost curve .*: run codinet_jax\.calibrate .* export'):
        older(images, cost=0.5)


@pytest.mark.parametrize(
    'garbage',
    [
        *(None, [], {}, {'points': {}, 'curve': [{}]}, {'points': {'a': {}}, 'curve': []}, {'points': [], 'curve': []}),
        {'points': {}, 'curve': [{'threshold': 'x', 'macs_share': 1}]},
        {'points': {}, 'curve': [{'threshold': 0.5, 'macs_share': math.nan}]},
    ],
)
def test_garbage_in_place_of_a_curve_is_refused_in_a_sentence(directory: Path, tmp_path: Path, garbage: Any) -> None:
    copy = rewritten(directory, tmp_path / 'copy', lambda manifest: manifest.update(operating_points=garbage))
    with pytest.raises(InputError, match=r'manifest\.json cannot be read \(.*\): copy or export it again\.$'):
        codinet_jax.load_exported(copy)


def test_a_workdir_reads_its_newest_curve_and_the_points_on_the_same_images(run: Workdir, tmp_path: Path) -> None:
    points = run.read_operating_points()
    assert [each['threshold'] for each in run.read_cost_curve()['curve']] == [
        *(each['threshold'] for each in points['half']['curve']),
        points['half']['threshold'],
    ], 'an older version kept no curve by itself'
    workdir = helpers.write_workdir(tmp_path, helpers.tiny_config())
    assert workdir.read_cost_curve() == {'curve': []}
    workdir.write_operating_point('half', points['half'])
    workdir.write_operating_point('bare', {'threshold': 0.5, 'split': 'train', 'num_images': 400})
    newer = [point._asdict() for point in EVEN.curve]
    workdir.write_cost_curve(newer, 'train', 400)
    measured_on = {'split': 'train', 'num_images': 400}
    assert workdir.read_cost_curve() == measured_on | {'curve': [*newer, points['half']]}
    workdir.write_cost_curve(newer, 'validation', 400)
    assert load.operating_points(workdir).curve == EVEN.curve
    (tmp_path / 'cost_curve.json').write_text('{"curve": [{"threshold": 0.5}]}')
    with pytest.raises(InputError, match=rf'operating points of {tmp_path} cannot be read .*calibrate again\.$'):
        load.operating_points(workdir)


@pytest.mark.parametrize('name', ['predict', 'evaluate', 'export', 'benchmark', 'analyze'])
def test_no_command_takes_a_cost_and_a_point(run: Workdir, name: str) -> None:
    before = helpers.all_bytes(run.path)
    said = helpers.run_command(name, f'--workdir={run}', '--cost=0.5', '--operating_point=half')
    assert (said.returncode, said.stdout) == (2, '') and said.stderr.count('\n') == 1
    assert 'At most one of (operating_point, cost)' in said.stderr
    assert helpers.all_bytes(run.path) == before
