"""How images are spread: over the divergence of their predictions (Fig. 10), and over the blocks they run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes

from codinet_jax.analysis import layout, style
from codinet_jax.analysis.figures.picture import Data, Picture
from codinet_jax.analysis.run import Run
from codinet_jax.evaluation.statistics import by_path_length
from codinet_jax.runtime.console import plural

# Half decades of divergence, in nats; the first and the last bin also hold what lies beyond.
DIVERGENCE_EDGES = 10.0 ** np.arange(-4.5, 1.6, 0.5)
DIVERGENCE_TICKS = {'≤10⁻⁴': 0.5, '10⁻³': 3, '0.01': 5, '0.1': 7, '1': 9, '10': 11}

FEW_TICKS = ('≤10⁻⁴', '0.01', '1')  # where there is no room for all
LEAST_WIDTH, ROOM_FOR_ALL_TICKS = 1.6, 2.2  # inches of a panel
ROOM_FOR_A_HISTOGRAM = 3.0

LEAST_SHARE = 0.01  # of images, for an accuracy to be drawn
Z_95 = 1.959964


def divergence(runs: Sequence[Run], theme: style.Theme) -> Picture | None:
    """One panel an augmentation: the divergence from an image's predictions to its augmentation's, over images."""
    names = list(dict.fromkeys(name for run in runs for name in run.augmented.augmentations_A.tolist()))
    if not names:
        return None
    width = theme.sheet.narrow
    columns = layout.fitting(len(names), width, LEAST_WIDTH, 4)
    columns = 2 if columns == 3 else columns  # of four, that no row is of one alone
    figure, axes = layout.panels(theme.sheet, len(names), columns, width, 1.75, sharex=True, sharey=True)
    has_room = width / columns > ROOM_FOR_ALL_TICKS
    ticks = {text: at for text, at in DIVERGENCE_TICKS.items() if has_room or text in FEW_TICKS}
    handles, medians = {}, []
    for axis, name in zip(axes, names, strict=True):
        of_name = []
        for run, look in zip(runs, style.looks(runs, theme), strict=True):
            divergences_N = _divergences(run, name)
            if divergences_N.size:
                handles[look.label] = _draw_divergences(axis, divergences_N, look, is_filled=len(runs) == 1)
                of_name.append(f'{style.of_run(run, runs)}{_in_nats(float(np.median(divergences_N)))}')
        medians += [f'{name} {", ".join(of_name)}'] if of_name else []
        axis.set_title(name)
        axis.set_xticks(list(ticks.values()), list(ticks))
        axis.set_xlim(0, len(DIVERGENCE_EDGES) - 1)
        style.per_cent(axis)
    for axis in axes[-columns:]:
        axis.set_xlabel('KL divergence, nats')
        axis.tick_params(labelbottom=True)
    figure.supylabel('share of images', fontsize=theme.sheet.letters)
    if len(runs) > 1:
        layout.legend_below(figure, list(handles.values()), list(handles), theme.sheet)
    in_words = '; '.join(medians)
    return Picture(
        figure,
        'Divergence under augmentation',
        'How far the predicted class probabilities of an image move when it is augmented, as a share of images; '
        'further left is steadier. Bins are half decades, and the first holds all up to 0.0001 nats; '
        f'dotted lines are medians ({in_words}). Fig. 10 of the paper.',
        f'Histograms of KL divergence, one panel for each of {style.listed(names)}. Medians in nats: {in_words}.',
        is_wide=False,
        data=_divergence_data(runs, names),
    )


def _divergence_data(runs: Sequence[Run], names: Sequence[str]) -> Data:
    edges = [0.0, *DIVERGENCE_EDGES[1:-1].tolist(), np.inf]
    return Data(
        ('run', 'augmentation', 'from, nats', 'to, nats', 'share of images'),
        [
            (run.name, name, low, high, share)
            for run in runs
            for name in names
            if (divergences_N := _divergences(run, name)).size
            for low, high, share in zip(edges, edges[1:], divergence_shares(divergences_N).tolist(), strict=False)
        ],
    )


def path_lengths(runs: Sequence[Run], theme: style.Theme) -> Picture | None:
    """The histogram of the blocks that images run, and the accuracy of those that run as many."""
    if all(run.is_static for run in runs):
        return None
    width = theme.sheet.narrow
    columns = layout.fitting(2, width, ROOM_FOR_A_HISTOGRAM, 2)
    figure, (shares, accuracies) = layout.panels(theme.sheet, 2, columns, width, (1.8, 2.4)[columns - 1], sharex=True)
    handles = [
        _draw_lengths(shares, accuracies, run, look, i, len(runs))
        for i, (run, look) in enumerate(zip(runs, style.looks(runs, theme), strict=True))
    ]
    lengths = np.concatenate([run.path_lengths_N for run in runs])
    blocks = sorted({run.num_blocks for run in runs})
    parts = style.either(f'{run.part}s' for run in runs)
    for axis in (shares, accuracies)[2 - columns :]:
        axis.set_xlabel(f'{parts} run, of {style.listed(list(map(str, blocks)))}')
    accuracies.set_ylabel('accuracy')
    accuracies.set_xlim(lengths.min() - 0.7, lengths.max() + 0.7)
    accuracies.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    shares.set_ylabel('share of images')
    for axis in (shares, accuracies):
        style.per_cent(axis)
    if len(runs) > 1:
        layout.legend_below(figure, handles, [style.run_label(run) for run in runs], theme.sheet)
    means = style.listed([f'{style.of_run(run, runs)}{np.mean(run.path_lengths_N):.1f}' for run in runs])
    return Picture(
        figure,
        f'{parts.capitalize()} run by an image',
        f'How many {parts} images run, and how many of those that run as many are classified rightly, with 95 % '
        f'intervals, for lengths that hold at least 1 % of images. Mean {parts} run: {means}.',
        f'Histogram of {parts} run, with accuracy beside it. {_lengths_in_words(runs)}',
        is_wide=False,
        data=_lengths_data(runs),
    )


def _lengths_data(runs: Sequence[Run]) -> Data:
    rows = []
    for run in runs:
        for row in by_path_length(run.record):
            interval = (float(bound) for bound in wilson(row['top1'], row['images']))
            rows.append(
                (run.name, row['blocks'], row['images'], row['images'] / run.num_images, row['top1'], *interval)
            )
    ran = style.either(f'{run.part}s run' for run in runs)
    return Data(('run', ran, 'images', 'share of images', 'accuracy', 'from (95 %)', 'to (95 %)'), rows)


def wilson(share: Any, num: Any) -> tuple[Any, Any]:
    """The 95 % interval of a share that was found among `num`, after Wilson."""
    weight = Z_95**2 / num
    middle = (share + weight / 2) / (1 + weight)
    half = Z_95 * np.sqrt(share * (1 - share) / num + weight / (4 * num)) / (1 + weight)
    return middle - half, middle + half


def _in_nats(divergence: float) -> str:
    """Two digits, and no power of ten for what is next to nothing."""
    return '<0.0001' if 0 < divergence < 1e-4 else f'{divergence:.2g}'


def divergence_shares(divergences_N: np.ndarray) -> np.ndarray:
    """The share of images in each bin of `DIVERGENCE_EDGES`."""
    inside_N = np.clip(divergences_N.astype(np.float64), DIVERGENCE_EDGES[0], DIVERGENCE_EDGES[-1])
    return np.histogram(inside_N, DIVERGENCE_EDGES)[0] / len(divergences_N)


def _divergences(run: Run, name: str) -> np.ndarray:
    return run.augmented.divergences_AxN[run.augmented.augmentations_A == name].ravel()


def _draw_divergences(axis: Axes, divergences_N: np.ndarray, look: style.RunLook, *, is_filled: bool) -> Artist:
    shares, edges = divergence_shares(divergences_N), np.arange(len(DIVERGENCE_EDGES))
    if is_filled:
        axis.stairs(shares, edges, fill=True, color=look.colour, alpha=0.35)
    outline = axis.stairs(shares, edges, color=look.colour, linestyle=look.dashes, linewidth=1.4)
    median = np.clip(np.median(divergences_N), DIVERGENCE_EDGES[0], DIVERGENCE_EDGES[-1])
    axis.axvline(np.interp(np.log10(median), np.log10(DIVERGENCE_EDGES), edges), color=look.colour, linestyle=':')
    return outline


def _draw_lengths(shares: Axes, accuracies: Axes, run: Run, look: style.RunLook, i: int, count: int) -> Artist:
    rows = by_path_length(run.record)
    blocks, images, top1 = (np.array([row[key] for row in rows]) for key in ('blocks', 'images', 'top1'))
    bars = shares.bar(
        style.dodged(blocks, i, count), images / run.num_images, width=style.WIDTH_OF_BARS / count, color=look.colour
    )
    enough = images >= LEAST_SHARE * run.num_images
    low, high = wilson(top1[enough], images[enough])
    accuracies.errorbar(
        style.dodged(blocks[enough], i, count),
        top1[enough],
        yerr=np.maximum(0, [top1[enough] - low, high - top1[enough]]),
        color=look.colour,
        marker=look.marker,
        linestyle='',
        elinewidth=1,
    )
    return bars[0]


def _are_run(blocks: int, part: str) -> str:
    return f'{plural(blocks, part)} {"is" if blocks == 1 else "are"}'


def _lengths_in_words(runs: Sequence[Run]) -> str:
    sentences = []
    for run in runs:
        each = [
            f'{_are_run(row["blocks"], run.part)} run by {row["images"] / run.num_images:.0%} of images, '
            f'{row["top1"]:.1%} right'
            for row in by_path_length(run.record)
            if row['images'] >= LEAST_SHARE * run.num_images
        ]
        sentences.append(f'{style.of_run(run, runs)}{"; ".join(each)}.')
    return ' '.join(sentences)
