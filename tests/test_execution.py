"""Every way of executing hard decisions gives the same numbers, and computes no more on the way than it promises."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from codinet_jax.inference.folding import fold
from codinet_jax.models import execution
from codinet_jax.models.architecture import Architecture, Block, Conv, Stage
from codinet_jax.models.execution import Execution, Threshold
from codinet_jax.models.network import RoutedOutput, RoutedResNet
from codinet_jax.routing import relaxation
from helpers import quick_jit, random_images, random_variables
from reference_network import Tree

TILES = (1, 2, 8, 64, 300, None)
STRATEGIES: dict[str, Callable[[Threshold], Execution]] = {
    'masked': execution.masked,
    'conditional': execution.conditional,
    **{f'compacted-{tile}': functools.partial(execution.compacted, tile=tile) for tile in TILES},
}
COMPACTED = [f'compacted-{tile}' for tile in TILES]


def rows_at_a_time(strategy: str, num_rows: int, numbers_per_row: int) -> int:
    """How many rows one call of F computes."""
    if strategy == 'conditional':
        return 1
    tile = strategy.removeprefix('compacted-')
    by_default = min(num_rows, max(1, execution.CPU_TILE_NUMBERS // numbers_per_row))
    return by_default if tile == 'None' else int(tile)


# --- Arrays: `combine` alone. ---

# Small integers in float32, so that every answer is exact. A row that ran twice, or ran for another, is told apart.


def run(a: jax.Array, shortcut: jax.Array) -> jax.Array:
    return 7 * a[:, :2, :2, :1] + shortcut


def combined(hard: Execution, changes_shape: bool, a: jax.Array, v_B: jax.Array) -> jax.Array:
    """As a gated block combines: where it keeps the shape, the shortcut is its input, and skipping returns that."""
    if changes_shape:
        return hard.combine(run, lambda a, shortcut: -shortcut, (a, a[:, ::2, ::2] + 1), v_B)
    return hard.combine(run, lambda a, shortcut: a, (a, a), v_B)


@functools.cache
def compiled_combine(strategy: str, changes_shape: bool) -> Any:
    return quick_jit(lambda threshold, a, v_B: combined(STRATEGIES[strategy](threshold), changes_shape, a, v_B))


def inputs(num_rows: int, size: int) -> np.ndarray:
    numbers = np.arange(1, 1 + num_rows * size * size * 2, dtype=np.float32)
    return numbers.reshape(num_rows, size, size, 2)


# On, above and below every threshold; 0 is reached by all rows and 2 by none.
GATES_B = st.sampled_from([1, 5, 12]).flatmap(
    lambda num_rows: st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=num_rows, max_size=num_rows)
)
THRESHOLDS = st.sampled_from([0.25, 0.5, 0.75, 0.0, 2.0])


@pytest.mark.parametrize('changes_shape', [False, True], ids=['same-shape', 'other-shape'])
@pytest.mark.parametrize('strategy', STRATEGIES)
@settings(deadline=None, max_examples=60)
@given(gates=GATES_B, threshold=THRESHOLDS, nan_where_skipped=st.booleans())
def test_rows_at_the_threshold_run_and_no_other(
    strategy: str, changes_shape: bool, gates: list[float], threshold: float, nan_where_skipped: bool
) -> None:
    v_B = np.array(gates, np.float32)
    u_Bx1x1x1 = np.array([gate >= threshold for gate in gates])[:, None, None, None]
    a = inputs(len(gates), 4 if changes_shape else 2)
    if nan_where_skipped:
        a = np.where(u_Bx1x1x1, a, np.float32(np.nan))
    shortcut = a[:, ::2, ::2] + 1 if changes_shape else a
    expected = np.where(u_Bx1x1x1, 7 * a[:, :2, :2, :1] + shortcut, -shortcut if changes_shape else a)
    output = compiled_combine(strategy, changes_shape)(np.float32(threshold), a, v_B)
    np.testing.assert_array_equal(output, expected)


DECISIONS = {
    'none': [0] * 13,
    'all': [1] * 13,
    'first': [1] + [0] * 12,
    'last': [0] * 12 + [1],
    'five': [0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1],
    'eight': [1, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0],
}


class Counter:
    """Sees what of F is computed while a program runs: for every call, a number out of each of its rows."""

    def __init__(self) -> None:
        self.calls: list[jax.Array] = []

    def counted(self, hard: Execution) -> Execution:
        def combine(run: Any, skip: Any, operands: tuple[jax.Array, ...], v_B: jax.Array) -> jax.Array:
            def counted_run(*operands: jax.Array) -> jax.Array:
                jax.debug.callback(self.calls.append, operands[0][:, 0, 0, 0])
                return run(*operands)

            return hard.combine(counted_run, skip, operands, v_B)

        return hard._replace(combine=combine)

    def during(self, call: Callable[..., Any], *arguments: Any) -> tuple[Any, list[np.ndarray]]:
        """What the call returned, and what was seen of it."""
        self.calls.clear()
        output = jax.block_until_ready(call(*arguments))
        jax.effects_barrier()
        return output, [np.asarray(rows) for rows in self.calls]


def compiled_and_counted(hard: Execution, changes_shape: bool = False) -> tuple[Counter, Any]:
    counter = Counter()
    counted = counter.counted(hard)
    return counter, quick_jit(lambda a, v_B: combined(counted, changes_shape, a, v_B))


@pytest.mark.parametrize('changes_shape', [False, True], ids=['same-shape', 'other-shape'])
@pytest.mark.parametrize('strategy', ['conditional', *COMPACTED])
def test_only_rows_that_run_are_computed(strategy: str, changes_shape: bool) -> None:
    counter, compiled = compiled_and_counted(STRATEGIES[strategy](0.5), changes_shape)
    a = inputs(13, 4 if changes_shape else 2)
    tile = rows_at_a_time(strategy, len(a), a[0].size)
    for name, decisions in DECISIONS.items():
        _, calls = counter.during(compiled, a, np.array(decisions, np.float32))
        ran = a[np.flatnonzero(decisions), 0, 0, 0]
        assert [len(rows) for rows in calls] == [tile] * -(-len(ran) // tile), name
        computed = np.concatenate([*calls, []])
        assert np.isin(ran, computed).all(), name
        if tile == 1:
            np.testing.assert_array_equal(np.sort(computed), ran, name)


@functools.cache
def on_an_accelerator(changes_shape: bool) -> tuple[Counter, Any]:
    return compiled_and_counted(execution.compacted(), changes_shape)


@pytest.mark.parametrize('changes_shape', [False, True], ids=['same-shape', 'other-shape'])
@pytest.mark.parametrize(
    ('num_rows', 'num_run', 'num_computed'),
    [(100, 75, 78), (100, 100, 100), (100, 0, 0), (100, 1, 13), (100, 13, 13), (100, 14, 26), (3, 2, 2), (1, 1, 1)],
)
def test_an_accelerator_computes_one_piece_of_the_batch_that_holds_the_rows_that_run(
    monkeypatch: pytest.MonkeyPatch, num_rows: int, num_run: int, num_computed: int, changes_shape: bool
) -> None:
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda *, cpu, default: default())
    counter, compiled = on_an_accelerator(changes_shape)
    a = inputs(num_rows, 4 if changes_shape else 2)
    u_B = np.random.default_rng(0).permutation(np.arange(num_rows) < num_run)
    output, calls = counter.during(compiled, a, u_B.astype(np.float32))
    assert [len(rows) for rows in calls] == ([num_computed] if num_computed else [])
    assert set(a[u_B][:, 0, 0, 0]) <= set(np.concatenate([*calls, []]))
    shortcut = a[:, ::2, ::2] + 1 if changes_shape else a
    ran = 7 * a[:, :2, :2, :1] + shortcut
    np.testing.assert_array_equal(output, np.where(u_B[:, None, None, None], ran, -shortcut if changes_shape else a))


@pytest.mark.parametrize('decision', [0, 1])
def test_conditional_computes_a_lone_row_only_if_it_runs(decision: int) -> None:
    counter, compiled = compiled_and_counted(execution.conditional())
    assert len(counter.during(compiled, inputs(1, 2), np.array([decision], np.float32))[1]) == decision


def test_masked_computes_every_row_at_once() -> None:
    counter, compiled = compiled_and_counted(execution.masked())
    _, (rows,) = counter.during(compiled, inputs(13, 2), np.zeros(13, np.float32))
    np.testing.assert_array_equal(rows, inputs(13, 2)[:, 0, 0, 0])


@pytest.mark.parametrize('tile', [1, 8, None])
def test_compacted_works_in_place_where_skipping_changes_nothing(tile: int | None) -> None:
    compacted, a = execution.compacted(0.5, tile), jnp.zeros((64, 2, 2, 64))
    combine = jax.jit(lambda a, v_B: compacted.combine(lambda a: 7 * a, lambda a: a, (a,), v_B), donate_argnames='a')
    memory = combine.lower(a, jnp.zeros(64)).compile().memory_analysis()
    assert memory.alias_size_in_bytes == a.nbytes
    assert memory.temp_size_in_bytes < a.nbytes / 2


# --- Noise. ---

ROUTER_LOGITS_Bx2 = jnp.array([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]])


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_noise_counts_only_where_it_is_asked_for(strategy: str) -> None:
    hard = STRATEGIES[strategy](0.5)
    heeding = execution.with_noise(hard)
    noise_Bx2 = jnp.array([[0.0, -3.0], [0.0, 4.0], [0.0, 0.25]])
    v_B = jax.nn.sigmoid(jnp.array([1.0, -3.0, 0.0]))
    np.testing.assert_allclose(hard.decide(ROUTER_LOGITS_Bx2, None), v_B, rtol=1e-6)
    np.testing.assert_array_equal(hard.decide(ROUTER_LOGITS_Bx2, noise_Bx2), hard.decide(ROUTER_LOGITS_Bx2, None))
    np.testing.assert_array_equal(heeding.decide(ROUTER_LOGITS_Bx2, None), hard.decide(ROUTER_LOGITS_Bx2, None))
    drawn_B = jax.nn.sigmoid(jnp.array([-2.0, 1.0, 0.25]))
    np.testing.assert_allclose(heeding.decide(ROUTER_LOGITS_Bx2, noise_Bx2), drawn_B, rtol=1e-6)
    assert heeding.combine is hard.combine


def test_large_noise_dictates() -> None:
    u_B = np.array([0, 1, 0])
    decide = execution.with_noise(execution.masked()).decide
    np.testing.assert_array_equal(decide(ROUTER_LOGITS_Bx2, dictating(u_B)), u_B)
    noise_Bx2 = execution.dictated(u_B > 0)
    for logits_Bx2 in (ROUTER_LOGITS_Bx2, 1e25 * ROUTER_LOGITS_Bx2, -1e25 * ROUTER_LOGITS_Bx2):
        np.testing.assert_array_equal(decide(logits_Bx2, noise_Bx2), u_B)
    assert (noise_Bx2.shape, noise_Bx2.dtype) == ((3, 2), jnp.float32)
    np.testing.assert_array_equal(execution.dictated(u_B.astype(np.float32)), noise_Bx2)


def dictating(u: np.ndarray) -> np.ndarray:
    """Noise under which rows run where u is one and skip where it is zero, whatever the router says."""
    return np.stack([np.zeros(u.shape), np.where(u, 1e6, -1e6)], axis=-1).astype(np.float32)


# --- Networks. ---

# Stacked and single blocks, all three shortcuts.
BASIC = Architecture(
    6,
    3,
    5,
    'cifar',
    4,
    (
        Stage(None, Block(6, 4, (Conv(3, 4), Conv(3, 4)), 'identity'), 2),
        Stage(Block(6, 4, (Conv(3, 6, 2), Conv(3, 6)), 'pad'), Block(3, 6, (Conv(3, 6),), 'identity'), 0),
        Stage(Block(3, 6, (Conv(3, 8, 2), Conv(3, 8)), 'projection'), Block(2, 8, (Conv(3, 8),), 'identity'), 0),
    ),
)
BOTTLENECKS = Architecture(
    16,
    3,
    5,
    'imagenet',
    4,
    (
        Stage(
            Block(4, 4, (Conv(1, 3), Conv(3, 3), Conv(1, 8)), 'projection'),
            Block(4, 8, (Conv(1, 3), Conv(3, 3), Conv(1, 8)), 'identity'),
            2,
        ),
        Stage(
            Block(4, 8, (Conv(1, 4), Conv(3, 4, 2), Conv(1, 12)), 'projection'),
            Block(2, 12, (Conv(1, 4), Conv(3, 4), Conv(1, 12)), 'identity'),
            0,
        ),
    ),
)
# With seeds under which the routers are of more than one mind, and none of them is undecided.
NETWORKS = {
    'linear': (RoutedResNet(BASIC, 'linear'), 25),
    'conv': (RoutedResNet(BASIC, 'conv', unroll=2), 27),
    'recurrent': (RoutedResNet(BASIC, 'recurrent'), 6),
    'random': (RoutedResNet(BASIC, 'random'), 0),
    'bottlenecks': (RoutedResNet(BOTTLENECKS, 'linear'), 14),
}
BATCHES = (1, 3, 64, 257)
RUN_RATES = (0, 0.1, 0.5, 0.9, 1)


@functools.cache
def variables_of(network: str) -> Tree:
    net, seed = NETWORKS[network]
    return random_variables(net, seed)


@functools.cache
def images_of(network: str, num_images: int) -> jax.Array:
    return random_images(NETWORKS[network][0].architecture, num_images)


def num_blocks_of(network: str) -> int:
    return NETWORKS[network][0].architecture.num_blocks


class Answers(NamedTuple):
    """What a network says of B images under a threshold, in numpy."""

    logits_BxY: np.ndarray
    v_Bxn: np.ndarray
    u_Bxn: np.ndarray


def answers(output: RoutedOutput, threshold: float) -> Answers:
    v_Bxn = np.asarray(output.run_probability_Bxn)
    return Answers(np.asarray(output.logits_BxY), v_Bxn, v_Bxn >= np.float32(threshold))


@functools.cache
def compiled_forward(network: str, strategy: str, num_images: int) -> Any:
    """A network as a function of variables, so many images, noise to add to its routers' logits, and a threshold."""
    del num_images
    net, _ = NETWORKS[network]

    def forward(variables: Tree, images_BxHxWxC: jax.Array, noise_Bxnx2: jax.Array, threshold: jax.Array) -> Any:
        heeding = execution.with_noise(STRATEGIES[strategy](threshold))
        return net.apply(variables, images_BxHxWxC, heeding, noise_Bxnx2, train=False)

    return quick_jit(forward)


def ask(
    network: str, strategy: str, num_images: int, u_Bxn: np.ndarray | None = None, threshold: float = 0.5
) -> Answers:
    """Asks a strategy about random images. The routers decide, unless `u_Bxn` does."""
    noise_Bxnx2 = noise_of(u_Bxn, num_images, num_blocks_of(network))
    forward = compiled_forward(network, strategy, num_images)
    output = forward(variables_of(network), images_of(network, num_images), noise_Bxnx2, np.float32(threshold))
    return answers(output, threshold)


def noise_of(u_Bxn: np.ndarray | None, num_images: int, num_blocks: int) -> np.ndarray:
    return np.zeros((num_images, num_blocks, 2), np.float32) if u_Bxn is None else dictating(u_Bxn)


def decisions_at(run_rate: float, num_images: int, num_blocks: int) -> np.ndarray:
    """That share of all the batch's blocks run, scattered over images and blocks."""
    runs = np.arange(num_images * num_blocks) < round(run_rate * num_images * num_blocks)
    return np.random.default_rng(0).permutation(runs).reshape(num_images, num_blocks)


def assert_alike(actual: Answers, expected: Answers) -> None:
    np.testing.assert_array_equal(actual.u_Bxn, expected.u_Bxn)
    np.testing.assert_allclose(actual.v_Bxn, expected.v_Bxn, rtol=0, atol=1e-5)
    # Of the largest logit of its row: a logit is a sum whose terms may cancel, and its own size says nothing of them.
    scales_Bx1 = np.abs(expected.logits_BxY).max(axis=1, keepdims=True)
    np.testing.assert_allclose(actual.logits_BxY / scales_Bx1, expected.logits_BxY / scales_Bx1, rtol=0, atol=1e-4)


def assert_no_decision_hangs_on_rounding(expected: Answers, threshold: float) -> None:
    assert np.abs(expected.v_Bxn - threshold).min() > 1e-4, 'the test is to have gates that are no tie'


class Case(NamedTuple):
    network: str
    num_images: int
    strategy: str


def cases() -> Iterator[Case]:
    """Every network and batch size; tiles by turns, so that each meets every network and both of the large batches."""
    for i, network in enumerate(NETWORKS):
        turns = (2 * COMPACTED)[2 * i % len(COMPACTED) :]
        by_batch = {1: turns[:1], 3: turns[1:2], 64: turns[2:4], 257: turns[4:6]}
        for num_images in BATCHES:
            for strategy in ('conditional', *by_batch[num_images]):
                yield Case(network, num_images, strategy)


# A fixture, so that tests of one case, and so of one compiled network, are run one after another.
@pytest.fixture(scope='module', params=cases(), ids=lambda case: '-'.join(map(str, case)))
def case(request: pytest.FixtureRequest) -> Case:
    each: Case = request.param
    return each


def test_dictated_decisions_are_carried_out_as_by_masked(case: Case) -> None:
    network, num_images, strategy = case
    for run_rate in RUN_RATES:
        u_Bxn = decisions_at(run_rate, num_images, num_blocks_of(network))
        expected = ask(network, 'masked', num_images, u_Bxn)
        np.testing.assert_array_equal(expected.v_Bxn, u_Bxn)
        assert_alike(ask(network, strategy, num_images, u_Bxn), expected)
    assert compiled_forward(network, strategy, num_images)._cache_size() == 1


def test_routers_decide_as_under_masked(case: Case) -> None:
    network, num_images, strategy = case
    by_threshold = []
    for threshold in (0.3, 0.5, 0.7):
        expected = ask(network, 'masked', num_images, threshold=threshold)
        assert_no_decision_hangs_on_rounding(expected, threshold)
        assert_alike(ask(network, strategy, num_images, threshold=threshold), expected)
        by_threshold.append(expected.u_Bxn)
    if num_images >= 64:
        run_rates_n = by_threshold[1].mean(axis=0)
        assert np.count_nonzero((run_rates_n > 0.05) & (run_rates_n < 0.95)) >= 2, 'images are to part ways'
        assert by_threshold[0].sum() > by_threshold[1].sum() > by_threshold[2].sum()


@pytest.mark.parametrize('network', NETWORKS)
def test_each_decision_matters_to_each_image(network: str) -> None:
    """Else agreement on the logits would say nothing of what was run."""
    num_blocks = num_blocks_of(network)
    u_Bxn = decisions_at(0.5, 3, num_blocks)
    before = ask(network, 'masked', 3, u_Bxn)
    for k in range(num_blocks):
        after = ask(network, 'masked', 3, u_Bxn ^ (np.arange(num_blocks) == k)[None])
        assert (np.abs(after.logits_BxY - before.logits_BxY).max(axis=1) > 0.1).all()


@pytest.mark.parametrize(
    ('network', 'strategy', 'threshold'),
    [
        ('linear', 'masked', 0.3),
        ('linear', 'conditional', 0.7),
        ('linear', 'compacted-8', 0.3),
        ('conv', 'compacted-None', 0.7),
        ('recurrent', 'compacted-8', 0.5),
        ('random', 'compacted-2', 0.5),
        ('bottlenecks', 'conditional', 0.5),
        ('bottlenecks', 'compacted-None', 0.5),
    ],
)
def test_folded_and_without_noise_the_answers_are_the_same(network: str, strategy: str, threshold: float) -> None:
    net, hard = NETWORKS[network][0].clone(folded=True), STRATEGIES[strategy](threshold)
    forward = quick_jit(lambda variables, images: net.apply(variables, images, hard, train=False))
    output = forward(fold(variables_of(network)), images_of(network, 64))
    expected = ask(network, 'masked', 64, threshold=threshold)
    assert_no_decision_hangs_on_rounding(expected, threshold)
    assert_alike(answers(output, threshold), expected)


@pytest.mark.parametrize(
    ('network', 'strategy', 'num_devices'),
    [
        ('conv', 'conditional', 1),
        ('bottlenecks', 'compacted-8', 1),
        ('linear', 'compacted-8', 4),
        ('recurrent', 'compacted-2', 4),
    ],
)
def test_each_device_computes_what_its_own_rows_run(network: str, strategy: str, num_devices: int) -> None:
    net, num_blocks, tile = NETWORKS[network][0], num_blocks_of(network), rows_at_a_time(strategy, 64, 1)
    counter = Counter()
    counted = counter.counted(execution.with_noise(STRATEGIES[strategy](0.5)))
    mesh = jax.make_mesh((num_devices,), ('data',), (AxisType.Auto,), devices=jax.devices()[:num_devices])
    forward = quick_jit(
        jax.shard_map(
            lambda variables, images, noise: net.apply(variables, images, counted, noise, train=False),
            mesh=mesh,
            in_specs=(P(), P('data'), P('data')),
            out_specs=P('data'),
            check_vma=False,
        )
    )
    # In every block one device of four runs no row, others a few, more than a tile, all.
    runs_4xn = np.array([0, 3, 9, 16])[np.add.outer(np.arange(4), np.arange(num_blocks)) % 4]
    dictated_Bxn = (np.arange(16)[:, None] * 5 % 16 < runs_4xn[:, None]).reshape(64, num_blocks)
    for u_Bxn in (dictated_Bxn, None):
        arguments = variables_of(network), images_of(network, 64), noise_of(u_Bxn, 64, num_blocks)
        output, calls = counter.during(forward, *arguments)
        expected = ask(network, 'masked', 64, u_Bxn)
        assert_alike(answers(output, 0.5), expected)
        runs = expected.u_Bxn.reshape(num_devices, -1, num_blocks).sum(axis=1)
        assert [len(rows) for rows in calls] == [tile] * np.sum(-(-runs // tile))


@pytest.mark.parametrize(('platform', 'tiles'), [('cpu', (1, 32)), ('default', (1, 16, 256))])
def test_an_exported_program_works_in_the_smallest_tile_that_holds_its_batch(
    monkeypatch: pytest.MonkeyPatch, platform: str, tiles: tuple[int, ...]
) -> None:
    monkeypatch.setattr(jax.lax, 'platform_dependent', lambda **branches: branches[platform]())

    def rows_at_a_time(a_BxHxWxC: jax.Array) -> jax.Array:
        return jnp.full_like(a_BxHxWxC, a_BxHxWxC.shape[0])  # a static number, which tells the tile

    def program(a_BxHxWxC: jax.Array, v_B: jax.Array) -> jax.Array:
        return execution.compacted().combine(rows_at_a_time, lambda a: a, (a_BxHxWxC,), v_B)

    b = jax.export.symbolic_shape('b')[0]
    shapes = jax.ShapeDtypeStruct((b, 4, 4, 2), jnp.float32), jax.ShapeDtypeStruct((b,), jnp.float32)
    call = quick_jit(jax.export.export(jax.jit(program))(*shapes).call)
    for num_rows in (1, 2, 16, 17, 31, 40, 300):
        expected = next((tile for tile in tiles if tile >= num_rows), tiles[-1])
        output = call(np.zeros((num_rows, 4, 4, 2), np.float32), np.ones(num_rows, np.float32))
        np.testing.assert_array_equal(output, expected, err_msg=str(num_rows))


def test_in_bfloat16_a_gate_near_one_still_lets_the_skipped_branch_through() -> None:
    one = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    relaxed = execution.relaxed(relaxation.softmax, 1.0)
    mixed = relaxed.combine(lambda a: 0 * a, lambda a: 1000 * a, (one,), jnp.array([0.999]))
    assert mixed.dtype == jnp.bfloat16 and float(mixed[0, 0, 0, 0]) == pytest.approx(1.0, rel=0.01)
