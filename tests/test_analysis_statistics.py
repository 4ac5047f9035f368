"""The numbers of a run, worked out by hand and by brute force; what they do not depend on; and what is remarked."""

import dataclasses
import itertools
import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helpers
from codinet_jax.analysis import paper, pool, tables
from codinet_jax.analysis.findings import findings
from codinet_jax.analysis.remarks import remarks
from codinet_jax.analysis.run import Run
from codinet_jax.evaluation import statistics
from codinet_jax.evaluation.record import AugmentedRecord, Record
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.cost import CostTable, cost_table
from codinet_jax.runtime.errors import InputError
from synthetic_run import recorded_run, setup_of

approx = pytest.approx

CLASSES = ('cat', 'dog', 'eel', 'fox')


def routes(*written: str) -> np.ndarray:
    """Decisions [len(written), n] of routes such as '0110'."""
    return np.array([[digit == '1' for digit in route] for route in written])


def gates(decisions: np.ndarray) -> np.ndarray:
    """3/4 where a block is run, 1/4 where it is not."""
    return np.where(decisions, 0.75, 0.25).astype(np.float32)


def unchanged(record: Record, num_augmentations: int = 2) -> AugmentedRecord:
    """Augmentations that change nothing."""
    predictions_AxN, v_AxNxn, u_AxNxn = (np.stack([each] * num_augmentations) for each in record[1:])
    names_A, nothing_AxN = np.array(['flip', 'turn', 'crop'][:num_augmentations]), np.zeros(predictions_AxN.shape)
    return AugmentedRecord(names_A, predictions_AxN, v_AxNxn, u_AxNxn, nothing_AxN.astype(np.float32))


def run_of(
    decisions_Nxn: np.ndarray,
    labels_N: Any,
    predictions_N: Any = None,
    augmented: AugmentedRecord | None = None,
    router: str | None = 'linear',
) -> Run:
    """A run with these routes; if not said, every image is classified right and no augmentation changes a thing."""
    N, n = decisions_Nxn.shape
    labels_N = np.asarray(labels_N, np.int32)
    predictions_N = labels_N if predictions_N is None else np.asarray(predictions_N, np.int32)
    record = Record(labels_N, predictions_N, gates(decisions_Nxn), decisions_Nxn)
    costs = CostTable(100, tuple(10 * (k + 1) for k in range(n)), (0,) * (n - 1) + (5,), (1,) * n, 11)
    thumbnails = np.zeros((N, 8, 8, 1), np.uint8)
    named = setup_of(costs, CLASSES, router)
    return recorded_run('by hand', named, record, augmented or unchanged(record), thumbnails)


def random_run(N: int = 60, n: int = 6, seed: int = 0) -> Run:
    """Routes that classes share now and then, answers that are often right, augmentations that often change them."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 4, N)

    def answers(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        often_4xn = np.random.default_rng(seed + 1).choice([0.1, 0.6, 0.9], (4, n))
        guesses = np.where(rng.uniform(size=labels.shape) < 0.7, labels, rng.integers(0, 4, labels.shape))
        return guesses.astype(np.int32), rng.uniform(size=(*labels.shape, n)) < often_4xn[labels]

    predictions_N, decisions_Nxn = answers(labels_N)
    predictions_AxN, decisions_AxNxn = answers(np.stack([labels_N] * 3))
    augmented = AugmentedRecord(
        np.array(['crop', 'flip', 'turn']),
        predictions_AxN,
        gates(decisions_AxNxn),
        decisions_AxNxn,
        rng.exponential(size=(3, N)).astype(np.float32),
    )
    return run_of(decisions_Nxn, labels_N, predictions_N, augmented)


def of_images(run: Run, chosen_N: np.ndarray) -> Run:
    """These images of a run, in this order."""
    names_A, *arrays_AxN = run.augmented
    return dataclasses.replace(
        run,
        record=Record(*(array_N[chosen_N] for array_N in run.record)),
        augmented=AugmentedRecord(names_A, *(array_AxN[:, chosen_N] for array_AxN in arrays_AxN)),
    )


def assert_alike(found: Any, expected: Any) -> None:
    """The same but for the rounding of sums."""
    found, expected = helpers.by_path(found), helpers.by_path(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        if np.issubdtype(value.dtype, np.floating):
            np.testing.assert_allclose(found[path], value, rtol=1e-6, err_msg=path)
        else:
            assert found[path] == value, path


# --- By hand. ---


def six_images() -> Run:
    """Routes 1100 three times, 1000 twice, 0111 once; two cats, three dogs, an eel, two of them taken for others."""
    record = routes('1100', '1100', '1100', '1000', '1000', '0111')
    flipped = routes('1100', '1100', '1100', '1000', '1000', '0110')
    turned = routes('0011', '1101', '1100', '0000', '1000', '1111')
    decisions_AxNxn = np.stack([flipped, turned])
    augmented = AugmentedRecord(
        np.array(['flip', 'turn']),
        np.array([[0, 1, 1, 0, 0, 2], [1, 2, 0, 1, 0, 2]], np.int32),
        gates(decisions_AxNxn),
        decisions_AxNxn,
        np.array([[0, 0, 0, 0, 0, 0.6], [0.1, 0.2, 0.3, 0.4, 0.5, 0.9]], np.float32),
    )
    return run_of(record, [0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 0, 2], augmented)


def test_every_number_of_six_images_by_hand() -> None:
    # Of the blocks, which cost 10, 20, 30 and 40 MACs, 1100 runs 30, 1000 runs 10 and 0111 runs 90; the stem is 100, a
    # shortcut 5, the head 11 and four routers 1 each: 120 for every image.
    mean_macs = 120 + (3 * 30 + 2 * 10 + 90) / 6
    assert six_images().numbers() == {
        'split': 'test',
        'operating_point': None,
        'num_test_images': 6,
        'num_blocks': 4,
        'is_static': False,
        'part': 'block',
        'top1': approx(4 / 6),
        'mean_path_length': approx((3 * 2 + 2 * 1 + 3) / 6),
        # A gate is 3/4 or 1/4, so k blocks run of 4 expect 1 + k / 2.
        'expected_path_length': approx((3 * 2 + 2 * 1.5 + 2.5) / 6),
        'num_paths': 3,
        'route_entropy': approx(1 / 2 * np.log2(2) + 1 / 3 * np.log2(3) + 1 / 6 * np.log2(6)),
        'coverage': {'50%': 1, '90%': 3, '99%': 3},
        'mean_macs': approx(mean_macs),
        'mean_flops': approx(2 * mean_macs),
        'static_macs': 100 + (10 + 20 + 30 + 40) + 5 + 11,
        'macs_share': approx(mean_macs / 216),
        # Of the four pairs within a class, the dog of route 1100 parts by 1 from both others.
        'distance_within_classes': approx((0 + 1 + 1 + 0) / 4),
        # Of all pairs, 1100 parts 6 times by 1 from 1000 and 3 times by 3 from 0111, and that twice by 4 from 1000.
        'distance_between_classes': approx((6 * 1 + 3 * 3 + 2 * 4 - 2) / (15 - 4)),
        'averaged_augmentations': ['flip', 'turn'],
        'augmentations': {
            'flip': {
                'same_route': approx(5 / 6),
                'distance': approx(1 / 6),
                'same_prediction': approx(5 / 6),
                'divergence_mean': approx(0.1),
                'divergence_median': 0.0,
            },
            'turn': {
                'same_route': approx(2 / 6),
                'distance': approx((4 + 1 + 0 + 1 + 0 + 1) / 6),
                'same_prediction': approx(3 / 6),
                'divergence_mean': approx(0.4),
                'divergence_median': approx(0.35),
            },
            'mean': {
                'same_route': approx(7 / 12),
                'distance': approx(8 / 12),
                'same_prediction': approx(8 / 12),
                'divergence_mean': approx(0.25),
                'divergence_median': approx(0.175),
            },
        },
        'by_path_length': [
            {'blocks': 1, 'images': 2, 'top1': approx(1 / 2)},
            {'blocks': 2, 'images': 3, 'top1': approx(2 / 3)},
            {'blocks': 3, 'images': 1, 'top1': 1.0},
        ],
        'share_off_most_common': approx(3 / 6),
        # Blocks of 30, 30, 30, 10, 10 and 90 MACs; of 30 and of 10 one each is wrong.
        'cost_error_correlation': approx((40 / 6 - 200 / 6 / 3) / np.sqrt((11000 / 6 - (200 / 6) ** 2) * 2 / 9)),
        'worth_of_routes': None,
        'run_rate_per_block': approx([5 / 6, 4 / 6, 1 / 6, 1 / 6]),
        'run_rate_per_class': {
            'cat': approx([1, 1, 0, 0]),
            'dog': approx([1, 1 / 3, 0, 0]),
            'eel': approx([0, 1, 1, 1]),
        },
        'most_used_routes': [
            {'route': '1100', 'images': 3, 'top1': approx(2 / 3)},
            {'route': '1000', 'images': 2, 'top1': approx(1 / 2)},
            {'route': '0111', 'images': 1, 'top1': 1.0},
        ],
    }


def test_what_is_known_of_each_of_six_images() -> None:
    run = six_images()
    assert run.is_correct_N.tolist() == [True, False, True, True, False, True]
    assert run.path_lengths_N.tolist() == [2, 2, 2, 1, 1, 3]
    assert run.expected_lengths_N.tolist() == [2, 2, 2, 1.5, 1.5, 2.5]
    assert run.macs_N.tolist() == [150, 150, 150, 130, 130, 210]


def test_classes_without_names_are_numbered_and_those_without_images_left_out() -> None:
    run = run_of(routes('10', '01', '11'), [7, 130, 7])
    run = dataclasses.replace(run, setup=setup_of(run.costs, 1000))
    assert run.numbers()['run_rate_per_class'] == {'7': [1, 0.5], '130': [0, 1]}


# --- By brute force. ---


def distances_of_pairs(run: Run) -> tuple[list[int], list[int]]:
    """Of all pairs of one class, and of all others."""
    within, between = list[int](), list[int]()
    for i, j in itertools.combinations(range(run.num_images), 2):
        distance = int(np.sum(run.record.decisions_Nxn[i] != run.record.decisions_Nxn[j]))
        (within if run.record.labels_N[i] == run.record.labels_N[j] else between).append(distance)
    return within, between


@settings(deadline=None, max_examples=50)
@given(N=st.integers(1, 30), n=st.integers(1, 54), seed=st.integers(0, 2**32))
def test_class_distances_are_the_means_over_all_pairs(N: int, n: int, seed: int) -> None:
    run = random_run(N, n, seed)
    found = statistics.class_distances(run.record.decisions_Nxn, run.record.labels_N)
    for mean, distances in zip(found, distances_of_pairs(run), strict=True):
        assert mean == (approx(np.mean(distances)) if distances else None)


def test_distances_of_a_whole_training_set_do_not_overflow() -> None:
    decisions_Nxn = np.zeros((200_000, 54), bool)
    decisions_Nxn[::2] = True
    labels_N = np.repeat([0, 1], 100_000)
    # Of 100,000 images half run all: of their pairs so many are of different halves.
    within, between = statistics.class_distances(decisions_Nxn, labels_N)
    assert within == approx(54 * 50_000**2 / (100_000 * 99_999 / 2), rel=1e-9)
    assert between == approx(27, rel=1e-9)


def test_the_numbers_of_many_images_are_those_of_loops() -> None:
    run = random_run(200)
    found, record, augmented = run.numbers(), run.record, run.augmented
    names = [''.join('01'[int(u)] for u in route_n) for route_n in record.decisions_Nxn]
    counts = sorted((names.count(name) for name in set(names)), reverse=True)
    assert found['num_paths'] == len(counts)
    assert found['route_entropy'] == approx(-sum(count / 200 * np.log2(count / 200) for count in counts))
    for share, routes_needed in found['coverage'].items():
        wanted = 2 * int(share.rstrip('%'))
        assert sum(counts[:routes_needed]) >= wanted > sum(counts[: routes_needed - 1])
    for a, name in enumerate(['crop', 'flip', 'turn']):
        parted = [
            np.sum(u != v) for u, v in zip(augmented.augmented_decisions_AxNxn[a], record.decisions_Nxn, strict=True)
        ]
        assert found['augmentations'][name] == {
            'same_route': approx(parted.count(0) / 200),
            'distance': approx(sum(parted) / 200),
            'same_prediction': approx(np.mean(augmented.augmented_predictions_AxN[a] == record.predictions_N)),
            'divergence_mean': approx(sum(augmented.divergences_AxN[a].tolist()) / 200),
            'divergence_median': approx(np.median(augmented.divergences_AxN[a])),
        }
    assert sum(each['images'] for each in found['by_path_length']) == 200
    assert sum(each['images'] * each['blocks'] for each in found['by_path_length']) == np.sum(record.decisions_Nxn)
    assert sum(each['images'] * each['top1'] for each in found['by_path_length']) == approx(200 * found['top1'])
    assert [each['images'] for each in found['most_used_routes']] == counts[:20] and len(counts) > 20
    for each in found['most_used_routes']:
        members = [i for i, name in enumerate(names) if name == each['route']]
        assert each['images'] == len(members) and each['top1'] == approx(np.mean(run.is_correct_N[members]))


def test_most_used_routes_hold_the_positions_of_their_images() -> None:
    decisions_Nxn = random_run(200).record.decisions_Nxn
    found = statistics.most_used_routes(decisions_Nxn, most=10_000)
    for route_n, positions in found:
        np.testing.assert_array_equal(decisions_Nxn[positions], np.tile(route_n, (len(positions), 1)))
    assert sorted(np.concatenate([positions for _, positions in found])) == list(range(200))
    fewer = statistics.most_used_routes(decisions_Nxn, most=3)
    assert [positions.tolist() for _, positions in fewer] == [positions.tolist() for _, positions in found[:3]]


# --- What the numbers do not depend on. ---


def test_the_order_of_images_does_not_matter() -> None:
    run, shuffled_N = random_run(), np.random.default_rng(1).permutation(60)
    assert_alike(of_images(run, shuffled_N).numbers(), run.numbers())


def test_every_image_twice_changes_counts_and_pairs_alone() -> None:
    run = random_run()
    once, twice = (each.numbers() for each in (run, of_images(run, np.arange(120) % 60)))
    same = [name for name in once if name not in ('num_test_images', 'by_path_length', 'most_used_routes')]
    pairs = ('distance_within_classes', 'distance_between_classes')
    assert_alike(*({name: each[name] for name in same if name not in pairs} for each in (twice, once)))
    for name in ('by_path_length', 'most_used_routes'):
        assert_alike(twice[name], [each | {'images': 2 * each['images']} for each in once[name]])
    # No pair of different classes is of one image and its copy.
    assert twice['distance_between_classes'] == approx(once['distance_between_classes'])
    assert twice['distance_within_classes'] < once['distance_within_classes']


def test_the_order_of_blocks_moves_rates_and_nothing_else() -> None:
    run, order_n = random_run(), np.random.default_rng(1).permutation(6)
    _, _, v_Nxn, u_Nxn = run.record
    _, _, v_AxNxn, u_AxNxn, _ = run.augmented
    moved = dataclasses.replace(
        run,
        record=run.record._replace(run_probability_Nxn=v_Nxn[:, order_n], decisions_Nxn=u_Nxn[:, order_n]),
        augmented=run.augmented._replace(
            augmented_run_probability_AxNxn=v_AxNxn[..., order_n], augmented_decisions_AxNxn=u_AxNxn[..., order_n]
        ),
        setup=setup_of(run.costs._replace(blocks_n=tuple(run.costs.blocks_n[k] for k in order_n)), CLASSES),
    )
    expected = run.numbers()
    expected['run_rate_per_block'] = [expected['run_rate_per_block'][k] for k in order_n]
    for name, rates_n in expected['run_rate_per_class'].items():
        expected['run_rate_per_class'][name] = [rates_n[k] for k in order_n]
    found = moved.numbers()
    # Routes of as many images come in another order, and where the list ends others may be on it.
    used, expected_used = (each.pop('most_used_routes') for each in (found, expected))
    assert [each['images'] for each in used] == [each['images'] for each in expected_used]
    for each in expected_used:
        if each['images'] > expected_used[-1]['images']:
            assert each | {'route': ''.join(each['route'][k] for k in order_n)} in used
    assert_alike(found, expected)


def test_the_names_of_classes_do_not_matter() -> None:
    run, new_4 = random_run(), np.array([2, 0, 3, 1])
    renamed = dataclasses.replace(
        run,
        record=run.record._replace(labels_N=new_4[run.record.labels_N], predictions_N=new_4[run.record.predictions_N]),
        augmented=run.augmented._replace(augmented_predictions_AxN=new_4[run.augmented.augmented_predictions_AxN]),
    )
    expected = run.numbers()
    rates = expected['run_rate_per_class']
    expected['run_rate_per_class'] = {CLASSES[new_4[label]]: rates[CLASSES[label]] for label in range(4)}
    assert_alike(renamed.numbers(), expected)


def test_augmentations_that_change_nothing_are_followed_exactly() -> None:
    run = random_run()
    found = statistics.augmentation_statistics(run.record, unchanged(run.record))
    steady = dict.fromkeys(('same_route', 'same_prediction'), 1.0)
    steady |= dict.fromkeys(('distance', 'divergence_mean', 'divergence_median'), 0.0)
    assert found == {'flip': steady, 'turn': steady, 'mean': steady}


def test_augmentations_that_turn_every_decision_part_on_all_blocks() -> None:
    run = random_run()
    opposite = unchanged(run.record)._replace(augmented_decisions_AxNxn=np.stack([~run.record.decisions_Nxn] * 2))
    found = statistics.augmentation_statistics(run.record, opposite)
    assert {name: (each['same_route'], each['distance']) for name, each in found.items()} == dict.fromkeys(
        ('flip', 'turn', 'mean'), (0.0, 6.0)
    )


# --- Where there is little to count. ---

DEGENERATE: dict[str, tuple[Run, bool, bool]] = {
    # The run, whether there are pairs within classes, and between them.
    'one image': (run_of(routes('101'), [2]), False, False),
    'one class': (run_of(routes('101', '100', '101'), [1, 1, 1]), True, False),
    'an image a class': (run_of(routes('101', '100', '111'), [0, 1, 2]), False, True),
    'static': (run_of(np.ones((5, 3), bool), [0, 0, 1, 1, 2], router=None), True, True),
    'one route': (run_of(routes(*['101'] * 5), [0, 0, 1, 1, 2]), True, True),
    'nothing is ever run': (run_of(np.zeros((5, 3), bool), [0, 0, 1, 1, 2]), True, True),
    'nothing is right': (run_of(routes('10', '01', '11'), [0, 0, 1], [1, 1, 0]), True, True),
    'one block': (run_of(routes('1', '0', '1'), [0, 0, 1]), True, True),
    'one augmentation': (
        dataclasses.replace(six_images(), augmented=unchanged(six_images().record, num_augmentations=1)),
        True,
        True,
    ),
}


@pytest.mark.parametrize('case', DEGENERATE)
def test_degenerate_runs_are_counted_and_fit_for_json(case: str) -> None:
    run, has_within, has_between = DEGENERATE[case]
    found = run.numbers()
    assert json.loads(json.dumps(found, allow_nan=False)) == found, 'tuples, numpy or keys that are no strings'
    assert (found['distance_within_classes'] is not None) == has_within
    assert (found['distance_between_classes'] is not None) == has_between
    assert found['num_test_images'] == run.num_images


def test_six_images_are_fit_for_json() -> None:
    found = six_images().numbers()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize('case', ['static', 'one route', 'nothing is ever run'])
def test_where_all_take_one_route_all_is_exactly_so(case: str) -> None:
    run, _, _ = DEGENERATE[case]
    found = run.numbers()
    assert found['num_paths'] == 1 and found['route_entropy'] == 0 and set(found['coverage'].values()) == {1}
    assert found['distance_within_classes'] == found['distance_between_classes'] == 0
    assert found['by_path_length'] == [{'blocks': run.path_lengths_N[0], 'images': 5, 'top1': 1.0}]
    assert len(found['most_used_routes']) == 1 and found['is_static'] == (case == 'static')


# --- Remarks. ---

COLLAPSED = 'Routing has collapsed'
FIXED = 'blocks (is|are) fixed'
STATIC = 'This is a static network'
ONE_CLASS = 'All images are of one class'
FEW = 'read shares and distances with care'


def alive(N: int = 100, n: int = 6) -> np.ndarray:
    """Routes of which every block is run by some images and not by others."""
    return (np.arange(N)[:, None] >> np.arange(n)[None, :]) & 1 == 1


def with_fixed(decisions_Nxn: np.ndarray, **blocks: Any) -> np.ndarray:
    decisions_Nxn = decisions_Nxn.copy()
    decisions_Nxn[:, blocks.get('run', [])] = True
    decisions_Nxn[:, blocks.get('skipped', [])] = False
    return decisions_Nxn


REMARKED: dict[str, tuple[np.ndarray, int, str | None, list[str]]] = {
    # Decisions, how many classes, the router, and what is remarked.
    'alive': (alive(), 4, 'linear', []),
    'alive, two classes': (alive(), 2, 'linear', []),
    'two routes': (np.arange(600).reshape(100, 6) // 300 == 1, 4, 'linear', []),
    'all but one image on one route': (np.arange(600).reshape(100, 6) < 6, 4, 'linear', []),
    'few images': (alive(99), 4, 'linear', [FEW]),
    'one class': (alive(), 1, 'linear', [ONE_CLASS]),
    'a block always run': (with_fixed(alive(), run=[2]), 4, 'linear', [f'^Block 3 always runs: 1 of 6 {FIXED}']),
    'a block never run': (with_fixed(alive(), skipped=[0]), 4, 'linear', [f'1 of 6 {FIXED}']),
    'three blocks fixed': (
        with_fixed(alive(), run=[2, 4], skipped=[0]),
        4,
        'linear',
        [f'^Block 1 never runs and blocks 3 and 5 always run: 3 of 6 {FIXED}'],
    ),
    'collapsed': (np.tile(routes('110100'), (100, 1)), 4, 'linear', [f'{COLLAPSED}.* 3 of 6 blocks']),
    'collapsed onto all': (np.ones((100, 6), bool), 4, 'linear', [f'{COLLAPSED}.* 6 of 6 blocks']),
    'collapsed onto nothing': (np.zeros((100, 6), bool), 4, 'recurrent', [f'{COLLAPSED}.* 0 of 6 blocks']),
    'static': (np.ones((100, 6), bool), 4, None, [STATIC]),
    'static, few, of one class': (np.ones((9, 6), bool), 1, None, [STATIC, ONE_CLASS, 'only 9:']),
    'one image': (routes('101'), 1, 'linear', [ONE_CLASS, FEW]),
    'fixed, few, of one class': (
        with_fixed(alive(64), run=[5]),
        1,
        'linear',
        [f'1 of 6 {FIXED}', ONE_CLASS, 'only 64:'],
    ),
}


@pytest.mark.parametrize('case', REMARKED)
def test_each_remark_is_made_where_it_is_due_and_nowhere_else(case: str) -> None:
    decisions_Nxn, num_classes, router, expected = REMARKED[case]
    found = remarks(run_of(decisions_Nxn, np.arange(len(decisions_Nxn)) % num_classes, router=router))
    assert len(found) == len(expected)
    for sentence, pattern in zip(found, expected, strict=True):
        assert re.search(pattern, sentence) and sentence.endswith('.')


@pytest.mark.parametrize(
    ('rates', 'words'),
    [
        ([0.5, 0.1], ''),
        ([1, 1, 1, 0.5, 1], 'blocks 1 to 3 and 5 always run'),
        ([1, 0, 0, 0.5, 1, 1], 'blocks 2 and 3 never run and blocks 1, 5 and 6 always run'),
        ([0] * 9 + [0.5] + [0] * 3, 'blocks 1 to 9 and 11 to 13 never run'),
    ],
)
def test_fixed_blocks_are_named(rates: list[float], words: str) -> None:
    assert statistics.fixed_in_words(rates) == words


def with_augmentations(run: Run, *names: str, flip: bool) -> Run:
    setup = dataclasses.replace(
        run.setup, data=dataclasses.replace(run.setup.data, spec=dataclasses.replace(run.setup.data.spec, flip=flip))
    )
    return dataclasses.replace(run, setup=setup, augmented=run.augmented._replace(augmentations_A=np.array(names)))


@pytest.mark.parametrize(
    ('flip', 'averaged'), [(True, ['crop', 'vertical flip', 'rotation']), (False, ['crop', 'rotation'])]
)
def test_flips_are_averaged_in_where_the_data_set_has_them(flip: bool, averaged: list[str]) -> None:
    found = with_augmentations(random_run(), 'crop', 'vertical flip', 'rotation', flip=flip).numbers()
    assert found['averaged_augmentations'] == averaged
    for measure, mean in found['augmentations']['mean'].items():
        assert mean == approx(np.mean([found['augmentations'][name][measure] for name in averaged]))


# --- Findings. ---


def test_findings_name_the_block_the_classes_and_the_mistakes() -> None:
    # Cats run one block of the first two, dogs all three; the last cat is taken for a dog and runs most.
    decisions_Nxn = routes('100', '100', '010', '110', '111', '111', '111', '111')
    run = run_of(decisions_Nxn, [0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1])
    run = with_augmentations(run, 'crop', 'vertical flip', flip=False)
    assert findings(run, run.numbers()) == [
        'Block 3 tells classes apart most: 100% of the images of class dog run it, 0% of those of class cat.',
        'Class cat runs the fewest blocks (1.2 in the mean), class dog the most (3.0).',
        'The one image classified wrong runs 2.0 blocks in the mean, those classified right 2.1.',
        'Of images that are augmented, so many keep their route: 100% (crop). Not counted: vertical flip, which this '
        'data set is not trained with.',
    ]


@pytest.mark.parametrize('case', ['static', 'one route', 'nothing is ever run', 'one image'])
def test_where_there_are_no_routes_nothing_is_found(case: str) -> None:
    run, _, _ = DEGENERATE[case]
    assert findings(run, run.numbers()) == []


def test_blocks_that_all_classes_run_as_often_tell_none_apart() -> None:
    decisions_Nxn = alive(96)
    run = run_of(decisions_Nxn, np.zeros(96, int) + (np.arange(96) >= 48))
    run = run_of(np.tile(decisions_Nxn[:48], (2, 1)), np.arange(96) // 48)
    assert findings(run, run.numbers())[0].startswith('No block tells classes apart')


# --- Seeds of one thing. ---


def test_seeds_are_pooled_image_by_image() -> None:
    one, other = random_run(seed=0), random_run(N=40, seed=5)
    whole = pool.pooled([one, other])
    assert whole.num_images == 100 and whole.is_pooled and not one.is_pooled
    np.testing.assert_array_equal(whole.record.decisions_Nxn[60:], other.record.decisions_Nxn)
    np.testing.assert_array_equal(whole.augmented.divergences_AxN[:, :60], one.augmented.divergences_AxN)
    assert whole.numbers()['top1'] == approx((60 * one.numbers()['top1'] + 40 * other.numbers()['top1']) / 100)
    assert pool.pooled([one]) is one


def with_settings(run: Run, **settings: Any) -> Run:
    return dataclasses.replace(run, setup=dataclasses.replace(run.setup, record=run.setup.record | settings))


def test_what_differs_in_more_than_its_seed_is_not_pooled() -> None:
    run = random_run()
    groups = pool.by_name([run, with_settings(run, seed=1, data_dir='/elsewhere'), dataclasses.replace(run, name='b')])
    assert {name: len(runs) for name, runs in groups.items()} == {'by hand': 2, 'b': 1}
    with pytest.raises(InputError, match="Runs called 'by hand' differ in dataset, split:"):
        pool.by_name([run, dataclasses.replace(with_settings(run, dataset='svhn'), split='train')])


# --- Tables. ---


def test_of_seeds_mean_and_deviation_are_given() -> None:
    one, other = random_run(seed=0).numbers(), random_run(seed=5).numbers()
    table, augmented = tables.tables({'a': [one, other]})
    cells = dict(table.rows)
    top1s = [one['top1'], other['top1']]
    assert table.header == ('', 'a (2 seeds)') and cells['images'] == '60'
    assert cells['top-1'] == f'{np.mean(top1s):.2%} ± {np.std(top1s, ddof=1):.2%}'
    assert re.fullmatch(r'[\d.]+ ± [\d.]+ of 6', cells['K, blocks run'])
    crop = [each['augmentations']['crop']['same_route'] for each in (one, other)]
    assert augmented.rows[0][:2] == ('crop', f'{np.mean(crop):.1%} ± {np.std(crop, ddof=1):.1%}')


@pytest.mark.parametrize(('nats', 'written'), [(0.0, '0.000'), (5e-5, '<0.001'), (0.0012, '0.001'), (5.0, '5.000')])
def test_divergences_are_written_without_powers_of_ten(nats: float, written: str) -> None:
    found = six_images().numbers()
    found['augmentations']['flip']['divergence_median'] = nats
    _, augmented, *_ = tables.tables({'a': [found]})
    assert augmented.rows[0][-1] == written


# --- What the paper reports. ---


def test_flops_are_counted_as_the_paper_counts_them() -> None:
    assert [paper.gflops(name, 3e9) for name in ('cifar10', 'svhn', 'imagenet2012')] == [6, 6, 3]
    # Table 7's static ResNet-110.
    static_macs = cost_table(cifar_resnet(110), None).static_macs
    (reported,) = (row for row in paper.REPORTED['cifar10'] if row.method == 'static')
    assert paper.gflops('cifar10', static_macs) == approx(reported.gflops, abs=0.01)


def test_a_spread_has_no_sign() -> None:
    seeds = [{'worth_of_routes': {'all': {'difference': each}}} for each in (0.01, 0.02)]
    assert tables._cell(tables._worth('all'), seeds) == '+1.50 ± 0.71'
