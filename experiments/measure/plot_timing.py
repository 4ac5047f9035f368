"""Draws what codinet_jax.benchmark measured: time against run rate, and the line that the MACs promise.

python -m experiments.measure.plot_timing timing.json timing.png

The ending of the figure's name says what it becomes: png, pdf or svg.
"""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from codinet_jax.analysis import layout, style

COLOURS = {'masked': '#cc79a7', 'conditional': '#0072b2', 'compacted': '#d55e00', 'fused': '#009e73'}  # Okabe and Ito's
DPI = 160


def main(argv: Sequence[str]) -> None:
    if len(argv) != 3:
        raise app.UsageError('Name what to read and what to write: TIMING.json FIGURE.png.')
    numbers = json.loads(pathlib.Path(argv[1]).read_text())
    with style.drawing():
        drawn(numbers['rows']).savefig(argv[2], dpi=DPI)


def drawn(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel a batch size, of the rows that benchmark wrote; to be called within `style.drawing`."""
    theme, batch_sizes = style.theme(is_dark=False), sorted({row['batch_size'] for row in rows})
    columns = min(len(batch_sizes), 2)
    width = theme.sheet.wide if columns > 1 else theme.sheet.narrow
    figure, axes = layout.panels(theme.sheet, len(batch_sizes), columns, width, 3.4, sharey=True)
    handles: dict[str, Line2D] = {}
    for axis, batch_size in zip(axes, batch_sizes, strict=True):
        handles |= _panel(axis, [row for row in rows if row['batch_size'] == batch_size], theme)
        axis.set_title(f'batch {batch_size}: static takes {_milliseconds(rows, batch_size)} ms')
    for axis in axes[::columns]:
        axis.set_ylabel("time, of the static network's")
    axes[0].set_ylim(0, max(1.2, 1.05 * max(row['ratio_to_static'] for row in rows)))
    layout.legend_below(figure, list(handles.values()), list(handles), theme.sheet)
    return figure


def _panel(axis: Axes, rows: Sequence[Mapping[str, Any]], theme: style.Theme) -> dict[str, Line2D]:
    """A line a strategy; the handles by their labels."""
    handles = {'static': axis.axhline(1, color=theme.muted, linewidth=1)}
    for strategy, colour in COLOURS.items():
        routed = sorted((row for row in rows if row['strategy'] == strategy), key=lambda row: row['run_rate'])
        if routed:
            rates = [row['run_rate'] for row in routed]
            (handles[strategy],) = axis.plot(
                rates, [row['ratio_to_static'] for row in routed], color=colour, marker='o', markersize=3.5
            )
            (handles['what the MACs promise'],) = axis.plot(
                rates, [row['ideal_ratio'] for row in routed], color=theme.ink, linestyle=':', zorder=1
            )
    axis.set(xlabel='share of blocks run', xlim=(-0.03, 1.03))
    promise = handles.pop('what the MACs promise')
    return {**handles, 'what the MACs promise': promise}


def _milliseconds(rows: Sequence[Mapping[str, Any]], batch_size: int) -> str:
    (static,) = (row for row in rows if row['strategy'] == 'static' and row['batch_size'] == batch_size)
    milliseconds = 1e3 * static['median_seconds']
    return f'{milliseconds:.{max(0, 2 - int(math.log10(milliseconds)))}f}'


if __name__ == '__main__':
    app.run(main)
