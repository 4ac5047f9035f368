"""What images look like that run few blocks and many: the panels of Fig. 11."""

import numpy as np
from matplotlib.axes import Axes

from codinet_jax.analysis import layout, style
from codinet_jax.analysis.figures.picture import Data, Picture
from codinet_jax.analysis.run import Run
from codinet_jax.runtime.console import plural

MOST_IMAGES = 10
LEAST_WIDTH, MOST_SIDE = 0.65, 1.2  # inches of one
ROOM_BELOW = 0.4  # for two lines


def extremes(run: Run, theme: style.Theme) -> Picture | None:
    """Two rows of images: those that run the fewest blocks, and the most."""
    width = theme.sheet.wide
    fewest, most = fewest_and_most(run, layout.fitting(MOST_IMAGES, width, LEAST_WIDTH, MOST_IMAGES))
    if run.is_static or not fewest:
        return None
    height = min(MOST_SIDE, width / len(fewest) - 0.1) + ROOM_BELOW  # a picture is as high as it is wide
    figure, axes = layout.panels(theme.sheet, 2 * len(fewest), len(fewest), width, height / theme.sheet.height)
    chosen = fewest + most
    for axis, i in zip(axes, chosen, strict=True):
        _show(axis, run, i, theme)
    for axis, row in zip(axes[:: len(fewest)], ('fewest', 'most'), strict=True):
        axis.set_ylabel(row)
    return Picture(
        figure,
        f'Images that run the fewest and the most {run.part}s',
        f'Of the first {len(run.thumbnails_SxhxwxC)} images, those with the shortest routes (above) and the longest '
        f'(below); under each its class and the {run.part}s it runs, of {run.num_blocks}. '
        f'{_wrong_in_words(run, chosen)}As in Fig. 11 of the paper, which finds that clear images need fewer blocks.',
        f'Two rows of {len(fewest)} images. Fewest {run.part}s: {_in_words(run, fewest)}. Most {run.part}s: '
        f'{_in_words(run, most)}.',
        is_wide=True,
        data=Data(
            ('row', 'image', 'class', 'predicted', f'{run.part}s run', f'{run.part}s expected to run'),
            [
                (row, i, *(run.class_names[y[i]] for y in run.record[:2]), lengths[i], float(run.expected_lengths_N[i]))
                for lengths in [run.path_lengths_N.tolist()]
                for row, of_row in ((f'fewest {run.part}s', fewest), (f'most {run.part}s', most))
                for i in of_row
            ],
        ),
    )


def fewest_and_most(run: Run, at_most: int = MOST_IMAGES) -> tuple[list[int], list[int]]:
    """Positions of the images with the shortest routes, the shortest first, and with the longest, the longest first.

    Of equal length those come first that are expected to be shorter (longer), then by position.
    """
    S = len(run.thumbnails_SxhxwxC)
    lengths_S, expected_S = run.path_lengths_N[:S].astype(int), run.expected_lengths_N[:S]
    count = min(at_most, S // 2)
    shortest, longest = np.lexsort((expected_S, lengths_S)), np.lexsort((-expected_S, -lengths_S))
    return shortest[:count].tolist(), longest[:count].tolist()


def _show(axis: Axes, run: Run, i: int, theme: style.Theme) -> None:
    image_hxwxC = run.thumbnails_SxhxwxC[i]
    if image_hxwxC.shape[-1] == 1:
        axis.imshow(image_hxwxC[..., 0], 'gray', vmin=0, vmax=255, interpolation='nearest')
    else:
        axis.imshow(image_hxwxC, interpolation='nearest')
    name = style.shortened(run.class_names[run.record.labels_N[i]], 12)
    axis.set_xlabel(f'{name}\n{plural(run.path_lengths_N[i], run.part)}', fontsize=theme.sheet.small)
    style.frame(axis)
    if not run.is_correct_N[i]:
        axis.spines[:].set(color=style.WRONG, linewidth=2, alpha=1)


def _wrong_in_words(run: Run, chosen: list[int]) -> str:
    return '' if run.is_correct_N[chosen].all() else 'Framed in orange: classified wrong. '


def _in_words(run: Run, row: list[int]) -> str:
    classes = sorted({run.class_names[run.record.labels_N[i]] for i in row})
    lengths = sorted({str(run.path_lengths_N[i]) for i in row}, key=int)
    return f'{style.listed(classes)}, with {style.listed(lengths)} {run.part}{"" if lengths == ["1"] else "s"}'
