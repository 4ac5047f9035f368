"""Pictures of what was reproduced; each with its scale."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.path import Path

from codinet_jax.analysis import figures, layout, style
from codinet_jax.analysis.embedding import lay_out
from codinet_jax.analysis.run import Run
from experiments.reproduce.definitions import COLUMNS, Figure, Table

WIDE_RANGE = 30  # of our counts, greatest to least, from which on a scale is logarithmic
MARGIN = 0.3  # of their range, on either side
ARROW = Path([(-1, 0), (1, 0), (0.3, 0.6), (1, 0), (0.3, -0.6)])


def dots(table: Table, rows: Sequence[dict[str, Any]], description: str) -> bytes:
    """A panel a column and a line a row: a dot for every seed, a diamond where the paper is.

    The scale is ours. What the paper reports beyond it stands at the panel's edge as a number, with an arrow.
    """
    theme = style.theme(is_dark=False)
    with style.drawing():
        figure = Drawing(figsize=(theme.sheet.wide, 1.1 + 0.28 * len(rows)), layout='constrained')
        axes = figure.subplots(1, len(table.columns), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, table.columns, strict=True):
            _column(axis, name, rows, theme)
        axes[0].set_yticks(range(len(rows)), [row['label'] for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        layout.legend_below(figure, list(handles.values()), list(handles), theme.sheet)
        return _png(figure, description)


def _column(axis: Axes, name: str, rows: Sequence[dict[str, Any]], theme: style.Theme) -> None:
    """One column's dots."""
    ours = [each['numbers'][name] for row in rows for each in row['seeds']]
    low, high = (min(ours), max(ours)) if ours else (0.0, 1.0)
    if COLUMNS[name].decimals == 0 and low > 0 and high > WIDE_RANGE * low:
        axis.set_xscale('log')
        axis.set_xlim(low / 1.6, high * 1.6)
        axis.xaxis.set_major_formatter('{x:g}')
    else:
        room = MARGIN * (high - low) or 0.1 * abs(high) or 1.0
        axis.set_xlim(low - room, high + room)
    left, right = axis.get_xlim()
    for y, row in enumerate(rows):
        values = [each['numbers'][name] for each in row['seeds']]
        axis.plot(values, [y] * len(values), 'o', color=theme.runs[0], alpha=0.8, label='here, a dot a seed')
        theirs = row['paper'].get(name)
        if theirs is not None and left <= theirs <= right:
            axis.plot(
                theirs, y, 'D', color=theme.muted, markerfacecolor='none', clip_on=False, zorder=3, label='the paper'
            )
        elif theirs is not None:
            is_right = theirs > right
            look: dict[str, Any] = {'linestyle': '', 'color': theme.muted, 'markerfacecolor': 'none', 'markersize': 9}
            axis.plot([], [], marker=ARROW, label='the paper, beyond the scale', **look)
            axis.annotate(
                f'{theirs:.4g} →' if is_right else f'← {theirs:.4g}',
                (1.0 if is_right else 0.0, y),
                xycoords=axis.get_yaxis_transform(),
                xytext=(0, 3),
                textcoords='offset points',
                ha='right' if is_right else 'left',
                fontsize=theme.sheet.small,
                color=theme.muted,
            )
    axis.set_title(COLUMNS[name].heading)
    axis.grid(axis='y', color=theme.faint)


def of_runs(definition: Figure, runs: Sequence[Run], description: str) -> dict[str, bytes]:
    """The pictures that a figure is made of, by their stems, of one run for each network there is."""
    drawn = figures.draw(runs, lay_out(runs, print), others=definition.others)
    return {stem: _png(drawn[stem].figure, description) for stem in definition.pictures if stem in drawn}


def _png(figure: Drawing, description: str) -> bytes:
    figure.suptitle(
        description, fontsize=style.SHEETS['page'].small, color='#b00020' if 'SMOKE' in description else None
    )
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=130, bbox_inches='tight')
    return file.getvalue()
