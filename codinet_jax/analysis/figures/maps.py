"""The maps of relaxed routes that t-SNE lays out: by class (Figs. 6 and 9) and by blocks run (Fig. 11)."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import spatial

from codinet_jax.analysis import layout, style
from codinet_jax.analysis.figures.picture import Data, Picture
from codinet_jax.analysis.run import Run
from codinet_jax.runtime.console import plural

HOW_TO_READ = (
    'Each point is the relaxed route v of one image, laid out by t-SNE: routes that lie close are alike; '
    'the axes themselves mean nothing.'
)

MOST_COLUMNS, LEAST_WIDTH = 3, 1.6  # of panels; inches of one
MOST_SIDE = 4.1  # inches of a map alone

Mapped = tuple[Run, np.ndarray]


def by_class(runs: Sequence[Run], maps: Sequence[np.ndarray | None], theme: style.Theme) -> Picture | None:
    """The map coloured by the class of each image; ten classes at most have a colour."""
    mapped = _mapped(runs, maps)
    if not mapped:
        return None
    coloured, num_others = _coloured_classes(mapped, len(theme.classes))
    colours = dict(zip(coloured, theme.classes, strict=False))
    figure, axes, size = _map_panels(mapped, theme, height=0.35 * (1 + (len(coloured) > 5)))
    for axis, (run, map_Px2) in zip(axes, mapped, strict=True):
        names = [run.class_names[label] for label in run.record.labels_N[: len(map_Px2)]]
        is_other_P = np.array([name not in colours for name in names])
        _scatter(axis, map_Px2[is_other_P], [theme.others] * int(is_other_P.sum()), size)
        _scatter(axis, map_Px2[~is_other_P], [colours[name] for name in names if name in colours], size)
    dots = [Line2D([], [], linestyle='', marker='o', color=colour) for colour in colours.values()]
    labels = [style.shortened(name, 16) for name in colours]
    if num_others:
        dots, labels = [*dots, Line2D([], [], linestyle='', marker='o', color=theme.others)], [*labels, 'others']
    layout.legend_below(figure, dots, labels, theme.sheet)
    grey = f' {_others(num_others)} grey.' if num_others else ''
    return Picture(
        figure,
        'Map of routes, by class',
        f'{HOW_TO_READ} Colours are classes.{grey} {_neighbours_in_words(mapped)} Figs. 6 and 9 of '
        f'the paper.{_left_out(runs, maps)}',
        f'Scatter plot of the routes of {_counted(mapped)}, coloured by '
        f'{plural(len(coloured) + num_others, "class", "classes")}. {_neighbours_in_words(mapped)}',
        is_wide=len(mapped) > 1,
        data=_data(mapped),
    )


def by_blocks(runs: Sequence[Run], maps: Sequence[np.ndarray | None], theme: style.Theme) -> Picture | None:
    """The map coloured by the number of blocks that each image is expected to run."""
    mapped = _mapped(runs, maps)
    if not mapped:
        return None
    lengths = [run.expected_lengths_N[: len(map_Px2)] for run, map_Px2 in mapped]
    low, high = (float(bound) for bound in (min(map(np.min, lengths)), max(map(np.max, lengths))))
    scale = Normalize(low, high) if high > low else Normalize(low - 0.5, high + 0.5)
    figure, axes, size = _map_panels(mapped, theme, height=0)
    for axis, (_, map_Px2), lengths_P in zip(axes, mapped, lengths, strict=True):
        _scatter(axis, map_Px2, theme.sequential(scale(lengths_P)), size)
    bar = figure.colorbar(ScalarMappable(scale, theme.sequential), ax=axes, shrink=0.85, aspect=30, pad=0.02)
    parts = style.either(f'{run.part}s' for run, _ in mapped)
    bar.set_label(f'expected {parts}')
    bar.outline.set_visible(False)
    spread = f'{low:.1f} to {high:.1f}'
    return Picture(
        figure,
        f'Map of routes, by {parts} run',
        f'{HOW_TO_READ} The colour is the sum of its gates, {spread} {parts}. Fig. 11 of the paper.'
        f'{_left_out(runs, maps)}',
        f'Scatter plot of the routes of {_counted(mapped)}, coloured by the {parts} they are expected to run, '
        f'{spread}.',
        is_wide=len(mapped) > 1,
        data=_data(mapped),
    )


def _mapped(runs: Sequence[Run], maps: Sequence[np.ndarray | None]) -> list[Mapped]:
    return [(run, map_Px2) for run, map_Px2 in zip(runs, maps, strict=True) if map_Px2 is not None and len(map_Px2) > 1]


def _coloured_classes(mapped: Sequence[Mapped], most: int) -> tuple[list[str], int]:
    """The names of the first classes that are on the maps, and how many more there are."""
    of_label = {
        (label, run.class_names[label])
        for run, map_Px2 in mapped
        for label in np.unique(run.record.labels_N[: len(map_Px2)]).tolist()
    }
    names = list(dict.fromkeys(name for _, name in sorted(of_label)))
    return names[:most], len(names[most:])


def _map_panels(mapped: Sequence[Mapped], theme: style.Theme, height: float) -> tuple[Figure, list[Axes], float]:
    """Square panels of one scale with `height` left below for a legend, and the size of points."""
    is_single, count = len(mapped) == 1, len(mapped)
    width = theme.sheet.narrow if is_single else theme.sheet.wide
    columns = layout.fitting(count, width, LEAST_WIDTH, MOST_COLUMNS)
    side = min(MOST_SIDE, 0.855 * width) if is_single else width / columns - 0.2 * (columns == 2) - 0.1
    figure, axes = layout.panels(
        theme.sheet, count, columns, width, (side + height) / theme.sheet.height, sharex=True, sharey=True
    )
    lows = np.min([map_Px2.min(axis=0) for _, map_Px2 in mapped], axis=0)
    highs = np.max([map_Px2.max(axis=0) for _, map_Px2 in mapped], axis=0)
    half = 0.53 * float(np.max(highs - lows)) or 1.0
    (x, y) = (lows + highs) / 2
    for axis, (run, _) in zip(axes, mapped, strict=True):
        axis.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect='equal')
        style.frame(axis)
        if not is_single:
            axis.set_title(style.run_label(run))
    return figure, axes, float(np.clip(6000 / max(len(map_Px2) for _, map_Px2 in mapped), 2, 22))


def _scatter(axis: Axes, map_Px2: np.ndarray, colours: Sequence[str] | np.ndarray, size: float) -> None:
    """Points in a random order, so that no class hides those before it."""
    order_P = np.random.default_rng(0).permutation(len(map_Px2))
    (x_P, y_P), colours_P = map_Px2[order_P].T, [colours[i] for i in order_P]
    axis.scatter(x_P, y_P, s=size, c=colours_P, linewidths=0, alpha=0.85, rasterized=True)


def _neighbours_in_words(mapped: Sequence[Mapped]) -> str:
    """How far the map tells classes apart."""
    shares = []
    for run, map_Px2 in mapped:
        labels_P = run.record.labels_N[: len(map_Px2)]
        _, nearest_Px2 = spatial.cKDTree(map_Px2).query(map_Px2, k=[1, 2])
        # Where points coincide, either may come first.
        other_P = np.where(nearest_Px2[:, 0] == np.arange(len(map_Px2)), nearest_Px2[:, 1], nearest_Px2[:, 0])
        is_alike_P = labels_P[other_P] == labels_P
        named = f' of {style.run_label(run)}' if len(mapped) > 1 else ''
        shares.append(f'{np.mean(is_alike_P):.0%} of points{named}')
    return f'For {style.listed(shares)} the nearest neighbour on the map is of the same class.'


def _data(mapped: Sequence[Mapped]) -> Data:
    """A row a point, which says all that it may be coloured by."""
    rows = []
    for run, map_Px2 in mapped:
        names = run.class_names
        labels, predictions, expected = (
            each[: len(map_Px2)].tolist()
            for each in (run.record.labels_N, run.record.predictions_N, run.expected_lengths_N)
        )
        for i, (x, y) in enumerate(map_Px2.tolist()):
            rows.append((run.name, i, x, y, names[labels[i]], names[predictions[i]], expected[i]))
    parts = style.either(f'{run.part}s' for run, _ in mapped)
    return Data(('run', 'image', 'x', 'y', 'class', 'predicted', f'{parts} expected to run'), rows)


def _others(number: int) -> str:
    return 'The other class is' if number == 1 else f'The other {number} classes are'


def _counted(mapped: Sequence[Mapped]) -> str:
    return style.listed([f'{plural(len(map_Px2), "image")} of {style.run_label(run)}' for run, map_Px2 in mapped])


def _left_out(runs: Sequence[Run], maps: Sequence[np.ndarray | None]) -> str:
    names = [
        style.run_label(run) for run, map_Px2 in zip(runs, maps, strict=True) if map_Px2 is None or len(map_Px2) < 2
    ]
    parts = {
        style.run_label(run) for run, map_Px2 in zip(runs, maps, strict=True) if map_Px2 is not None and run.is_pooled
    }
    of_first = f' Of the seeds of {style.listed(sorted(parts))}, the first is shown.' if parts else ''
    return of_first + (f' There is no map of {style.listed(names)}.' if names else '')
