"""How figures look: colours for a light and a dark page, sizes, and what every figure does alike."""

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import font_manager, ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from codinet_jax.analysis.run import Run
from codinet_jax.runtime.console import log

NARROW, WIDE = 4.8, 9.6  # inches
SMALL = 8  # points
LEGEND_ROW, LEGEND_ROWS = 0.18, 4  # inches of one; how many a figure has room for
LONGEST_LABEL = 30
MARKERS = 'osD^vPX'
DASHES = ('-', '--', '-.', ':')
MAX_PANEL_COLUMNS = 3
# With the letters that matplotlib's own font lacks, where one of them is installed.
WIDE_FONTS = (
    *('Noto Sans CJK SC', 'Noto Sans CJK JP', 'Noto Sans CJK KR', 'WenQuanYi Zen Hei', 'WenQuanYi Micro Hei'),
    *('Droid Sans Fallback', 'Microsoft YaHei', 'PingFang SC', 'Hiragino Sans', 'Arial Unicode MS'),
)
OF_THE_PROCESS = ('backend', 'backend_fallback', 'interactive', 'toolbar', 'timezone')  # settings of no figure's look


class Theme(NamedTuple):
    """The colours of a page; `runs` are Okabe and Ito's, `classes` matplotlib's petroff10: distinct to all eyes."""

    paper: str
    ink: str
    muted: str
    faint: str
    runs: tuple[str, ...]
    classes: tuple[str, ...]
    others: str
    sequential: Colormap


def theme(is_dark: bool) -> Theme:
    """The colours for a dark page or for a white one."""
    classes = matplotlib.color_sequences['petroff10']
    if is_dark:
        return Theme(
            paper='#16181d',
            ink='#e8eaed',
            muted='#9aa1ab',
            faint='#2c3038',
            runs=('#56b4e9', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#f0e442', '#0072b2'),
            classes=tuple(map(_lightened, classes)),
            others='#3a3f48',
            sequential=_part_of('viridis', 0.2, 1),
        )
    return Theme(
        paper='#ffffff',
        ink='#1b1e24',
        muted='#6b7280',
        faint='#e8eaee',
        runs=('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#f0e442'),
        classes=tuple(map(matplotlib.colors.to_hex, classes)),
        others='#d5d8dd',
        sequential=_part_of('viridis', 0, 0.92),
    )


@contextlib.contextmanager
def drawing(*, is_dark: bool = False) -> Iterator[None]:
    """Figures that are built or written within look as they do here, whatever the user's matplotlibrc says.

    Labels are shown as they are typed. Letters that no font here has become boxes, and a sentence says so.
    """
    with warnings.catch_warnings(record=True) as caught, matplotlib.rc_context({**_defaults(), **rc(is_dark)}):
        warnings.simplefilter('always')
        yield
    missing = [re.search(r'Glyph \d+ \(.*\) missing from font', str(each.message)) for each in caught]
    for each, is_glyph in zip(caught, missing, strict=True):
        if not is_glyph:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if any(missing):
        _tell_of_fonts()


@functools.cache
def _tell_of_fonts() -> None:
    log(f'warning: no font here has all letters of the labels: install one, as {WIDE_FONTS[0]} (fonts-noto-cjk).')


def _defaults() -> dict[Any, Any]:
    return {name: value for name, value in dict.items(matplotlib.rcParamsDefault) if name not in OF_THE_PROCESS}


@functools.cache
def _fonts() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ['DejaVu Sans', *(name for name in WIDE_FONTS if name in installed)]


def rc(is_dark: bool) -> dict[Any, Any]:
    """The settings that are not matplotlib's own."""
    colours = theme(is_dark)
    ink = ('text.color', 'axes.labelcolor', 'axes.titlecolor', 'xtick.labelcolor', 'ytick.labelcolor')
    lines = ('axes.edgecolor', 'xtick.color', 'ytick.color')
    return {
        'text.parse_math': False,  # a dollar is a dollar
        'font.family': _fonts(),
        'font.size': 9,
        'axes.titlesize': 9,
        'axes.labelsize': 9,
        'xtick.labelsize': SMALL,
        'ytick.labelsize': SMALL,
        'legend.fontsize': SMALL,
        'legend.frameon': False,
        'legend.handlelength': 1.6,
        'axes.linewidth': 0.8,
        'axes.spines.top': False,
        'axes.spines.right': False,
        'lines.linewidth': 1.4,
        'lines.markersize': 4.5,
        'figure.facecolor': colours.paper,
        'axes.facecolor': colours.paper,
        **dict.fromkeys(ink, colours.ink),
        **dict.fromkeys(lines, colours.muted),
    }


class RunLook(NamedTuple):
    """How one run among several is told from the others."""

    label: str
    colour: str
    marker: str
    dashes: str


def looks(runs: Sequence[Run], colours: Theme) -> list[RunLook]:
    """A look for every run, by its place."""
    return [
        RunLook(
            label=run_label(run),
            colour=colours.runs[i % len(colours.runs)],
            marker=MARKERS[i % len(MARKERS)],
            dashes=DASHES[i % len(DASHES)],
        )
        for i, run in enumerate(runs)
    ]


def run_label(run: Run) -> str:
    """What a legend calls a run."""
    return shortened(run.name if run.operating_point is None else f'{run.name} at {run.operating_point}', LONGEST_LABEL)


def of_run(run: Run, runs: Sequence[Run]) -> str:
    """Begins a clause about one run of several; nothing if there is only one."""
    return f'{run_label(run)}: ' if len(runs) > 1 else ''


def blocks(number: int) -> str:
    return f'{number} block' if number == 1 else f'{number} blocks'


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f'{text[: longest - 1]}…'


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend under all panels, of as many columns as there is room for; of many rows, it makes the figure higher."""
    columns = next(c for c in range(len(labels), 0, -1) if c == 1 or _width(labels, c) < figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW * max(0, -(-len(labels) // columns) - LEGEND_ROWS))
    figure.legend(handles, labels, loc='outside lower center', ncols=columns, columnspacing=1.2, handletextpad=0.4)


def panels(count: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each `height` inches high, in rows of `columns`."""
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[:count]:
        # As many ticks as a panel has room for change while the layout is sought, and their labels' width with them.
        axis.locator_params(nbins=5)
    return figure, list(axes[:count])


def per_cent(axis: Axes) -> None:
    """Writes the shares on the y axis as per cent."""
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda share, _: f'{100 * share:.3g}%'))


def dodged(position: np.ndarray, i: int, count: int, width: float = 0.8) -> np.ndarray:
    """Where the i-th of `count` bars stands that share a position."""
    return position + width * ((i + 0.5) / count - 0.5)


def listed(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return ' and '.join(filter(None, (', '.join(items[:-1]), *items[-1:])))


def in_colour(values: Sequence[float], colour_map: Colormap) -> Iterator[Any]:
    """A colour for each value, from the least to the greatest of them."""
    low, high = min(values), max(values)
    return (colour_map((value - low) / (high - low) if high > low else 0.5) for value in values)


def _width(labels: Sequence[str], columns: int) -> float:
    """Inches, roughly, of a legend whose labels fill column after column."""
    parts = np.array_split(np.array([len(label) for label in labels]), columns)
    return sum(0.068 * int(part.max()) + 0.42 for part in parts)


def _part_of(name: str, start: float, stop: float) -> Colormap:
    """A colour map without the end which does not stand out from the page."""
    return LinearSegmentedColormap.from_list(name, matplotlib.colormaps[name](np.linspace(start, stop, 256)))


def _lightened(colour: Any) -> str:
    """The colour, mixed with white if it would not stand out from a dark page."""
    red, green, blue = matplotlib.colors.to_rgb(colour)
    white = 0.3 if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else 0
    keep = 1 - white
    return matplotlib.colors.to_hex((white + keep * red, white + keep * green, white + keep * blue))
