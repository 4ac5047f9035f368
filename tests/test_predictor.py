"""A predictor answers as evaluation does, image by image, whatever executes it; and by hand where nothing is learnt."""

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import helpers
from codinet_jax.config import default
from codinet_jax.config.setup import Setup
from codinet_jax.data import augment, datasets
from codinet_jax.evaluation import evaluate
from codinet_jax.inference import calibration, exported, fused, load, program
from codinet_jax.inference.predictor import NetworkSpec, Prediction, Predictor, pixels
from codinet_jax.models import execution
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir
from helpers import quick_jit, random_variables

# --- Pixels. ---

SHAPE = (2, 3, 1)
FLOATS = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, *SHAPE)


def with_pixel(value: float) -> np.ndarray:
    images = FLOATS.astype(np.float64)
    images[2, 1, 1, 0] = value
    return images


NOT_READ: dict[str, tuple[Any, list[str]]] = {
    'no images': (FLOATS[:0], ['no images']),
    'nothing': ([], ['no images']),
    'one image without a batch': (FLOATS[0], ['shape [3x1]', '[2x3x1]', 'a batch']),
    'rank 5': (FLOATS[None], ['shape [4x2x3x1]']),
    'channels': (np.repeat(FLOATS, 3, axis=3), ['shape [2x3x3]']),
    'channels first': (np.moveaxis(FLOATS, 3, 1), ['shape [1x2x3]']),
    'size': (FLOATS[:, :, :2], ['shape [2x2x1]']),
    'sides swapped': (np.swapaxes(FLOATS, 1, 2), ['shape [3x2x1]']),
    'int64': (np.ones((4, *SHAPE), int), ['int64', 'uint8']),
    'int8': (np.ones((4, *SHAPE), np.int8), ['int8', 'uint8']),
    'bool': (FLOATS > 0.5, ['bool', 'uint8']),
    'text': (FLOATS.astype(str), ['uint8']),
    'NaN': (with_pixel(np.nan), ['[0, 1]']),
    'infinity': (with_pixel(np.inf), ['[0, 1]']),
    'minus infinity': (with_pixel(-np.inf), ['[0, 1]']),
    'just above one': (with_pixel(1 + 1e-7), ['[0, 1]']),
    'just below zero': (with_pixel(-1e-7), ['[0, 1]']),
    'bytes as floats': (255 * FLOATS, ['[0, 1]']),
}


@pytest.mark.parametrize('case', NOT_READ)
def test_what_is_no_batch_of_images_is_refused(case: str) -> None:
    images, words = NOT_READ[case]
    with pytest.raises(InputError) as refusal:
        pixels(images, SHAPE)
    assert [word for word in words if word not in str(refusal.value)] == [], str(refusal.value)


def test_bytes_are_kept() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(4, *SHAPE) * 11
    for given in (images, list(images)):
        np.testing.assert_array_equal(pixels(given, SHAPE), images)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_floats_become_the_nearest_byte(dtype: type) -> None:
    every_byte = np.arange(256).reshape(1, 16, 16, 1)
    for offset in (-0.3, 0, 0.3):
        floats = np.clip((every_byte + offset) / 255, 0, 1).astype(dtype)
        read = pixels(floats, (16, 16, 1))
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, every_byte)


# --- Answers, by hand. ---

SPEC = NetworkSpec(
    classes=('cat', 'dog', 'elk'),
    image_size=2,
    num_channels=3,
    center_crop=1.0,
    blocks_per_stage=(2, 1),
    blocks_macs=(100, 20, 3),
    fixed_macs=1000,
    static_macs=1115,
)
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
LOGITS = np.array([[1000, 999, -1000], [-2, -2, -2], [-1e4, -1e4 + 2, -1e30]], np.float32)
GATES = np.array([[1.0, 0.5, BELOW_HALF], [0.2, 0.7, 0.0], [0.0, 0.0, 1.0]], np.float32)
E = np.e


class FakeForward:
    """A network that tells an image's number, which is its first pixel, and answers from the table above."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.thresholds: list[float] = []

    def __call__(self, images_BxHxWxC: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        assert images_BxHxWxC.dtype == np.uint8
        numbers_B = images_BxHxWxC[:, 0, 0, 0]
        self.batches.append(numbers_B.tolist())
        self.thresholds.append(threshold)
        return LOGITS[numbers_B % 3], GATES[numbers_B % 3]


def numbered(num_images: int) -> np.ndarray:
    images = np.full((num_images, *SPEC.image_shape), 255, np.uint8)
    images[:, 0, 0, 0] = np.arange(num_images)
    return images


def test_labels_and_probabilities_are_those_of_the_logits() -> None:
    answers = Predictor(SPEC, FakeForward())(numbered(3))
    assert answers.labels_B.tolist() == [0, 0, 1]
    expected = [[E / (E + 1), 1 / (E + 1), 0], [1 / 3, 1 / 3, 1 / 3], [1 / (1 + E**2), E**2 / (1 + E**2), 0]]
    np.testing.assert_allclose(answers.probabilities_BxY, expected, rtol=1e-12)
    np.testing.assert_array_equal(answers.run_probability_Bxn, GATES)


@pytest.mark.parametrize(
    ('threshold', 'routes', 'macs'),
    [
        (0.5, ['110', '010', '001'], [1120, 1020, 1003]),
        (float(BELOW_HALF), ['111', '010', '001'], [1123, 1020, 1003]),
        (0.2, ['111', '110', '001'], [1123, 1120, 1003]),
        (np.float64(0.7), ['100', '010', '001'], [1100, 1020, 1003]),  # in float32, 0.7 is less than in float64
        (1.0, ['100', '000', '001'], [1100, 1000, 1003]),
        (0.0, ['111', '111', '111'], [1123, 1123, 1123]),
    ],
)
def test_a_block_runs_and_is_paid_for_where_its_gate_reaches_the_threshold(
    threshold: float, routes: list[str], macs: list[int]
) -> None:
    expected = np.array([[run == '1' for run in route] for route in routes])
    forward = FakeForward()
    for predictor, own in ((Predictor(SPEC, forward), threshold), (Predictor(SPEC, forward, threshold), None)):
        for answers in (predictor(numbered(3), own), predictor.in_batches(numbered(3), 2, own)):
            np.testing.assert_array_equal(answers.decisions_Bxn, expected)
            assert answers.decisions_Bxn.dtype == bool
            assert answers.macs_B.tolist() == macs
    assert forward.thresholds == [threshold] * 6


def test_no_gate_reaches_the_threshold_that_runs_none() -> None:
    answers = Predictor(SPEC, FakeForward())(numbered(3), calibration.RUN_NONE)
    assert GATES.max() == 1 and not answers.decisions_Bxn.any()


def test_half_is_the_threshold_unless_said_otherwise() -> None:
    forward = FakeForward()
    Predictor(SPEC, forward)(numbered(1))
    assert forward.thresholds == [0.5]


def test_refused_images_never_reach_the_network() -> None:
    forward = FakeForward()
    with pytest.raises(InputError, match='2x2x3'):
        Predictor(SPEC, forward)(numbered(3)[..., :1])
    assert forward.batches == []


@pytest.mark.parametrize('batch_size', [1, 2, 3, 5, 9, 10, 11, 64])
@pytest.mark.parametrize('as_list', [False, True])
def test_every_image_is_answered_once_in_order_in_batches_of_one_size(batch_size: int, as_list: bool) -> None:
    forward = FakeForward()
    predictor, images = Predictor(SPEC, forward), numbered(10)
    answers = predictor.in_batches(list(images) if as_list else images, batch_size)
    assert [len(batch) for batch in forward.batches] == [batch_size] * -(-10 // batch_size)
    assert [*itertools.chain(*forward.batches)][:10] == list(range(10))
    for given, expected in zip(answers, predictor(images), strict=True):
        np.testing.assert_array_equal(given, expected)


def test_floats_are_answered_in_batches_as_the_bytes_they_are() -> None:
    forward = FakeForward()
    Predictor(SPEC, forward).in_batches(numbered(5) / 255, 2)
    assert forward.batches[:2] == [[0, 1], [2, 3]]


@pytest.mark.parametrize('images', [numbered(0), []], ids=['array', 'list'])
def test_an_empty_set_is_refused(images: Any) -> None:
    with pytest.raises(InputError):
        Predictor(SPEC, FakeForward()).in_batches(images, 2)


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(InputError):
        Predictor(SPEC, FakeForward()).in_batches([numbered(1)[0], np.zeros((3, 3, 3), np.uint8)], 2)


@pytest.mark.parametrize('num_rows', [1, 3, 8, 9])
def test_rows_that_fill_up_the_devices_are_cut_off(num_rows: int) -> None:
    def doubled(weights: Any, rows: Any, scalar: Any) -> Any:
        return weights * rows, rows + scalar

    rows = np.arange(num_rows, dtype=np.float32)[:, None]
    twice, more = sharding.on_devices(doubled, doubled, np.float32(2))(rows, 0.5)
    np.testing.assert_array_equal(twice, 2 * rows)
    np.testing.assert_array_equal(more, rows + 0.5)


def test_a_route_is_drawn_stage_by_stage() -> None:
    spec = dataclasses.replace(SPEC, blocks_per_stage=(1, 3, 2))
    assert spec.draw([1, 0, 1, 1, 0, 0]) == '█ ·██ ··'
    assert spec.draw(np.array([False, True, False, False, True, True])) == '· █·· ██'


# --- Workdirs. ---

SEED = 6  # under which routes and classes differ, on noise and on digits
NUM_IMAGES = 20
STRATEGIES = ['masked', 'conditional', 'compacted', None]


@pytest.fixture(scope='module')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    workdir = helpers.write_workdir(tmp_path_factory.mktemp('predictor') / 'run', helpers.tiny_config())
    for name, threshold in {'expensive': 0.3, 'cheap': 0.7}.items():
        workdir.write_operating_point(name, {'threshold': threshold})
    return workdir


@functools.cache
def reference() -> tuple[Any, Any, Any]:
    """The network as it was trained: its model, its variables, and what it gives classes under masked execution."""
    model, spec = helpers.tiny_setup().model, datasets.find('digits').spec

    @quick_jit
    def probabilities(variables: Any, images_BxHxWxC: jax.Array, threshold: float) -> jax.Array:
        normalised_BxHxWxC = augment.normalise(images_BxHxWxC, *spec.normalisation)
        output: Any = model.apply(variables, normalised_BxHxWxC, execution.masked(threshold), train=False)
        return jax.nn.softmax(output.logits_BxY)

    return model, random_variables(model, SEED), probabilities


@functools.cache
def expected(threshold: float) -> Prediction:
    """What masked evaluation says of the noise images, on one device."""
    model, variables, probabilities = reference()
    images, mesh = helpers.noise_images(NUM_IMAGES), sharding.data_mesh(1)
    forward = evaluate.make_forward(model, datasets.find('digits').spec, mesh, threshold)
    record = evaluate.evaluate(forward, variables, images, NUM_IMAGES, mesh)
    costs = model.costs
    return Prediction(
        record.predictions_N,
        np.asarray(probabilities(variables, images.images_NxHxWxC, threshold)),
        record.run_probability_Nxn,
        record.decisions_Nxn,
        np.array([costs.fixed_macs + sum(np.array(costs.blocks_n)[u_n]) for u_n in record.decisions_Nxn]),
    )


def assert_answers(answers: Prediction, threshold: float) -> None:
    wanted = expected(threshold)
    np.testing.assert_array_equal(answers.labels_B, wanted.labels_B)
    np.testing.assert_array_equal(answers.decisions_Bxn, wanted.decisions_Bxn)
    np.testing.assert_array_equal(answers.macs_B, wanted.macs_B)
    np.testing.assert_allclose(answers.run_probability_Bxn, wanted.run_probability_Bxn, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answers.probabilities_BxY, wanted.probabilities_BxY, rtol=1e-3, atol=1e-6)


def test_the_noise_images_part_ways() -> None:
    """Or the comparisons below would show little, or hang on how a gate rounds."""
    for threshold in (0.3, 0.5, 0.7):
        wanted = expected(threshold)
        assert len(np.unique(wanted.decisions_Bxn, axis=0)) >= 3 and len(np.unique(wanted.labels_B)) >= 3
        assert np.abs(wanted.run_probability_Bxn - threshold).min() > 1e-4
    run_rates_n = expected(0.5).decisions_Bxn.mean(axis=0)
    assert ((run_rates_n > 0) & (run_rates_n < 1)).all()
    assert not np.array_equal(expected(0.3).decisions_Bxn, expected(0.7).decisions_Bxn)


@functools.cache
def predictor_of(path: Path, strategy: str | None) -> Predictor:
    return load.from_workdir(path, strategy=strategy)


@pytest.mark.parametrize('batch_size', [1, 3, 8, 20])
@pytest.mark.parametrize('strategy', STRATEGIES)
def test_a_workdir_answers_as_masked_evaluation_does(workdir: Workdir, strategy: str | None, batch_size: int) -> None:
    predictor, images = predictor_of(workdir.path, strategy), helpers.noise_images(NUM_IMAGES).images_NxHxWxC
    assert_answers(predictor.in_batches(images, batch_size), 0.5)
    assert_answers(predictor.in_batches(images, batch_size, 0.3), 0.3)
    assert_answers(predictor.in_batches(images / 255, batch_size, 0.7), 0.7)


@pytest.mark.parametrize(('operating_point', 'threshold'), [('expensive', 0.3), ('cheap', 0.7)])
def test_an_operating_point_is_a_threshold(workdir: Workdir, operating_point: str, threshold: float) -> None:
    predictor = load.from_workdir(str(workdir.path), operating_point=operating_point)
    assert_answers(predictor(helpers.noise_images(NUM_IMAGES).images_NxHxWxC), threshold)


def test_without_a_kernel_one_image_runs_conditionally_on_one_device_and_more_compacted_on_all(
    workdir: Workdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[str, int]] = []
    rows: list[int] = []

    def spread(strategy: str, mesh: Any) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        compiled.append((strategy, mesh.size))

        def forward(weights: Any, images: jax.Array, threshold: np.float32) -> tuple[np.ndarray, np.ndarray]:
            rows.append(len(images))
            return np.zeros((len(images), 10)), np.ones((len(images), 3), np.float32)

        return forward

    monkeypatch.setattr(fused, 'is_default', lambda model: False)
    monkeypatch.setattr(program, 'program', lambda model, spec, strategy: strategy)
    monkeypatch.setattr(sharding, 'spread', spread)
    images = helpers.noise_images(NUM_IMAGES).images_NxHxWxC
    for strategy, wanted in {
        None: [('conditional', 1), ('compacted', 8)],
        'masked': [('masked', 1), ('masked', 8)],
    }.items():
        compiled.clear()
        rows.clear()
        predictor = load.from_workdir(workdir.path, strategy=strategy)
        assert [len(predictor(images[:size]).labels_B) for size in (1, 3, 1, 8, 20)] == [1, 3, 1, 8, 20]
        assert compiled == wanted
        assert rows == [1, 8, 1, 8, 24]


def test_sizes_warmed_up_are_compiled_once_for_all_thresholds(workdir: Workdir) -> None:
    predictor, images = load.from_workdir(workdir.path), helpers.noise_images(9).images_NxHxWxC
    with compilations() as compiled:
        assert list(predictor.warm_up([1, 9])) == [1, 9]
    assert len(compiled) >= 2, 'one image on one device, nine on all'
    with compilations() as compiled:
        seconds = predictor.warm_up([9, 1])
        routes = [
            predictor(images[:size], threshold).decisions_Bxn.sum() for size in (1, 9) for threshold in (0.3, 0.7)
        ]
        assert routes[2] > routes[3]
    assert compiled == []
    assert 0 < max(seconds.values()) < 1
    with pytest.raises(InputError, match='no images'):
        predictor.warm_up([0])


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
    """The seconds of each program that is compiled meanwhile, or read from the cache of them."""
    seconds: list[float] = []

    def heard(event: str, duration: float, **_: Any) -> None:
        if event == '/jax/core/compile/backend_compile_duration':
            seconds.append(duration)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield seconds
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)


@pytest.mark.parametrize('is_exported', [False, True])
def test_eight_threads_are_answered_as_one_is(workdir: Workdir, tmp_path: Path, is_exported: bool) -> None:
    """All begin at once, before anything is compiled, with batches of two sizes and thresholds."""
    fresh = load.from_workdir(workdir.path)
    if is_exported:
        fresh.export(tmp_path / 'network')
        fresh = exported.load(tmp_path / 'network')
    images = helpers.noise_images(96).images_NxHxWxC
    asked = [(start, 1 if start % 3 else 12, (0.3, 0.7)[start % 2]) for start in range(80)]
    together = threading.Barrier(8)

    def answered_by(thread: int) -> list[Prediction]:
        together.wait()
        return [fresh(images[start : start + size], threshold) for start, size, threshold in asked[thread::8]]

    with ThreadPoolExecutor(8) as threads, compilations() as compiled:
        answers = list(threads.map(answered_by, range(8)))
    assert len(compiled) == 2, 'each size once, whoever comes first'
    for i, (start, size, threshold) in enumerate(asked):
        alone = fresh(images[start : start + size], threshold)
        for ours, expected in zip(answers[i % 8][i // 8], alone, strict=True):
            np.testing.assert_array_equal(ours, expected)


def test_a_static_network_runs_every_block_and_pays_no_router(tmp_path: Path) -> None:
    workdir = helpers.write_workdir(tmp_path / 'run', default.with_variant(helpers.tiny_config(), 'static'))
    predictor = load.from_workdir(workdir.path)
    images = helpers.noise_images(3).images_NxHxWxC
    predictor.export(tmp_path / 'exported')
    elsewhere = exported.load(tmp_path / 'exported')
    for answers in (
        *(predictor(images), predictor.in_batches(images, 1)),
        *(each(images, calibration.RUN_NONE) for each in (predictor, elsewhere)),
    ):
        np.testing.assert_array_equal(answers.run_probability_Bxn, np.ones((3, 3)))
        assert answers.decisions_Bxn.all()
        assert answers.macs_B.tolist() == [predictor.spec.static_macs] * 3
        np.testing.assert_allclose(answers.probabilities_BxY.sum(axis=1), 1)
    for ask in (
        functools.partial(load.from_workdir, workdir.path),
        *(functools.partial(each, images) for each in (predictor, elsewhere)),
    ):
        for option in ('cost', 'operating_point'):
            with pytest.raises(InputError, match=rf'^{tmp_path}/(run|exported) is static, and always costs the same: '):
                ask(**{option: 0.5})


def test_data_of_another_number_of_classes_are_refused() -> None:
    named = helpers.tiny_setup()
    spec, variables = dataclasses.replace(named.data.spec, classes=3), helpers.random_variables(named.model)
    with pytest.raises(InputError, match=r'^The network has 10 classes and the data 3'):
        load.from_network(named.model, spec, variables)
    with pytest.raises(InputError, match=r'^The network has 10 classes and the data 3'):
        evaluate.evaluate_weights(named.model, spec, variables, helpers.noise_images(2))


@pytest.mark.parametrize('strategy', [None, 'conditional'])
@pytest.mark.parametrize(
    ('changes', 'path'),
    [
        ({'model.depth': 20}, 'batch_stats/stage1_blocks/'),  # as the fused kernel reads them there are enough
        ({'model.depth': 8}, 'batch_stats/stage1_blocks/'),
        ({'model.router': 'conv'}, 'params/stage1_blocks/router/'),
        ({'method': 'static', 'model.router': 'static', 'loss.target_cost': None}, 'params/stage1_blocks/router/'),
    ],
)
def test_variables_of_another_network_are_refused(strategy: str | None, changes: dict[str, Any], path: str) -> None:
    named, other = (helpers.tiny_setup(**{'model.depth': 14} | each) for each in ({}, changes))
    with pytest.raises(InputError, match=rf"^The variables .* ResNet-14 with router 'linear': {path}") as caught:
        load.from_network(named.model, named.data.spec, random_variables(other.model), strategy=strategy)(
            helpers.noise_images(1).images_NxHxWxC
        )
    assert '\n' not in str(caught.value)


def test_variables_of_another_network_are_not_evaluated() -> None:
    named, other = (helpers.tiny_setup(**{'model.depth': depth}) for depth in (14, 8))
    with pytest.raises(InputError, match=r"^The variables are not those of CIFAR ResNet-14 with router 'linear': "):
        evaluate.evaluate_weights(
            named.model, named.data.spec, random_variables(other.model), helpers.noise_images(2), batch_size=2
        )


def test_the_spec_of_a_network() -> None:
    stem, head = 9 * 16 * 8**2, 64 * 10
    blocks = (
        9 * (16 * 16 + 16 * 16) * 8**2,
        9 * (16 * 32 + 32 * 32) * 4**2,
        9 * (32 * 64 + 64 * 64) * 2**2,
    )
    routers = (16 * 16 + 2 * 16) + (16 * 16 + 2 * 16) + (32 * 32 + 2 * 32)
    assert spec_of(helpers.tiny_setup()) == NetworkSpec(
        classes=tuple('0123456789'),
        image_size=8,
        num_channels=1,
        center_crop=1.0,
        blocks_per_stage=(1, 1, 1),
        blocks_macs=blocks,
        fixed_macs=stem + routers + head,
        static_macs=stem + sum(blocks) + head,
    )
    assert spec_of(helpers.tiny_setup(**{'model.depth': 20})).blocks_per_stage == (3, 3, 3)
    hundred = spec_of(helpers.tiny_setup(dataset='cifar100'))
    assert hundred.image_shape == (32, 32, 3) and hundred.classes[::33] == ('apple', 'forest', 'raccoon', 'worm')


def spec_of(named: Setup) -> NetworkSpec:
    return program.network_spec(named.model, named.data.spec)


def test_what_a_workdir_lacks_is_said(workdir: Workdir, tmp_path: Path) -> None:
    unfinished = Workdir(tmp_path / 'unfinished')
    with unfinished.claimed(helpers.tiny_setup().record):
        pass
    (tmp_path / 'exported').mkdir()
    (tmp_path / 'exported' / exported.MANIFEST).touch()
    cases: list[tuple[Path, dict[str, str], str]] = [
        (tmp_path / 'nowhere', {}, 'nowhere holds no run'),
        (tmp_path / 'exported', {}, 'holds an exported network and no run: give it as --exported'),
        (unfinished.path, {}, 'its run is unfinished'),
        (workdir.path, {'operating_point': 'cheep'}, r"no operating point 'cheep' \(it has expensive, cheap\)"),
        (workdir.path, {'strategy': 'maksed'}, "no strategy 'maksed': take one of masked, conditional, compacted"),
    ]
    for path, options, words in cases:
        with pytest.raises(InputError, match=words):
            load.from_workdir(path, **options)
    helpers.write_workdir(unfinished.path, helpers.tiny_config())
    with pytest.raises(InputError, match=r"no operating point 'half' \(it has none\)"):
        load.from_workdir(unfinished.path, operating_point='half')
