"""How often the images of each class run each block."""

from collections.abc import Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from codinet_jax.analysis import layout, style
from codinet_jax.analysis.figures.picture import Data, Picture
from codinet_jax.analysis.run import Run
from codinet_jax.evaluation.statistics import class_run_rates, fixed_in_words

MOST_NAMED_CLASSES = 30
MOST_BLOCKS_NARROW = 20
COLOUR_MAP = 'cividis'
FINER = 40


def run_rates(runs: Sequence[Run], theme: style.Theme) -> Picture | None:
    """A heatmap of classes by blocks for each run."""
    if all(run.is_static for run in runs):
        return None
    most_blocks = max(run.num_blocks for run in runs)
    most_classes = max(len(np.unique(run.record.labels_N)) for run in runs)
    is_wide = most_blocks > MOST_BLOCKS_NARROW
    height = float(np.clip(0.19 * most_classes + 0.7, 1.6, 4))
    sheet = theme.sheet
    figure, axes = layout.panels(sheet, len(runs), 1, sheet.wide if is_wide else sheet.narrow, height)
    for axis, run in zip(axes, runs, strict=True):
        _draw_rates(axis, run)
        axis.set_title(style.run_label(run) if len(runs) > 1 else '')
    part = style.either(run.part for run in runs)
    axes[-1].set_xlabel(part)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), COLOUR_MAP), ax=axes, pad=0.02, aspect=25)
    bar.set_label('share of images')
    bar.ax.yaxis.set_major_formatter(ticker.PercentFormatter(1))
    bar.outline.set_visible(False)
    return Picture(
        figure,
        f'{style.either(f"{run.part}s" for run in runs).capitalize()} run, by class',
        f'How often the images of a class (row) run a {part} (column): a {part} that looks the same in all rows does '
        f'not tell classes apart. {_fixed_in_words(runs)}',
        f'Heatmap of run rates, classes by {part}. {_rates_in_words(runs)}',
        is_wide=is_wide,
        data=_data(runs),
    )


def _data(runs: Sequence[Run]) -> Data:
    most_blocks, part = max(run.num_blocks for run in runs), style.either(run.part for run in runs)
    return Data(
        ('run', 'class', *(f'{part} {k + 1}' for k in range(most_blocks))),
        [
            (run.name, run.class_names[label], *rates_n.tolist())
            for run in runs
            for label, rates_n in class_run_rates(run.record).items()
        ],
    )


def _draw_rates(axis: Axes, run: Run) -> None:
    rates = class_run_rates(run.record)
    extent = (0.5, run.num_blocks + 0.5, len(rates) - 0.5, -0.5)
    rates_Yxn = np.array(list(rates.values()))
    if len(rates) > MOST_NAMED_CLASSES:
        # Rows finer than pixels are averaged, which must not blur one block into the next.
        rates_Yxn = rates_Yxn.repeat(FINER, axis=1)
    axis.imshow(rates_Yxn, COLOUR_MAP, Normalize(0, 1), aspect='auto', extent=extent)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=20, steps=[1, 2, 5, 10], min_n_ticks=1))
    axis.spines[:].set_visible(False)
    if len(rates) <= MOST_NAMED_CLASSES:
        names = [style.shortened(run.class_names[label], 16) for label in rates]
        axis.set_yticks(range(len(rates)), names)
        axis.tick_params(axis='y', length=0)
    else:
        axis.set_yticks([])
        axis.set_ylabel(f'{len(rates)} classes')


def _fixed_in_words(runs: Sequence[Run]) -> str:
    sentences = []
    for run in runs:
        fixed = fixed_in_words(run.record.decisions_Nxn.mean(axis=0).tolist(), part=run.part)
        fixed = fixed or f'no {run.part} is fixed for all images'
        sentence = f'{style.of_run(run, runs)}{fixed}.'
        sentences.append(sentence[0].upper() + sentence[1:] if len(runs) == 1 else sentence)
    return ' '.join(sentences)


def _rates_in_words(runs: Sequence[Run]) -> str:
    sentences = []
    for run in runs:
        rates_Yxn = np.array(list(class_run_rates(run.record).values()))
        lows_n, highs_n = rates_Yxn.min(axis=0), rates_Yxn.max(axis=0)
        widest = int(np.argmax(highs_n - lows_n))
        sentences.append(
            f'{style.of_run(run, runs)}{run.part} {widest + 1} differs most between classes, run by '
            f'{lows_n[widest]:.0%} to {highs_n[widest]:.0%} of their images.'
        )
    return ' '.join(sentences)
