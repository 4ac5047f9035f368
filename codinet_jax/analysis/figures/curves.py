"""How a run came about, by training step; and what accuracy it reaches at what cost."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import patheffects, ticker
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from codinet_jax.analysis import paper, style
from codinet_jax.analysis.figures.picture import Picture
from codinet_jax.analysis.run import AS_TRAINED, Run
from codinet_jax.evaluation.statistics import summarise

# Panels of training: title, key in the rows of training, key in those of evaluation, whether it is a share.
PANELS = (
    ('loss', 'loss', None, False),
    ('accuracy', 'accuracy', 'top1', True),
    ('share of static MACs', 'macs_share', 'macs_share', True),
    ('routes in use', 'num_paths', 'num_paths', False),
    ('agreement of views', 'agreement', None, True),
)
PAPER_MARKERS = 'D^sv*PXdph<>8H'
MARGIN = 0.08
SPLITS = {'train': 'training'}


class Point(NamedTuple):
    """What an evaluation came to, as the paper states it: GFLOPs an image, and top-1 in per cent.

    `label` is what there is room to call it beside its marker.
    """

    name: str
    label: str
    gflops: float
    top1: float


def training(runs: Sequence[Run], theme: style.Theme) -> Picture | None:
    """Loss, accuracy, cost, routes and agreement by step."""
    rows = [row for run in runs for row in run.metrics]
    panels = PANELS[:2] if all(run.is_static for run in runs) else PANELS
    drawn = [panel for panel in panels if any(panel[1] in row or panel[2] in row for row in rows)]
    if not drawn:
        return None
    is_wide = len(drawn) > 2
    columns = 3 if is_wide else len(drawn)
    figure, axes = style.panels(len(drawn), columns, style.WIDE if is_wide else style.NARROW, 2.3, sharex=True)
    for axis, (title, train, evaluation, is_share) in zip(axes, drawn, strict=True):
        for run, look in zip(runs, style.looks(runs, theme), strict=True):
            _draw_metric(axis, run, look, train, evaluation)
        for start, end in sorted({stage for run in runs for stage in _second_stage(run)}):
            axis.axvspan(start, end, color=theme.faint, zorder=0, linewidth=0)
        axis.set_title(title)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelbottom=True)
        axis.set_xlabel('step')
        if is_share:
            style.per_cent(axis)
    handles = _legend_of_kinds(theme)
    if len(runs) > 1:
        handles |= {look.label: Line2D([], [], color=look.colour) for look in style.looks(runs, theme)}
    style.legend_below(figure, list(handles.values()), list(handles))
    ends = ' '.join(f'{style.of_run(run, runs)}{_end_in_words(run)}' for run in runs if run.metrics)
    return Picture(
        figure,
        'Training',
        'Thin lines are means over training batches, marked lines evaluations; stage 2 is shaded. Routes in use are '
        f'counted within a batch in training, within all images in evaluation. {ends}',
        f'Curves by step of {style.listed([panel[0] for panel in drawn])}. {ends}',
        is_wide=is_wide,
    )


def accuracy_cost(runs: Sequence[Run], theme: style.Theme, others: Sequence[paper.Reported] = ()) -> Picture:
    """The plane of accuracy and cost: the runs at all their operating points, what the paper reports, and `others`."""
    figure, (axis,) = style.panels(1, 1, style.NARROW, 3.9)
    handles: dict[str, Any] = {}
    reported = [*(point for name in _datasets(runs) for point in paper.REPORTED.get(name, ())), *others]
    for run, look in zip(runs, style.looks(runs, theme), strict=True):
        handles[look.label] = _draw_points(axis, points(run), look, theme)
        for split, curve in curves(run).items():
            (handles[f'{look.label}, {SPLITS.get(split, split)} images'],) = axis.plot(
                *np.array(curve).T, color=look.colour, linestyle='--', linewidth=0.8, zorder=1
            )
    for marker, method in zip(PAPER_MARKERS, dict.fromkeys(each.method for each in reported), strict=False):
        theirs = [(each.gflops, each.top1) for each in reported if each.method == method]
        (handles[f'{method} (reported)' if others else f'{method} (paper)'],) = axis.plot(
            *np.array(theirs).T, color=theme.muted, marker=marker, linestyle='', markerfacecolor='none', markersize=6
        )
    places = [(point.gflops, point.top1) for run in runs for point in points(run)]
    places += [(each.gflops, each.top1) for each in reported]
    _set_limits(axis, places, [place for run in runs for curve in curves(run).values() for place in curve])
    if others:
        axis.set_xscale('log')  # theirs are networks of very different cost
        axis.set_xlim(0.8 * min(x for x, _ in places), 1.25 * max(x for x, _ in places))
        for each in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
            each(ticker.FuncFormatter(_in_digits))
    axis.set(xlabel='GFLOPs an image, as the paper counts', ylabel='top-1, %')
    style.legend_below(figure, list(handles.values()), [style.shortened(label, 44) for label in handles])
    words = '; '.join(
        f'{style.of_run(run, runs)}{point.name} {point.top1:.2f} % at {point.gflops:.3g} GFLOPs'
        for run in runs
        for point in points(run)
    )
    return Picture(
        figure,
        'Accuracy and cost',
        f'Higher is more accurate, further left is cheaper ({words}).{_curve_in_words(runs)} {_paper_in_words(runs)}',
        f'Top-1 against GFLOPs: {words}. {_paper_in_words(runs)}',
        is_wide=False,
    )


def _in_digits(gflops: float, _: int) -> str:
    """A tick of a logarithmic axis: 0.1, 0.2, 0.5, 1, and none between."""
    return f'{gflops:g}' if f'{gflops:e}'[0] in '125' else ''


def points(run: Run) -> list[Point]:
    """The evaluations of a run, this one among them, the cheapest first."""
    summaries = {run.operating_point or AS_TRAINED: summarise(run.record, run.costs)} | run.evaluations
    found = [
        Point(
            name if name == AS_TRAINED else f'operating point {name}',
            name if name == AS_TRAINED else f'at {name}',
            paper.gflops(run.dataset, summary['mean_macs']),
            100 * summary['top1'],
        )
        for name, summary in summaries.items()
    ]
    return sorted(found, key=lambda point: point.gflops)


def curves(run: Run) -> dict[str, list[tuple[float, float]]]:
    """GFLOPs and top-1 along the thresholds that calibration tried, by the split it tried them on."""
    static = paper.gflops(run.dataset, run.costs.static_macs)
    found = {point['split']: point['curve'] for point in run.operating_points.values() if point['curve']}
    return {
        split: [(static * point['macs_share'], 100 * point['top1']) for point in curve]
        for split, curve in found.items()
    }


def _draw_metric(axis: Axes, run: Run, look: style.RunLook, train: str, evaluation: str | None) -> None:
    for kind, key, line in (
        ('train', train, {'linewidth': 0.9, 'alpha': 0.75}),
        ('evaluation', evaluation, {'marker': look.marker, 'markersize': 3.5}),
    ):
        rows = [(row['step'], row[key]) for row in run.metrics if row['kind'] == kind and key in row]
        if rows:
            axis.plot(*np.array(rows, float).T, color=look.colour, **line)


def _second_stage(run: Run) -> list[tuple[int, int]]:
    """From the end of stage 1 to that of stage 2, if the run came so far."""
    ends = {row['stage']: row['step'] for row in run.metrics}
    return [(ends.get(1, 0), ends[2])] if 2 in ends else []


def _legend_of_kinds(theme: style.Theme) -> dict[str, Any]:
    return {
        'training': Line2D([], [], color=theme.muted, linewidth=0.9),
        'evaluation': Line2D([], [], color=theme.muted, marker='o', markersize=3.5),
        'stage 2': Patch(color=theme.faint),
    }


def _end_in_words(run: Run) -> str:
    evaluations = [row for row in run.metrics if row['kind'] == 'evaluation']
    last = f', then {evaluations[-1]["top1"]:.2%} right at the last evaluation' if evaluations else ''
    return f'{run.metrics[-1]["step"]} steps{last}.'


def _draw_points(axis: Axes, found: Sequence[Point], look: style.RunLook, theme: style.Theme) -> Line2D:
    x, y = [point.gflops for point in found], [point.top1 for point in found]
    (line,) = axis.plot(x, y, color=look.colour, marker=look.marker, markersize=6, zorder=3)
    for i, point in enumerate(found):
        is_above = i % 2 == 1
        axis.annotate(
            style.shortened(point.label, 16),
            (point.gflops, point.top1),
            xytext=(0, 6 if is_above else -6),
            textcoords='offset points',
            ha='center',
            va='bottom' if is_above else 'top',
            fontsize=style.SMALL,
            path_effects=[patheffects.withStroke(linewidth=2.5, foreground=theme.paper)],
        )
    return line


def _set_limits(axis: Axes, places: Sequence[tuple[float, float]], along: Sequence[tuple[float, float]]) -> None:
    """All that was evaluated is inside; of the curves what is not much less accurate."""
    x, y = np.array(places).T
    height = max(float(np.ptp(y)), 2)
    bottom = float(y.min()) - 2 * MARGIN * height
    x = np.append(x, [cost for cost, top1 in along if top1 > bottom])
    width = float(np.ptp(x)) or float(x.max())
    top = max(float(y.max()), *(top1 for _, top1 in along)) if along else float(y.max())
    axis.set_ylim(bottom, min(top + 2 * MARGIN * height, 102))
    axis.set_xlim(float(x.min()) - 2 * MARGIN * width, float(x.max()) + 2 * MARGIN * width)


def _datasets(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run.dataset for run in runs))


def _curve_in_words(runs: Sequence[Run]) -> str:
    splits = style.listed(sorted({SPLITS.get(split, split) for run in runs for split in curves(run)}))
    if not splits:
        return ''
    return f' Dashed lines are what moving the threshold does to {splits} images, on which it was calibrated.'


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
