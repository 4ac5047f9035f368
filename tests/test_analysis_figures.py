"""Figures draw the numbers they say they draw, of one run and of several, and of runs with little to draw."""

import csv
import dataclasses
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text
from PIL import Image

from codinet_jax.analysis import figures, options, pool, style, tables
from codinet_jax.analysis.figures import accuracy_cost, flow, histograms, images, maps, rates, training
from codinet_jax.analysis.findings import findings
from codinet_jax.analysis.remarks import remarks
from codinet_jax.analysis.run import Curve, Run
from codinet_jax.config.setup import Setup
from codinet_jax.evaluation.record import AugmentedRecord, Record
from codinet_jax.inference.operating_points import Point
from codinet_jax.models.cost import CostTable
from codinet_jax.runtime.errors import InputError
from synthetic_run import setup_of

AUGMENTATIONS = ('crop', 'rotation')
CURVE = Curve('train', tuple(Point(t, 1 - t, 0.9 - t**2, 0.0) for t in (0.0, 0.3, 0.9)))
OF_ONE_RUN = ['flow', 'extremes']
OF_ROUTES = ['path_lengths', 'run_rates', *OF_ONE_RUN]
ALL = [
    *('map_by_class', 'map_by_blocks', 'divergence', 'path_lengths', 'run_rates', 'flow', 'extremes'),
    *('training', 'accuracy_cost'),
]
OF_SEVERAL = ['accuracy_cost', 'path_lengths', 'run_rates', 'divergence', 'map_by_class', 'map_by_blocks', 'training']


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
        'evaluations': {'as trained': summary, '0.4': {'top1': 0.7, 'mean_macs': 200.0 * n}},
        'curve': CURVE,
    }
    return Run(**fields | changes)


def make_static(**changes: Any) -> Run:
    run = make_run(**changes)
    ones_Nxn = np.ones_like(run.record.run_probability_Nxn)
    record = run.record._replace(run_probability_Nxn=ones_Nxn, decisions_Nxn=ones_Nxn == 1)
    metrics = [{key: row[key] for key in ('step', 'kind', 'stage', 'loss', 'accuracy', 'top1')} for row in run.metrics]
    setup = of_cifar(run.num_blocks, router=None)
    return dataclasses.replace(run, setup=setup, record=record, metrics=metrics, evaluations={}, curve=None)


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
        'run_rates': lambda: rates.run_rates(runs, theme),
        'flow': lambda: flow.flow(runs[0], theme),
        'extremes': lambda: images.extremes(runs[0], theme),
        'training': lambda: training.training(runs, theme),
        'accuracy_cost': lambda: accuracy_cost.accuracy_cost(runs, theme),
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


def test_several_runs_begin_with_accuracy_and_cost_and_have_no_pictures_of_one() -> None:
    pictures = figures.draw([make_run(), make_run(n=9, seed=1)], [make_map(80), make_map(50)])
    assert list(pictures) == OF_SEVERAL


def test_seeds_that_are_pooled_share_a_colour_and_have_no_routes_of_one() -> None:
    seeds = [make_run(name='a'), make_run(name='a', seed=1)]
    drawn = figures._drawn([pool.pooled(seeds)], [None], seeds, (), style.theme(False))
    assert [stem for stem, _ in drawn] == [stem for stem in ALL if stem not in OF_ONE_RUN]
    assert len({(look.colour, look.marker, look.label) for look in style.looks(seeds, style.theme(False))}) == 1
    (axis,) = panels(draw_one('accuracy_cost', *seeds, make_run(name='b', seed=2)).figure)
    assert [text.get_text() for text in axis.texts] == ['at 0.4', 'as trained'], 'only points of the run alone'


def test_of_a_cascade_they_speak_of_networks() -> None:
    costs = list(CostTable(100, (1000, 2000), (0, 0), (0, 0), head=0, alone=2000))
    cascade = make_run(n=2, cascade={'networks': ['ResNet-8', 'ResNet-14', 'ResNet-20'], 'costs': costs})
    pictures = [draw_one(stem, cascade, positions=[make_map(80)]) for stem in (*OF_ROUTES, 'map_by_blocks')]
    said = [
        text
        for picture in pictures
        for text in (
            *(picture.title, picture.caption, picture.alt, *picture.data.header),
            *(each.get_text() for each in picture.figure.findobj(Text)),  # type: ignore[attr-defined]
        )
    ]
    numbers = cascade.numbers()
    said += findings(cascade, numbers) + remarks(cascade) + [tables.markdown(tables.tables({'a': [numbers]}))]
    of_the_paper = 'As in Fig. 11 of the paper, which finds that clear images need fewer blocks.'
    assert not [text for text in said if 'block' in text.replace(of_the_paper, '').lower()]
    assert {'Further networks run by an image', 'further network', 'expected further networks'} <= set(said)
    beside = draw_one('path_lengths', cascade, make_run())
    assert panels(beside.figure)[-1].get_xlabel() == 'further networks or blocks run, of 2 and 6'
    none_N = np.zeros((120, 2), bool)
    assert remarks(with_record(cascade, decisions_Nxn=none_N))[0].startswith('Every image is sent to the same networks')


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
    picture = draw_one('extremes', run)
    assert not run.is_correct_N[[2, 3, 1, 4, 0, 5]].all() and 'Framed in orange: classified wrong.' in picture.caption
    for axis, i in zip(panels(picture.figure), [2, 3, 1, 4, 0, 5], strict=True):
        framed = {to_rgb(spine.get_edgecolor()) for spine in axis.spines.values()} == {to_rgb(style.WRONG)}
        assert framed == (not run.is_correct_N[i])
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
    points = accuracy_cost.points(run)
    assert [point.name for point in points] == ['operating point 0.4', 'as trained']
    np.testing.assert_allclose([point.gflops for point in points], [2 * 1200e-9, 2 * 2400e-9])
    np.testing.assert_allclose(accuracy_cost.curve(run)[0], (2 * 6150e-9, 90))
    picture = draw_one('accuracy_cost', run)
    (axis,) = panels(picture.figure)
    drawn = np.concatenate([line.get_xydata() for line in axis.lines])
    assert axis.get_xlabel().startswith('kFLOPs an image')
    assert [0.29e6, 94.47] in drawn.tolist()
    np.testing.assert_allclose(axis.lines[0].get_xdata(), [2 * 1.2, 2 * 2.4])
    low, high = axis.get_ylim()
    assert low < 70 and low > 9 and high > 94.47, 'the least accurate end of the curve would flatten all else'
    assert 'ResNet-110' in picture.caption and 'training images' in picture.caption


@pytest.mark.parametrize(
    ('gflops', 'name'),
    [
        ([0.1, 0.5], 'GFLOPs'),
        ([3.8, 3.0], 'GFLOPs'),
        ([0.05, 0.5], 'MFLOPs'),
        ([0.00127], 'MFLOPs'),
        ([3e-6], 'kFLOPs'),
    ],
)
def test_costs_are_in_a_unit_that_reads_well(gflops: list[float], name: str) -> None:
    assert accuracy_cost.unit_of(gflops).name == name


def test_nothing_is_drawn_between_what_was_measured() -> None:
    runs = [make_run(), make_static(seed=1, n=9)]
    (axis,) = panels(draw_one('accuracy_cost', *runs).figure)
    assert {line.get_linestyle() for line in axis.lines} == {'None'}


def test_static_networks_are_named_points_of_one_shape() -> None:
    runs = [make_run(), *(make_static(seed=seed, n=3 * seed, operating_point=None) for seed in (1, 2))]
    (axis,) = panels(draw_one('accuracy_cost', *runs).figure)
    squares = [line for line in axis.lines if line.get_marker() == 's' and line.get_color() in style.OKABE_ITO]
    assert [len(line.get_xdata()) for line in squares] == [1, 1]
    assert {'run1', 'run2', 'as trained', 'at 0.4'} == {text.get_text() for text in axis.texts}


def test_labels_of_points_that_crowd_cover_neither_each_other_nor_a_point() -> None:
    points = {str(i): {'top1': 0.8 + 0.0005 * (i % 3), 'mean_macs': 1200 + 2 * i} for i in range(8)}
    figure = draw_one('accuracy_cost', make_run(evaluations=points, setup=of_cifar(6, dataset='digits'))).figure
    figure.draw_without_rendering()
    (axis,) = panels(figure)
    boxes = [Text.get_window_extent(text) for text in axis.texts]  # without the line to its point
    assert len(boxes) == 9
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    marks = np.concatenate([axis.transData.transform(line.get_xydata()) for line in axis.lines[:1]])
    assert not any(box.contains(*mark) for box in boxes for mark in marks)


def test_of_very_many_points_none_is_labelled() -> None:
    points = {str(i): {'top1': 0.8, 'mean_macs': 1200 + 2 * i} for i in range(40)}
    (axis,) = panels(draw_one('accuracy_cost', make_run(evaluations=points)).figure)
    assert not axis.texts and len(axis.lines[0].get_xdata()) == 41


def test_a_legend_is_whole_and_read_line_by_line() -> None:
    run = make_run(N=400)
    with style.drawing(width='single'):
        picture = maps.by_class([run], [make_map(400)], style.theme(False, 'single'))
        picture.figure.draw_without_rendering()
    (legend,) = picture.figure.legends
    places = [text.get_window_extent() for text in legend.get_texts()]
    by_line = sorted(zip(places, legend.get_texts(), strict=True), key=lambda each: (-round(each[0].y0), each[0].x0))
    assert [text.get_text() for _, text in by_line] == list(run.class_names)
    width, height = picture.figure.get_size_inches() * picture.figure.dpi
    assert all(box.x0 > 0 and box.x1 < width and box.y0 > 0 and box.y1 < height for box in places)


@pytest.mark.parametrize(('width', 'inches', 'count'), [('single', 3.5, 2), ('double', 7.16, 1)])
def test_figures_fit_the_columns_of_a_journal(width: str, inches: float, count: int) -> None:
    runs = [make_run(n=54, num_thumbnails=40), make_run(seed=1, n=9)][:count]
    for stem, picture in figures.draw(runs, [make_map(60)] * count, width=width).items():
        assert picture.figure.get_figwidth() == inches, stem
        box, size = picture.figure.get_tightbbox(), picture.figure.get_size_inches()
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < size[0] and box.y1 < size[1], (stem, box)
        sizes = [text.get_fontsize() for text in picture.figure.findobj(Text) if text.get_text()]
        assert min(sizes) >= 7, stem


def test_what_a_figure_draws_can_be_had_as_a_table(drawn: dict[str, figures.Picture]) -> None:
    run = make_run()
    for stem, picture in drawn.items():
        header, *rows = csv.reader(tables.as_csv(*picture.data).decode().splitlines())
        assert rows and all(len(row) == len(header) for row in rows), stem
    by_class = list(csv.DictReader(tables.as_csv(*drawn['map_by_class'].data).decode().splitlines()))
    np.testing.assert_allclose([[float(row['x']), float(row['y'])] for row in by_class], make_map(80), rtol=1e-5)
    assert [row['class'] for row in by_class] == [run.class_names[label] for label in run.record.labels_N[:80]]
    bars = panels(draw_one('path_lengths', run).figure)[0].patches
    lengths = list(csv.DictReader(tables.as_csv(*drawn['path_lengths'].data).decode().splitlines()))
    np.testing.assert_allclose(
        [float(row['share of images']) for row in lengths], [bar.get_height() for bar in bars], 1e-5
    )
    rates_ = {row[1]: row[2:] for row in drawn['run_rates'].data.rows}
    expected = run.record.decisions_Nxn[run.record.labels_N == 3].mean(axis=0)
    np.testing.assert_allclose(rates_[run.class_names[3]], expected)


# Machado, Oliveira and Fernandes (2009), their matrices for eyes without one of the three cones, in linear light.
WITHOUT_A_CONE = {
    'all cones': np.eye(3),
    'protanopia': [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    'deuteranopia': [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    'tritanopia': [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)


def seen(colours: Sequence[str], eyes: str) -> np.ndarray:
    """Colours in CIELAB as some eyes see them: [len(colours), 3]; a distance of 2 or so is just seen side by side."""
    srgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ np.array(WITHOUT_A_CONE[eyes]).T, 0, 1) @ TO_XYZ.T / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize('is_dark', [False, True])
@pytest.mark.parametrize('eyes', WITHOUT_A_CONE)
def test_ten_classes_are_told_apart_by_all_eyes(eyes: str, is_dark: bool) -> None:
    theme = style.theme(is_dark)
    assert len(theme.classes) == 10
    lab = seen([*theme.classes, theme.others, theme.paper], eyes)
    distances = [np.linalg.norm(lab[i] - lab[j]) for i in range(10) for j in range(i + 1, 12)]
    assert min(distances) > 15


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


NAMELESS = AugmentedRecord(*(np.zeros((0, *shape)) for shape in ((), (120,), (120, 6), (120, 6), (120,))))


@pytest.mark.parametrize(
    ('runs', 'missing'),
    [
        ([one_route(make_run(metrics=[]))], ['training']),
        ([make_run(metrics=[{**make_run().metrics[-1], 'step': 0}])], ['training']),
        ([only_class_0(make_run(num_thumbnails=0))], ['extremes']),
        ([make_run(N=3, num_thumbnails=3, metrics=make_run().metrics[:1])], []),
        ([make_run(n=1, curve=None, evaluations={})], []),
        ([make_run(augmented=NAMELESS, operating_point='0.4')], ['divergence']),
        ([make_run(), make_static(n=9, seed=1), make_run(N=5, n=54, seed=2)], OF_ONE_RUN),
    ],
)
def test_degenerate_runs_are_drawn_without_warning(runs: list[Run], missing: list[str]) -> None:
    positions = [None if run.is_static else make_map(min(run.num_images, 80)) for run in runs]
    pictures = figures.draw(runs, positions)
    order = ALL if len(runs) == 1 else OF_SEVERAL
    assert list(pictures) == [stem for stem in order if stem not in missing]


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


@pytest.mark.parametrize(('kind', 'magic'), [('png', b'\x89PNG\r\n'), ('pdf', b'%PDF-'), ('svg', b'<?xml')])
def test_files_are_valid_and_the_same_every_time(drawn: dict[str, figures.Picture], kind: str, magic: bytes) -> None:
    once = figures.rendered(drawn['map_by_blocks'], kind, 100)
    assert once.startswith(magic) and b'CreationDate' not in once and b'dc:date' not in once
    with style.drawing():
        again = draw_one('map_by_blocks', make_run(), positions=[make_map(80)])
        figures._settle(again.figure)
    assert figures.rendered(again, kind, 100) == once


def test_kinds_of_files_are_asked_for_by_name() -> None:
    assert options._formats(['svg', 'pdf', 'svg']) == ('svg', 'pdf')
    for kinds in (['png', 'bmp'], [], ['']):
        with pytest.raises(InputError, match='give some of png, pdf, svg, split by commas'):
            options._formats(kinds)
    assert (options.Options().dots('png'), options.Options().dots('pdf')) == (160, 300)
    assert options.Options(width='single').dots('png') == 300 and options.Options(dpi=77).dots('pdf') == 77
    assert set(options.WIDTHS) == set(style.SHEETS)


def test_a_pdf_holds_its_fonts_as_truetype(drawn: dict[str, figures.Picture]) -> None:
    for stem in ('divergence', 'accuracy_cost'):
        pdf = figures.rendered(drawn[stem], 'pdf', 100)
        assert b'/FontFile2' in pdf and b'/Type3' not in pdf


def test_a_png_has_the_dots_that_were_asked_for(drawn: dict[str, figures.Picture]) -> None:
    with Image.open(io.BytesIO(figures.rendered(drawn['run_rates'], 'png', 300))) as image:
        assert image.width == 4.8 * 300
