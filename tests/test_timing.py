"""The benchmark: turns, medians and draws, the arithmetic of its rows, and its command. No test waits for a clock."""

import concurrent.futures
import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

import helpers
from codinet_jax.config.setup import Setup
from codinet_jax.data import datasets
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.spec import DataSpec
from codinet_jax.evaluation import evaluate
from codinet_jax.inference import program, timing, timing_report
from codinet_jax.inference.folding import fold
from codinet_jax.inference.timing import Contest, Contestant, Draws, Row
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from reference_network import Tree

STRATEGIES = ['masked', 'conditional', 'compacted']
TIMED = [*STRATEGIES, *(['fused'] if shutil.which('g++') else [])]  # by the command, which has what is here
BATCH_SIZE = 4
SEED = 404  # of weights under which images part ways, and no gate is near THRESHOLD
THRESHOLD = 0.35


@functools.cache
def named() -> Setup:
    return helpers.tiny_setup()


def model() -> RoutedResNet:
    return named().model


@functools.cache
def variables() -> Tree:
    return helpers.random_variables(model(), SEED)


def random_draws(batch_size: int, run_rate: float, num_draws: int) -> Draws:
    return timing.random_draws(model(), batch_size, run_rate, num_draws, seed=0)


def dictated(draws: Draws) -> np.ndarray:
    """The decisions that the noise of some draws dictates: bool [draws, B, n]."""
    assert draws.noise is not None
    return np.stack(draws.noise)[..., 1] > 0


def by_hand(decisions_Nxn: np.ndarray) -> tuple[float, float]:
    """Share of blocks run, and MACs spent over those of the static network, image by image."""
    costs = named().costs
    macs = [costs.fixed_macs + sum(c for c, u in zip(costs.blocks_n, u_n, strict=True) if u) for u_n in decisions_Nxn]
    static = costs.stem + sum(costs.blocks_n) + sum(costs.shortcuts_n) + costs.head
    return decisions_Nxn.sum() / decisions_Nxn.size, sum(macs) / len(macs) / static


# --- Turns. ---


class Turns:
    """Calls that take the seconds they are told to, by a clock that only they move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now, self.said = 1000.0, list[tuple[str, int]]()
        monkeypatch.setattr('time.perf_counter', lambda: self.now)

    def call(self, name: str, seconds: Callable[[int], float]) -> timing.Call:
        def call(i: int) -> None:
            self.said.append((name, i))
            self.now += seconds(i)

        return call


class Calls:
    """Calls by name that take made-up seconds, one after the other, of a made-up clock; `said` is who was called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: Sequence[float]):
        self.now, self.said = 1000.0, list[tuple[str, int]]()
        self._left = {name: iter(each) for name, each in seconds.items()}
        monkeypatch.setattr('time.perf_counter', lambda: self.now)
        monkeypatch.setattr(timing, 'BURST_SECONDS', 1.0)

    def interleaved(self, repeats: int) -> dict[str, float]:
        return timing.interleaved({name: functools.partial(self._call, name) for name in self._left}, repeats)

    def _call(self, name: str, i: int) -> None:
        self.said.append((name, i))
        self.now += next(self._left[name])


def test_calls_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn takes as many calls as fit, going by one that is not counted, and one at the least; the very first, which
    may be slow, says nothing."""
    calls = Calls(monkeypatch, a=[70, *[0.5] * 9], b=[70, *[4.0] * 9], c=[70, *[0.375] * 9])
    assert list(calls.interleaved(2)) == ['a', 'b', 'c']
    first = 2 * [('a', 0), ('b', 0), ('c', 0)]
    turn = [('a', 0), ('a', 1), ('b', 0), ('c', 0), ('c', 1), ('c', 2)]
    another = [('a', 2), ('a', 3), ('b', 1), ('c', 3), ('c', 4), ('c', 5)]
    assert calls.said == [*first, *turn, *another]


@pytest.mark.parametrize(
    ('first', 'seconds', 'median'),
    [
        (100, [3], 3),
        (1, [3], 3),
        (100, [5, 1, 3], 3),
        (2, [2, 8, 4, 6], 5),
        (9, [1, 1, 90], 1),
        (0.5, [1, 3, 4, 6, 0, 2], 2),  # two calls a turn: of 2, 5 and 1 seconds
        (0.25, [0, 0, 0, 8], 2),
    ],
)
def test_the_median_turn_counts_by_its_mean_call(
    monkeypatch: pytest.MonkeyPatch, first: float, seconds: list[float], median: float
) -> None:
    repeats = len(seconds) // max(1, round(1 / first))
    calls = Calls(monkeypatch, one=[50, first, *seconds], another=[7.0] * (repeats + 2))
    assert calls.interleaved(repeats) == {'one': median, 'another': 7}


# --- Draws. ---


@pytest.mark.parametrize(('run_rate', 'num_run'), [(0.0, 0), (0.1, 1), (0.25, 2), (0.5, 3), (0.8, 5), (1.0, 6)])
def test_every_image_runs_so_many_blocks_of_its_own(run_rate: float, num_run: int) -> None:
    six_blocks = helpers.tiny_setup(**{'model.depth': 14}).model
    draws = timing.random_draws(six_blocks, 40, run_rate, 3, seed=0)
    assert [images.shape for images in draws.images] == [(40, 8, 8, 1)] * 3
    assert {images.dtype for images in draws.images} == {np.dtype(np.uint8)}
    u_3xBxn = dictated(draws)
    assert u_3xBxn.shape == (3, 40, 6)
    np.testing.assert_array_equal(u_3xBxn.sum(axis=2), num_run)
    if 0 < num_run < 6:
        assert all(len(np.unique(u_Bxn, axis=0)) > 3 for u_Bxn in u_3xBxn), 'images choose each for themselves'
        assert not np.array_equal(u_3xBxn[0], u_3xBxn[1]) and not np.array_equal(u_3xBxn[1], u_3xBxn[2])
        # 120 draws of a share p: six standard deviations.
        assert np.abs(u_3xBxn.mean(axis=(0, 1)) - num_run / 6).max() < 6 * np.sqrt(0.25 / 120)
    assert len(np.unique(np.concatenate(draws.images), axis=0)) == 120


def test_random_draws_are_those_of_the_seed() -> None:
    one, same, other = (timing.random_draws(model(), 5, 0.5, 2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.images, same.images)
    np.testing.assert_array_equal(dictated(one), dictated(same))
    assert not np.array_equal(one.images, other.images) and not np.array_equal(dictated(one), dictated(other))


def test_real_draws_are_images_of_the_set_and_leave_decisions_to_routers() -> None:
    images_NxHxWxC = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    draws = timing.real_draws(images_NxHxWxC, 6, 50, seed=3)
    assert draws.noise is None
    assert [images.shape for images in draws.images] == [(6, 8, 8, 1)] * 50
    numbers_50xB = np.stack(draws.images)[:, :, 0, 0, 0]
    assert set(numbers_50xB.flat) == set(range(20))
    assert len(np.unique(numbers_50xB, axis=0)) == 50
    for images in draws.images:
        np.testing.assert_array_equal(images, images_NxHxWxC[images[:, 0, 0, 0]])
    np.testing.assert_array_equal(draws.images, timing.real_draws(images_NxHxWxC, 6, 50, seed=3).images)
    assert not np.array_equal(draws.images, timing.real_draws(images_NxHxWxC, 6, 50, seed=4).images)


def sure_of_themselves(size: float) -> Tree:
    """The variables, but every router's logits are of this size, for some blocks to run and for some to skip."""

    def change(path: Any, leaf: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        if names[-2:] != ['decide', 'bias']:
            return leaf
        sign = -1 if names[1].startswith('stage2') else 1
        return jax.numpy.broadcast_to(jax.numpy.array([-sign * size, sign * size]), leaf.shape)

    return jax.tree_util.tree_map_with_path(change, variables())


@pytest.fixture(scope='module', params=STRATEGIES)
def dictating(request: pytest.FixtureRequest) -> tuple[str, Contestant, Draws]:
    """A strategy over four devices, its weights those that were drawn."""
    draws = random_draws(8, 0.5, 3)
    forward = program.program(model(), named().data.spec, request.param)
    return request.param, Contestant(forward, fold(variables()), 4, draws, 0.5), draws


@pytest.mark.parametrize('size', [0.0, 1e6, 1e20])
def test_what_is_drawn_is_decided_whatever_routers_say(
    dictating: tuple[str, Contestant, Draws], monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    _, contestant, draws = dictating
    if size:
        weights = jax.device_put(fold(sure_of_themselves(size)), sharding.replicated(contestant.mesh))
        monkeypatch.setattr(contestant, 'weights', weights)
    call = contestant.on(draws)
    for i in range(5):
        logits_BxY, v_Bxn = call(i)
        np.testing.assert_array_equal(v_Bxn, dictated(draws)[i % 3])
        assert np.isfinite(logits_BxY).all()


def test_a_contestant_is_spread_and_weighed(dictating: tuple[str, Contestant, Draws]) -> None:
    _, contestant, draws = dictating
    logits_BxY, v_Bxn = contestant.on(draws)(0)
    assert contestant.mesh.size == len(logits_BxY.sharding.device_set) == len(v_Bxn.sharding.device_set) == 4
    assert contestant.compile_seconds > 0
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(fold(variables())))
    a_share_of_the_images = draws.images[0].nbytes // 4
    assert contestant.peak_bytes > weights + a_share_of_the_images


# --- Contests, with seconds that are made up. ---

SECONDS = {
    ('static', 0): 2.0,
    ('masked', 0): 2.5,
    ('conditional', 0): 1.0,
    ('compacted', 0): 1.5,
    ('masked', 1): 2.25,
    ('conditional', 1): 2.0,
    ('compacted', 1): 4.0,
}


class Clock:
    """Stands in for `interleaved`: calls everything once, keeps what was said, and tells made-up seconds."""

    def __init__(self, arrangements: Mapping[str, float]):
        self.arrangements = arrangements
        self.repeats: list[int] = []
        self.answers: dict[Any, Any] = {}

    def __call__(self, calls: Mapping[Any, timing.Call], repeats: int) -> dict[Any, float]:
        self.repeats.append(repeats)
        self.answers |= {name: call(0) for name, call in calls.items()}
        seconds = self.arrangements if len(self.repeats) == 1 else SECONDS
        assert list(calls) == list(seconds)
        return dict(seconds)


ARRANGEMENTS = {
    f'{devices}, blocks {how}': 10.0 for devices in ('1 device', '4 devices') for how in ('in a loop', 'unrolled')
}


class Held(NamedTuple):
    """A contest that was held, and all that is to be known of it."""

    contest: Contest
    clock: Clock
    draws: list[Draws]
    reports: list[str]


@pytest.fixture(scope='module')
def held() -> Held:
    draws, reports = [random_draws(BATCH_SIZE, rate, 3) for rate in (0.4, 1.0)], list[str]()
    clock = Clock(ARRANGEMENTS | {'1 device, blocks unrolled': 5.0})
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(timing, 'interleaved', clock)
        monkeypatch.setattr(timing.fused, 'is_possible', lambda model: False)
        contest = timing.contest(model(), named().data.spec, variables(), draws, repeats=9, report=reports.append)
    return Held(contest, clock, draws, reports)


def test_static_is_there_once_and_every_strategy_for_every_draw(held: Held) -> None:
    assert [(row.strategy, row.median_seconds) for row in held.contest.rows] == [
        (strategy, seconds) for (strategy, _), seconds in SECONDS.items()
    ]
    assert {row.batch_size for row in held.contest.rows} == {BATCH_SIZE}
    assert held.clock.repeats == [timing.NUM_TRIALS, 9]


def test_run_rate_and_ideal_are_those_of_the_decisions(held: Held) -> None:
    rate, ideal = by_hand(dictated(held.draws[0]).reshape(-1, 3))
    routers = sum(named().costs.routers_n) / named().costs.static_macs
    assert rate == pytest.approx(1 / 3) and 0.3 < ideal < 0.45
    expected = [(1, 1), *[(rate, ideal)] * 3, *[(1, 1 + routers)] * 3]
    assert [(row.run_rate, row.ideal_ratio) for row in held.contest.rows] == [pytest.approx(each) for each in expected]
    assert held.contest.rows[-1].ideal_ratio > 1, 'routers are paid for'


def test_ratios_are_to_static(held: Held) -> None:
    assert [row.ratio_to_static for row in held.contest.rows] == [1, 1.25, 0.5, 0.75, 1.125, 1, 2]
    assert [row.images_per_second for row in held.contest.rows] == [2, 1.6, 4, pytest.approx(8 / 3), 16 / 9, 2, 1]


def test_all_answer_alike_and_static_as_they_do_where_all_blocks_run(held: Held) -> None:
    answers = {name: np.asarray(logits_BxY) for name, (logits_BxY, _) in held.clock.answers.items()}
    for i in (0, 1):
        for strategy in STRATEGIES[1:]:
            np.testing.assert_allclose(answers[strategy, i], answers['masked', i], rtol=1e-4, atol=1e-4)
    for each in ARRANGEMENTS:
        np.testing.assert_allclose(answers[each], answers['static', 0], rtol=1e-4, atol=1e-4)
    assert np.abs(answers['masked', 0] - answers['static', 0]).max() > 0.1
    # On the images of its own draws, every block dictated to run.
    every = Draws(held.draws[0].images, [np.abs(noise) for noise in held.draws[0].noise or []])
    logits_BxY, v_Bxn = held.contest.programs['masked'].on(every)(0)
    assert np.asarray(v_Bxn).all()
    np.testing.assert_allclose(answers['static', 0], logits_BxY, rtol=1e-4, atol=1e-4)


def test_what_takes_long_is_reported(held: Held) -> None:
    compiled = [*(f'static, {name}' for name in ARRANGEMENTS), *STRATEGIES]
    assert [line.rsplit(' in ', 1)[0] for line in held.reports[:-1]] == [f'compiled {name}' for name in compiled]
    assert held.reports[-1] == 'timing 7 programs and decisions at batch 4, 9 times in turns'


def test_the_numbers_are_plain_json(held: Held) -> None:
    network = {'dataset': 'digits', 'depth': 8}
    numbers = json.loads(json.dumps(timing_report.as_json(network, [held.contest])))
    assert numbers.keys() == {'network', 'rows', 'programs', 'static_seconds'}
    assert numbers['network'] == network
    assert [Row(**row) for row in numbers['rows']] == held.contest.rows
    assert numbers['static_seconds'] == {'4': held.clock.arrangements}
    assert numbers['programs'] == [
        {
            'strategy': name,
            'batch_size': BATCH_SIZE,
            'num_devices': 1 if name == 'static' else 4,  # the fastest, and all that divide the batch
            'compile_seconds': each.compile_seconds,
            'peak_bytes': each.peak_bytes,
        }
        for name, each in held.contest.programs.items()
    ]
    assert [each['strategy'] for each in numbers['programs']] == ['static', *STRATEGIES]


class Asked(NamedTuple):
    """What program was asked for."""

    router: str | None
    strategy: str
    options: dict[str, Any]


def asked_for(model: RoutedResNet, spec: DataSpec, strategy: str, variables: Any, **options: Any) -> tuple[Asked, None]:
    return Asked(model.router, strategy, options), None


class Uncompiled:
    """Stands in for a contestant whose routers run every block."""

    def __init__(self, forward: Asked, weights: Any, num_devices: int, draws: Draws, threshold: float):
        self.forward, self.mesh, self.compile_seconds = forward, SimpleNamespace(size=num_devices), 0.0

    def on(self, draws: Draws) -> Callable[[int], Any]:
        return lambda i: (None, np.ones((len(draws.images[0]), 3), np.float32))


@pytest.mark.parametrize('tile', [None, 16])
@pytest.mark.parametrize('fastest', ARRANGEMENTS)
def test_static_is_the_fastest_of_its_arrangements(
    monkeypatch: pytest.MonkeyPatch, fastest: str, tile: int | None
) -> None:
    clock = Clock(ARRANGEMENTS | {fastest: 5.0})
    monkeypatch.setattr(timing, 'interleaved', clock)
    monkeypatch.setattr(timing.fused, 'is_possible', lambda model: False)
    monkeypatch.setattr(timing, 'Contestant', Uncompiled)
    monkeypatch.setattr(timing, 'ready', asked_for)
    draws = [random_draws(BATCH_SIZE, 1.0, 1)] * 2
    contest = timing.contest(model(), named().data.spec, variables(), draws, repeats=1, tile=tile)
    asked: dict[str, Any] = {name: each.forward for name, each in contest.programs.items()}  # type: ignore[attr-defined]
    assert contest.programs['static'].mesh.size == int(fastest[0])
    assert asked == {
        'static': Asked(None, 'masked', {'unroll': 3 if 'unrolled' in fastest else 1}),
        'masked': Asked('linear', 'masked', {}),
        'conditional': Asked('linear', 'conditional', {}),
        'compacted': Asked('linear', 'compacted', {'tile': tile}),
    }
    assert contest.arrangements == clock.arrangements
    assert model().router == 'linear', 'the network is left as it was'


def test_where_a_fused_kernel_is_possible_it_is_timed_and_may_be_the_fastest_static(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def twice_as_fast(calls: Mapping[Any, timing.Call], repeats: int) -> dict[Any, float]:
        return {name: 1.0 if 'fused' in str(name) else 2.0 for name in calls}

    monkeypatch.setattr(timing, 'interleaved', twice_as_fast)
    monkeypatch.setattr(timing.fused, 'is_possible', lambda model: True)
    monkeypatch.setattr(timing, 'Contestant', Uncompiled)
    monkeypatch.setattr(timing, 'ready', asked_for)
    draws = [random_draws(BATCH_SIZE, 1.0, 1)]
    contest = timing.contest(model(), named().data.spec, variables(), draws, repeats=1)
    asked: dict[str, Any] = {name: each.forward for name, each in contest.programs.items()}  # type: ignore[attr-defined]
    assert list(asked) == ['static', *STRATEGIES, 'fused']
    assert asked['static'] == Asked(None, 'fused', {})
    assert asked['fused'] == Asked('linear', 'fused', {})


@pytest.mark.parametrize(('batch_size', 'num_devices'), [(1, 1), (3, 3), (7, 7), (16, 8), (10, 5), (11, 1)])
def test_a_batch_is_spread_over_as_many_devices_as_divide_it(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, num_devices: int
) -> None:
    tried: list[str] = []

    def interleaved(calls: Mapping[Any, timing.Call], repeats: int) -> dict[Any, float]:
        tried.extend(name for name in calls if isinstance(name, str))
        return dict.fromkeys(calls, 1.0)

    monkeypatch.setattr(timing, 'interleaved', interleaved)
    monkeypatch.setattr(timing.fused, 'is_possible', lambda model: False)
    monkeypatch.setattr(timing, 'Contestant', Uncompiled)
    contest = timing.contest(
        model(), named().data.spec, variables(), [random_draws(batch_size, 1.0, 1)], repeats=1, report=tried.append
    )
    assert {contest.programs[strategy].mesh.size for strategy in STRATEGIES} == {num_devices}
    numbers = {int(name.split()[0]) for name in tried if name[0].isdigit()}
    assert numbers == {1, num_devices}


# --- Rows. ---


def row(strategy: str, ratio: float, ideal: float, run_rate: float = 0.5) -> Row:
    return Row(strategy, 128, run_rate, 0.002 * ratio, 64_000 / ratio, ratio, ideal)


@pytest.mark.parametrize(
    ('ratio', 'ideal', 'kept'),
    [(0.6, 0.5, 0.8), (0.5, 0.5, 1.0), (1.1, 0.5, -0.2), (1.0, 0.5, 0.0), (0.25, 0.5, 1.5), (1.0, 1.0, None)],
)
def test_kept_is_the_share_of_what_the_macs_promise(ratio: float, ideal: float, kept: float | None) -> None:
    assert row('compacted', ratio, ideal).kept == (kept if kept is None else pytest.approx(kept))


def test_where_the_macs_promise_nothing_nothing_is_kept() -> None:
    assert row('masked', 1.5, 1.01).kept is None


def test_rows_are_readable() -> None:
    rows = [
        row('static', 1.0, 1.0, 1.0),
        row('masked', 1.25, 0.5),
        row('conditional', 0.75, 0.5),
        row('compacted', 0.5, 0.5),
    ]
    header, *lines = timing_report.readable(rows).splitlines()
    assert ' '.join(header.split()) == 'batch strategy run rate median ms images/s of static of MACs kept'
    assert [line.split() for line in lines] == [
        ['128', 'static', '1.00', '2.00', '64000.0', '1.000', '1.000'],
        ['128', 'masked', '0.50', '2.50', '51200.0', '1.250', '0.500', '-50%'],
        ['128', 'conditional', '0.50', '1.50', '85333.3', '0.750', '0.500', '50%'],
        ['128', 'compacted', '0.50', '1.00', '128000.0', '0.500', '0.500', '100%'],
    ]


def test_where_skipping_loses_is_said() -> None:
    """Masked skips nothing, so that it cannot lose; and a tie is no loss."""
    rows = [
        row('static', 1.0, 1.0, 1.0),
        row('masked', 1.5, 0.5),
        row('conditional', 1.25, 0.5),
        row('compacted', 1.0, 0.5),
        row('masked', 1.5, 1.01, 1.0),
        row('conditional', 0.9, 1.01, 1.0),
        row('compacted', 2.0, 1.01, 1.0),
    ]
    assert timing_report.readable(rows).splitlines()[1 + len(rows) :] == [
        'Skipping loses at batch 128, run rate 0.50: conditional takes 1.25 times as long as static.',
        'Skipping loses at batch 128, run rate 1.00: compacted takes 2.00 times as long as static.',
    ]


def test_a_negative_saving_is_explained_and_no_other() -> None:
    fine = [row('static', 1.0, 1.0, 1.0), row('masked', 1.0, 0.5), row('compacted', 0.6, 0.5)]
    assert timing_report.explained(fine) == ''
    masked = timing_report.explained([*fine, row('masked', 1.2, 0.5)])
    assert 'masked computes every block' in masked and 'gathering' not in masked
    both = timing_report.explained([*fine, row('masked', 1.2, 0.5), row('conditional', 1.3, 0.5)])
    assert 'masked computes every block' in both and 'gathering cost more' in both and both.endswith('.')


def test_the_fastest_strategy_at_each_batch_size_is_recommended() -> None:
    of_one = [row('static', 1.0, 1.0, 1.0), row('masked', 1.02, 0.5), row('conditional', 1.1, 0.5)]
    of_many = [
        row('static', 1.0, 1.0, 1.0),
        *(row('conditional', ratio, 0.5) for ratio in (0.3, 1.2)),
        *(row('compacted', ratio, 0.5) for ratio in (0.5, 0.8)),
    ]
    rows = [each._replace(batch_size=1) for each in of_one] + of_many
    assert timing_report.recommendation(rows) == (
        "Recommended here: at batch 1 no strategy saves time (the fastest, masked, takes 1.02 of static's); "
        "--strategy=compacted at batch 128 (0.65 of static's time, in the mean over 2 run rates)."
    )


# --- The command. ---

UNTRAINED = ['--config=configs/digits_r14.py', '--config.model.depth=8']

Process = subprocess.CompletedProcess[str]

REFUSED: dict[str, tuple[list[str], list[str]]] = {
    'run rate above one': (['--run_rate=0.5,1.5'], ['--run_rate is 0.5,1.5', 'from 0', 'to 1']),
    'run rate below nothing': (['--run_rate=-0.5'], ['--run_rate is -0.5']),
    'run rate that is no number': (['--run_rate=abc'], ['--run_rate is abc']),
    'run rate that is nan': (['--run_rate=nan'], ['--run_rate is nan']),
    'batch of none': (['--batch_sizes=4,0'], ['--batch_sizes is 4,0', 'from 1']),
    'batch that is no number': (['--batch_sizes=x'], ['--batch_sizes is x']),
    'batch that is no whole number': (['--batch_sizes=2.5'], ['--batch_sizes is 2.5']),
    'no repeat': (['--repeats=0'], ['repeats', 'positive']),
    'output below a file': (['--output={tmp}/file/timing.json'], ['{tmp}/file/timing.json', '--output']),
    'output below nothing': (['--output={tmp}/nowhere/timing.json'], ['{tmp}/nowhere/timing.json', '--output']),
    'output that is a directory': (['--output={tmp}'], ['{tmp}', '--output']),
    'no run': (['--workdir={tmp}/nowhere'], ['holds no run', 'codinet_jax.main']),
    'a cost of no run': (['--cost=0.5'], ['--cost is of a run']),
    'a cost of no decision': (
        ['--workdir={tmp}/run', '--run_rate=0.5', '--cost=0.5'],
        ['at random, and --cost'],
    ),
    'two networks': (['--workdir={tmp}/run', *UNTRAINED], ['--workdir and --config are two']),
    'no such point': (['--workdir={tmp}/run', '--operating_point=half'], ["no operating point 'half'", 'less']),
}


class Commands(NamedTuple):
    """Every command of this file, running; and where what they read and write lies."""

    root: Path
    running: dict[str, concurrent.futures.Future[Process]]

    def numbers(self, name: str) -> tuple[Process, dict[str, Any]]:
        said = self.running[name].result()
        assert (said.returncode, said.stderr) == (0, '')
        numbers: dict[str, Any] = json.loads((self.root / f'{name}.json').read_text())
        return said, numbers


@pytest.fixture(scope='module')
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    root = tmp_path_factory.mktemp('benchmark')
    (root / 'file').write_text('a file')
    run = helpers.write_workdir(root / 'run', helpers.tiny_config(), SEED)
    run.write_operating_point('less', {'threshold': THRESHOLD})
    datasets.source('digits', root / 'tfds').open('test')

    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        'untrained': (
            [*UNTRAINED, '--run_rate=0.5', '--batch_sizes=1,4', '--repeats=2', f'--output={root}/untrained.json'],
            {'JAX_NUM_CPU_DEVICES': '2'},
        ),
        'trained': (
            [
                *(f'--workdir={root}/run', f'--data_dir={root}/tfds', '--operating_point=less', '--batch_sizes=7'),
                *('--repeats=3', '--tile=2', f'--output={root}/trained.json'),
            ],
            {'JAX_NUM_CPU_DEVICES': '1'},
        ),
        'neither': ([], {}),
    }
    for case, (flags, _) in REFUSED.items():
        named = [] if flags[0].startswith('--workdir') else UNTRAINED
        commands[case] = ([*named, *(flag.format(tmp=root) for flag in flags)], {})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield Commands(
            root,
            {
                name: pool.submit(helpers.run_command, 'benchmark', *flags, **variables)
                for name, (flags, variables) in commands.items()
            },
        )
        pool.shutdown(cancel_futures=True)


def assert_rows_add_up(numbers: dict[str, Any], batch_size: int, run_rate: float, ideal_ratio: float) -> None:
    rows = [row for row in numbers['rows'] if row['batch_size'] == batch_size]
    assert [row['strategy'] for row in rows] == ['static', *TIMED]
    static = rows[0]
    assert (static['run_rate'], static['ratio_to_static'], static['ideal_ratio']) == (1, 1, 1)
    for row in rows:
        assert row.keys() == set(Row._fields)
        assert row['median_seconds'] > 0
        assert row['images_per_second'] == pytest.approx(batch_size / row['median_seconds'])
        assert row['ratio_to_static'] == pytest.approx(row['median_seconds'] / static['median_seconds'])
    for row in rows[1:]:
        assert (row['run_rate'], row['ideal_ratio']) == (pytest.approx(run_rate), pytest.approx(ideal_ratio))


@pytest.mark.long
def test_an_untrained_network_is_timed(commands: Commands) -> None:
    said, numbers = commands.numbers('untrained')
    for batch_size in (1, 4):
        draws = random_draws(batch_size, 0.5, 2)
        run_rate, ideal_ratio = by_hand(dictated(draws).reshape(-1, 3))
        assert run_rate == pytest.approx(2 / 3), 'the nearest that three blocks allow'
        assert_rows_add_up(numbers, batch_size, run_rate, ideal_ratio)
    assert [row['batch_size'] for row in numbers['rows']] == [1] * (1 + len(TIMED)) + [4] * (1 + len(TIMED))
    assert (numbers['machine']['num_devices'], numbers['machine']['platform'], numbers['repeats']) == (2, 'cpu', 2)
    assert numbers['machine']['versions']['jax'] == jax.__version__
    num_fused = len(TIMED) - len(STRATEGIES)
    assert [len(numbers['static_seconds'][batch_size]) for batch_size in '14'] == [2 + num_fused, 4 + 2 * num_fused]
    assert all(each['peak_bytes'] > 0 for each in numbers['programs'])
    rows = [Row(**row) for row in numbers['rows']]
    for part in (rows[: 1 + len(TIMED)], rows[1 + len(TIMED) :]):
        assert timing_report.readable(part) in said.stdout
    assert f'\n{timing_report.recommendation(rows)}\n' in said.stdout
    assert said.stdout.rstrip().splitlines()[-1].startswith(f'written to {commands.root}/untrained.json')


@pytest.mark.long
def test_a_run_is_timed_as_its_routers_decide_on_its_test_images(commands: Commands) -> None:
    _, numbers = commands.numbers('trained')
    images_NxHxWxC = datasets.source('digits', commands.root / 'tfds').open('test').images_NxHxWxC
    drawn = np.concatenate(timing.real_draws(images_NxHxWxC, 7, 3, named().recipe.seed).images)
    decisions_Nxn = decisions_of(drawn, THRESHOLD)
    assert len(np.unique(decisions_Nxn, axis=0)) > 1 and (decisions_Nxn != decisions_of(drawn, 0.5)).any()
    assert numbers['network'] == {'dataset': 'digits', **helpers.tiny_config().model.to_dict()}
    assert len(numbers['rows']) == 1 + len(TIMED)
    assert_rows_add_up(numbers, 7, *by_hand(decisions_Nxn))


def decisions_of(images_NxHxWxC: np.ndarray, threshold: float) -> np.ndarray:
    mesh = sharding.data_mesh(1)
    forward = evaluate.make_forward(model(), named().data.spec, mesh, threshold)
    images = ImageSet(images_NxHxWxC, np.zeros(len(images_NxHxWxC), np.int32))
    record = evaluate.evaluate(forward, variables(), images, len(images_NxHxWxC), mesh)
    assert np.abs(record.run_probability_Nxn - threshold).min() > 1e-4, 'no decision may hang on rounding'
    return record.decisions_Nxn


@pytest.mark.long
@pytest.mark.parametrize('case', REFUSED)
def test_what_is_wrong_is_said_before_anything_is_timed(commands: Commands, case: str) -> None:
    words = (word.format(tmp=commands.root) for word in REFUSED[case][1])
    helpers.assert_refused(commands.running[case].result(), *words)
    assert (commands.root / 'file').read_text() == 'a file'


@pytest.mark.long
def test_it_asks_what_to_time(commands: Commands) -> None:
    helpers.assert_refused(commands.running['neither'].result(), '--workdir=', '--config=')


def test_off_the_cpu_conditional_takes_few_rows_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    most = program.MOST_CONDITIONAL
    assert program.can_run('conditional', most, 'gpu') and not program.can_run('conditional', most + 1, 'gpu')
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert [program.can_run('conditional', size) for size in (1, most, most + 1)] == [True, True, False]
    assert program.can_run('compacted', 4096)
    forward = program.program(model(), named().data.spec, 'conditional')
    images = np.zeros((most + 1, 8, 8, 1), np.uint8)
    with pytest.raises(InputError, match=f'{most + 1} rows are too many off the CPU'):
        forward(variables(), images, 0.5)
