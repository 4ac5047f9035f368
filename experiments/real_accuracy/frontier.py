"""The figure of accuracy against cost on CIFAR-10: what experiments/results hold of networks made here, the networks
they were made of, and what papers report.

`python -m experiments.real_accuracy.frontier --output=experiments/results/frontier.png`
"""

import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codinet_jax.analysis import layout, paper, style
from codinet_jax.runtime import files

RESULTS = pathlib.Path(__file__).parents[1] / 'results'
DEPTHS = (20, 32, 44, 56)  # of the networks that the others are made of
REPORTED = (*paper.REPORTED['cifar10'], *(each for each in paper.COMPARED if each.method in ('DDI', 'CGap')))
CHEAPEST = 45e6  # MACs: below it next to no image goes on


class Line(NamedTuple):
    """What is measured of one network as its dial turns: MACs, accuracies [seeds, points], and the look."""

    label: str
    macs: Sequence[float]
    accuracies_SxP: np.ndarray
    look: str
    colour: int


def resumed(label: str, names: Sequence[str], look: str, colour: int) -> Line:
    """A network that resumes, by the files of its seeds."""
    found = [json.loads((RESULTS / f'{name}.json').read_text()) for name in names]
    points_SxP = [
        [point for point in each['points_of_the_deep_answer_alone'] if _is_of_use(point, each)] for each in found
    ]
    return _line(label, points_SxP, look, colour)


def _line(label: str, points_SxP: Sequence[Sequence[dict[str, Any]]], look: str, colour: int) -> Line:
    macs, accuracies = (
        np.array([[point[key] for point in points] for points in points_SxP]) for key in ('mean_macs', 'accuracy')
    )
    return Line(label, macs.mean(axis=0).tolist(), accuracies, look, colour)


def _is_of_use(point: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether images go on there, and not nearly all."""
    most = found['shallow']['macs'] + found['deep']['macs_of_going_on']
    return bool(1.1 * found['shallow']['macs'] < point['target_macs'] < 0.9 * most)


def longer(label: str, names: Sequence[str], look: str, colour: int) -> Line:
    """Cascades of `longer_cascades`, those that differ in the seed alone."""
    found = _longer_cascades()['cascades']
    points_SxP = [[point for point in found[name] if point['target_macs'] > CHEAPEST] for name in names]
    return _line(label, points_SxP, look, colour)


def _longer_cascades() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / 'longer_cascades.json').read_text())
    return found


def given() -> dict[str, tuple[float, float]]:
    """MFLOPs and accuracies of the static networks that the others are made of."""
    alone = _longer_cascades()['alone']
    found = {f'ResNet-{depth}': alone[f'given_resnet{depth}'] for depth in DEPTHS}
    return {name: (_mflops(each['macs']), each['accuracy']) for name, each in found.items()}


def trained_further() -> list[tuple[float, float]]:
    """The same of those of them that were trained further by the recipe of what resumes."""
    found = [json.loads(path.read_text()) for path in RESULTS.glob('static_r*_8epochs_cpu.json')]
    return sorted((_mflops(each['mean_macs']), each['accuracy']) for each in found)


def lines() -> list[Line]:
    """All that is drawn of this repository's."""
    eight = 'resnet56_after_resnet20_8epochs'
    known = _longer_cascades()['cascades']
    return [
        longer(
            'ResNet-56 that resumes a 20, then 44',
            [name for name in known if name.startswith(eight) and name.endswith('>resnet44')],
            'o-',
            1,
        ),
        resumed(
            'ResNet-56 that resumes a 20',
            [path.stem for path in sorted(RESULTS.glob('resumed_r56_8epochs*_cpu.json'))],
            'v-',
            0,
        ),
        resumed(
            'ResNet-32 that resumes a 14',
            [path.stem for path in sorted(RESULTS.glob('resumed_r32*_cpu.json'))],
            '^-',
            2,
        ),
        longer('cascade 20 > 56', ['resnet20>resnet56'], 'P--', 4),
        longer('cascade 20 > 32 > 56', ['resnet20>resnet32>resnet56'], 'X--', 3),
        longer('cascade 20 > 32 > 44 > 56', ['resnet20>resnet32>resnet44>resnet56'], '*:', 3),
        longer('cascade 20 > 44 trained further', ['resnet20>resnet44_static_8epochs_s0'], 'D--', 5),
    ]


def picture() -> bytes:
    """The figure as PNG, for a white page."""
    colours = style.theme(is_dark=False)
    with style.drawing():
        figure = Figure(figsize=(7.2, 4.6), layout='constrained')
        axis = figure.subplots()
        _draw(axis, colours)
        handles, labels = axis.get_legend_handles_labels()
        layout.legend_below(figure, handles, labels, colours.sheet)
        texts = [(name, *place) for name, place in given().items()]
        for each in REPORTED:
            name = each.backbone if each.method == 'static' else each.method
            texts.append((name, 1e3 * each.gflops, each.top1))
        layout.label_points(figure, axis, texts, colours)
        file = io.BytesIO()
        figure.savefig(file, format='png', dpi=130)
    return file.getvalue()


def _draw(axis: Axes, colours: style.Theme) -> None:
    axis.plot(*zip(*given().values(), strict=True), 's--', color=colours.ink, label='static ResNets, as published')
    axis.plot(
        *zip(*trained_further(), strict=True),
        marker='s',
        linestyle='',
        markerfacecolor='none',
        color=colours.ink,
        label='static ResNets, trained further',
    )
    for line in lines():
        xs = [_mflops(macs) for macs in line.macs]
        colour = colours.runs[line.colour]
        axis.plot(xs, line.accuracies_SxP.mean(axis=0), line.look, color=colour, label=line.label)
        if len(line.accuracies_SxP) > 1:
            low, high = line.accuracies_SxP.min(axis=0), line.accuracies_SxP.max(axis=0)
            axis.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
    axis.plot(
        *np.array([(1e3 * each.gflops, each.top1) for each in REPORTED]).T,
        color=colours.muted,
        marker='D',
        linestyle='',
        markerfacecolor='none',
        label="reported by CoDiNet's paper, ResNet-74 or -110",
    )
    axis.set_xscale('log')
    for each in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        each(ticker.NullFormatter())
    axis.set_xticks(shown := [75, 100, 150, 200, 300, 400, 500], [str(tick) for tick in shown])
    axis.set(xlabel='MFLOPs of the mean image, 2 for a multiply-accumulate', ylabel='top-1 on CIFAR-10, %')
    axis.set(xlim=(70, 560), ylim=(91.5, 94.7))


def _mflops(macs: float) -> float:
    return 2 * macs / 1e6


def main(argv: Sequence[str]) -> None:
    del argv
    files.write(pathlib.Path(flags.FLAGS.output), lambda file: file.write(picture()))


if __name__ == '__main__':
    flags.DEFINE_string('output', 'frontier.png', 'The figure to write.')
    app.run(main)
