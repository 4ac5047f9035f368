"""The most used routes as ribbons through the blocks: above where a block is run, below where it is skipped."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects, ticker
from matplotlib.axes import Axes

from codinet_jax.analysis import layout, style
from codinet_jax.analysis.figures.picture import Data, Picture
from codinet_jax.analysis.run import Run
from codinet_jax.evaluation.statistics import most_used_routes
from codinet_jax.runtime.console import plural

MOST_RIBBONS = 10
MOST_BLOCKS_NARROW = 12
ROOM_FOR_ALL = 0.1  # inches a block; with less, half as many ribbons can be followed
GAP = 0.25  # between the lanes, in lanes
PAD = 0.02  # between neighbours in a lane, in all their images
POINTS = 25  # of a bend
HOLD = 0.12  # straight before and after it, in blocks


class Ribbon(NamedTuple):
    """A route of `images`; the heights of its upper edge over the start, each block, and the label at its end."""

    route_n: np.ndarray
    images: int
    tops: np.ndarray

    @property
    def blocks(self) -> int:
        return int(self.route_n.sum())


def flow(run: Run, theme: style.Theme) -> Picture | None:
    """The ribbons of one run, as thick as their images are many."""
    if run.is_static:
        return None
    is_wide = run.num_blocks > MOST_BLOCKS_NARROW
    width = theme.sheet.wide if is_wide else theme.sheet.narrow
    most_ribbons = MOST_RIBBONS if width > ROOM_FOR_ALL * run.num_blocks else MOST_RIBBONS // 2
    ribbons = lay_out(most_used_routes(run.record.decisions_Nxn, most_ribbons))
    figure, (axis,) = layout.panels(theme.sheet, 1, 1, width, 3.4)
    by_use = sorted(ribbons, key=lambda ribbon: -ribbon.images)
    for ribbon, colour in zip(by_use, theme.classes, strict=False):
        _draw_ribbon(axis, ribbon, colour, theme)
    drawn = sum(ribbon.images for ribbon in ribbons)
    _label(axis, ribbons, run, theme)
    _frame(axis, run, lane_height([ribbon.images for ribbon in ribbons]), theme)
    routes = plural(len(np.unique(run.record.decisions_Nxn, axis=0)), 'route')
    share, hold = drawn / run.num_images, 'holds' if len(ribbons) == 1 else 'hold'
    most = max(ribbons, key=lambda ribbon: ribbon.images)
    return Picture(
        figure,
        'Most used routes',
        f'Images flow from left to right, above where they run a {run.part} and below where they skip it; a ribbon '
        'is a route, of its own colour and as thick as its images are many, and a thin one passes over a thick one. '
        f'The {len(ribbons)} drawn, of {routes}, {hold} {share:.0%} of images.',
        f'Ribbons of the {plural(len(ribbons), "most used route")} through {plural(run.num_blocks, run.part)}; the '
        f'most used runs {plural(most.blocks, run.part)} and holds {most.images / run.num_images:.1%} of images, all '
        f'drawn {share:.0%}.',
        is_wide=is_wide,
        data=Data(
            ('route', f'{run.part}s run', 'images', 'share of images'),
            [
                (''.join(map(str, each.route_n.astype(int))), each.blocks, each.images, each.images / run.num_images)
                for each in by_use
            ],
        ),
    )


def lay_out(routes: list[tuple[np.ndarray, np.ndarray]]) -> list[Ribbon]:
    """Ribbons, the uppermost first: each has its own place, the same in either lane, so that none covers another.

    They start side by side and end with room for a label each.
    """
    routes = sorted(routes, key=lambda each: tuple(~each[0].astype(bool)))
    images_R = np.array([len(members) for _, members in routes])
    total, lane = int(images_R.sum()), lane_height(images_R)
    height, above_R = lane * (2 + GAP), np.cumsum(images_R) - images_R
    starts_R = (height + total) / 2 - above_R
    above_R = above_R + PAD * total * np.arange(len(routes))
    at_end = sorted(range(len(routes)), key=lambda r: (not routes[r][0][-1], r))
    room = (height - total) / len(routes)
    ends_R = np.empty(len(routes))
    ends_R[at_end] = height - np.cumsum(images_R[at_end] + room) + images_R[at_end] + room / 2
    lanes = [np.where(route_n, height, lane) for route_n, _ in routes]
    return [
        Ribbon(routes[r][0], int(images_R[r]), np.array([starts_R[r], *(lanes[r] - above_R[r]), ends_R[r]]))
        for r in range(len(routes))
    ]


def lane_height(images: Sequence[int] | np.ndarray) -> float:
    """Room for every ribbon, and what lies between them."""
    return float(np.sum(images)) * (1 + PAD * (len(images) - 1))


def _draw_ribbon(axis: Axes, ribbon: Ribbon, colour: str, theme: style.Theme) -> None:
    steps = np.linspace(0, 1, POINTS, endpoint=False)
    bend = np.clip((steps - HOLD) / (1 - 2 * HOLD), 0, 1)
    bend = bend**2 * (3 - 2 * bend)
    begins, ends = ribbon.tops[:-1, None], ribbon.tops[1:, None]
    tops = np.append((begins + (ends - begins) * bend).ravel(), ribbon.tops[-1])
    x = np.append((np.arange(len(begins))[:, None] + steps).ravel(), len(begins))
    # The outline keeps steep bends visible, and one in the page's colour around it parts it from what it crosses.
    apart = [patheffects.Stroke(linewidth=2.4, foreground=theme.paper), patheffects.Normal()]
    axis.fill_between(
        x, tops - ribbon.images, tops, facecolor=colour, edgecolor=colour, linewidth=0.8, path_effects=apart
    )


def _label(axis: Axes, ribbons: list[Ribbon], run: Run, theme: style.Theme) -> None:
    end = run.num_blocks + 1
    for ribbon in ribbons:
        middle = ribbon.tops[-1] - ribbon.images / 2
        axis.annotate(
            f'{ribbon.images / run.num_images:.1%}, {plural(ribbon.blocks, run.part)}',
            (end, middle),
            xytext=(4, 0),
            textcoords='offset points',
            va='center',
            fontsize=theme.sheet.small,
            annotation_clip=False,
        )


def _frame(axis: Axes, run: Run, lane: float, theme: style.Theme) -> None:
    num_blocks, lanes = run.num_blocks, {'skip': 0.0, 'run': lane * (1 + GAP)}
    for bottom in lanes.values():
        axis.fill_between([0.85, num_blocks + 0.15], bottom, bottom + lane, color=theme.faint, zorder=0, linewidth=0)
    axis.set_yticks([bottom + lane / 2 for bottom in lanes.values()], list(lanes), fontsize=theme.sheet.letters)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlim=(0, num_blocks + 1), ylim=(0, lane * (2 + GAP)), xlabel=run.part)
    axis.xaxis.set_major_locator(ticker.FixedLocator(_block_ticks(num_blocks)))


def _block_ticks(num_blocks: int) -> list[int]:
    """Every block, or of many each fifth."""
    return [block for block in range(1, num_blocks + 1) if num_blocks <= 20 or block == 1 or block % 5 == 0]
