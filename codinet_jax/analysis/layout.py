"""Where the parts of a figure lie: its panels, its legend, and labels that cover nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from codinet_jax.analysis import style

LEGEND_ROW, LEGEND_ROWS = 0.18, 4  # inches of one; how many a figure has room for
NEAR, APART = 6, 2  # points from a marker's middle to its label, and between labels
# Whether a label lies to the right (1) or left (-1) of its point, above (1) or below it, and how far; the best first.
_PLACES = [
    (right, up, away)
    for away in (NEAR, 2.5 * NEAR, 5 * NEAR, 8 * NEAR)
    for right, up in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1))
]


def fitting(count: int, width: float, least: float, most: int) -> int:
    """How many columns `count` panels have: at most so many, none less wide than `least` inches."""
    return max(1, min(count, most, int(width // least)))


def panels(
    sheet: style.Sheet, count: int, columns: int, width: float, height: float, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`; `height` inches is what each has on the page."""
    rows, height = -(-count // columns), sheet.height * height
    figure = Figure(figsize=(width, height * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        # As many ticks as a panel has room for change while the layout is sought, and their labels' width with them.
        axis.locator_params(nbins=5)
    return figure, list(axes[:count])


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], sheet: style.Sheet) -> None:
    """A legend under all panels, read line by line, in rows that are as full as each other.

    It has as many columns as there is room for; of many rows, it makes the figure higher.
    """
    count = len(labels)
    most = next(c for c in range(count, 0, -1) if c == 1 or _width(labels, c, sheet.small) < figure.get_figwidth())
    rows = -(-count // most)
    columns = -(-count // rows)
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, rows - LEGEND_ROWS))
    by_column = [i for column in range(columns) for i in range(column, count, columns)]  # as matplotlib fills it
    figure.legend(
        [handles[i] for i in by_column],
        [labels[i] for i in by_column],
        loc='outside lower center',
        ncols=columns,
        columnspacing=1.2,
        handletextpad=0.4,
    )


def label_points(figure: Figure, axis: Axes, labels: Sequence[tuple[str, float, float]], colours: style.Theme) -> None:
    """Writes a text beside each point (text, x, y), where it covers no other text and none of what `axis` plots.

    The figure's layout is sought for that: nothing that changes it may come after. A text that finds room only
    farther off has a line to its point.
    """
    small = colours.sheet.small
    for _ in range(2):
        figure.draw_without_rendering()
    pixels = figure.dpi / 72
    marks = [mark for line in axis.lines for mark in axis.transData.transform(line.get_xydata())]
    taken = [Bbox.from_extents(*(mark - 3 * pixels), *(mark + 3 * pixels)) for mark in marks]
    for text, x, y in labels:
        written = axis.annotate(text, (x, y), fontsize=small)
        size, point = np.array(written.get_window_extent().size), np.asarray(axis.transData.transform((x, y)))
        written.remove()
        tried = [(_box(point, size, *where, pixels), where) for where in _PLACES]
        box, (right, up, away) = min(tried, key=lambda each: _covered(each[0], taken, axis.bbox))
        taken.append(box.padded(APART * pixels))
        written = axis.annotate(
            text,
            (x, y),
            xytext=(right * away, up * away),
            textcoords='offset points',
            ha=('center', 'left', 'right')[right],
            va=('center', 'bottom', 'top')[up],
            fontsize=small,
            path_effects=[patheffects.withStroke(linewidth=2.5, foreground=colours.paper)],
            arrowprops={'arrowstyle': '-', 'color': colours.muted, 'linewidth': 0.6} if away > NEAR else None,
        )
        written.set_in_layout(False)


def _box(point: np.ndarray, size_2: np.ndarray, right: int, up: int, away: float, pixels: float) -> Bbox:
    """Where a text of that size would lie."""
    middle = point + np.array([right, up]) * (away * pixels + size_2 / 2)
    return Bbox.from_extents(*(middle - size_2 / 2), *(middle + size_2 / 2))


def _covered(box: Bbox, taken: Sequence[Bbox], room: Any) -> float:
    """How much of a box, in square pixels, lies over what is taken or outside the room there is."""
    inside = Bbox.intersection(box, room)
    outside = box.width * box.height - (inside.width * inside.height if inside else 0)
    shared = [both.width * both.height for each in taken if (both := Bbox.intersection(box, each))]
    return round(outside + sum(shared), 3)


def _width(labels: Sequence[str], columns: int, small: float) -> float:
    """Inches, roughly, of a legend whose labels fill row after row."""
    return sum(0.0085 * small * max(map(len, labels[column::columns])) + 0.42 for column in range(columns))
