"""Draws what codinet_jax.benchmark measured: time against run rate, and the line that the MACs promise.

python -m experiments.measure.plot_timing timing.json timing.png
"""

import json
import math
import pathlib
from collections.abc import Sequence

from absl import app
from matplotlib.figure import Figure

COLOURS = {'masked': '#cc79a7', 'conditional': '#0072b2', 'compacted': '#d55e00'}  # of Okabe and Ito


def main(argv: Sequence[str]) -> None:
    if len(argv) != 3:
        raise app.UsageError('Name what to read and what to write: TIMING.json FIGURE.png.')
    numbers = json.loads(pathlib.Path(argv[1]).read_text())
    batch_sizes = sorted({row['batch_size'] for row in numbers['rows']})
    figure = Figure(figsize=(4.2 * len(batch_sizes), 3.4), layout='constrained')
    axes = figure.subplots(1, len(batch_sizes), squeeze=False, sharey=True)[0]
    for axis, batch_size in zip(axes, batch_sizes, strict=True):
        rows = [row for row in numbers['rows'] if row['batch_size'] == batch_size]
        (static,) = (row for row in rows if row['strategy'] == 'static')
        axis.axhline(1, color='0.6', linewidth=1)
        milliseconds = 1e3 * static['median_seconds']
        label = f'static, {milliseconds:.{max(0, 2 - int(math.log10(milliseconds)))}f} ms'
        axis.annotate(label, (0.01, 0.94), color='0.4', fontsize=9)
        for strategy, colour in COLOURS.items():
            routed = sorted((row for row in rows if row['strategy'] == strategy), key=lambda row: row['run_rate'])
            rates = [row['run_rate'] for row in routed]
            axis.plot(rates, [row['ratio_to_static'] for row in routed], color=colour, marker='.', label=strategy)
        ideal = [row['ideal_ratio'] for row in routed]
        axis.plot(rates, ideal, color='black', linestyle=':', label='what the MACs promise')
        axis.set(xlabel='share of blocks run', xlim=(0, 1.03), ylim=(0, 1.2))
        axis.set_title(f'batch {batch_size}', fontsize=10)
        axis.spines[['top', 'right']].set_visible(False)
    axes[0].set_ylabel("time, of the static network's")
    axes[-1].legend(frameon=False, fontsize=9, loc='lower right')
    figure.savefig(argv[2], dpi=130)


if __name__ == '__main__':
    app.run(main)
