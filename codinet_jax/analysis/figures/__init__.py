"""Everything that can be drawn of one run, or of several beside each other; Figs. 6, 9, 10 and 11 among it."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from codinet_jax.analysis import paper, style
from codinet_jax.analysis.figures import accuracy_cost, flow, histograms, images, maps, rates, training
from codinet_jax.analysis.figures.picture import Data, Picture, rendered
from codinet_jax.analysis.layout import settle
from codinet_jax.analysis.run import Run

__all__ = ['Data', 'Picture', 'draw', 'rendered']


def draw(
    runs: Sequence[Run],
    positions: Sequence[np.ndarray | None],
    *,
    is_dark: bool = False,
    width: str = 'page',
    seeds: Sequence[Run] = (),
    others: Sequence[paper.Reported] = (),
) -> dict[str, Picture]:
    """The pictures there are to draw, in reading order, by the stem of their files.

    `positions[i]` [P, 2] are where t-SNE lays the relaxed routes of the first P images of run i; None without any.
    `width` is one of `style.SHEETS`. `seeds` are the runs of which `runs` are pooled, if any are: each has its own
    curves of training and its own accuracy and cost. `others` are shown in the plane of accuracy and cost, beside what
    the paper reports of the runs' data sets.
    """
    pictures = {}
    with style.drawing(is_dark=is_dark, width=width):
        for stem, make in _drawn(runs, positions, seeds or runs, others, style.theme(is_dark, width)):
            if picture := make():
                _settle(picture.figure)
                pictures[stem] = picture
    return pictures


def _settle(figure: Figure) -> None:
    """Lays all out once and for all."""
    settle(figure)
    figure.set_layout_engine('none')


def _drawn(
    runs: Sequence[Run],
    positions: Sequence[np.ndarray | None],
    seeds: Sequence[Run],
    others: Sequence[paper.Reported],
    theme: style.Theme,
) -> Iterator[tuple[str, Callable[[], Picture | None]]]:
    of_maps = (
        ('map_by_class', lambda: maps.by_class(runs, positions, theme)),
        ('map_by_blocks', lambda: maps.by_blocks(runs, positions, theme)),
    )
    steadiness = ('divergence', lambda: histograms.divergence(runs, theme))
    lengths = ('path_lengths', lambda: histograms.path_lengths(runs, theme))
    of_blocks = ('run_rates', lambda: rates.run_rates(runs, theme))
    in_time = ('training', lambda: training.training(seeds, theme))
    at_cost = ('accuracy_cost', lambda: accuracy_cost.accuracy_cost(seeds, theme, others))
    if len(runs) > 1:  # of several one asks first which is more accurate, and at what cost
        yield from (at_cost, lengths, of_blocks, steadiness, *of_maps, in_time)
        return
    yield from (*of_maps, steadiness, lengths, of_blocks)
    if not runs[0].is_pooled:  # a route of one seed's is none of another's
        yield 'flow', lambda: flow.flow(runs[0], theme)
        yield 'extremes', lambda: images.extremes(runs[0], theme)
    yield from (in_time, at_cost)
