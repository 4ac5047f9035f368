"""Pictures of what was reproduced; each with its scale."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure as Drawing

from codinet_jax.analysis import figures, style
from codinet_jax.analysis.embedding import lay_out
from codinet_jax.analysis.run import Run
from experiments.reproduce.definitions import COLUMNS, Figure, Table


def dots(table: Table, rows: Sequence[dict[str, Any]], description: str) -> bytes:
    """A panel a column and a line a row: a dot for every seed, a diamond where the paper is."""
    colours = style.theme(is_dark=False)
    with style.drawing():
        figure = Drawing(figsize=(style.WIDE, 1.1 + 0.28 * len(rows)), layout='constrained')
        axes = figure.subplots(1, len(table.columns), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, table.columns, strict=True):
            for y, row in enumerate(rows):
                ours = [each['numbers'][name] for each in row['seeds']]
                axis.plot(ours, [y] * len(ours), 'o', color=colours.runs[0], alpha=0.8, label='here, a dot a seed')
                if name in row['paper']:
                    axis.plot(
                        row['paper'][name], y, 'D', color=colours.muted, markerfacecolor='none', label='the paper'
                    )
            axis.set_title(COLUMNS[name].heading)
            axis.grid(axis='y', color=colours.faint)
            axis.margins(x=0.15)
        axes[0].set_yticks(range(len(rows)), [row['label'] for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        handles = {
            label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        style.legend_below(figure, list(handles.values()), list(handles))
        return _png(figure, description)


def of_runs(definition: Figure, runs: Sequence[Run], description: str) -> dict[str, bytes]:
    """The pictures that a figure is made of, by their stems, of one run for each network there is."""
    drawn = figures.draw(runs, lay_out(runs, print), others=definition.others)
    return {stem: _png(drawn[stem].figure, description) for stem in definition.pictures if stem in drawn}


def _png(figure: Drawing, description: str) -> bytes:
    figure.suptitle(description, fontsize=style.SMALL, color='#b00020' if 'SMOKE' in description else None)
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=130, bbox_inches='tight')
    return file.getvalue()
