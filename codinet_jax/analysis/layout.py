"""Where the parts of a figure lie: its panels, its legend, and labels that cover nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codinet_jax.analysis import style

LEGEND_ROW, LEGEND_ROWS = 0.18, 4  # inches of one; how many a figure has room for
NEAR, APART, MARK = 6, 2, 3  # points from a marker's middle to its label, between labels, to a marker's edge
MOST_LABELS = 24
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


def settle(figure: Figure) -> None:
    """Makes ticks, in the colours of this page, and lays all out, drawing nothing: one pass does not do."""
    engine = figure.get_layout_engine()
    assert engine is not None, 'panels have one'
    for _ in range(2):
        engine.execute(figure)


def label_points(figure: Figure, axis: Axes, labels: Sequence[tuple[str, float, float]], colours: style.Theme) -> None:
    """Writes a text beside each point (text, x, y), where it covers no other text and none of what `axis` plots.

    The figure's layout is sought for that: nothing that changes it may come after. A text that finds room only
    farther off has a line to its point; of more than `MOST_LABELS` none is written, the legend says enough.
    """
    if len(labels) > MOST_LABELS:
        return
    small = colours.sheet.small
    settle(figure)
    pixels = figure.dpi / 72
    marks_Tx2 = np.concatenate([axis.transData.transform(line.get_xydata()) for line in axis.lines])
    taken_Tx4 = np.hstack([marks_Tx2 - MARK * pixels, marks_Tx2 + MARK * pixels])
    for text, x, y in labels:
        written = axis.annotate(text, (x, y), fontsize=small)
        size_2, point_2 = np.array(written.get_window_extent().size), np.asarray(axis.transData.transform((x, y)))
        written.remove()
        boxes_Px4 = np.array([_box(point_2, size_2, *place, pixels) for place in _PLACES])
        best = int(np.argmin(_covered(boxes_Px4, taken_Tx4, np.array(axis.bbox.extents))))
        apart_4 = APART * pixels * np.array([-1, -1, 1, 1])
        taken_Tx4 = np.vstack([taken_Tx4, boxes_Px4[best] + apart_4])
        right, up, away = _PLACES[best]
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


def _box(point_2: np.ndarray, size_2: np.ndarray, right: int, up: int, away: float, pixels: float) -> np.ndarray:
    """Where a text of that size would lie: left, bottom, right and top."""
    middle_2 = point_2 + np.array([right, up]) * (away * pixels + size_2 / 2)
    return np.concatenate([middle_2 - size_2 / 2, middle_2 + size_2 / 2])


def _covered(boxes_Px4: np.ndarray, taken_Tx4: np.ndarray, room_4: np.ndarray) -> np.ndarray:
    """How much of each box, in square pixels, lies over what is taken or outside the room there is: [P]."""
    shared_PxT = _shared(boxes_Px4[:, None], taken_Tx4[None])
    outside_P = _shared(boxes_Px4, boxes_Px4) - _shared(boxes_Px4, room_4[None])
    return np.round(outside_P + shared_PxT.sum(axis=1), 3)


def _shared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The area that boxes [..., 4] share."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    return np.prod(np.maximum(sides, 0), axis=-1)


def _width(labels: Sequence[str], columns: int, small: float) -> float:
    """Inches, roughly, of a legend whose labels fill row after row."""
    return sum(0.0085 * small * max(map(len, labels[column::columns])) + 0.42 for column in range(columns))
