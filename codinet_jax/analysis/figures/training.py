"""How a run came about, by training step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from codinet_jax.analysis import layout, style
from codinet_jax.analysis.figures.picture import Data, Picture
from codinet_jax.analysis.run import Run
from codinet_jax.runtime.console import plural

# Panels of training: title, key in the rows of training, key in those of evaluation, whether it is a share.
PANELS = (
    ('loss', 'loss', None, False),
    ('accuracy', 'accuracy', 'top1', True),
    ('share of static MACs', 'macs_share', 'macs_share', True),
    ('routes in use', 'num_paths', 'num_paths', False),
    ('agreement of views', 'agreement', None, True),
)
MOST_COLUMNS, LEAST_WIDTH = 3, 1.7  # of panels; inches of one


def training(runs: Sequence[Run], theme: style.Theme) -> Picture | None:
    """Loss, accuracy, cost, routes and agreement by step; nothing where no step was taken."""
    rows = [row for run in runs for row in run.metrics]
    panels = PANELS[:2] if all(run.is_static for run in runs) else PANELS
    drawn = [panel for panel in panels if any(panel[1] in row or panel[2] in row for row in rows)]
    if not drawn or not any(row['step'] for row in rows):  # a network that was only put together took no step
        return None
    is_wide = len(drawn) > 2
    width = theme.sheet.wide if is_wide else theme.sheet.narrow
    columns = layout.fitting(len(drawn), width, LEAST_WIDTH, MOST_COLUMNS)
    figure, axes = layout.panels(theme.sheet, len(drawn), columns, width, 2.3, sharex=True)
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
    layout.legend_below(figure, list(handles.values()), list(handles), theme.sheet)
    ends = ' '.join(f'{style.of_run(run, runs)}{_end_in_words(run)}' for run in runs if run.metrics)
    return Picture(
        figure,
        'Training',
        'Thin lines are means over training batches, marked lines evaluations; stage 2 is shaded. Routes in use are '
        f'counted within a batch in training, within all images in evaluation. {ends}',
        f'Curves by step of {style.listed([panel[0] for panel in drawn])}. {ends}',
        is_wide=is_wide,
        data=_data(runs, drawn),
    )


def _data(runs: Sequence[Run], drawn: Sequence[tuple[str, str, str | None, bool]]) -> Data:
    """A row a metric written, of the columns that are drawn; nothing where it has no such metric."""
    keys = list(dict.fromkeys(key for _, *both, _ in drawn for key in both if key))
    rows = [
        (run.name, row['step'], row['stage'], row['kind'], *(row.get(key, '') for key in keys))
        for run in runs
        for row in run.metrics
    ]
    return Data(('run', 'step', 'stage', 'kind', *keys), rows)


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
    return f'{plural(run.metrics[-1]["step"], "step")}{last}.'
