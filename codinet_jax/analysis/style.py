"""How figures look: colours for a light and a dark page, sizes on it and in a journal, and what all do alike."""

import contextlib
import functools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import font_manager, ticker
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap

from codinet_jax.analysis.run import Run
from codinet_jax.runtime.console import log

LONGEST_LABEL = 30
STATIC_MARKER, MARKERS = 's', 'oD^vPX'
DASHES = ('-', '--', '-.', ':')
# With the letters that matplotlib's own font lacks, where one of them is installed.
WIDE_FONTS = (
    *('Noto Sans CJK SC', 'Noto Sans CJK JP', 'Noto Sans CJK KR', 'WenQuanYi Zen Hei', 'WenQuanYi Micro Hei'),
    *('Droid Sans Fallback', 'Microsoft YaHei', 'PingFang SC', 'Hiragino Sans', 'Arial Unicode MS'),
)
OF_THE_PROCESS = ('backend', 'backend_fallback', 'interactive', 'toolbar', 'timezone')  # settings of no figure's look


class Sheet(NamedTuple):
    """What figures are to fit: widths in inches, letters in points, and heights as a share of those on the page."""

    narrow: float
    wide: float
    letters: float
    small: float
    height: float


# The report's page, and one column and both of a journal's, as IEEE's are (89 and 182 mm).
SHEETS = {
    'page': Sheet(narrow=4.8, wide=9.6, letters=9, small=8, height=1.0),
    'single': Sheet(narrow=3.5, wide=3.5, letters=8, small=7, height=0.85),
    'double': Sheet(narrow=7.16, wide=7.16, letters=8, small=7, height=0.85),
}


class Theme(NamedTuple):
    """The colours of a page, those of page.css, and the sizes of a sheet.

    `runs` are Okabe and Ito's; `classes` are six of theirs and four that were searched for to lie farthest from them
    and from each other, to eyes that see all colours and to those that lack a cone.
    """

    paper: str
    ink: str
    muted: str
    faint: str
    runs: tuple[str, ...]
    classes: tuple[str, ...]
    others: str
    sequential: Colormap
    sheet: Sheet


WIDTH_OF_BARS = 0.8  # all that share a position, one being from it to the next
RIGHT, WRONG = '#0072b2', '#d55e00'  # answers, on light and dark pages
OKABE_ITO = ('#e69f00', '#56b4e9', '#009e73', '#0072b2', '#d55e00', '#cc79a7')


def theme(is_dark: bool, width: str = 'page') -> Theme:
    """The colours for a dark page or for a white one, and the sizes of one of `SHEETS`."""
    if is_dark:
        return Theme(
            paper='#16181d',
            ink='#e8eaed',
            muted='#9ba6b2',
            faint='#2c3038',
            runs=('#56b4e9', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#f0e442', '#0072b2'),
            classes=(*OKABE_ITO, '#5f1fff', '#dfff9f', '#7fffff', '#9f5fff'),
            others='#3a3f48',
            sequential=_part_of('viridis', 0.2, 1),
            sheet=SHEETS[width],
        )
    return Theme(
        paper='#ffffff',
        ink='#1b1e24',
        muted='#59626d',
        faint='#e8eaee',
        runs=('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#f0e442'),
        classes=(*OKABE_ITO, '#9f1fff', '#5f1f00', '#00007f', '#3f1f3f'),
        others='#d5d8dd',
        sequential=_part_of('viridis', 0, 0.92),
        sheet=SHEETS[width],
    )


@contextlib.contextmanager
def drawing(*, is_dark: bool = False, width: str = 'page') -> Iterator[None]:
    """Figures that are built or written within look as they do here, whatever the user's matplotlibrc says.

    Labels are shown as they are typed. Letters that no font here has become boxes, and a sentence says so.
    """
    with (
        warnings.catch_warnings(record=True) as caught,
        matplotlib.rc_context({**_defaults(), **rc(theme(is_dark, width))}),
    ):
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
    """The families that letters are looked for in, one after the other."""
    known = {font.fname for font in font_manager.fontManager.ttflist}
    if not _installed(WIDE_FONTS):
        # matplotlib keeps a list of the fonts it once found, and does not see those that were installed since.
        for path in set(font_manager.findSystemFonts()) - known:
            with contextlib.suppress(OSError, RuntimeError):
                font_manager.fontManager.addfont(path)
    return ['DejaVu Sans', *_installed(WIDE_FONTS)]


def _installed(names: Sequence[str]) -> list[str]:
    found = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in names if name in found]


def rc(colours: Theme) -> dict[Any, Any]:
    """The settings that are not matplotlib's own."""
    letters, small = colours.sheet.letters, colours.sheet.small
    ink = ('text.color', 'axes.labelcolor', 'axes.titlecolor', 'xtick.labelcolor', 'ytick.labelcolor')
    lines = ('axes.edgecolor', 'xtick.color', 'ytick.color')
    return {
        'text.parse_math': False,  # a dollar is a dollar
        'font.family': _fonts(),
        'pdf.fonttype': 42,  # TrueType, which journals ask for, and not matplotlib's Type 3
        'ps.fonttype': 42,
        'svg.hashsalt': 'codinet_jax',  # names of parts that are the same every time
        'font.size': letters,
        'axes.titlesize': letters,
        'axes.labelsize': letters,
        'xtick.labelsize': small,
        'ytick.labelsize': small,
        'legend.fontsize': small,
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
    """A look for every run, by its place; those of one name share it."""
    names = list(dict.fromkeys(run.name for run in runs))
    return [
        RunLook(
            label=run_label(run),
            colour=colours.runs[i % len(colours.runs)],
            marker=STATIC_MARKER if run.is_static else MARKERS[i % len(MARKERS)],
            dashes=DASHES[i % len(DASHES)],
        )
        for run in runs
        for i in [names.index(run.name)]
    ]


def run_label(run: Run) -> str:
    """What a legend calls a run: of a long name its beginning and its end, which often is what tells it apart."""
    name = run.name if run.operating_point is None else f'{run.name} at {run.operating_point}'
    end = LONGEST_LABEL // 2
    return name if len(name) <= LONGEST_LABEL else f'{name[: LONGEST_LABEL - end - 1]}…{name[-end:]}'


def of_run(run: Run, runs: Sequence[Run]) -> str:
    """Begins a clause about one run of several; nothing if there is only one."""
    return f'{run_label(run)}: ' if len(runs) > 1 else ''


def either(words: Iterable[str]) -> str:
    """Of several runs the word of any: each of the words once."""
    return ' or '.join(dict.fromkeys(words))


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f'{text[: longest - 1]}…'


def frame(axis: Axes) -> None:
    """A faint line around it, for what has neither ticks nor scales."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set(visible=True, alpha=0.4)


def per_cent(axis: Axes) -> None:
    """Writes the shares on the y axis as per cent."""
    axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda share, _: f'{100 * share:.3g}%'))


def dodged(position: np.ndarray, i: int, count: int) -> np.ndarray:
    """Where the i-th of `count` bars stands that share a position."""
    return position + WIDTH_OF_BARS * ((i + 0.5) / count - 0.5)


def listed(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return ' and '.join(filter(None, (', '.join(items[:-1]), *items[-1:])))


def _part_of(name: str, start: float, stop: float) -> Colormap:
    """A colour map without the end which does not stand out from the page."""
    return LinearSegmentedColormap.from_list(name, matplotlib.colormaps[name](np.linspace(start, stop, 256)))
