"""Figures draw the numbers they say they draw, of one run and of several, and of runs with little to draw."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text

from codinet_jax.analysis import figures, style
from codinet_jax.analysis.figures import curves, flow, histograms, images, maps, rates
from codinet_jax.analysis.run import Run
from codinet_jax.config.setup import Setup
from codinet_jax.evaluation.record import AugmentedRecord, Record
from codinet_jax.models.cost import CostTable
from synthetic_run import setup_of

AUGMENTATIONS = ('crop', 'rotation')
CURVE = [{'threshold': t, 'macs_share': 1 - t, 'top1': 0.9 - t**2, 'mean_path_length': 0.0} for t in (0.0, 0.3, 0.9)]
OF_ONE_RUN = ['flow', 'extremes']
OF_ROUTES = ['path_lengths', 'run_rates', *OF_ONE_RUN]
ALL = [
    *('map_by_class', 'map_by_blocks', 'divergence', 'path_lengths', 'run_rates', 'flow', 'extremes'),
    *('training', 'accuracy_cost'),
]


def of_cifar(n: int, **changes: Any) -> Setup:
    """ResNet-110 on CIFAR-10, as far as figures look at it, but of n blocks."""
    names = {'dataset': 'cifar10', 'model.depth': 110}
    return setup_of(CostTable(100, (1000,) * n, (0,) * n, (1,) * n, 50), **names | changes)


def make_run(N: int = 120, n: int = 6, num_thumbnails: int = 40, seed: int = 0, **changes: Any) -> Run:
    rng = np.random.default_rng(seed)
    v_Nxn = rng.choice([0.05, 0.4, 0.8, 0.98], size=(N, n)).astype(np.float32)
    labels_N = rng.integers(10, size=N)
    predictions_N = np.where(rng.random(N) < 0.8, labels_N, (labels_N + 1) % 10)
    A = len(AUGMENTATIONS)
    divergences_AxN = (10 ** rng.uniform(-7, 2, (A, N))).astype(np.float32)
    divergences_AxN[:, 0] = 0
    summary = {'top1': 0.8, 'mean_macs': 400.0 * n}
    fields: dict[str, Any] = {
        'name': f'run{seed}',
        'recorded': 'test',
        'is_own': True,
        'split': 'test',
        'operating_point': None,
        'setup': of_cifar(n),
        'record': Record(labels_N, predictions_N, v_Nxn, v_Nxn >= 0.5),
        'augmented': AugmentedRecord(
            np.array(AUGMENTATIONS),
            np.tile(predictions_N, (A, 1)),
            np.tile(v_Nxn, (A, 1, 1)),
            np.tile(v_Nxn >= 0.5, (A, 1, 1)),
            divergences_AxN,
        ),
        'thumbnails_SxhxwxC': rng.integers(256, size=(num_thumbnails, 8, 8, 3)).astype(np.uint8),
        'results': summary,
        'metrics': [
            {'step': step, 'kind': kind, 'stage': 1 + (step > 20), 'loss': 1 / step, 'accuracy': 0.5, 'top1': 0.6}
            | {'macs_share': 0.7, 'num_paths': step, 'agreement': 0.4}
            for step in (10, 20, 30)
            for kind in ('train', 'evaluation')
        ],
        'operating_points': {'0.4': {'threshold': 0.7, 'split': 'train', 'curve': CURVE}},
        'evaluations': {'as trained': summary, '0.4': {'top1': 0.7, 'mean_macs': 200.0 * n}},
    }
    return Run(**fields | changes)


def make_static(**changes: Any) -> Run:
    run = make_run(**changes)
    ones_Nxn = np.ones_like(run.record.run_probability_Nxn)
    record = run.record._replace(run_probability_Nxn=ones_Nxn, decisions_Nxn=ones_Nxn == 1)
    metrics = [{key: row[key] for key in ('step', 'kind', 'stage', 'loss', 'accuracy', 'top1')} for row in run.metrics]
    setup = of_cifar(run.num_blocks, router=None)
    return dataclasses.replace(run, setup=setup, record=record, metrics=metrics, operating_points={}, evaluations={})


def with_record(run: Run, **changes: np.ndarray) -> Run:
    return dataclasses.replace(run, record=run.record._replace(**changes))


def make_map(num_points: int, scale: float = 1, seed: int = 0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(num_points, 2))


def panels(figure: Figure) -> list[Axes]:
    return [axis for axis in figure.axes if axis.get_label() != '<colorbar>']


def draw_one(stem: str, *runs: Run, positions: Sequence[np.ndarray | None] = ()) -> figures.Picture:
    """Draws no other picture, to be quick."""
    theme = style.theme(is_dark=False)
    pictures = {
        'map_by_class': lambda: maps.by_class(runs, positions, theme),
        'map_by_blocks': lambda: maps.by_blocks(runs, positions, theme),
        'divergence': lambda: histograms.divergence(runs, theme),
        'path_lengths': lambda: histograms.path_lengths(runs, theme),
        'run_rates': lambda: rates.run_rates(runs),
        'flow': lambda: flow.flow(runs[0], theme),
        'extremes': lambda: images.extremes(runs[0]),
        'training': lambda: curves.training(runs, theme),
        'accuracy_cost': lambda: curves.accuracy_cost(runs, theme),
    }
    return pictures[stem]()


@pytest.fixture(scope='module')
def drawn() -> dict[str, figures.Picture]:
    return figures.draw([make_run()], [make_map(80)])


def test_one_run_has_every_picture_in_reading_order(drawn: dict[str, figures.Picture]) -> None:
    assert list(drawn) == ALL
    for picture in drawn.values():
        assert picture.title and picture.caption.endswith('.') and picture.alt.endswith('.')
        assert picture.figure.get_figwidth() == (9.6 if picture.is_wide else 4.8)


def test_several_runs_have_no_pictures_of_one() -> None:
    pictures = figures.draw([make_run(), make_run(n=9, seed=1)], [make_map(80), make_map(50)])
    assert list(pictures) == [stem for stem in ALL if stem not in OF_ONE_RUN]


def test_path_lengths_are_shares_of_images() -> None:
    run = make_run()
    shares, accuracies = panels(draw_one('path_lengths', run).figure)
    lengths, counts = np.unique(run.record.decisions_Nxn.sum(axis=1), return_counts=True)
    bars = [patch for patch in shares.patches if isinstance(patch, Rectangle)]
    np.testing.assert_allclose([bar.get_height() for bar in bars], counts / 120)
    np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in bars], lengths)
    is_right_N = run.record.labels_N == run.record.predictions_N
    enough = lengths[counts >= 1.2]
    rights = [is_right_N[run.record.decisions_Nxn.sum(axis=1) == length].mean() for length in enough]
    np.testing.assert_allclose(accuracies.lines[0].get_ydata(), rights)


def test_bars_of_two_runs_stand_side_by_side() -> None:
    shares, _ = panels(draw_one('path_lengths', make_run(), make_run(seed=1)).figure)
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in shares.patches)
    assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ('right', 'num', 'low', 'high'), [(0, 10, 0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1)]
)
def test_wilson_interval(right: int, num: int, low: float, high: float) -> None:
    np.testing.assert_allclose(histograms.wilson(right / num, num), (low, high), atol=1e-4)


def test_divergences_are_shares_with_the_smallest_and_largest_in_the_outer_bins() -> None:
    run = make_run()
    axes = panels(draw_one('divergence', run).figure)
    assert [axis.get_title() for axis in axes] == list(AUGMENTATIONS)
    for axis, divergences_N in zip(axes, run.augmented.divergences_AxN, strict=True):
        outline = next(patch for patch in axis.patches if isinstance(patch, StepPatch))
        shares = outline.get_data().values
        assert shares[0] == np.mean(divergences_N < 1e-4) > 0.1
        assert shares[-1] == np.mean(divergences_N >= 10) > 0
        decade = [i for i, edge in enumerate(histograms.DIVERGENCE_EDGES[:-1]) if 0.99e-2 < edge < 0.99e-1]
        np.testing.assert_allclose(shares[decade].sum(), np.mean((divergences_N >= 1e-2) & (divergences_N < 1e-1)))
        np.testing.assert_allclose(shares.sum(), 1)


@pytest.mark.parametrize(('n', 'is_wide'), [(6, False), (54, True)])
def test_heatmap_is_the_run_rates_of_classes(n: int, is_wide: bool) -> None:
    run = make_run(n=n)
    picture = draw_one('run_rates', run)
    (axis,) = panels(picture.figure)
    image = axis.images[0]
    expected = [run.record.decisions_Nxn[run.record.labels_N == label].mean(axis=0) for label in range(10)]
    np.testing.assert_allclose(image.get_array(), expected)
    assert image.get_clim() == (0, 1)
    assert [label.get_text() for label in axis.get_yticklabels()] == list(run.class_names)
    assert picture.is_wide == is_wide


def test_a_thousand_classes_go_unnamed() -> None:
    run = with_record(make_run(N=2000, n=16, setup=of_cifar(16, classes=1000)), labels_N=np.arange(2000) % 1000)
    (axis,) = panels(draw_one('run_rates', run).figure)
    assert not axis.get_yticklabels() and '1000' in axis.get_ylabel()
    assert axis.images[0].get_array().shape[0] == 1000


@pytest.mark.parametrize('n', [6, 54])
def test_ribbons_are_as_thick_as_their_images_and_none_covers_another(n: int) -> None:
    rng = np.random.default_rng(0)
    routes_Rxn = rng.random((12, n)) < 0.6
    route_of_N = np.repeat(np.arange(12), np.arange(12, 0, -1))
    run = with_record(make_run(N=len(route_of_N), n=n), decisions_Nxn=routes_Rxn[route_of_N])
    (axis,) = panels(draw_one('flow', run).figure)
    ribbons = [each for each in axis.collections if isinstance(each, FillBetweenPolyCollection) and each.zorder == 1]
    thickness = []
    for ribbon in ribbons:
        vertices = ribbon.get_paths()[0].vertices
        at_start = vertices[vertices[:, 0] == 0, 1]
        thickness.append(np.ptp(at_start))
    np.testing.assert_allclose(thickness, np.arange(12, 2, -1))

    laid_out = flow.lay_out([(routes_Rxn[r], np.flatnonzero(route_of_N == r)) for r in range(10)])
    lane = flow.lane_height([ribbon.images for ribbon in laid_out])
    for k in range(n + 2):
        spans = sorted((ribbon.tops[k] - ribbon.images, ribbon.tops[k]) for ribbon in laid_out)
        assert all(top <= bottom + 1e-9 for (_, top), (bottom, _) in itertools.pairwise(spans))
    for ribbon in laid_out:
        is_run_n = ribbon.tops[1:-1] - ribbon.images >= lane
        np.testing.assert_array_equal(is_run_n, ribbon.route_n)
        assert np.all(ribbon.tops[1:-1][~is_run_n] <= lane + 1e-9)


def test_flow_says_what_share_its_ribbons_hold() -> None:
    decisions_Nxn = np.eye(20, dtype=bool)[np.repeat(np.arange(20), [81, *[1] * 19])]
    picture = draw_one('flow', with_record(make_run(N=100, n=20), decisions_Nxn=decisions_Nxn))
    assert '10 drawn, of 20 routes, hold 90% of images' in picture.caption
    assert '81.0%, 1 block' in {text.get_text() for text in picture.figure.findobj(Text)}


def test_extremes_are_chosen_by_length_then_by_expected_length_then_by_position() -> None:
    decisions_Nxn = np.array([[1, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0]], bool)
    expected_N = np.array([2.0, 0.9, 0.8, 0.8, 2.5, 1.5, 0.0])
    run = with_record(
        make_run(N=7, n=3, num_thumbnails=6),
        decisions_Nxn=decisions_Nxn,
        run_probability_Nxn=np.repeat(expected_N[:, None] / 3, 3, axis=1),
    )
    assert images.fewest_and_most(run) == ([2, 3, 1], [4, 0, 5])
    axes = panels(draw_one('extremes', run).figure)
    for axis, i in zip(axes, [2, 3, 1, 4, 0, 5], strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), run.thumbnails_SxhxwxC[i])
        name, blocks = axis.get_xlabel().split('\n')
        assert name == run.class_names[run.record.labels_N[i]] and blocks.startswith(f'{decisions_Nxn[i].sum()} block')


def test_maps_of_several_runs_share_their_scale() -> None:
    positions = [make_map(50), None, make_map(80, scale=7, seed=1)]
    runs = [make_run(), make_run(seed=1), make_run(seed=2)]
    for stem in ('map_by_class', 'map_by_blocks'):
        picture = draw_one(stem, *runs, positions=positions)
        axes = panels(picture.figure)
        assert [axis.get_title() for axis in axes] == ['run0', 'run2']
        assert axes[0].get_xlim() == axes[1].get_xlim() and axes[0].get_ylim() == axes[1].get_ylim()
        (low, high), widest = axes[0].get_xlim(), np.abs(positions[2]).max()
        assert low < positions[2][:, 0].min() and high > positions[2][:, 0].max() and high - low < 4 * widest
        assert 'no map of run1' in picture.caption
        np.testing.assert_array_equal(
            np.sort(axes[1].collections[-1].get_offsets(), axis=0), np.sort(positions[2], axis=0)
        )


def test_points_have_the_colours_of_their_classes() -> None:
    run, map_Px2 = make_run(), make_map(80)
    (axis,) = panels(draw_one('map_by_class', run, positions=[map_Px2]).figure)
    points = axis.collections[-1]
    order = [int(np.flatnonzero((map_Px2 == place).all(axis=1))[0]) for place in points.get_offsets()]
    labels_P = run.record.labels_N[order]
    colours = {label: np.unique(points.get_facecolors()[labels_P == label], axis=0) for label in range(10)}
    assert all(len(each) == 1 for each in colours.values())
    assert len(np.unique(np.concatenate(list(colours.values())), axis=0)) == 10


def test_classes_beyond_ten_are_grey() -> None:
    run = with_record(make_run(setup=of_cifar(6, classes=25)), labels_N=np.arange(120) % 25)
    picture = draw_one('map_by_class', run, positions=[make_map(120)])
    grey, coloured = panels(picture.figure)[0].collections
    assert len(np.unique(grey.get_facecolors(), axis=0)) == 1 and len(grey.get_offsets()) == sum(
        run.record.labels_N > 9
    )
    assert len(coloured.get_offsets()) == sum(run.record.labels_N <= 9)
    assert 'The other 15 classes are grey.' in picture.caption


def test_training_draws_the_metrics() -> None:
    loss, accuracy, *_ = panels(draw_one('training', make_run()).figure)
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [(10, 1 / 10), (20, 1 / 20), (30, 1 / 30)])
    assert [line.get_ydata()[0] for line in accuracy.lines] == [0.5, 0.6]
    (stage_2,) = loss.patches
    assert (stage_2.get_x(), stage_2.get_width()) == (20, 10)


def test_accuracy_and_cost_are_stated_as_in_the_paper() -> None:
    run = make_run()
    points = curves.points(run)
    assert [point.name for point in points] == ['operating point 0.4', 'as trained']
    np.testing.assert_allclose([point.gflops for point in points], [2 * 1200e-9, 2 * 2400e-9])
    (curve,) = curves.curves(run).values()
    np.testing.assert_allclose(curve[0], (2 * 6150e-9, 90))
    picture = draw_one('accuracy_cost', run)
    (axis,) = panels(picture.figure)
    drawn = np.concatenate([line.get_xydata() for line in axis.lines])
    assert [0.29, 94.47] in drawn.tolist()
    low, high = axis.get_ylim()
    assert low < 70 and low > 9 and high > 94.47, 'the least accurate end of the curve would flatten all else'
    assert 'ResNet-110' in picture.caption and 'training images' in picture.caption


def test_what_the_paper_does_not_report_is_said() -> None:
    picture = draw_one('accuracy_cost', make_run(setup=of_cifar(6, dataset='digits')))
    assert 'The paper reports nothing on digits.' in picture.caption
    assert len(panels(picture.figure)[0].lines) == 2


def test_a_static_network_has_no_pictures_of_routes() -> None:
    assert set(ALL) - set(figures.draw([make_static()], [None])) == {*OF_ROUTES, 'map_by_class', 'map_by_blocks'}


def only_class_0(run: Run) -> Run:
    return with_record(run, labels_N=np.zeros(run.num_images, int))


def one_route(run: Run) -> Run:
    return with_record(run, decisions_Nxn=np.tile(run.record.decisions_Nxn[:1], (run.num_images, 1)))


NO_CURVE = {'0.4': {'threshold': 0.7, 'split': 'train', 'curve': []}}
NAMELESS = AugmentedRecord(*(np.zeros((0, *shape)) for shape in ((), (120,), (120, 6), (120, 6), (120,))))


@pytest.mark.parametrize(
    ('runs', 'missing'),
    [
        ([one_route(make_run(metrics=[]))], ['training']),
        ([only_class_0(make_run(num_thumbnails=0))], ['extremes']),
        ([make_run(N=3, num_thumbnails=3, metrics=make_run().metrics[:1])], []),
        ([make_run(n=1, operating_points=NO_CURVE, evaluations={})], []),
        ([make_run(augmented=NAMELESS, operating_point='0.4')], ['divergence']),
        ([make_run(), make_static(n=9, seed=1), make_run(N=5, n=54, seed=2)], OF_ONE_RUN),
    ],
)
def test_degenerate_runs_are_drawn_without_warning(runs: list[Run], missing: list[str]) -> None:
    positions = [None if run.is_static else make_map(min(run.num_images, 80)) for run in runs]
    pictures = figures.draw(runs, positions)
    assert list(pictures) == [stem for stem in ALL if stem not in missing]


def test_points_that_coincide_make_a_map() -> None:
    (axis,) = panels(draw_one('map_by_blocks', make_run(), positions=[np.full((20, 2), 3.0)]).figure)
    assert axis.get_xlim() == (2, 4)


def test_texts_lie_inside_the_figure(drawn: dict[str, figures.Picture]) -> None:
    names = ('a_run_with_a_rather_long_name_indeed', 'another_such_long_name_of_a_run')
    runs = [make_run(n=9 * (i + 1), seed=i, name=name) for i, name in enumerate(names)]
    of_two = figures.draw(runs, [make_map(60)] * len(runs))
    for stem, picture in (*drawn.items(), *of_two.items()):
        box, (width, height) = picture.figure.get_tightbbox(), picture.figure.get_size_inches()
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height, (stem, box)


def test_dark_pages_have_dark_pictures(drawn: dict[str, figures.Picture]) -> None:
    light, dark = drawn['divergence'], figures.draw([make_static(metrics=[])], [None], is_dark=True)['divergence']
    assert light.figure.get_facecolor() == (1, 1, 1, 1)
    assert max(dark.figure.get_facecolor()[:3]) < 0.2
    (axis, *_) = panels(dark.figure)
    assert max(axis.get_facecolor()[:3]) < 0.2
    for label in (axis.yaxis.label, *axis.get_yticklabels()):
        assert label.get_color() == '#e8eaed'


@pytest.mark.parametrize(('kind', 'magic'), [('png', b'\x89PNG\r\n'), ('pdf', b'%PDF-')])
def test_files_are_valid_and_the_same_every_time(drawn: dict[str, figures.Picture], kind: str, magic: bytes) -> None:
    once = figures.rendered(drawn['map_by_blocks'], kind)
    assert once.startswith(magic) and b'CreationDate' not in once
    again = figures.draw([make_run()], [make_map(80)])['map_by_blocks']
    assert figures.rendered(again, kind) == once
