"""What accuracy runs reach at what cost: the plane of both."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from codinet_jax.analysis import layout, paper, style
from codinet_jax.analysis.figures.picture import Data, Picture
from codinet_jax.analysis.run import AS_TRAINED, Curve, Run, point_in_words
from codinet_jax.evaluation.statistics import summarise

PAPER_MARKERS = 'D^sv*PXdph<>8H'
MARGIN = 0.08
LEAST_WIDTH = 0.2  # of the greatest cost: runs of nearly one cost are not drawn far apart
SPLITS = {'train': 'training'}


class Point(NamedTuple):
    """What an evaluation came to, as the paper states it: GFLOPs an image, and top-1 in per cent.

    `label` is what there is room to call it beside its marker.
    """

    name: str
    label: str
    gflops: float
    top1: float


class Unit(NamedTuple):
    """What FLOPs are counted in, and how many of it a GFLOP is."""

    name: str
    of_a_gflop: float


UNITS = (Unit('GFLOPs', 1), Unit('MFLOPs', 1e3), Unit('kFLOPs', 1e6), Unit('FLOPs', 1e9))  # the greatest first


def accuracy_cost(runs: Sequence[Run], theme: style.Theme, others: Sequence[paper.Reported] = ()) -> Picture:
    """The plane of accuracy and cost: the runs at all their operating points, what the paper reports, and `others`.

    Everything in it was measured, so nothing but a marker is drawn.
    """
    figure, (axis,) = layout.panels(theme.sheet, 1, 1, theme.sheet.narrow, 3.9)
    reported = [*(point for name in _datasets(runs) for point in paper.REPORTED.get(name, ())), *others]
    places = [(point.gflops, point.top1) for run in runs for point in points(run)]
    places += [(each.gflops, each.top1) for each in reported]
    unit = unit_of([gflops for gflops, _ in places])
    handles = _draw_runs(axis, runs, unit, theme) | _draw_reported(axis, reported, unit, theme, bool(others))
    scale = np.array([unit.of_a_gflop, 1])
    along = np.array([place for run in runs for place in curve(run)]).reshape(-1, 2)
    _set_limits(axis, scale * np.array(places), scale * along)
    if others:
        axis.set_xscale('log')  # theirs are networks of very different cost
        x = [gflops * unit.of_a_gflop for gflops, _ in places]
        axis.set_xlim(0.8 * min(x), 1.25 * max(x))
        for each in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
            each(ticker.FuncFormatter(_in_digits))
    axis.set(xlabel=f'{unit.name} an image, as the paper counts', ylabel='top-1, %')
    layout.legend_below(figure, list(handles.values()), [style.shortened(label, 44) for label in handles], theme.sheet)
    layout.label_points(figure, axis, _labels(runs, unit), theme)
    words = '; '.join(
        f'{style.of_run(run, runs)}{point.name}, {point.top1:.2f} % at {point.gflops * unit.of_a_gflop:.3g} {unit.name}'
        for run in runs
        for point in points(run)
    )
    squares = ' Squares are static networks.' if any(run.is_static for run in runs) else ''
    return Picture(
        figure,
        'Accuracy and cost',
        f'Higher is more accurate, further left is cheaper ({words}).{squares}{_curve_in_words(runs)} '
        f'{_paper_in_words(runs)}',
        f'Top-1 against {unit.name}: {words}. {_paper_in_words(runs)}',
        is_wide=False,
        data=_data(runs, reported),
    )


def unit_of(gflops: Sequence[float]) -> Unit:
    """The greatest unit in which even the least is a tenth of one."""
    return next((unit for unit in UNITS if min(gflops) * unit.of_a_gflop >= 0.1), UNITS[-1])


def _draw_runs(axis: Axes, runs: Sequence[Run], unit: Unit, theme: style.Theme) -> dict[str, Any]:
    """Markers of all that was evaluated, small ones of what calibration measured; the handles by their labels."""
    handles: dict[str, Any] = {}
    for run, look in zip(runs, style.looks(runs, theme), strict=True):
        x, y = [point.gflops * unit.of_a_gflop for point in points(run)], [point.top1 for point in points(run)]
        (handles[look.label],) = axis.plot(
            x, y, color=look.colour, marker=look.marker, markersize=6, linestyle='', zorder=3
        )
        if run.curve:
            gflops, top1 = np.array(curve(run)).T
            (handles[f'{look.label}, {_calibrated_on(run.curve)} images'],) = axis.plot(
                gflops * unit.of_a_gflop, top1, color=look.colour, linestyle='', marker='.', markersize=2.5, zorder=1
            )
    return handles


def _draw_reported(
    axis: Axes, reported: Sequence[paper.Reported], unit: Unit, theme: style.Theme, has_others: bool
) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for marker, method in zip(PAPER_MARKERS, dict.fromkeys(each.method for each in reported), strict=False):
        theirs = [(each.gflops * unit.of_a_gflop, each.top1) for each in reported if each.method == method]
        (handles[f'{method} ({"reported" if has_others else "paper"})'],) = axis.plot(
            *np.array(theirs).T, color=theme.muted, marker=marker, linestyle='', markerfacecolor='none', markersize=6
        )
    return handles


def _labels(runs: Sequence[Run], unit: Unit) -> list[tuple[str, float, float]]:
    """What stands beside points: of several runs the name, where there is one point of it; otherwise which point."""
    names = [run.name for run in runs]
    labels = []
    for run in runs:
        found = points(run)
        for point in found:
            is_named = len(runs) > 1 and len(found) == 1
            if names.count(run.name) == 1:  # of seeds the legend says enough
                text = style.run_label(run) if is_named else 'static' if run.is_static else point.label
                labels.append((style.shortened(text, 20), point.gflops * unit.of_a_gflop, point.top1))
    return labels


def _data(runs: Sequence[Run], reported: Sequence[paper.Reported]) -> Data:
    """Every marker: what was evaluated, what calibration measured, and what is reported."""
    rows: list[tuple[Any, ...]] = []
    for run in runs:
        rows += [(run.name, point.name, run.split, point.gflops, point.top1) for point in points(run)]
        if run.curve:
            rows += [(run.name, 'a threshold that calibration tried', run.curve.split, *place) for place in curve(run)]
    rows += [(each.method, each.source, 'test', each.gflops, each.top1) for each in reported]
    return Data(('run', 'what', 'split', 'GFLOPs an image', 'top-1, %'), rows)


def points(run: Run) -> list[Point]:
    """The evaluations of a run, this one among them, the cheapest first."""
    summaries = {run.operating_point or AS_TRAINED: summarise(run.record, run.costs)} | run.evaluations
    found = [
        Point(
            name if name == AS_TRAINED else point_in_words(name),
            name if name == AS_TRAINED else f'at {name}',
            paper.gflops(run.dataset, summary['mean_macs']),
            100 * summary['top1'],
        )
        for name, summary in summaries.items()
    ]
    return sorted(found, key=lambda point: point.gflops)


def curve(run: Run) -> list[tuple[float, float]]:
    """GFLOPs and top-1 along the thresholds that calibration tried."""
    static = paper.gflops(run.dataset, run.costs.static_macs)
    return [(static * point.macs_share, 100 * point.top1) for point in (run.curve.points if run.curve else ())]


def _calibrated_on(curve: Curve) -> str:
    return SPLITS.get(curve.split, curve.split)


def _in_digits(flops: float, _: int) -> str:
    """A tick of a logarithmic axis: 0.1, 0.2, 0.5, 1, and none between."""
    return f'{flops:g}' if f'{flops:e}'[0] in '125' else ''


def _set_limits(axis: Axes, places: np.ndarray, along: np.ndarray) -> None:
    """All that was evaluated is inside; of the curves what is not much less accurate."""
    x, y = places.T
    height = max(float(np.ptp(y)), 2)
    bottom = float(y.min()) - 2 * MARGIN * height
    x = np.append(x, along[along[:, 1] > bottom, 0])
    width = max(float(np.ptp(x)), LEAST_WIDTH * float(x.max())) if np.ptp(x) else float(x.max())
    top = float(np.append(y, along[:, 1]).max())
    axis.set_ylim(bottom, min(top + 2 * MARGIN * height, 102))
    axis.set_xlim(float(x.min()) - 2 * MARGIN * width, float(x.max()) + 2 * MARGIN * width)


def _datasets(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.dataset for run in runs))


def _curve_in_words(runs: Sequence[Run]) -> str:
    splits = style.listed(sorted({_calibrated_on(run.curve) for run in runs if run.curve}))
    if not splits:
        return ''
    return f' Small dots are what moving the threshold does to {splits} images, on which it was calibrated.'


def _paper_in_words(runs: Sequence[Run]) -> str:
    sentences = []
    for name in _datasets(runs):
        theirs = style.listed(sorted({point.backbone for point in paper.REPORTED.get(name, ())}))
        own = style.listed(sorted({run.backbone for run in runs if run.dataset == name}))
        if not theirs:
            sentences.append(f'The paper reports nothing on {name}.')
        elif theirs == own:
            sentences.append(f'Hollow markers are what the paper reports on {name} with {theirs}.')
        else:
            sentences.append(
                f'Hollow markers are what the paper reports on {name} with {theirs}; the backbone here is {own}.'
            )
    return ' '.join(sentences)
